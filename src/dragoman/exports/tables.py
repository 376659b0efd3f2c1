"""A run's explanations as one table: CSV, JSON lines or Parquet; the same columns wherever they are written.

In: entries. Out: bytes, piece by piece, or one file, a row an explanation. Refuses Parquet where pyarrow is not
installed.

CSV is RFC 4180 in UTF-8 with a heading. A cell that begins as a formula does for a spreadsheet (= + - @, tab, return)
has an apostrophe before it, for texts come from models. Lists are JSON. JSON lines and Parquet hold them as lists, and
texts as they are, halves of characters aside, which become marks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.exports.entries import Entry
from dragoman.records import Card
from dragoman.store import replacing, write_bytes
from dragoman.store.cells import arrow, csv_cell, whole

_OF_ENTRY = tuple(field.name for field in fields(Entry) if field.name != "card")
_OF_CARD = tuple(name for name in Card.model_fields if name not in _OF_ENTRY)  # status, why and route are there
COLUMNS = (*_OF_ENTRY, *(f"card_{name}" for name in _OF_CARD))
_INTEGERS, _FLAGS = ("sample", "position", "tokens"), ("checked", "answered")
_NUMBERS = ("confidence", "log_probability", "lift")
_WORDS = ("nearest", "home_nearest", "route_why")  # of a card
_GROUP = 2048  # rows held for Parquet
_PIECE = 1 << 16  # characters of CSV


def plain_rows(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """Entries as rows whose texts are valid Unicode: halves of characters, which JSON can hold, become marks."""
    for one in entries:
        told, card = asdict(one), one.card
        of_card = {f"card_{name}": getattr(card, name) if card else None for name in _OF_CARD}
        yield {key: whole(value) for key, value in {**told, **of_card}.items() if key in COLUMNS}


def as_csv(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Comma separated, with a heading."""
    held = io.StringIO()
    out = csv.DictWriter(held, COLUMNS, lineterminator="\r\n")
    out.writeheader()
    for row in plain_rows(entries):
        out.writerow({key: csv_cell(value) for key, value in row.items()})
        if held.tell() > _PIECE:
            yield _taken(held)
    yield _taken(held)


def _taken(held: io.StringIO) -> bytes:
    text = held.getvalue()
    held.seek(0)
    held.truncate()
    return text.encode("utf-8", "replace")


def as_jsonl(entries: Iterable[Entry]) -> Iterator[bytes]:
    """An object a line."""
    for row in plain_rows(entries):
        yield json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


def as_parquet(entries: Iterable[Entry], what: str) -> bytes:
    """A Parquet file; every column has its type, also where it is empty.

    Raises:
        Refusal: pyarrow is not installed; it is named by ``what``.
    """
    library, parquet = arrow(what, "pyarrow"), arrow(what, "pyarrow.parquet")
    kinds = {name: library.string() for name in COLUMNS} | {"problems": library.list_(library.string())}
    kinds |= {name: library.int64() for name in _INTEGERS} | {name: library.float64() for name in _NUMBERS}
    kinds |= {name: library.bool_() for name in _FLAGS}
    kinds |= {f"card_{name}": library.float64() for name in _OF_CARD if name not in _WORDS}
    schema = library.schema([(name, kinds[name]) for name in COLUMNS])
    held = library.BufferOutputStream()
    with parquet.ParquetWriter(held, schema, compression="zstd") as out:
        rows = plain_rows(entries)
        while some := list(islice(rows, _GROUP)):
            out.write_table(library.Table.from_pylist(some, schema=schema))
    return held.getvalue().to_pybytes()


def write_csv(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a CSV."""
    with replacing(path) as file:
        file.writelines(as_csv(entries))
    return path


def write_parquet(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a Parquet file.

    Raises:
        Refusal: pyarrow is not installed.
    """
    write_bytes(path, as_parquet(entries, f"{path}"))
    return path
