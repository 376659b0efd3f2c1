"""A finished run, read once, laid out to be judged: first samples by condition, their categories, nulls.

In: a run folder. Out: ``JudgedRun``, whole or of some features drawn. Refuses rows and conditions that are not as a run
folder has them, and a null that nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal, Site
from dragoman.embed import Embedder
from dragoman.records import NULL_NAMES, ConditionEntry, Row
from dragoman.stats.lift import own_lift, similarity
from dragoman.store import RunFolder
from dragoman.store.files import uncollected
from dragoman.store.manifests import check_truth, required, short_of
from dragoman.store.spans import shown

Doubles = NDArray[np.float64]
NATIVE = "native"
ALONE = NULL_NAMES[-1]  # the background alone is washed by nothing, and is what every washout mixes in
EMPTY = "(empty)"
FEWEST = 3  # features that a lift needs
MOST_COMPARED = 2048  # features, each of which is compared with every other; of more, so many are drawn
BLOCK = 1024  # features of which windows and texts are placed together, where there are more than are compared
TOGETHER = 64  # texts of a batch, as embedders read them
_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRun:
    """What a run's folder holds, read once.

    ``rows``: all of them, without what a verbalizer wrote around its texts (``raw``), which nothing judges. ``texts``:
    first samples by condition and feature; ``dealt``: the same in the order of the natives' features, to which random
    directions, with ids of their own, are dealt as they come. ``entries``: the manifest's entry of each condition that
    has texts, in its order. ``category``: of planted features; ``words``: those that name a category. ``contexts``:
    windows of text by feature, "firing" and "silent", and "words" and "forms", shares of its activation, where they
    were counted.
    """

    folder: RunFolder
    rows: Sequence[Row]
    texts: Mapping[str, Mapping[str, str]]
    dealt: Mapping[str, Mapping[str, str]]
    entries: Mapping[str, ConditionEntry]
    category: Mapping[str, str]
    words: Mapping[str, Sequence[str]]
    contexts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, folder: RunFolder) -> JudgedRun:
        """Read a run.

        Raises:
            Refusal: its rows or conditions are not as this version writes them, or no word names a planted category.
        """
        read = ({**row, "raw": ""} for row in folder.each_row())
        with uncollected():
            rows = [Row.of(row, f"{folder.path}, row {k}") for k, row in enumerate(read, 1)]
        texts = first_samples(rows)
        manifest = folder.manifest
        check_truth(folder.path / "manifest.json", manifest)
        info: Mapping[str, Mapping[str, Any]] = manifest.get("feature_info") or {}
        order = _order(texts, manifest)
        entries = [ConditionEntry.of_manifest(entry, str(folder.path)) for entry in manifest.get("conditions") or []]
        return cls(
            folder=folder,
            rows=rows,
            texts=texts,
            dealt={condition: dealt_to(by_feature, order) for condition, by_feature in texts.items()},
            entries={entry.name: entry for entry in entries if entry.name in texts},
            category={feature: one["category"] for feature, one in info.items()},
            words=manifest.get("category_words") or {},
            contexts=folder.contexts or {},
        )

    @property
    def features(self) -> list[str]:
        """Those that a claim is made of, and the natives'; none of the ids that nulls have for themselves."""
        claimed = (self.texts[name] for name, entry in self.entries.items() if not entry.is_null)
        return list(dict.fromkeys([*_order(self.texts, self.folder.manifest), *(f for by in claimed for f in by)]))

    @property
    def many(self) -> bool:
        """Whether it has more features than can all be compared with one another."""
        return len(self.features) > MOST_COMPARED

    def compared(self, seed: int) -> JudgedRun:
        """The run itself, or, where it has more than ``MOST_COMPARED`` features, as if it held so many of them alone.

        They are drawn at random without replacement, the same by one seed for all conditions. Of a condition whose
        directions have ids of their own at most so many are drawn too. Windows of features that nobody asked for stay.
        A condition of which none is drawn is left out.
        """
        features = self.features
        if len(features) <= MOST_COMPARED:
            return self
        rng = np.random.default_rng([seed, 8])
        drawn, asked = set(drawn_of(features, MOST_COMPARED, rng)), set(features)
        texts: dict[str, dict[str, str]] = {}
        for condition, by in self.texts.items():
            own = (
                [f for f in by if f in drawn] if any(f in asked for f in by) else drawn_of(list(by), MOST_COMPARED, rng)
            )
            if own:
                texts[condition] = {f: by[f] for f in own}
        order = [f for f in _order(self.texts, self.folder.manifest) if f in drawn]
        return replace(
            self,
            rows=[row for row in self.rows if row.feature in texts.get(row.condition, {})],
            texts=texts,
            dealt={condition: dealt_to(by, order) for condition, by in texts.items()},
            entries={name: entry for name, entry in self.entries.items() if name in texts},
            category={f: one for f, one in self.category.items() if f in drawn},
            contexts={f: one for f, one in self.contexts.items() if f in drawn or f not in asked},
        )

    @property
    def source(self) -> Site:
        """Where the features are."""
        return self._site("source")

    @property
    def target(self) -> Site:
        """Where the verbalizer reads."""
        return self._site("target")

    def _site(self, name: str) -> Site:
        return Site.parse(required(self.folder.path / "manifest.json", self.folder.manifest, name))

    @property
    def claims(self) -> list[str]:
        """Conditions that a claim is made of: neither natives nor nulls."""
        return [name for name, entry in self.entries.items() if entry.role == "claim"]

    @property
    def judgeable(self) -> bool:
        """Whether it brings along what its texts can be judged by, a reconstructor aside."""
        return NATIVE in {row.condition for row in self.rows} or bool(self.category) or bool(self.contexts)

    def refuse_unfinished(self, finish: str = "run the same explain again to finish it") -> None:
        """Refuse a run without rows, or with fewer than its manifest tells; ``finish``: what to do instead."""
        if not self.rows:
            raise Refusal(f"{self.folder.path}", "it holds no explanation yet", finish)
        if short := short_of(self.folder.manifest, len(self.rows)):
            raise Refusal(f"{self.folder.path}", short, finish)
        names = [one["name"] for one in self.folder.manifest.get("conditions") or []]
        if silent := [name for name in names if name not in self.texts]:
            raise Refusal(f"{self.folder.path}", f"it holds no explanation of condition {shown(silent[0])} yet", finish)

    def groups(self, features: Sequence[str]) -> list[str] | None:
        """Categories of features where several share one: they succeed and fail together."""
        if not all(f in self.category for f in features):
            return None
        found = [self.category[f] for f in features]
        return found if 1 < len(set(found)) < len(found) else None

    def nulls_for(self, condition: str) -> dict[str, list[str]]:
        """Null -> texts of the conditions that serve as it for this one.

        They are washed as it was and said by the same verbalizer; of several those by its own route, if there are any.
        """
        own, found = self.entries[condition], dict[str, list[ConditionEntry]]()
        for name, entry in self.entries.items():
            if entry.null is None or name == condition or entry.verbalizer != own.verbalizer:
                continue
            if entry.null == ALONE or entry.washout == own.washout:
                found.setdefault(entry.null, []).append(entry)
        chosen = {null: [e for e in some if e.route == own.route] or some for null, some in found.items()}
        return {null: [t for e in entries for t in self.texts[e.name].values()] for null, entries in chosen.items()}

    def control_of(self, condition: str) -> str | None:
        """The random directions that stand beside a condition: washed as it was, if there are such."""
        entries = [entry for entry in self.entries.values() if entry.null == "random directions"]
        alike = [entry for entry in entries if entry.washout == self.entries[condition].washout]
        return next((entry.name for entry in (*alike, *entries)), None)

    def similarities(self, embedder: Embedder) -> dict[str, Doubles]:
        """S = C B' of every condition with the natives of the same features, where there are at least three."""
        if len(self.dealt.get(NATIVE, {})) < FEWEST:
            return {}
        texts = self.dealt[NATIVE]
        native = dict(zip(texts, embedder.encode(list(texts.values())), strict=True))
        return {
            condition: similarity(embedder.encode(list(by.values())), np.stack([native[f] for f in by]))
            for condition, by in self.dealt.items()
            if condition != NATIVE and len(by) >= FEWEST
        }

    def own_lifts(self, embedder: Embedder) -> dict[str, dict[str, float]]:
        """Condition -> feature -> the post's lift, of the conditions that `similarities` has, without a matrix."""
        natives = self.dealt.get(NATIVE, {})
        if len(natives) < FEWEST:
            return {}
        at, native = {f: k for k, f in enumerate(natives)}, _placed(natives, embedder)
        found: dict[str, dict[str, float]] = {}
        for condition, by in self.dealt.items():
            if condition != NATIVE and len(by) >= FEWEST:
                own = native if list(by) == list(at) else native[[at[f] for f in by]]
                found[condition] = dict(zip(by, own_lift(_placed(by, embedder), own).tolist(), strict=True))
        return found


