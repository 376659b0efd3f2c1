"""The two directions in which the embedded pair can be crossed, and the truth that is planted in both dictionaries.

In: a name. Out: a ``Ground``: sites, dictionary, verbalizers, reconstructors; its latents with what they fire on; a
stratified choice among them. Refuses unknown names and more features than there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.core import Directions, Refusal, Site
from dragoman.dictionaries import Dictionary, Encoder, open_dictionary
from dragoman.dictionaries.beside import read_truth
from dragoman.store import read_jsonl

# A category's share of a latent's firing; 1 / 45 is chance. Below the first there is no category to name: most of
# those latents stand for a word ("often", "is") or a form.
FAINT, MIDDLING, SHARP = 0.05, 0.1, 0.3
LEVELS = ("faint", "middling", "sharp")
THIRDS = ("rare", "usual", "frequent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """A latent and where it fires: ``category`` and ``topic`` with most of it, ``selectivity`` the category's share.

    ``documents``: share of documents in which it fires. ``n_eff``: effective number of them, over the training texts.
    """

    id: str
    category: str
    topic: str
    selectivity: float
    topic_share: float
    documents: float
    n_eff: float
    top_tokens: tuple[str, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Latent:
        """From a row of the packaged list, or of a run's manifest; what else stands there is left."""
        known: dict[str, Any] = {name: row[name] for name in cls.__dataclass_fields__}
        known["top_tokens"] = tuple(row["top_tokens"])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One direction of the embedded pair."""

    name: str
    source: Site
    target: Site
    dictionary: str
    latents_in: str
    by: str
    native: str
    reads_target: str
    reads_source: str

    @cached_property
    def opened(self) -> Dictionary:
        """The dictionary."""
        return open_dictionary(self.dictionary, site=self.source)

    @property
    def rows(self) -> Directions:
        """The dictionary's decoder rows."""
        return self.opened.rows()

    @property
    def encoder(self) -> Encoder:
        """The dictionary's encoder."""
        return self.opened.need_encoder()

    @cached_property
    def latents(self) -> Mapping[str, Latent]:
        """Every latent that fires in the training texts."""
        return {row["id"]: Latent.of(row) for row in read_jsonl(tiny.data(self.latents_in))}

    @cached_property
    def words(self) -> Mapping[str, list[str]]:
        """Category -> the words that name it."""
        return read_truth(tiny.data("tiny-truth")).category_words

    def directions(self, ids: Iterable[str]) -> Directions:
        """Rows of these latents, labelled with what they fire on."""
        picked = self.rows.pick(ids)
        labels = tuple(f"{self.latents[i].category}: {self.latents[i].topic}" for i in picked.ids)
        return replace(picked, labels=labels)

    def information(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What a run folder keeps of the planted truth."""
        return {i: asdict(self.latents[i]) for i in ids}


GROUNDS = {
    g.name: g
    for g in (
        Ground(
            name="smollm2-to-gemma",
            source=tiny.SOURCE,
            target=tiny.TARGET,
            dictionary="tiny-sae",
            latents_in="tiny-latents",
            by="tiny-gemma-av",
            native="tiny-smollm2-av",
            reads_target="tiny-gemma-ar",
            reads_source="tiny-smollm2-ar",
        ),
        Ground(
            name="gemma-to-smollm2",
            source=tiny.TARGET,
            target=tiny.SOURCE,
            dictionary="tiny-gemma-sae",
            latents_in="tiny-gemma-latents",
            by="tiny-smollm2-av",
            native="tiny-gemma-av",
            reads_target="tiny-smollm2-ar",
            reads_source="tiny-gemma-ar",
        ),
    )
}


def ground_of(name: str) -> Ground:
    """A direction of the pair by name."""
    if name not in GROUNDS:
        raise Refusal(f"direction '{name}'", f"known are {', '.join(GROUNDS)}", "name one of these")
    return GROUNDS[name]


def seen_before() -> frozenset[str]:
    """Features of the first dictionary that were reported or developed on before these studies."""
    return frozenset(read_truth(tiny.data("tiny-truth")).features)


def level_of(latent: Latent) -> str | None:
    """``sharp``, ``middling`` or ``faint``, by its category's share; None where there is no category to name."""
    at = int(np.searchsorted((FAINT, MIDDLING, SHARP), latent.selectivity, side="right"))
    return LEVELS[at - 1] if at else None


def stratified(ground: Ground, n: int, *, seed: int = 0, without: Iterable[str] = ()) -> tuple[str, ...]:
    """``n`` latents, as many from each of nine cells: three levels of selectivity x thirds of how often they fire.

    Within a cell categories take turns, so that no topic is there for being common. Left out: latents without a
    category to name, and those already reported or developed on.

    Raises:
        Refusal: more than there are.
    """
    gone = set(without) | (seen_before() if ground.dictionary == "tiny-sae" else frozenset())
    pool = [one for one in ground.latents.values() if one.id not in gone and level_of(one)]
    if not 1 <= n <= len(pool):
        raise Refusal(f"{n} features", f"there are {len(pool)} to choose from", "ask for fewer, and at least one")
    rng = np.random.default_rng(seed)
    waiting = []
    for level in LEVELS:
        mine = [one for one in pool if level_of(one) == level]
        shuffled = sorted((mine[i] for i in rng.permutation(len(mine))), key=lambda one: one.documents)
        waiting += [[shuffled[i] for i in part] for part in np.array_split(np.arange(len(shuffled)), len(THIRDS))]
    for cell in waiting:
        rng.shuffle(cell)  # type: ignore[arg-type]
    taken: Counter[str] = Counter()
    chosen: list[Latent] = []
    while len(chosen) < n:
        for cell in waiting:
            if cell and len(chosen) < n:
                one = min(cell, key=lambda latent: taken[latent.category])
                cell.remove(one)
                taken[one.category] += 1
                chosen.append(one)
    return tuple(sorted((one.id for one in chosen), key=int))
