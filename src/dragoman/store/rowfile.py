"""Rows, windows and words of a run that are larger than memory should hold, read one after another.

In: ``rows.jsonl`` and its plan; a stream of JSON and the plan of the run's rows. Out: rows with their places in the
file, each checked by its digest; the features of an object that is the run's own. Refuses what `runs` refuses of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.records import Row
from dragoman.store.files import opened, refusing
from dragoman.store.runs import PLAN, checked_row, not_own
from dragoman.store.streams import JsonStream


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


def own_members(stream: JsonStream, plan: str, path: Path) -> Iterator[str]:
    """The keys of an object of a run's folder, behind the first, which names the plan of the run's first rows.

    Raises:
        Refusal: it is of another run, or does not say of which.
    """
    members = stream.members()
    if next(members, None) != PLAN or stream.value() != plan:
        raise not_own(path)
    yield from members
