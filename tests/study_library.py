"""A library whose models are planted: rows without models, and texts whose words say which feature fires there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Floats, Site, frozen
from dragoman.dictionaries import Encoder
from dragoman.maps import Crossing
from dragoman.maps.aligned import Aligned, HeldOutPairs
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import TokenRows
from dragoman.models.paired import Harvest
from planted_readers import FIRST, WORDS, PlantedReader
from planted_worlds import SOURCE, TARGET, SparseWorld, at_source, sparse_world, unit
from studies.ground import Ground
from studies.library import Library
from study_worlds import ground_with, latent
from verbalizer_doubles import ScriptedVerbalizer

M, P, Q = 40, 48, 56
PARTS = {"map": slice(0, 150), "direct": slice(150, 450), "judge": slice(450, 700)}  # documents of twenty words
BLOCKS = 24
NEAR = 5  # lens words of each feature


@dataclass(frozen=True, kw_only=True)
class BlockReader(PlantedReader):
    """A planted reader that holds the same rows at every block, with noise that grows away from its own."""

    own: int
    model: Any = field(default_factory=lambda: SimpleNamespace(config=SimpleNamespace(num_hidden_layers=BLOCKS)))

    def rows(self, texts: Any, typical: float | None = None, **how: Any) -> TokenRows:
        away = self.site.block - self.own
        noise = np.random.default_rng(self.site.block).normal(size=self.table.shape)
        table = self.table + 0.02 * abs(away) * noise
        return PlantedReader(site=self.site, table=table).rows(texts, typical, **how)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedLens:
    """Five words a feature, written by its row at the model: those of feature k are ``wk0`` to ``wk4``."""

    rows: NDArray[np.float64]

    @cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(f"w{k}x{j}" for k in range(len(self.rows)) for j in range(NEAR))

    def top(self, rows: Floats, k: int = 20) -> list[tuple[str, ...]]:
        scores = (np.asarray(rows) @ self.rows.T).repeat(NEAR, axis=1)
        return [tuple(self.words[j] for j in order[:k]) for order in np.argsort(-scores, axis=1, kind="stable")]


class PlantedLibrary(Library):
    """Reads a sparse world: no model, no cache."""

    def __init__(self, *, seed: int = 0, rate: float = 0.03) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        source = np.linalg.qr(rng.normal(size=(P, P)))[0][:M]
        documents = PARTS["judge"].stop
        self.world: SparseWorld = sparse_world(
            n=documents * WORDS, p=P, q=Q, m=M, rate=rate, source=source, noise=0.3, seed=seed
        )
        strongest = np.where(self.world.f.any(axis=1), self.world.f.argmax(axis=1), -1).reshape(documents, WORDS)
        said = [
            " ".join([f"{d:05d}", *("of" if k < 0 else f"word{k}" for k in row[1:])]) for d, row in enumerate(strongest)
        ]
        self.__dict__["texts"] = {name: said[part] for name, part in PARTS.items()} | {"all": said[:450]}
        self.encoder = Encoder(
            W_enc=source.T.astype(np.float32), b_enc=np.zeros(M, np.float32), b_dec=np.ones(P, np.float32),
            W_dec=source.astype(np.float32), architecture="jumprelu", threshold=np.full(M, 0.25, np.float32),
        )  # fmt: skip
        self._made: dict[str, Any] = {}

    def ground(self) -> Ground:
        kinds = ("birds", "boats", "bread")
        latents = [latent(str(k), kinds[k % 3], selectivity=0.01 if k % 4 == 3 else 0.5) for k in range(M)]
        made = ground_with(latents, at_source(self.world.source))
        made.__dict__["encoder"] = self.encoder
        return made

    def reader(self, site: Site) -> Any:
        own = SOURCE if site.model == SOURCE.model else TARGET
        table = self.world.x if own is SOURCE else self.world.y
        return BlockReader(site=site, table=table, own=own.block)

    def lens(self, site: Site) -> Any:
        return PlantedLens(rows=self.world.source if site.model == SOURCE.model else self.world.target)

    def lenses(self, ground: Ground) -> Any:
        return SimpleNamespace(source=self.lens(ground.source), target=self.lens(ground.target))

    def aligned(self, ground: Ground, which: str) -> Aligned:
        if which not in self._made:
            both = self.reader(ground.source), self.reader(ground.target)
            self._made[which] = read_aligned(*both, self.texts[which], ground.encoder, options=FIRST)
        return self._made[which]

    def which(self, ground: Ground) -> str:
        return "map"

    def crossing(self, ground: Ground) -> Crossing:
        if ground.name not in self._crossings:
            self._crossings[ground.name] = Crossing.from_tokens(self.aligned(ground, "map"), ground.rows)
        return self._crossings[ground.name]

    def held_out(self, ground: Ground) -> HeldOutPairs:
        return self.aligned(ground, "map").held_out

    def pooled(self, ground: Ground, which: str) -> Harvest:
        rows = np.isin(self.world.documents, np.arange(PARTS["judge"].stop)[PARTS[which]])
        x, y = (some[rows].reshape(-1, WORDS, some.shape[1]).mean(axis=1) for some in (self.world.x, self.world.y))
        backgrounds = [Background(site, frozen(unit(z).mean(axis=0)), len(z)) for site, z in ((SOURCE, x), (TARGET, y))]
        return Harvest(
            source=ground.source, target=ground.target, x=x.astype(np.float32), y=y.astype(np.float32),
            source_background=backgrounds[0], background=backgrounds[1],
        )  # fmt: skip


def reads_rows(library: PlantedLibrary, background: Background) -> ScriptedVerbalizer:
    """A verbalizer that takes the background off and says the word of the feature whose planted row is nearest."""
    b = unit(background.mean.astype(np.float64))
    rows = unit(library.world.target - (library.world.target @ b)[:, None] * b)

    def answer(vector: Floats) -> str:
        bare = vector - (vector @ b) * b
        k = int(np.argmax(rows @ bare))
        return f'About birds.\n\nFinal token "word{k}" ends the phrase.'

    return ScriptedVerbalizer(TARGET, Q, answer, name="planted")
