"""A selection as a table for other tools: CSV, JSON lines, Parquet; a row for each explanation of its features.

In: a ``Viewed`` run, the numbers of features in order. Out: the entries that ``exports.tables`` writes. Refuses what
that refuses.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from dragoman.exports.entries import Entry, entries_of_run
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
