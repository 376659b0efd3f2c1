"""A few features of a run, as the page's own cards read a whole one.

In: an index's database, the run's rows by their places. Out: ``ShownRun`` with these features alone. Refuses rows that
are not the run's own, and records of another form than this version writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from dragoman.records import ConditionEntry, ContextLabel, Record
from dragoman.report.opened import Manifest, ShownRun
from dragoman.report.words import Controls
from dragoman.scores import Scores
from dragoman.store import RunFolder
from dragoman.store.labels import LABELS
from dragoman.store.rowfile import RowFile
from dragoman.store.scored import KINDS, of_features, record_of

CONTEXTS, LENS, LABEL = "contexts", "lens", "context label"


class Windows(Record):
    """Where a feature fires and is silent, and the shares of its activation by word and form."""

    model_config = ConfigDict(extra="ignore")

    firing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    words: Mapping[str, float] = {}
    forms: Mapping[str, float] = {}


class LensWords(Record):
    """The words that the source's row and what was carried of it write most."""

    source: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What `shown_run` reads from: an index's database, and the run with its manifest and conditions."""

    database: sqlite3.Connection
    run: RunFolder
    manifest: Manifest
    entries: Sequence[ConditionEntry]
    controls: Controls


def shown_run(
    source: Source, scores: Scores, file: RowFile, features: range | Sequence[int], *, whole: bool = True
) -> ShownRun:
    """The run with the features of these numbers alone, as the page's own cards read it.

    ``whole``: with the windows in which they fire, and lens words; rows are then checked once more.

    Raises:
        Refusal: a row is not as this version writes it, or not the run's own.
    """
    database, run = source.database, source.run
    if isinstance(features, range):  # of step 1
        where, asked = "feature >= ? AND feature < ?", (features.start, features.stop)
    else:
        where, asked = "feature IN (SELECT value FROM json_each(?))", (json.dumps([*features]),)
    found = database.execute(
        f"SELECT feature, n, start, size FROM rows WHERE {where} ORDER BY feature, n", asked
    ).fetchall()
    rows = [file.row(*place, check=whole) for _, *place in found]
    named = {one[0]: row.feature for one, row in zip(found, rows, strict=True)}
    windows: dict[str, Windows] = {}
    words: dict[str, dict[str, LensWords]] = {}
    records: list[tuple[str, str, Record]] = []
    labels: dict[str, ContextLabel] = {}
    labelled_by = ""
    parts = database.execute(f"SELECT feature, part, condition, told FROM parts WHERE {where} ORDER BY rowid", asked)
    for n, part, condition, told in parts:
        if n not in named:
            continue
        if part in KINDS:
            records.append((part, condition, record_of(part, told, f"{run.path}/scores.json")))
        elif part == CONTEXTS and whole:
            windows[named[n]] = Windows.read(told, f"{run.path}/contexts.json")
        elif part == LENS and whole:
            words.setdefault(condition, {})[named[n]] = LensWords.read(told, f"{run.path}/lens.json")
        elif part == LABEL and whole:
            labelled_by = condition
            labels[named[n]] = ContextLabel.read(told, f"{run.path}/{LABELS}")
    return ShownRun(
        manifest=source.manifest,
        in_full=run.manifest,
        conditions=source.entries,
        controls=source.controls,
        rows=rows,
        scores=of_features(scores, records),
        contexts={name: one.to_json() for name, one in windows.items()},
        lens={condition: {name: one.to_json() for name, one in some.items()} for condition, some in words.items()},
        labels=labels,
        labelled_by=labelled_by,
    )
