"""JSON that is larger than memory should hold, read one part after another.

In: a file. Out: the members of an object and the items of a list, one at a time. Refuses what is not JSON.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dragoman.core import Refusal
from dragoman.store.files import opened

_CHUNK = 1 << 20  # characters
_LONGEST = 1 << 26  # characters of one value
_DECODER = json.JSONDecoder()
_SPACES = " \t\r\n"
_DIGITS = re.compile(r"[-+.0-9eE]*")


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
