"""A selection as a table for other tools: CSV, JSON lines, Parquet; a row for each explanation of its features.

In: a ``Viewed`` run, the numbers of features in order. Out: the entries that ``exports.tables`` writes; what a browser
makes CSV and JSON lines of, byte for byte as that does. Refuses what that refuses.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from dragoman.exports.entries import Entry, entries_of_run
from dragoman.exports.tables import COLUMNS, plain_rows
from dragoman.view.opened import Viewed

KINDS = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


def entries(view: Viewed, database: sqlite3.Connection, features: Sequence[int], condition: str) -> Iterator[Entry]:
    """Explanations of these features, of one condition or, with "", of all, as they were made."""
    asked = [condition] if condition else []
    for n in features:
        yield from entries_of_run(view.shown(database, range(n, n + 1)), asked, controls=True)


def file_name(view: Viewed, ending: str) -> str:
    """What a table of this run is called where it is kept."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in view.name) or "run"
    return f"{name}.{ending}".encode("ascii", "replace").decode()


def cells(view: Viewed, database: sqlite3.Connection, n: int) -> Iterator[list[Any]]:
    """A feature's rows: the number of the condition, then a cell for each of ``COLUMNS``.

    Text, a truth and nothing are themselves; a number or a list is a list that holds it as it is written, for a browser
    would write 1.0 as 1.
    """
    for row in plain_rows(entries(view, database, [n], "")):
        told = (row[name] for name in COLUMNS)
        yield [
            view.index.conditions.index(row["condition"]),
            *(
                one if one is None or isinstance(one, str | bool) else [json.dumps(one, ensure_ascii=False)]
                for one in told
            ),
        ]
