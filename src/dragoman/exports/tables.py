"""A run's explanations as one table: CSV, or Parquet.

In: entries. Out: one file, a row an explanation. Refuses Parquet where pyarrow is not installed.

CSV is RFC 4180 in UTF-8 with a heading. A cell that begins as a formula does for a spreadsheet (= + - @, tab, return)
has an apostrophe before it, for texts come from models. Lists are JSON. Parquet holds them as lists, and texts as they
are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dragoman.exports.entries import Entry
from dragoman.store import write_bytes, write_text
from dragoman.store.cells import arrow, csv_cell, whole

COLUMNS = tuple(field.name for field in fields(Entry))
_INTEGERS, _NUMBERS, _FLAGS = ("sample", "position"), ("confidence", "log_probability"), ("checked", "answered")


def plain_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Entries as rows whose texts are valid Unicode: halves of characters, which JSON can hold, become marks."""
    return [{key: whole(value) for key, value in asdict(one).items()} for one in entries]


def write_csv(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in plain_rows(entries):
        writer.writerow({key: csv_cell(value) for key, value in row.items()})
    write_text(path, out.getvalue())
    return path


def write_parquet(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a Parquet file; every column has its type, also where it is empty.

    Raises:
        Refusal: pyarrow is not installed.
    """
    library, parquet = arrow(f"{path}", "pyarrow"), arrow(f"{path}", "pyarrow.parquet")
    kinds = {name: library.string() for name in COLUMNS} | {"problems": library.list_(library.string())}
    kinds |= {name: library.int64() for name in _INTEGERS} | {name: library.float64() for name in _NUMBERS}
    kinds |= {name: library.bool_() for name in _FLAGS}
    schema = library.schema([(name, kinds[name]) for name in COLUMNS])
    held = library.BufferOutputStream()
    parquet.write_table(library.Table.from_pylist(plain_rows(entries), schema=schema), held)
    write_bytes(path, held.getvalue().to_pybytes())
    return path
