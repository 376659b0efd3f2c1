"""Long steps as plain lines, and the log that a run keeps of what was said.

In: what is said and how far it is, as ``Talk`` has it. Out: lines with the time that is left, some seconds apart; a
``Talk`` that also has them kept, with times, in the log of the run's folder, which a run that goes on goes on with.
Refuses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dragoman.core import Refusal, Talk
from dragoman.store.logfile import append_log, stamped

EVERY = 30.0  # seconds between two lines of one step
FIRST = 5.0  # after which a step that goes on says how long it will take


def duration(seconds: float) -> str:
    """Seconds, or minutes or hours where there are many."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Paced:
    """Bars as lines: when a step begins, now and then while it goes on, and when it is done."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """``say``: gets each line; ``clock``: seconds from some start."""
        self._say, self._clock = say, clock
        self._begun: dict[str, tuple[float, int]] = {}  # step -> when it was first heard of, and how far it was
        self._due: dict[str, float] = {}

    def bar(self, what: str, done: int, total: int) -> None:
        """How far a step is; says so where it is time to."""
        now = self._clock()
        if what not in self._begun or done < self._begun[what][1]:
            self._begun[what], self._due[what] = (now, done), now + FIRST
            if done < total:
                self._say(f"{what}: {done} of {total}")
                return
        if done >= total:
            if self._due.pop(what, None) is not None:
                self._say(f"{what}: {done} of {total}, done in {duration(now - self._begun[what][0])}")
        elif now >= self._due.get(what, now):
            self._due[what] = now + EVERY
            begun, before = self._begun[what]
            made = done - before
            left = f", about {duration((now - begun) / made * (total - done))} left" if made > 0 else ""
            self._say(f"{what}: {done} of {total}{left}")


class _Log:
    """Lines for a run's log, held back until the folder is known to be this run's: nothing is written to another's."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._held = list[str]()

    def into(self, folder: Path) -> None:
        """Write what was held back, and from now on all."""
        self._folder = folder
        self._write(folder)

    def line(self, text: str) -> None:
        """Keep one."""
        self._held.append(stamped(text))
        if self._folder is not None:
            self._write(self._folder)

    def _write(self, folder: Path) -> None:
        append_log(folder, self._held)
        self._held.clear()


@contextmanager
def logged(talk: Talk) -> Iterator[Talk]:
    """Inside, what is said goes to ``talk`` and into the log of the run that is made, with how it ended."""
    log = _Log()
    paced = Paced(log.line)

    def say(text: str) -> None:
        log.line(text)
        talk.say(text)

    def bar(what: str, done: int, total: int) -> None:
        paced.bar(what, done, total)
        talk.bar(what, done, total)

    def step(name: str) -> None:
        log.line(name)
        talk.step(name)

    def kept(folder: Path) -> None:
        log.into(folder)
        talk.kept(folder)

    log.line("begun")
    try:
        yield replace(talk, say=say, bar=bar, step=step, kept=kept)
    except (Refusal, KeyboardInterrupt) as end:
        log.line(str(end) or "interrupted")
        raise
    except BaseException as fault:
        log.line(f"{type(fault).__name__}: {fault}")
        raise
    log.line("done")
