"""The one place that prints: what reaches a terminal passes here, control characters made visible.

In: text, JSON, tables. Out: lines on stdout (data) and stderr (talk). Refuses nothing.

Labels, texts, names and refusals come from files and from models. A control sequence in them would be obeyed by the
terminal: it can set the clipboard, clear the screen, or show other words than are there. So control characters are
shown by their codes. Consoles made here do so with every segment they draw; ``guarded`` does so with what
libraries write to the standard streams (warnings, logs), where only colours and a progress bar's carriage return pass.
What is said on stderr tells addresses without passwords, signatures and tokens; data on stdout stays as it is kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from dragoman.core import Talk, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

# C0 but newline and tab, DEL, C1, line and paragraph separator, bidirectional embeddings, overrides and isolates, and
# halves of characters, which no stream can write.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What is printed as JSON, and the version of its keys.
VERSIONS = {
    "row": 1,
    "scores": 1,
    "crossing": 1,
    "forecast": 1,
    "checkpoint": 1,
    "recommendation": 1,
    "findings": 1,
    "export": 1,
    "page": 1,
    "reliability": 1,
    "comparison": 1,
    "ranking": 1,
    "bundle": 1,
    "calibration": 1,
    "matching": 1,
    "labels": 1,
}
_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")


def visible(text: object) -> str:
    """Text as it may be shown: every control character but newline and tab as its escape."""
    return _HIDDEN.sub(lambda found: _escape(ord(found[0])), str(text))


def one_line(text: object) -> str:
    """The same on one line: newlines and tabs are shown as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def put(text: object) -> None:
    """A line of data, on stdout."""
    _unfiltered(sys.stdout).write(f"{one_line(text)}\n")


def put_json(value: Any, *, indent: int | None = None) -> None:
    """A value as JSON on stdout; control characters in it are JSON's own escapes, so it reads back as the same."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    told = _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    _unfiltered(sys.stdout).write(f"{told}\n")


def put_record(kind: str, value: Mapping[str, Any], *, indent: int | None = None) -> None:
    """An object as JSON on stdout, its ``schema`` first: what it is, and in which version."""
    put_json(with_schema(kind, value), indent=indent)


def with_schema(kind: str, value: Mapping[str, Any]) -> dict[str, object]:
    """The object with its ``schema``, ``dragoman.KIND/VERSION``; the version goes up when a key changes its meaning."""
    return {"schema": f"dragoman.{kind}/{VERSIONS[kind]}", **value}


def spoken(text: object) -> str:
    """A sentence as it is said: on one line, its addresses public ones."""
    return one_line(without_secrets(str(text)))


def tell(text: object) -> None:
    """A sentence, on stderr, on a line of its own; on a terminal lines end between its words."""
    stream, said = _unfiltered(sys.stderr), spoken(text)
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        said = textwrap.fill(said, width, break_long_words=False, break_on_hyphens=False)
    stream.write(f"{said}\n")


def tell_lines(text: object) -> None:
    """Several lines on stderr, such as a traceback."""
    _unfiltered(sys.stderr).write(f"{visible(without_secrets(str(text))).rstrip()}\n")


def styled(text: object, style: str = "") -> Text:
    """Text for a console, with one style and no markup."""
    from rich.text import Text

    return Text(visible(text), style=style)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console on stdout or stderr: text is taken as it stands, without markup, and shown by ``visible``."""
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        """Control characters visible in strings, before they are laid out, and in every segment that is drawn."""

        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(visible(text), **how)

        def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
            for segment in super().render(*what, **how):
                if segment.control:
                    yield segment
                else:
                    style = segment.style.update_link(None) if segment.style and segment.style.link else segment.style
                    yield Segment(visible(segment.text), style)

    stream = _unfiltered(sys.stderr if stderr else sys.stdout)
    return Shown(file=stream, highlight=False, markup=False, emoji=False, width=width)


def _unfiltered(stream: Any) -> TextIO:
    return getattr(stream, "unfiltered", stream)


class _Guarded:
    """A stream through which control characters pass as their escapes, whoever writes."""

    def __init__(self, stream: TextIO, *, talk: bool) -> None:
        self.unfiltered, self._talk = stream, talk

    def write(self, text: str) -> int:
        written = len(text)
        text = without_secrets(text) if self._talk else text
        start = "\r" if text.startswith("\r") else ""  # how a progress bar goes back to the line's beginning
        parts = _COLOUR.split(text[len(start) :])
        colours = self.unfiltered.isatty() or bool(os.environ.get("FORCE_COLOR"))  # as rich has it
        shown = [part if n % 2 and colours else visible(part) for n, part in enumerate(parts)]
        self.unfiltered.write(start + "".join(shown))
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, nothing that is written to the standard streams holds a control sequence but colours."""
    before = sys.stdout, sys.stderr
    for stream in before:
        with suppress(AttributeError, ValueError):  # a stream of another encoding shows what it lacks as an escape
            cast(Any, stream).reconfigure(errors="backslashreplace")
    sys.stdout = cast(TextIO, _Guarded(_unfiltered(before[0]), talk=False))
    sys.stderr = cast(TextIO, _Guarded(_unfiltered(before[1]), talk=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def talking(steps: Mapping[str, float] | None = None, *, quiet: bool = False) -> Iterator[Talk]:
    """Progress bars and sentences on stderr; where that is no terminal, bars are plain lines with the time left.

    Args:
        steps: what will be done and how many seconds each usually takes; each is announced with the time left.
        quiet: whether sentences are left out, and bars taken away when they are done: the steps alone are told.
    """
    shown, told = console(stderr=True), Steps(steps or {})
    if not shown.is_terminal:
        from dragoman.runs.progress import Paced

        def said(text: str) -> None:
            if not quiet:
                tell(text)

        yield Talk(say=said, bar=Paced(said).bar, step=lambda name: tell(told.begun(name)))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=quiet) as progress:
        tasks = dict[str, TaskID]()

        def bar(what: str, done: int, total: int) -> None:
            _moved(progress, tasks, what, done, total)

        def say(text: str) -> None:
            if not quiet:
                shown.print(spoken(text))

        def step(name: str) -> None:
            for task in tasks.values() if quiet else ():
                progress.update(task, visible=False)
            shown.print(spoken(told.begun(name)))

        yield Talk(say=say, bar=bar, step=step)


def _moved(progress: Progress, tasks: dict[str, TaskID], what: str, done: int, total: int) -> None:
    """A bar, made when it is first heard of; one that begins again is of the next dictionary, and has another end."""
    if what not in tasks:
        tasks[what] = progress.add_task(spoken(what), total=total)
    elif done == 0:
        progress.reset(tasks[what])
    progress.update(tasks[what], completed=done, total=total)


class Steps:
    """Steps that follow one another: which one begins, and about how long the rest takes.

    Usual seconds are of one machine; how fast this one is shows in the steps that are done.
    """

    def __init__(self, usual: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        """``usual``: seconds by step, in order; ``clock``: seconds from some start."""
        self._usual, self._clock, self._start = dict(usual), clock, clock()

    def begun(self, name: str) -> str:
        """The line that says so: ``step 2 of 5: ... (about 2 min left)``."""
        from dragoman.runs.progress import duration

        names = list(self._usual)
        if name not in names:
            return name
        at = names.index(name)
        before, rest = sum(list(self._usual.values())[:at]), sum(list(self._usual.values())[at:])
        pace = (self._clock() - self._start) / before if before else 1.0
        return f"step {at + 1} of {len(names)}: {name} (about {duration(rest * pace)} left)"
