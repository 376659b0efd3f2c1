"""One worker for the one verbalizer: a bounded line of requests, each with a time at which it is given up.

In: pieces of work. Out: their results, as futures. Refuses more than may wait, and everything once it is ending. Work
that is late, or that nobody waits for any more, is ended between two batches of texts; a batch is never cut short.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Check = Callable[[], None]
Work = Callable[[Check], Any]


class Full(Exception):
    """As many wait as may."""


class Late(Exception):
    """The time was over."""


class Ending(Exception):
    """The service ends."""


class Unheard(Exception):
    """Nobody waits any more."""


@dataclass(slots=True, eq=False)
class Job:
    """A piece of work; ``ends``: on the monotonic clock."""

    work: Work
    ends: float
    done: Future[Any] = field(default_factory=Future)
    unheard: bool = False

    def fail(self, error: Exception) -> None:
        """Say so to whoever waits, unless that was said."""
        with suppress(InvalidStateError):
            self.done.set_exception(error)


def _nothing(_check: Check) -> None:
    """The work of a piece that was forgotten."""


class Worker:
    """A thread that does one piece of work after another."""

    def __init__(self, waiting: int) -> None:
        """``waiting``: pieces of work that may stand in line."""
        self._line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # a signal may interrupt putting
        self._most, self._lock = waiting, threading.RLock()  # `end` may be called by a signal
        self._now: Job | None = None
        self._waiting, self._ending = list[Job](), False
        self._thread = threading.Thread(target=self._run, name="dragoman-worker", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is worked on."""
        return self._now is not None

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._waiting)

    def submit(self, work: Work, seconds: float) -> Job:
        """Stand in line; ``work`` is given a check, which raises when it should end.

        Raises:
            Full: as many wait as may.
            Ending: the service ends.
        """
        with self._lock:
            if self._ending:
                raise Ending
            # Who stands at the head of the line while nobody is worked on does not wait.
            if len(self._waiting) >= self._most + (self._now is None):
                raise Full
            job = Job(work, time.monotonic() + seconds)
            self._waiting.append(job)
            self._line.put(job)
        return job

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more: it leaves the line, or ends at its next check."""
        with self._lock:
            job.unheard = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.work = _nothing  # what was asked is held no longer

    def end(self) -> None:
        """Tell everybody who waits that the service ends; what is worked on ends at its next check."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            for job in [*self._waiting, *([self._now] if self._now is not None else [])]:
                job.fail(Ending())
            self._line.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the thread; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._line.get()) is not None:
            with self._lock:
                if job not in self._waiting:
                    continue  # it was forgotten
                self._waiting.remove(job)
                if self._ending:
                    return
                self._now = job
            try:
                self._do(job)
            finally:
                with self._lock:
                    self._now = None

    def _do(self, job: Job) -> None:
        def check() -> None:
            if self._ending:
                raise Ending
            if job.unheard:
                raise Unheard
            if time.monotonic() > job.ends:
                raise Late

        try:
            check()
            found = job.work(check)
        except Exception as error:
            job.fail(error)
        except BaseException as error:  # a panic of a library, which would end the only worker
            job.fail(RuntimeError(type(error).__name__))
        else:
            with suppress(InvalidStateError):
                job.done.set_result(found)
