"""Tables of vectors, one a row: CSV, JSON lines and Parquet, with the rows' names where they have some.

In: the bytes of a file. Out: `TableFile`: arrays that are read when asked for, and ``row_names``. Refuses rows of
different widths, cells that are no numbers, names that are missing or stand twice, a first column that may be names or
numbers, and files beyond a gigabyte.

CSV: cells between commas, semicolons or tabs; names stand in the first column, under a heading that says so, or as
words. JSON lines: objects with "vector", and perhaps "id" or "name". Parquet: the column that holds lists, or all
columns of floats, and perhaps "id" or "name"; pyarrow reads it, asked for when one is opened.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.store.cells import arrow
from dragoman.store.numpyfile import ALONE
from dragoman.store.spans import FAR_LIMIT, Bytes, LocalBytes, Matrix, Whole, listed, read_bytes, shown, words_of

NAMES = ("id", "name", "feature", "index", "label")  # headings of a column of names, in this order
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_LIMIT = 1 << 30  # bytes of a file, and of a Parquet's columns unpacked
_CELL = 10_000  # characters
_VECTOR = "vector"
_AGAIN = "write the file again"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows(Whole):
    """Rows that were read already."""

    held: NDArray[Any]

    def whole(self) -> NDArray[Any]:
        return self.held


class TableFile:
    """A table, read. ``names``: of its arrays; ``row_names``: of its rows, none where they have none."""

    def __init__(self, source: Bytes | Path | str) -> None:
        """Read the table; a Parquet's columns are read when asked for."""
        self._source: Bytes = LocalBytes(source) if isinstance(source, Path | str) else source
        self.path = self._source.name
        most = FAR_LIMIT if self._source.far else _LIMIT
        if self._source.size > most:
            why = f"it takes {self._source.size} bytes, and a table is read whole"
            raise Refusal(self.path, why, "save it as .npy or .safetensors")
        suffix = Path(self.path.partition("?")[0]).suffix.lower()
        if suffix == ".parquet":
            self._table = _parquet(self.path, read_bytes(self._source, 0, self._source.size))
            self.row_names = _names_of_table(self.path, self._table)
            self.names = _vectors_in(self.path, self._table)
            return
        self._table = None
        rows, self.row_names = _written(self.path, suffix, self._text())
        self._held = rows
        self.names = (ALONE,)

    def array(self, name: str) -> Matrix:
        """One array. Refused when there is none of that name."""
        if name not in self.names:
            raise Refusal(f"array '{shown(name)}' of {self.path}", f"the file holds {listed(self.names)}", "name one")
        held = self._held if self._table is None else _columns(self.path, self._table, name)
        return _Rows(held=held, shape=held.shape)

    def _text(self) -> str:
        try:
            return read_bytes(self._source, 0, self._source.size).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Refusal(self.path, f"it is not UTF-8 text ({error.reason})", "save it as UTF-8") from error


def _written(path: str, suffix: str, text: str) -> tuple[Floats, tuple[str, ...]]:
    """Vectors and names of a text file."""
    read = _of_lines(path, text) if suffix == ".jsonl" else _of_cells(path, text)
    rows, names = list[list[float]](), list[str | None]()
    for place, name, numbers in read:
        if rows and len(numbers) != len(rows[0]):
            raise Refusal(place, f"it holds {len(numbers)} numbers, the first row {len(rows[0])}", _AGAIN)
        if not numbers:
            raise Refusal(place, "there is no number in it", _AGAIN)
        rows.append(numbers)
        names.append(name)
    if not rows:
        raise Refusal(path, "there is no vector in it", "write one a row")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused by its row
        return np.array(rows, dtype=np.float64).astype(np.float32), _named(path, names)


def _named(path: str, names: Sequence[str | None]) -> tuple[str, ...]:
    """Names, all or none, each once."""
    if all(name is None for name in names):
        return ()
    bare = next((n for n, name in enumerate(names) if not name), None)
    if bare is not None:
        raise Refusal(f"{path}, vector {bare}", "it has no name, and others do", "name all of them, or none")
    every = [str(name) for name in names]
    seen = set[str]()
    for name in every:
        if name in seen:
            raise Refusal(f"name '{shown(name)}' of {path}", "it is there twice", "name every vector once")
        seen.add(name)
    return tuple(every)


def _of_cells(path: str, text: str) -> Iterator[tuple[str, str | None, list[float]]]:
    """(place, name, numbers) of each row of a CSV."""
    first = text[: text.find("\n")] if "\n" in text else text
    try:
        delimiter = max(",;\t", key=first.count)
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(line)]
    except csv.Error as error:
        raise Refusal(path, f"it is no CSV ({words_of(error)})", _AGAIN) from error
    if not lines:
        return
    longest, where = max((max(map(len, line)), n) for n, line in enumerate(lines, 1))
    if longest > _CELL:
        raise Refusal(f"{path}, line {where}", f"a cell of it holds {longest} characters", _AGAIN)
    heading = _is_heading(lines[0])
    body = lines[1:] if heading else lines
    in_words = any(line and _number(line[0]) is None for line in body)
    named = in_words or (heading and lines[0][0].strip().lower() in ("", *NAMES))
    if not named and not heading and len(body) > 1 and _counts([line[0] for line in body]):
        why = "its first column counts the rows, so it may be their names or the first of their numbers"
        raise Refusal(path, why, "give it a heading: a first line such as id,0,1,2")
    for number, line in enumerate(body, 1 + heading):
        cells = line[1:] if named else line
        numbers = [_number(cell) for cell in cells]
        place = f"{path}, line {number}"
        odd = next((cell for cell, one in zip(cells, numbers, strict=True) if one is None), None)
        if odd is not None:
            raise Refusal(place, f"'{shown(odd)}' is no number", _AGAIN)
        yield place, line[0].strip() if named else None, [one for one in numbers if one is not None]


