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
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from dragoman.core import Talk, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# C0 but newline and tab, DEL, C1, line and paragraph separator, bidirectional embeddings, overrides and isolates, and
# halves of characters, which no stream can write.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
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


def spoken(text: object) -> str:
    """A sentence as it is said: on one line, its addresses public ones."""
    return one_line(without_secrets(str(text)))


def tell(text: object) -> None:
    """A sentence, on stderr, on a line of its own."""
    _unfiltered(sys.stderr).write(f"{spoken(text)}\n")


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
        colours = self.unfiltered.isatty()
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
def talking() -> Iterator[Talk]:
    """Progress bars and sentences on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    shown = console(stderr=True)
    columns = (
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown) as progress:
        tasks: dict[str, TaskID] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(spoken(what), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield Talk(say=lambda text: shown.print(spoken(text)), bar=bar)
