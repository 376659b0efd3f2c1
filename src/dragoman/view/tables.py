"""A selection as a table for other tools: CSV, JSON lines, Parquet; a row for each explanation of its features.

In: a ``Viewed`` run, the numbers of features in order. Out: bytes, piece by piece, or a Parquet file. Refuses Parquet
where pyarrow is not installed.

A spreadsheet runs what begins with ``=``, ``+``, ``-`` or ``@``, and these texts are a model's: in CSV such text has an
apostrophe before it. JSON lines and Parquet hold every text as it is, halves of characters aside.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dragoman.records import Card
from dragoman.report.cards import ConditionTexts, FeatureCard
from dragoman.store.cells import arrow, csv_cell, whole
from dragoman.view.opened import Viewed

KINDS = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_CARD = [f"card_{name}" for name in Card.model_fields]
_NUMBERS = {"sample", "tokens"}
_TEXTS = ("feature", "label", "condition", "reading", "short", "text", "problems", "status")
_REALS = ("confidence", "lift", "log_probability")
COLUMNS = (*_TEXTS[:4], "sample", *_TEXTS[4:], "confidence", "answered", "lift", "log_probability", "tokens", *_CARD)
_GROUP = 2048  # rows held for Parquet


def rows(
    view: Viewed, database: sqlite3.Connection, features: Sequence[int], condition: str
) -> Iterator[dict[str, Any]]:
    """Explanations of these features, of one condition or, with "", of all, as they were made."""
    for n in features:
        card = view.told(database, n).card
        for one in [*card.shown, *card.folded]:
            if condition in ("", one.condition):
                yield from _rows(card, one)


def _rows(card: FeatureCard, one: ConditionTexts) -> Iterator[dict[str, Any]]:
    for row in one.rows:
        first = row.sample == 0
        sure = one.confidence if first else None
        known = row.card.model_dump(mode="json") if row.card else {}
        yield {
            "feature": card.id,
            "label": row.label,
            "condition": one.condition,
            "reading": one.reading or "",
            "sample": row.sample,
            "short": one.short if first else "",
            "text": row.text,
            "problems": "; ".join(row.problems),
            "status": one.status or card.status,
            "confidence": sure.probability if sure else None,
            "answered": sure.answered if sure else None,
            "lift": one.lift if first else None,
            "log_probability": row.log_probability,
            "tokens": row.tokens,
            **{f"card_{name}": value for name, value in known.items()},
        }


def as_csv(told: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Comma separated, with a head."""
    held = io.StringIO()
    out = csv.DictWriter(held, COLUMNS, restval="", lineterminator="\r\n")
    out.writeheader()
    for row in told:
        out.writerow({name: csv_cell(value) for name, value in row.items()})
        if held.tell() > 1 << 16:
            yield _taken(held)
    yield _taken(held)


def _taken(held: io.StringIO) -> bytes:
    text = held.getvalue()
    held.seek(0)
    held.truncate()
    return text.encode("utf-8", "replace")


def as_jsonl(told: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """An object a line."""
    for row in told:
        yield (
            json.dumps({name: row.get(name) for name in COLUMNS}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        )


def write_parquet(told: Iterator[dict[str, Any]], path: Path) -> None:
    """A Parquet file at ``path``.

    Raises:
        Refusal: pyarrow is not installed.
    """
    pa, pq = arrow("a Parquet file", "pyarrow"), arrow("a Parquet file", "pyarrow.parquet")

    def kind(name: str) -> Any:
        bare = name.removeprefix("card_")
        if name in _NUMBERS:
            return pa.int64()
        if name == "answered":
            return pa.bool_()
        is_text = name in _TEXTS or bare in ("status", "why", "route", "route_why", "nearest", "home_nearest")
        return pa.string() if is_text else pa.float64()

    schema = pa.schema([(name, kind(name)) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        held: list[dict[str, Any]] = []
        for row in told:
            held.append({name: whole(row.get(name)) for name in COLUMNS})
            if len(held) == _GROUP:
                out.write_table(pa.Table.from_pylist(held, schema))
                held = []
        out.write_table(pa.Table.from_pylist(held, schema))
