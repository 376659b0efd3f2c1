"""What judges carried rows without a label: where the judging texts make a latent fire, and what its own row writes.

In: latents' rows at the source, the target's rows at judging tokens and which latents fire there, two lenses. Out: per
latent the co-firing AUROC and the lens overlap, each beside the same measure of another latent's row or words. Refuses
what the measures refuse.

Whoever is judged, the tokens and the siblings that are held against a latent are the same, so that two conditions
differ by their rows alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from dragoman.measures.cofiring import Whitening, cofiring
from dragoman.measures.overlap import overlap_table
from dragoman.models.lens import Lens
from numpy.typing import NDArray

from dragoman.core import Directions, Floats
from dragoman.stats.intervals import t_interval
from studies.controls import dealt

Doubles = NDArray[np.float64]
Words = Sequence[tuple[str, ...]]
TOP = 20  # lens words
SIBLINGS = 5  # nearest decoder rows, whose firing tokens are the hard negatives
MEASURES = ("cofiring", "lens")


@dataclass(frozen=True, kw_only=True, eq=False)
class RowJudge:
    """Judges rows at one site that carry the names of ``rows``.

    ``rows``: n latents' own rows at the source. ``y``: (T, q) rows of the site at the judging tokens, ``fired``: (T, n)
    sparse activations there, ``documents``: (T,) the text of each. ``whitening``: of the site's rows at other texts.
    ``words``: n latents' own lens words; ``lens``: of the site's model, asked for words ``among`` these.
    """

    rows: Directions
    y: Floats
    fired: Any
    documents: NDArray[np.int64]
    whitening: Whitening
    words: Words
    lens: Lens
    among: Collection[str]
    seed: int = 0

    @cached_property
    def siblings(self) -> NDArray[np.int64]:
        """(n, 5) numbers of the latents whose own rows are nearest."""
        cosines = self.rows.unit @ self.rows.unit.T
        np.fill_diagonal(cosines, -np.inf)
        return np.argsort(-cosines, axis=1)[:, : min(SIBLINGS, len(self.rows) - 1)]

    def cofiring(self, rows: Directions) -> Doubles:
        """(k,) AUROC of each row against where its latent fires; NaN where it fires too rarely."""
        places = self._places(rows)
        every = np.repeat(rows.unit[:1], len(self.rows), axis=0)  # of latents without a row here; not looked at
        every[places] = rows.unit
        found = cofiring(
            every,
            self.y,
            self.fired,
            self.documents,
            whitening=self.whitening,
            hard=self.siblings,
            rng=np.random.default_rng(self.seed),
        )
        return np.asarray(found, dtype=np.float64)[places]

    def lens_words(self, rows: Directions) -> list[tuple[str, ...]]:
        """The twenty words that each row writes most."""
        return self.lens.top(rows.unit, TOP, among=self.among)

    def judged(self, rows: Directions) -> dict[str, Any]:
        """Per latent, for JSON: ``ids``; ``cofiring`` and ``lens`` (of 20 words), and the same ``_dealt``.

        A dealt AUROC is that of another latent's row of the same condition; a dealt overlap is the mean one with the
        other latents' own words.
        """
        places, several = self._places(rows), len(rows) > 1
        table = np.asarray(overlap_table(self.lens_words(rows), [self.words[k] for k in places]), dtype=np.float64)
        own = np.diag(table)
        others = (table.sum(axis=1) - own) / (len(rows) - 1) if several else np.full(len(rows), np.nan)
        return {
            "ids": list(rows.ids),
            "cofiring": plain(self.cofiring(rows)),
            "cofiring_dealt": plain(self.cofiring(dealt(rows, self.seed)) if several else np.full(len(rows), np.nan)),
            "lens": plain(own),
            "lens_dealt": plain(others),
        }

    def _places(self, rows: Directions) -> NDArray[np.int64]:
        return np.array([self._at[i] for i in rows.ids], dtype=np.int64)

    @cached_property
    def _at(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.rows.ids)}


def own_words(lens: Lens, rows: Directions, among: Collection[str]) -> list[tuple[str, ...]]:
    """What latents' own rows write, by the lens of their model."""
    return lens.top(rows.unit, TOP, among=among)


def plain(values: NDArray[Any], digits: int = 5) -> list[float | None]:
    """Numbers for JSON, None for those that could not be known."""
    return [None if np.isnan(v) else round(float(v), digits) for v in values]


def summary(values: Mapping[str, float | None], dealt_ones: Sequence[float | None] = ()) -> dict[str, Any]:
    """Mean over latents with Student's interval, ``n``, and the mean of the dealt ones."""
    there = np.array([v for v in values.values() if v is not None], dtype=np.float64)
    chance = [v for v in dealt_ones if v is not None]
    told: dict[str, Any] = {"value": None, "low": None, "high": None, "n": len(there)}
    if len(there):
        told["value"] = float(there.mean())
    if len(there) > 1:
        low, high, _ = t_interval(float(there.mean()), float(there.std(ddof=1)), len(there))
        told |= {"low": low, "high": high}
    return told | {"dealt": float(np.mean(chance)) if chance else None}
