"""Makes a run's index, a few hundred features at a time.

In: a run folder. Out: `index.Index`, written whole or not at all. Refuses what `ShownRun` refuses of a manifest, a run
without a row, and rows that are not the run's own. Scores, contexts and lens words that cannot be read are left out,
and the index says so.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dragoman.confidence.evidence import evidence_words
from dragoman.core import Refusal
from dragoman.neuronpedia import short_label
from dragoman.report.cards import GIST, ConditionTexts, FeatureCard, feature_cards
from dragoman.report.opened import Manifest, entries_of
from dragoman.report.words import Controls
from dragoman.scores import FeatureClaims, FeatureConfidence, Scores
from dragoman.store import RunFolder, held, refusing
from dragoman.store.cells import whole
from dragoman.store.files import uncollected
from dragoman.store.firing import token_places
from dragoman.store.labels import LABELS, read_labels
from dragoman.store.manifests import short_of
from dragoman.store.rowfile import RowFile, each_row, own_members
from dragoman.store.runs import TOKENS
from dragoman.store.scored import KINDS, nothing_scored, read_scores
from dragoman.store.streams import json_stream
from dragoman.view.directions import write_sketch
from dragoman.view.index import HEAD, NAME, SCHEMA, Index, folder_for, state_of, words_table
from dragoman.view.part import CONTEXTS, LABEL, LENS, Source, shown_run

_BATCH = 256  # features held at a time
_HELD = 48 << 20  # bytes of words held before they are written
_MANY = 4096  # records written at a time
MOST_CONDITIONS = 62  # their numbers are bits of a word
Bar = Callable[[str, int, int], None]
T = TypeVar("T")


def nothing(_what: str, _done: int, _total: int) -> None:
    """A bar that nobody sees."""


def index_of(run: RunFolder, bar: Bar = nothing) -> Index:
    """The run's index, made now if it is not there for the run as it is.

    Raises:
        Refusal: as the module says; another process is making it.
    """
    folder, state = folder_for(run), state_of(run)
    path = folder / NAME
    found = Index.there(path, state)
    if found is not None:
        return found
    with refusing("writing", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f".{NAME}.lock", wait=True):
        found = Index.there(path, state)  # another process may have made it meanwhile
        if found is None:
            found = _made(run, path, state, bar)
    return found


def _made(run: RunFolder, path: Path, state: str, bar: Bar) -> Index:
    partial = path.with_name(f".{NAME}.partial")
    with refusing("writing", path):
        partial.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(partial, isolation_level=None)) as database:
                with uncollected():
                    about = _Builder(run, database, bar).build()
                _keep_meta(database, "about", json.dumps(about))
                _keep_meta(database, "state", state)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return Index(path=path, state=state, about=about)


def _keep_meta(database: sqlite3.Connection, key: str, value: Any) -> None:
    database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


@dataclass(slots=True)
class _Counts:
    """What is counted on the way."""

    features: int = 0
    controls: int = 0
    texts: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    claims: dict[str, Counter[str]] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """As JSON."""
        by = {"answers": self.answers, "reasons": self.reasons, "claims": self.claims}
        flat = {"statuses": self.statuses, "problems": self.problems, "categories": self.categories}
        return {
            "texts": self.texts,
            **{k: dict(v) for k, v in flat.items()},
            **{name: {condition: dict(some) for condition, some in found.items()} for name, found in by.items()},
        }


class _Builder:
    def __init__(self, run: RunFolder, database: sqlite3.Connection, bar: Bar) -> None:
        self.run, self.database, self.bar = run, database, bar
        where = f"{run.path}/manifest.json"
        self.manifest = Manifest.of(run.manifest, where)
        self.entries = entries_of(run.manifest, where)
        if not self.entries or not all(one.name for one in self.entries):
            raise Refusal(f"{run.path}", "its manifest names no conditions", "name a folder that dragoman wrote")
        if len(self.entries) > MOST_CONDITIONS:
            why = f"it has {len(self.entries)} conditions, and {MOST_CONDITIONS} can be shown"
            raise Refusal(f"{run.path}", why, "show its page instead (dragoman report)")
        self.controls = Controls.of(self.entries)
        self.names = {entry.name: k for k, entry in enumerate(self.entries)}
        self.routes: dict[str, int] = {}
        self.verbalizers: dict[str, int] = {}
        # In the order asked for; those that were not asked for (controls) as they come.
        self.ids = {str(name): k for k, name in enumerate(dict.fromkeys(run.manifest.get("features") or []))}
        self.missing: list[str] = []
        self.parts: list[tuple[int, str, str, str]] = []
        self.counts = _Counts()
        self.source = Source(
            database=database, run=run, manifest=self.manifest, entries=self.entries, controls=self.controls
        )

    def build(self) -> dict[str, object]:
        """Write everything; what the index tells of the run."""
        database = self.database
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "temp_store=MEMORY"):
            database.execute(f"PRAGMA {setting}")
        database.executescript(SCHEMA)
        database.execute("BEGIN")
        rows = self._places()
        short = short_of(self.run.manifest, rows)
        if short:
            self.missing.append(f"The run is not finished: {short}")
        scores = self._scores()
        self._windows()
        self._lens()
        self._labels()
        self._tokens()
        database.execute("CREATE INDEX rows_of ON rows (feature)")
        database.execute("CREATE INDEX features_of ON features (id)")
        database.execute("CREATE INDEX parts_of ON parts (feature)")
        self._texts(rows, scores)
        write_sketch(self.run, list(self.run.manifest.get("features") or []), self.ids, database, self.missing)
        database.execute("COMMIT")
        return {
            "conditions": list(self.names),
            "routes": list(self.routes),
            "verbalizers": list(self.verbalizers),
            "features": self.counts.features,
            "controls": self.counts.controls,
            "numbers": len(self.ids),
            "rows": rows,
            "tallies": self.counts.told(),
            "missing": self.missing,
            "unfinished": short,
            "scores": scores.to_json(),
        }

    def _places(self) -> int:
        """Where every row stands; how many there are."""
        path, count = self.run.path / "rows.jsonl", 0
        size = path.stat().st_size if path.exists() else 0
        self.database.execute(words_table(len(self.names)))
        self.database.execute("INSERT INTO words (words, rank) VALUES ('hashsize', ?)", (_HELD,))

        def places() -> Iterator[tuple[int, int, int, int, int, int]]:
            nonlocal count
            for placed in each_row(path, self.run.rows_plan):
                count += 1
                feature, condition = placed.fields.get("feature"), placed.fields.get("condition")
                sample = placed.fields.get("sample")
                if not isinstance(feature, str) or condition not in self.names or not isinstance(sample, int):
                    what = f"{path}, line {placed.number}"
                    raise Refusal(what, "it names no feature, sample or condition of this run", "make the run again")
                n = self.ids.setdefault(feature, len(self.ids))
                yield placed.number, n, self.names[str(condition)], sample, placed.start, placed.size
                if not placed.number % _MANY:
                    self.bar("finding rows, bytes read", placed.start, size)

        self.database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", places())
        if not count:
            raise Refusal(f"{self.run.path}", "it holds no explanation yet", "finish the run first")
        self.bar("finding rows, bytes read", size, size)
        return count

    def _part(self, feature: str, part: str, condition: str, told: Any) -> None:
        if (n := self.ids.get(feature)) is not None:
            self.parts.append((n, part, condition, json.dumps(told, separators=(",", ":"))))
            if len(self.parts) == _MANY:
                self._keep_parts()

    def _keep_parts(self) -> None:
        self.database.executemany("INSERT INTO parts VALUES (?, ?, ?, ?)", self.parts)
        self.parts.clear()

    def _scores(self) -> Scores:
        path = self.run.path / "scores.json"

        def keep(part: str, condition: str, told: Any) -> None:
            if isinstance(told, Mapping) and isinstance(told.get("feature"), str):
                self._part(told["feature"], part, condition, told)

        return self._perhaps(path, KINDS, lambda: read_scores(path, self.run.plan, keep)) or nothing_scored()

    def _windows(self) -> None:
        path = self.run.path / "contexts.json"

        def read() -> None:
            with json_stream(path) as stream:
                for feature in own_members(stream, self.run.rows_plan, path):
                    self._part(feature, CONTEXTS, "", stream.value())

        self._perhaps(path, [CONTEXTS], read)

    def _lens(self) -> None:
        path = self.run.path / "lens.json"

        def read() -> None:
            with json_stream(path) as stream:
                for condition in own_members(stream, self.run.rows_plan, path):
                    for feature in stream.members():
                        self._part(feature, LENS, condition, stream.value())

        self._perhaps(path, [LENS], read)

    def _labels(self) -> None:
        def read() -> None:
            if (found := read_labels(self.run)) is not None:
                for feature, one in found.by_feature.items():
                    self._part(feature, LABEL, found.head.model, one.to_json())

        self._perhaps(self.run.path / LABELS, [LABEL], read)

    def _tokens(self) -> None:
        """Where each feature's activations stand."""
        path = self.run.path / TOKENS
        try:
            found = [
                (self.ids[feature], start, size)
                for feature, start, size in token_places(path, self.run.rows_plan)
                if feature in self.ids
            ]
        except Refusal as refusal:
            self.missing.append(f"{path.name} is left out: {refusal.why}")
            return
        self.database.executemany("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", found)

    def _perhaps(self, path: Path, parts: Collection[str], read: Callable[[], T]) -> T | None:
        """What a file holds; where it cannot be read, a sentence on it is kept instead of its parts."""
        if not path.exists():
            return None
        self.bar("reading scores", 0, 1)
        try:
            found = read()
        except Refusal as refusal:
            self.parts.clear()
            marks = ", ".join("?" for _ in parts)
            self.database.execute(f"DELETE FROM parts WHERE part IN ({marks})", [*parts])
            self.missing.append(f"{path.name} is left out: {refusal.why}")
            return None
        finally:
            self.bar("reading scores", 1, 1)
        self._keep_parts()
        return found

    def _texts(self, rows: int, scores: Scores) -> None:
        """What is said of each feature in a line, and its words."""
        file = RowFile(self.run.path / "rows.jsonl", self.run.rows_plan)
        columns = ", ".join("?" * (2 + len(self.names)))
        heads = ", ".join(["rowid", "names", *(f"c{k}" for k in range(len(self.names)))])
        try:
            for first in range(0, len(self.ids), _BATCH):
                shown = shown_run(self.source, scores, file, range(first, first + _BATCH), whole=False)
                cards = feature_cards(shown, {})
                self._keep(cards)
                self.database.executemany(
                    f"INSERT INTO words ({heads}) VALUES ({columns})",
                    [(self.ids[card.id], *words_of(card, list(self.names))) for card in cards],
                )
                self.bar("reading texts", min(first + _BATCH, len(self.ids)), len(self.ids))
        finally:
            file.close()

    def _keep(self, cards: Sequence[FeatureCard]) -> None:
        features, texts = [], []
        for card in cards:
            n = self.ids[card.id]
            features.append((n, _whole(card.id), _whole(card.name), _whole(card.label), _whole(card.category)))
            there = [one for one in [*card.shown, *card.folded] if one.rows]
            masks = self._masks(there)
            self._count(card, there)
            head = card.head if card.head.rows else there[0]
            texts.append(self._line(HEAD, n, card, head, masks))
            texts += [self._line(self.names[one.condition], n, card, one, masks) for one in there]
        self.database.executemany("INSERT INTO features VALUES (?, ?, ?, ?, ?)", features)
        self.database.executemany(f"INSERT INTO texts VALUES ({', '.join('?' * 17)})", texts)

    def _masks(self, there: Sequence[ConditionTexts]) -> tuple[int, int]:
        """Which routes a feature's texts came by, and which verbalizers said them, as bits."""
        routes = verbalizers = 0
        for one in there:
            entry, card = self.entries[self.names[one.condition]], one.card
            route, verbalizer = (card.route if card and card.route else entry.route), entry.verbalizer
            for word, known in ((route, self.routes), (verbalizer, self.verbalizers)):
                if word and word not in known and len(known) < MOST_CONDITIONS:
                    known[word] = len(known)
            routes |= 1 << self.routes[route] if route in self.routes else 0
            verbalizers |= 1 << self.verbalizers[verbalizer] if verbalizer in self.verbalizers else 0
        return routes, verbalizers

    def _line(
        self, condition: int, n: int, card: FeatureCard, one: ConditionTexts, masks: tuple[int, int]
    ) -> tuple[Any, ...]:
        first, sure, known = one.rows[0], one.confidence, one.card
        return (
            condition,
            n,
            self.names[one.condition],
            int(card.control),
            int(bool(first.problems)),
            *masks,
            one.status or card.status,
            _whole(card.category),
            None if sure is None else int(sure.answered),
            None if sure is None else sure.probability,
            one.lift,
            known.coverage if known else None,
            known.agreement if known else None,
            known.n_eff if known else None,
            first.log_probability,
            _whole(card.gist if one is card.head else gist_of(one)),
        )

    def _count(self, card: FeatureCard, there: Sequence[ConditionTexts]) -> None:
        counts = self.counts
        counts.controls += card.control
        if card.control:
            return
        counts.features += 1
        counts.statuses.update([card.status] if card.status else [])
        counts.categories.update([card.category] if card.category else [])
        for one in there:
            if one.condition in self.controls:
                continue
            counts.texts += len(one.rows)
            counts.problems.update(problem for row in one.rows for problem in dict.fromkeys(row.problems))
            if one.confidence is not None:
                self._count_answer(one.condition, one.confidence)
            if one.claims is not None:
                self._count_claims(one.condition, one.claims)

    def _count_answer(self, condition: str, sure: FeatureConfidence) -> None:
        word = "answered" if sure.answered else "abstained"
        self.counts.answers.setdefault(condition, Counter())[word] += 1
        against = [reason for reason in sure.why if reason.adds < 0]
        if not sure.answered and against:
            worst = min(against, key=lambda reason: reason.adds)
            self.counts.reasons.setdefault(condition, Counter())[evidence_words(worst.evidence)] += 1

    def _count_claims(self, condition: str, claims: FeatureClaims) -> None:
        self.counts.claims.setdefault(condition, Counter()).update(one.status for one in claims.claims)


def words_of(card: FeatureCard, conditions: Sequence[str]) -> list[str]:
    """What a search finds a feature by: its names, then its texts of each condition."""
    said = {one.condition: " \n".join(row.text for row in one.rows) for one in [*card.shown, *card.folded]}
    names = " \n".join(dict.fromkeys([card.id, card.name, card.label, card.category, card.head.short]))
    return [_whole(names), *(_whole(said.get(name, "")) for name in conditions)]


def gist_of(one: ConditionTexts) -> str:
    """A condition's first text in a line."""
    return one.short or short_label(one.rows[0].text, GIST)


def _whole(text: str) -> str:
    """Text that SQLite can keep: halves of characters and NULs as a mark that something stood there."""
    mended = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return mended if mended.isascii() else str(whole(mended))