def _is_heading(cells: Sequence[str]) -> bool:
    """Whether a first row names columns: words behind the first, a heading of names, or columns counted from 0."""
    if any(_number(cell) is None for cell in cells[1:]) or cells[0].strip().lower() in ("", *NAMES):
        return True
    return len(cells) > 2 and [cell.strip() for cell in cells] == [str(k) for k in range(len(cells))]


def _counts(cells: Sequence[str]) -> bool:
    start = cells[0].strip()
    return start in ("0", "1") and [c.strip() for c in cells] == [str(int(start) + k) for k in range(len(cells))]


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _of_lines(path: str, text: str) -> Iterator[tuple[str, str | None, list[float]]]:
    """(place, name, numbers) of each JSON line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refusal(place, "it is not JSON", _AGAIN) from error
        vector = told.get(_VECTOR) if isinstance(told, dict) else None
        numbers = isinstance(vector, list) and all(
            isinstance(x, int | float) and not isinstance(x, bool) for x in vector
        )
        if not isinstance(vector, list) or not numbers:
            raise Refusal(place, f'it has no list of numbers "{_VECTOR}"', 'write {"id": ..., "vector": [...]}')
        try:
            values = [float(x) for x in vector]
        except OverflowError as error:
            raise Refusal(place, "a number is beyond all measure", _AGAIN) from error
        name = next((told[key] for key in NAMES if key in told and key != "label"), None)
        if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
            raise Refusal(place, f"its name is '{shown(name)}', not text", _AGAIN)
        yield place, None if name is None else str(name), values


def _parquet(path: str, content: bytes) -> Any:
    """The open file; only what tells of it was read."""
    library, parquet = arrow(path, "pyarrow"), arrow(path, "pyarrow.parquet")
    try:
        file = parquet.ParquetFile(library.BufferReader(content))
        unpacked = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
        if unpacked > _LIMIT or not file.metadata.num_rows:
            why = "there is no vector in it" if not file.metadata.num_rows else f"it unpacks to {unpacked} bytes"
            raise Refusal(path, why, "write the vectors to .npy or .safetensors")
        return file
    except Refusal:
        raise
    # pyarrow fails in as many ways as a file can be odd; each means the same to the reader.
    except Exception as error:
        raise Refusal(path, f"it is not a whole Parquet file ({words_of(error)})", _AGAIN) from error


def _vectors_in(path: str, file: Any) -> tuple[str, ...]:
    """Columns that hold lists of floats; else one array of all columns of floats."""
    kinds = arrow(path, "pyarrow.types")
    schema = file.schema_arrow
    lists = [f.name for f in schema if _is_list(f.type) and kinds.is_floating(f.type.value_type)]
    if lists:
        return tuple(sorted(lists))
    if not any(kinds.is_floating(f.type) for f in schema):
        why = f"no column of it holds floats or lists of them ({listed(schema.names)})"
        raise Refusal(path, why, f'write vectors as a column of lists, "{_VECTOR}"')
    return (ALONE,)


def _is_list(kind: Any) -> bool:
    kinds = arrow("a table", "pyarrow.types")
    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _columns(path: str, file: Any, name: str) -> Floats:
    """The vectors of a column of lists, or of all columns of floats (n, width)."""
    kinds = arrow(path, "pyarrow.types")
    schema = file.schema_arrow
    floats = [f.name for f in schema if kinds.is_floating(f.type)]
    try:
        if name in schema.names:
            column = file.read(columns=[name]).column(name).combine_chunks()
            if column.null_count or column.flatten().null_count:
                raise Refusal(f"column '{shown(name)}' of {path}", "a vector or number in it is missing", _AGAIN)
            sizes = {len(one) for one in column}
            if len(sizes) != 1:
                why = f"its vectors have {len(sizes)} different widths"
                raise Refusal(f"column '{shown(name)}' of {path}", why, _AGAIN)
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(column), -1).astype(np.float32)
        table = file.read(columns=floats)
        if any(column.null_count for column in table.columns):
            raise Refusal(path, "a number in it is missing", _AGAIN)
        return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float32)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(path, f"it is not a whole Parquet file ({words_of(error)})", _AGAIN) from error


def _names_of_table(path: str, file: Any) -> tuple[str, ...]:
    """The rows' names, of the first column that is called so; none where there is no such column."""
    kinds = arrow(path, "pyarrow.types")
    fields = {f.name: f.type for f in file.schema_arrow}
    called = next(
        (n for n in NAMES if n in fields and not _is_list(fields[n]) and not kinds.is_floating(fields[n])), None
    )
    if called is None:
        return ()
    try:
        values = file.read(columns=[called]).column(called).to_pylist()
    except Exception as error:
        raise Refusal(path, f"it is not a whole Parquet file ({words_of(error)})", _AGAIN) from error
    return _named(path, [None if value is None else str(value) for value in values])