class CachedEmbedder:
    """An embedder that reads every different text once, and one without a word as "(empty)" instead of refusing it.

    An explanation that says nothing is a bad one, not a missing one.
    """

    def __init__(
        self, embedder: Embedder, most: int | None = None, *, bar: Callable[[int, int], None] | None = None
    ) -> None:
        """Nothing read yet.

        ``most``: texts that are kept, after which all are read anew, None for no bound. ``bar``: told how far it is
        where texts are read, 64 by 64 then, longest first.
        """
        self._embedder, self._most, self._bar = embedder, most, bar
        self._rows: dict[str, Floats] = {}

    @property
    def name(self) -> str:
        """The embedder's own."""
        return self._embedder.name

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows."""
        texts = [text if _WORD.search(text) else EMPTY for text in texts]
        if self._most is not None and len(self._rows) > self._most:
            self._rows.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new and self._bar is not None:
            new.sort(key=len, reverse=True)
            for at in range(0, len(new), TOGETHER):
                self._bar(at, len(new))
                self._read(new[at : at + TOGETHER])
            self._bar(len(new), len(new))
        elif new or not texts:
            made = self._read(new)
            if not texts:
                return made
        return np.stack([self._rows[text] for text in texts])

    def _read(self, new: Sequence[str]) -> Floats:
        made = self._embedder.encode(new)
        self._rows |= dict(zip(new, made, strict=True))
        return made


def _order(texts: Mapping[str, Mapping[str, str]], manifest: Mapping[str, Any]) -> list[str]:
    """The features in the order in which those of other ids are dealt to them."""
    return list(texts.get(NATIVE) or manifest.get("feature_info") or manifest.get("features", ()))


def blocks_of(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The names, so many at a time."""
    return (names[start : start + size] for start in range(0, len(names), size))


def _placed(texts: Mapping[str, str], embedder: Embedder) -> Floats:
    """(n, width) where texts lie, read so many at a time."""
    blocks = blocks_of(list(texts), BLOCK)
    return np.concatenate([CachedEmbedder(embedder).encode([texts[f] for f in some]) for some in blocks])


def drawn_of(names: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of the names, at random without replacement, in their own order."""
    if len(names) <= most:
        return list(names)
    order: list[int] = np.sort(rng.choice(len(names), most, replace=False)).tolist()
    return [names[k] for k in order]


def first_samples(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Condition -> feature -> text of the first sample, in file order."""
    texts: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.sample == 0:
            texts.setdefault(row.condition, {})[row.feature] = row.text
    return texts


def dealt_to(texts: Mapping[str, str], order: Sequence[str]) -> dict[str, str]:
    """Texts by feature, in one order; those of other ids are dealt to features as they come."""
    if any(f in texts for f in order):
        return {f: texts[f] for f in order if f in texts}
    return dict(zip(order, texts.values(), strict=False))
