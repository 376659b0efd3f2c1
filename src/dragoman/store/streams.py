"""Files of a run that are larger than memory should hold: rows and JSON, read one part after another.

In: ``rows.jsonl`` and its plan; a file of JSON. Out: rows with their places in the file, each checked by its digest;
the members of an object and the items of a list, one at a time. Refuses what `runs` refuses of rows, and what is not
JSON.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dragoman.core import Refusal
from dragoman.records import Row
from dragoman.store.files import opened, refusing
from dragoman.store.runs import PLAN, checked_row, not_own

_CHUNK = 1 << 20  # characters
_LONGEST = 1 << 26  # characters of one value
_DECODER = json.JSONDecoder()
_SPACES = " \t\r\n"
_DIGITS = re.compile(r"[-+.0-9eE]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRow:
    """A row and where its line stands: ``number`` from 1, ``start`` and ``size`` in bytes, without the line's end."""

    number: int
    start: int
    size: int
    fields: dict[str, Any]


def each_row(path: Path, plan: str) -> Iterator[PlacedRow]:
    """The rows of a file that may be growing or torn, in order; a last line without its end is not yet a row.

    Raises:
        Refusal: naming the line, one that is no row, or not the row that the run of this plan wrote there.
    """
    with refusing("reading", path):
        if not path.exists():
            return
    start = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            fields = checked_row(line[:-1], plan, f"{path}, line {number}", number)
            yield PlacedRow(number=number, start=start, size=len(line) - 1, fields=fields)
            start += len(line)


class RowFile:
    """``rows.jsonl``, opened to read single rows by their places. Threads may share it."""

    def __init__(self, path: Path, plan: str) -> None:
        """Open it; refuse what is no regular file."""
        self.path, self._plan = path, plan
        with opened(path) as file:
            self._handle = os.dup(file.fileno())

    def row(self, number: int, start: int, size: int, *, check: bool = True) -> Row:
        """The row at a place that `each_row` told; refuse another. ``check``: its digest too, not only its form."""
        with refusing("reading", self.path):
            line = os.pread(self._handle, size, start)
        what = f"{self.path}, line {number}"
        if not check and b"\\ud" not in line:  # halves of characters, which records do not read from JSON
            return Row.read(line, what)
        return Row.of(checked_row(line, self._plan, what, number), what)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


@contextmanager
def json_stream(path: Path) -> Iterator[JsonStream]:
    """A JSON file to read part by part.

    Raises:
        Refusal: the file cannot be read, or a part that is read is not JSON.
    """
    with opened(path) as file:
        try:
            yield JsonStream(io.TextIOWrapper(file, encoding="utf-8"), f"{path}")
        except UnicodeDecodeError as error:
            raise Refusal(f"{path}", "it is not UTF-8", "mend the file or make it again") from error


def own_members(stream: JsonStream, plan: str, path: Path) -> Iterator[str]:
    """The keys of an object of a run's folder, behind the first, which names the plan of the run's first rows.

    Raises:
        Refusal: it is of another run, or does not say of which.
    """
    members = stream.members()
    if next(members, None) != PLAN or stream.value() != plan:
        raise not_own(path)
    yield from members


def read_members(path: Path, depth: int) -> Any:
    """A JSON object too large to be read whole, member by member; the values of the first ``depth`` levels are objects.

    Raises:
        Refusal: as `json_stream`.
    """
    with json_stream(path) as stream:
        return _members(stream, depth)


def _members(stream: JsonStream, depth: int) -> Any:
    if not depth or stream.holds() != "{":
        return stream.value()
    return {key: _members(stream, depth - 1) for key in stream.members()}


def _goes_on(found: object, held: str, end: int) -> bool:
    """Whether more of what was found may follow what is held: only numbers do not say where they end."""
    tail = _DIGITS.match(held, end)
    return isinstance(found, int | float) and tail is not None and tail.end() == len(held)


class JsonStream:
    """A place in JSON text. Everything that `members` and `items` tell of must be read, or passed, in its turn."""

    def __init__(self, text: TextIO, what: str) -> None:
        """At the beginning of the text; refusals name ``what``."""
        self._text, self._what, self._held, self._at = text, what, "", 0

    def value(self) -> Any:
        """What stands here, whole."""
        self._next()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more(double=True):
                    raise self._refusal() from error
                continue
            if _goes_on(found, self._held, end) and self._more(double=True):
                continue
            self._at = end
            return found

    def members(self) -> Iterator[str]:
        """The keys of the object that stands here; before the next one, its value must have been read."""
        if self._next() != "{":
            raise self._refusal()
        self._at += 1
        if self._next() == "}":
            self._at += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str) or self._next() != ":":
                raise self._refusal()
            self._at += 1
            yield key
            if self._ends("}"):
                return

    def items(self) -> Iterator[None]:
        """Once for each item of the list that stands here, which must then be read."""
        if self._next() != "[":
            raise self._refusal()
        self._at += 1
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield None
            if self._ends("]"):
                return

    def holds(self) -> str:
        """The first character of what stands here: ``{``, ``[``, or that of a value."""
        return self._next()

    def _ends(self, end: str) -> bool:
        found = self._next()
        if found not in (",", end):
            raise self._refusal()
        self._at += 1
        return found == end

    def _next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in _SPACES:
                    return self._held[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _more(self, *, double: bool = False) -> bool:
        """Read on, and let go of what was read; whether there was more."""
        self._held, self._at = self._held[self._at :], 0
        if len(self._held) > _LONGEST:
            raise Refusal(self._what, "one of its values is too long", "make the file again")
        read = self._text.read(max(_CHUNK, len(self._held)) if double else _CHUNK)
        self._held += read
        return bool(read)

    def _refusal(self) -> Refusal:
        return Refusal(self._what, "it is not the JSON that was expected", "mend the file or make it again")
