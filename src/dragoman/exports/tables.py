"""A run's explanations as one table: CSV, or Parquet.

In: entries. Out: one file, a row an explanation. Refuses Parquet where pyarrow is not installed.

CSV is RFC 4180 in UTF-8 with a heading. A cell that begins as a formula does for a spreadsheet (= + - @, tab, return)
has an apostrophe before it, for texts come from models. Lists are JSON. Parquet holds them as lists, and texts as they
are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.exports.entries import Entry
from dragoman.store import write_bytes, write_text

COLUMNS = tuple(field.name for field in fields(Entry))
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_INTEGERS, _NUMBERS, _FLAGS = ("sample", "position"), ("confidence", "log_probability"), ("checked", "answered")


def plain_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Entries as rows whose texts are valid Unicode: halves of characters, which JSON can hold, become marks."""
    return [{key: _whole(value) for key, value in asdict(one).items()} for one in entries]


def write_csv(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in plain_rows(entries):
        writer.writerow({key: _cell(value) for key, value in row.items()})
    write_text(path, out.getvalue())
    return path


def write_parquet(path: Path, entries: Sequence[Entry]) -> Path:
    """Write a Parquet file; every column has its type, also where it is empty.

    Raises:
        Refusal: pyarrow is not installed.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        why = "Parquet needs pyarrow, which is not installed"
        raise Refusal(f"{path}", why, "run: pip install 'dragoman[parquet]', or say --format csv") from error
    kinds = {name: arrow.string() for name in COLUMNS} | {"problems": arrow.list_(arrow.string())}
    kinds |= {name: arrow.int64() for name in _INTEGERS} | {name: arrow.float64() for name in _NUMBERS}
    kinds |= {name: arrow.bool_() for name in _FLAGS}
    schema = arrow.schema([(name, kinds[name]) for name in COLUMNS])
    held = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(plain_rows(entries), schema=schema), held)
    write_bytes(path, held.getvalue().to_pybytes())
    return path


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [_whole(one) for one in value] if isinstance(value, list | tuple) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    text = str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
