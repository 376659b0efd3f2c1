"""A run opened to be looked at: its index, its scores, single features from its own rows.

In: a run folder; a maker of an embedder. Out: ``Viewed``: what its pages say of it and of a feature. Refuses what
`build` refuses, features the run does not have, and rows that are not the run's own.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.neuronpedia import NeuronpediaRef
from dragoman.neuronpedia.ids import parse
from dragoman.records import TokenWindow
from dragoman.report.cards import ConditionTexts, FeatureCard, feature_cards
from dragoman.report.claims import Piece
from dragoman.report.lit import Lit, lit, lit_tokens
from dragoman.report.opened import Manifest, ShownRun, entries_of
from dragoman.report.words import Controls
from dragoman.scores import Passage, Scores
from dragoman.store import RunFolder
from dragoman.store.cells import whole
from dragoman.store.firing import windows_at
from dragoman.store.rowfile import RowFile
from dragoman.store.runs import TOKENS
from dragoman.store.spans import shown
from dragoman.view.build import Bar, index_of, nothing
from dragoman.view.directions import Directions
from dragoman.view.find import Columns, Line, Selection, condition_of, lines_of
from dragoman.view.index import state_of
from dragoman.view.marked import Stretch, compared, others_of
from dragoman.view.meaning import Meaning, best
from dragoman.view.part import Source, shown_run

NEAREST = 8  # neighbours on a page
_WARM = 8  # conditions whose columns are read at once
WINDOWS = 10  # of text in which a feature fires
_SITE = "https://www.neuronpedia.org"
Paragraphs = Sequence[Sequence[tuple[Piece, Sequence[Stretch]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A condition's texts: ``samples``, the first of them in the card, each in paragraphs with its words compared.

    ``passages``: what the source's model wrote from the first.
    """

    one: ConditionTexts
    samples: Sequence[Paragraphs]
    passages: Sequence[Passage]

    @property
    def fired(self) -> int:
        """How many of the passages its feature fires on."""
        return sum(one.peak > 0 for one in self.passages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A feature's card, its windows with their words' shares, its lens words and passages by condition."""

    card: FeatureCard
    contexts: Mapping[str, Any]
    lens: Mapping[str, Any]
    passages: Mapping[str, Sequence[Passage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """Words of a condition: what the source's row writes, what arrived writes, and which both do."""

    condition: str
    source: Sequence[str]
    carried: Sequence[str]
    both: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePage:
    """What a feature's page says of it besides the run's own words.

    ``by_token``: whether windows are lit by activations at tokens, not by shares of words; ``around``: what of their
    sentences stands before and after them; ``unlit``: why they are not lit so, "" where there is nothing to say.
    ``near``: by direction, ``like``: by text, with cosines. ``there``: ids of features it names that the run has;
    others are of the dictionary alone. ``before``, ``after``: ids of its neighbours in the run.
    """

    n: int
    card: FeatureCard
    beside: Sequence[Samples]
    folded: Sequence[Samples]
    windows: Sequence[Sequence[Lit]]
    lit: bool
    by_token: bool
    around: Sequence[tuple[str, str]]
    unlit: str
    lens: Sequence[Lens]
    neuronpedia: str
    near: Sequence[tuple[Line, float]]
    like: Sequence[tuple[Line, float]]
    there: frozenset[str]
    before: str | None
    after: str | None


class Viewed:
    """A run and its index. ``name``: of the run in addresses."""

    def __init__(self, run: RunFolder, name: str, opened: Callable[[], Embedder], bar: Bar = nothing) -> None:
        """Open it, making its index where that is not there."""
        self.run, self.name = run, name
        self.index = index_of(run, bar)
        where = f"{run.path}/manifest.json"
        self.manifest = Manifest.of(run.manifest, where)
        self.entries = entries_of(run.manifest, where)
        self.controls = Controls.of(self.entries)
        self.scores = Scores.of(self.index.about["scores"], f"{run.path}/scores.json")
        self.meaning = Meaning(self.index, opened)
        self._file = RowFile(run.path / "rows.jsonl", run.rows_plan)
        self._columns: dict[int, Columns] = {}
        self._lock = Lock()

    def warm(self) -> None:
        """Read now what the first page would wait for."""
        for condition in ["", *self.index.conditions[:_WARM]]:
            self.columns(Selection(condition=condition))
        self.directions.nearest(0, 1)

    @cached_property
    def directions(self) -> Directions:
        """The sketch of the run's directions, read when somebody first asks."""
        with self.index.reading() as database:
            return Directions(self.run, database)

    def columns(self, selection: Selection) -> Columns:
        """What a selection's texts are chosen by, read when somebody first asks."""
        condition = condition_of(selection, self.index)
        with self._lock:
            if condition not in self._columns:
                with self.index.reading() as database:
                    self._columns[condition] = Columns.read(database, condition)
            return self._columns[condition]

    @property
    def features_only(self) -> NDArray[np.int64]:
        """Numbers of the features that are no controls."""
        columns = self.columns(Selection())
        return columns.feature[columns.bits["control"] == 0]

    @property
    def changed(self) -> bool:
        """Whether the run is another now than the one that the index is of."""
        try:
            return state_of(self.run) != self.index.state
        except Refusal:
            return True

    def source(self, database: sqlite3.Connection) -> Source:
        """What `part.shown_run` reads from."""
        return Source(
            database=database, run=self.run, manifest=self.manifest, entries=self.entries, controls=self.controls
        )

    def number(self, database: sqlite3.Connection, feature: str) -> int:
        """A feature's number in the index; refuse one that the run does not have."""
        row = database.execute("SELECT n FROM features WHERE id = ?", (feature,)).fetchone()
        if row is None:
            raise Refusal(f"feature '{shown(feature)}'", "this run has no such feature", "look for it in the list")
        return int(row[0])

    def shown(self, database: sqlite3.Connection, features: range | Sequence[int]) -> ShownRun:
        """The run with these features alone."""
        return shown_run(self.source(database), self.scores, self._file, features)

    def told(self, database: sqlite3.Connection, n: int) -> Told:
        """What its own rows and parts say of a feature."""
        run = self.shown(database, range(n, n + 1))
        card = feature_cards(run, {})[0]
        return Told(
            card=card,
            contexts=run.contexts.get(card.id, {}),
            lens={c: by[card.id] for c, by in run.lens.items() if card.id in by},
            passages={c: one.passages for c, some in run.scores.generated.items() for one in some},
        )

    def feature(self, database: sqlite3.Connection, n: int) -> FeaturePage:
        """Everything its page says."""
        told = self.told(database, n)
        card = told.card
        firing, shares = list(told.contexts.get("firing", []))[:WINDOWS], dict(told.contexts.get("words", {}))
        beside, folded = self._samples(told)
        tokens, unlit = self._tokens(database, n, card.id, firing) if firing else ((), "")
        windows = lit_tokens(tokens) if tokens else [lit(window, shares) for window in firing]
        return FeaturePage(
            n=n,
            card=card,
            beside=beside,
            folded=folded,
            windows=windows,
            lit=any(one.level for window in windows for one in window),
            by_token=bool(tokens),
            around=[(window.before, window.after) for _, window in tokens] or [("", "")] * len(windows),
            unlit=unlit,
            lens=_lens(told.lens),
            neuronpedia=self._link(card),
            near=self._lines(database, self.directions.nearest(n, NEAREST)),
            like=self._like(database, n),
            there=self._there(database, card),
            before=self._id(database, "n < ? ORDER BY n DESC", n),
            after=self._id(database, "n > ? ORDER BY n", n),
        )

    def tokens(self, database: sqlite3.Connection, n: int, feature: str) -> Sequence[TokenWindow]:
        """The tokens of a feature's windows; empty where the run keeps none.

        Raises:
            Refusal: the line is not as this version writes it.
        """
        place = database.execute("SELECT start, size FROM tokens WHERE feature = ?", (n,)).fetchone()
        return windows_at(self.run.path / TOKENS, int(place[0]), int(place[1]), feature) if place else ()

    def _tokens(
        self, database: sqlite3.Connection, n: int, feature: str, firing: Sequence[str]
    ) -> tuple[Sequence[tuple[str, TokenWindow]], str]:
        """Windows with their tokens; or none, and why."""
        try:
            found = self.tokens(database, n, feature)
        except Refusal as refusal:
            return (), f"{TOKENS} is left out: {refusal.why}"
        if not found:
            return (), "this run keeps no activations of single tokens"
        pairs = list(zip(firing, found, strict=False))
        if len(pairs) < len(firing) or not all(window.fits(text) for text, window in pairs):
            return (), f"{TOKENS} is left out: its tokens are not those of these windows"
        return pairs, ""

    def beside(self, database: sqlite3.Connection, page: FeaturePage, selected: Sequence[int]) -> FeaturePage:
        """The page with its neighbours in a selection, where it is of it."""
        if page.n not in selected:
            return page
        at = selected.index(page.n)
        before, after = selected[at - 1 : at] if at else (), selected[at + 1 : at + 2]
        found = {n: self._id(database, "n = ?", n) for n in (*before, *after)}
        return replace(page, before=found[before[0]] if before else None, after=found[after[0]] if after else None)

    def _samples(self, told: Told) -> tuple[list[Samples], list[Samples]]:
        """What stands side by side, compared, and what is folded."""
        card = told.card
        there = [one for one in card.shown if one.rows]
        others = dict(
            zip([one.condition for one in there], others_of([one.rows[0].text for one in there]), strict=True)
        )
        made = [
            Samples(
                one=one,
                samples=[compared(one.pieces(row), others.get(one.condition)) for row in one.rows],
                passages=told.passages.get(one.condition, ()),
            )
            for one in [*card.shown, *card.folded]
        ]
        return made[: len(card.shown)], made[len(card.shown) :]

    def _like(self, database: sqlite3.Connection, n: int) -> list[tuple[Line, float]]:
        cosines = self.meaning.near_feature(n)
        if cosines is None:
            return []
        among = self.features_only
        return self._lines(database, best(cosines, among[among != n], NEAREST))

    @staticmethod
    def _there(database: sqlite3.Connection, card: FeatureCard) -> frozenset[str]:
        named = [name for one in card.crossed for name in (one.card.nearest, one.card.home_nearest)]
        named += [one.read_back.nearest if one.read_back else None for one in [*card.shown, *card.folded]]
        wanted = sorted({name for name in named if name and name == whole(name)})
        marks = ", ".join("?" for _ in wanted)
        return frozenset(
            str(one) for (one,) in database.execute(f"SELECT id FROM features WHERE id IN ({marks})", wanted)
        )

    @staticmethod
    def _lines(database: sqlite3.Connection, near: Sequence[tuple[int, float]]) -> list[tuple[Line, float]]:
        cosines = dict(near)
        return [(line, cosines[line.n]) for line in lines_of(database, [n for n, _ in near])]

    @staticmethod
    def _id(database: sqlite3.Connection, where: str, n: int) -> str | None:
        row = database.execute(f"SELECT id FROM features WHERE {where} LIMIT 1", (n,)).fetchone()
        return None if row is None else str(row[0])

    def _link(self, card: FeatureCard) -> str:
        """The feature's page on Neuronpedia, where the run tells what its source is called there; "" elsewhere."""
        if card.control or not re.fullmatch(r"\d{1,9}", card.id):
            return ""
        found = self.elsewhere
        return f"{_SITE}/{found.at(card.id).path}" if found else ""

    @cached_property
    def elsewhere(self) -> NeuronpediaRef | None:
        """What the run's source is called on Neuronpedia, where the run tells it."""
        manifest = self.manifest
        dictionary = manifest.dictionary if isinstance(manifest.dictionary, Mapping) else {}
        told = [
            manifest.export.source if manifest.export else "",
            manifest.labels or "",
            str(dictionary.get("ref", "")),
        ]
        for text in told:
            if text.startswith("np:") or "neuronpedia.org" in text or re.fullmatch(r"[^/\s]+/\d+-[^/\s]+", text):
                with suppress(Refusal):
                    return parse(text).at(None)
        return None

    def close(self) -> None:
        """Let go of its files."""
        self.meaning.close()
        self._file.close()
        self.index.close()


def _lens(by: Mapping[str, Any]) -> list[Lens]:
    made = list[Lens]()
    for condition, words in by.items():
        source, carried = list(words.get("source", [])), list(words.get("carried", []))
        if source or carried:
            made.append(
                Lens(condition=condition, source=source, carried=carried, both=frozenset(source) & frozenset(carried))
            )
    return made
