"""What the studies read, each thing once: models, sums over aligned tokens, pooled rows, whole rows.

In: a ground, how to read. Out: crossings, harvests, tokens. What takes minutes is kept in the cache by digest; models
and rows stay in memory while the process lives. Refuses what the rooms below refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.core import Site, Talk
from dragoman.dictionaries.beside import TABLE
from dragoman.maps import Crossing, DirectTable, LinearMap, Moments
from dragoman.maps.aligned import Aligned, HeldOutPairs, by_name, contexts
from dragoman.measures.firing import FiringWords
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import Reader
from dragoman.models.lens import Lens, LensPair
from dragoman.models.paired import Harvest, harvest
from dragoman.store import Cache, digest, read_jsonl
from studies.choice import words_of
from studies.cofiring import Whitening
from studies.ground import Ground
from studies.tokens import Tokens, read_tokens

FIT = 6000  # of the pair's texts; the others make the table that judges
__all__ = ["FIT", "Library"]


@dataclass(kw_only=True)
class Library:
    """Reads with ``dtype`` on ``device``; ``limit``: only so many texts of each kind, for rehearsals.

    ``judges``: kept by those who make them, for several studies hold rows against the same tokens.
    """

    device: str = "cpu"
    dtype: str = "bfloat16"
    limit: int | None = None
    talk: Talk = field(default_factory=Talk)
    _readers: dict[str, Reader] = field(default_factory=dict)
    _tokens: dict[str, Tokens] = field(default_factory=dict)
    _splits: dict[str, Tokens] = field(default_factory=dict)
    _crossings: dict[str, Crossing] = field(default_factory=dict)
    _words: dict[str, FiringWords] = field(default_factory=dict)
    _whitenings: dict[str, Whitening] = field(default_factory=dict)
    judges: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _pairs: dict[str, LensPair] = field(default_factory=dict)
    _lenses: dict[str, Lens] = field(default_factory=dict)

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """``map``: for the map; ``direct``: openings for the direct route; ``all``: both; ``judge``: for judging."""
        rows = read_jsonl(tiny.data("tiny-documents"))
        found = {s: [r["text"] for r in rows if r["split"] == s] for s in ("map", "direct", "judge")}
        if self.limit:  # every so many, for documents stand by category
            found = {s: some[:: max(len(some) // self.limit, 1)][: self.limit] for s, some in found.items()}
        return found | {"all": found["map"] + found["direct"]}

    @property
    def fit(self) -> int:
        """How many of ``all`` maps may be fitted on; the rest judge."""
        return min(FIT, int(0.6 * len(self.texts["all"])))

    def reader(self, site: Site) -> Reader:
        """A model, opened once, to be read at a site."""
        if site.model not in self._readers:
            self._readers[site.model] = Reader.open(site, dtype=self.dtype, device=self.device, whole=True)
        return replace(self._readers[site.model], site=site)

    def lens(self, site: Site) -> Lens:
        """A model's final norm and unembedding, opened once."""
        if site.model not in self._lenses:
            self._lenses[site.model] = Lens.open(site.model, device=self.device)
        return self._lenses[site.model]

    def lenses(self, ground: Ground) -> LensPair:
        """The lenses of both models of a ground, over the words that both can write."""
        if ground.name not in self._pairs:
            self._pairs[ground.name] = LensPair.of(self.lens(ground.source), self.lens(ground.target))
        return self._pairs[ground.name]

    def whitening(self, ground: Ground) -> Whitening:
        """Of the target's rows, over the openings."""
        if ground.name not in self._whitenings:
            self._whitenings[ground.name] = Whitening.of(self.split(ground, "direct").y[ground.target.block])
        return self._whitenings[ground.name]

    def words(self, ground: Ground) -> FiringWords:
        """Which words the dictionary's latents fire on, in the judging texts."""
        if ground.name not in self._words:
            self._words[ground.name] = words_of(self.split(ground, "judge"))
        return self._words[ground.name]

    def crossing(self, ground: Ground) -> Crossing:
        """What ``explain`` crosses by when nothing else is said.

        From SmolLM2 that is the map over the sentences with the direct route's table that ships, which rests on the
        openings; the other way nothing ships, and all texts are read.
        """
        if ground.name not in self._crossings:
            sums = self.aligned(ground, self.which(ground))
            beside = ground.opened.direct_folder(ground.target)
            table = DirectTable.load(beside / TABLE) if beside is not None else None
            lenses = self.lenses(ground)
            made = Crossing.from_tokens(sums, ground.rows, direct=table, overlap=lenses.shared)
            self._crossings[ground.name] = made
        return self._crossings[ground.name]

    def aligned(self, ground: Ground, which: str) -> Aligned:
        """Sums over aligned tokens of some of the texts, kept in the cache."""

        def make(path: Path) -> None:
            self.talk.say(f"{ground.name}: reading {len(self.texts[which])} texts token by token")
            both = self.reader(ground.source), self.reader(ground.target)
            say = self.talk.towards(f"aligned {ground.name}")
            read_aligned(*both, self.texts[which], ground.encoder, progress=say).save(path)

        path, _ = Cache().get_or_make("aligned", self._key("study-aligned-6", ground, which), make)
        return Aligned.load(path)

    def fitted(self, ground: Ground) -> tuple[LinearMap, Moments]:
        """The map of ``crossing`` and the moments it was fitted on."""
        crossing = self.crossing(ground)
        if crossing.map is None or crossing.moments is None:
            raise RuntimeError("a crossing over tokens has a map")
        return crossing.map, crossing.moments

    def held_out(self, ground: Ground) -> HeldOutPairs:
        """Whole pairs that the map of ``crossing`` was judged by."""
        return self.aligned(ground, self.which(ground)).held_out

    def contexts(self, ground: Ground, features: Iterable[str], *, seed: int = 0) -> dict[str, dict[str, list[str]]]:
        """Where each feature fires and where it is silent, as windows of the texts its cards come from."""
        firings = self.crossing(ground).firings
        if firings is None:
            raise RuntimeError("a dictionary with an encoder was read")
        known, found = by_name(self.texts[self.which(ground)]), {}
        for name in features:
            firing, silent = contexts(firings, known, name, rng=np.random.default_rng([seed, int(name)]))
            found[name] = {"firing": firing, "silent": silent}
        return found

    def which(self, ground: Ground) -> str:
        """Which texts ``crossing`` reads."""
        return "all" if ground.opened.direct_folder(ground.target) is None else "map"

    def pooled(self, ground: Ground, which: str) -> Harvest:
        """One mean row a text and model, as the post did, kept in the cache."""

        def make(path: Path) -> None:
            self.talk.say(f"{ground.name}: pooling {len(self.texts[which])} texts")
            both = self.reader(ground.source), self.reader(ground.target)
            harvest(*both, self.texts[which], progress=self.talk.towards(f"pooled {ground.name}")).save(path)

        path, _ = Cache().get_or_make("harvest", self._key("study-pooled-2", ground, which), make)
        return Harvest.load(path)

    def tokens(self, ground: Ground) -> Tokens:
        """Every token of all texts at the two sites, in memory (2.2 GB)."""
        if ground.name not in self._tokens:
            other = next(iter(self._tokens.values()), None)
            self._tokens.clear()  # one direction at a time
            if other is None:
                self.talk.say(f"{ground.name}: reading {len(self.texts['all'])} texts, rows kept")
                self._tokens[ground.name] = self._read(ground, self.texts["all"])
            else:  # the same rows, seen from the other side
                self._tokens[ground.name] = other.turned(ground.encoder, ground.source.block)
        return self._tokens[ground.name]

    def split(self, ground: Ground, which: str) -> Tokens:
        """Every token of some of the texts at the two sites, kept in memory (1 to 3 GB a split)."""
        name = f"{which} {ground.name}"
        if name not in self._splits:
            other = next((t for key, t in self._splits.items() if key.startswith(f"{which} ")), None)
            if other is None:
                self.talk.say(f"{ground.name}: reading {len(self.texts[which])} texts ({which}), rows kept")
                self._splits[name] = self._read(ground, self.texts[which])
            else:  # the same rows, seen from the other side
                self._splits[name] = other.turned(ground.encoder, ground.source.block)
        return self._splits[name]

    def blocks(
        self,
        ground: Ground,
        which: str,
        source: tuple[int, ...],
        target: tuple[int, ...],
        *,
        at_most: int | None = None,
    ) -> Tokens:
        """Every token of some of the texts, or of the first ``at_most`` of them, at several blocks."""
        return self._read(ground, self.texts[which][:at_most], source, target)

    def _read(
        self, ground: Ground, texts: list[str], source: tuple[int, ...] = (), target: tuple[int, ...] = ()
    ) -> Tokens:
        return read_tokens(
            self.reader(ground.source),
            self.reader(ground.target),
            ground.encoder,
            texts,
            source_blocks=source,
            target_blocks=target,
            progress=self.talk.towards(f"tokens {ground.name}"),
        )

    def _key(self, kind: str, ground: Ground, which: str) -> str:
        weights = [m.sha256 for m in tiny.MODELS.values()]
        parts = [kind, str(ground.source), str(ground.target), self.dtype, *weights, "\n".join(self.texts[which])]
        return digest(*parts, ground.opened.fingerprint())
