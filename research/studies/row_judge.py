"""What judges carried rows without a label: where the judging texts make a latent fire, and what its own row writes.

In: latents' rows at the source, the target's rows at judging tokens and which latents fire there, two lenses. Out: per
latent the co-firing AUROC and the lens overlap, each beside the same measure of another latent's row or words. Refuses
what the measures refuse.

Whoever is judged, the tokens and the siblings that are held against a latent are the same, so that two conditions
differ by their rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats
from dragoman.measures.overlap import overlap_table
from dragoman.models.lens import Lens
from dragoman.stats.intervals import t_interval
from dragoman.stats.roc import auroc
from studies.cofiring import TellingTokens, Whitening, telling_tokens
from studies.controls import dealt

Doubles = NDArray[np.float64]
Words = Sequence[tuple[str, ...]]
TOP = 20  # lens words
FEW = 400  # tokens of a kind and latent in studies: more would narrow no interval over hundreds of latents
SIBLINGS = 5  # nearest decoder rows, whose firing tokens are the hard negatives


@dataclass(frozen=True, kw_only=True, eq=False)
class RowJudge:
    """Judges rows at one site that carry the names of ``rows``.

    ``rows``: n latents' own rows at the source. ``y``: (T, q) rows of the site at the judging tokens. ``tokens``: at
    which of these each latent is told from others, see ``telling``; ``silent``: the same by tokens at which it is
    silent alone, for comparing latents with others whose relatives are further away. ``whitening``: of the site's rows
    at other texts. ``words``: n latents' own lens words; ``lens``: of the site's model, over the words that both can
    write.
    """

    rows: Directions
    y: Floats
    tokens: TellingTokens
    silent: TellingTokens
    whitening: Whitening
    words: Words
    lens: Lens
    seed: int = 0

    @cached_property
    def _gathered(self) -> tuple[list[Floats], list[Floats]]:
        """Rows of the site at each latent's tokens of either kind, less the mean: every line reads them."""
        mean = self.whitening.mean.astype(np.float32)
        hard, silent = ([self.y[rows] - mean for rows in tokens.rows] for tokens in (self.tokens, self.silent))
        return hard, silent

    def cofiring(self, rows: Directions) -> Doubles:
        """(k,) AUROC of each row against where its latent fires; NaN where it fires too rarely."""
        return self._areas(rows, self._gathered[0], self.tokens.firing)

    def cofiring_silent(self, rows: Directions) -> Doubles:
        """The same with silent tokens alone for negatives: a fake latent has no siblings to be told from."""
        return self._areas(rows, self._gathered[1], self.silent.firing)

    def _areas(self, rows: Directions, seen: Sequence[Floats], firing: Sequence[int]) -> Doubles:
        reads = (self.whitening.precision @ rows.unit.T.astype(np.float64)).astype(np.float32)
        found = np.full(len(rows), np.nan)
        for j, k in enumerate(self._places(rows).tolist()):
            if firing[k]:
                scores = seen[k] @ reads[:, j]
                found[j] = auroc(scores[: firing[k]], scores[firing[k] :])
        return found

    def lens_words(self, rows: Directions) -> list[tuple[str, ...]]:
        """The twenty words that each row writes most."""
        return self.lens.top(rows.unit, TOP)

    def judged(self, rows: Directions) -> dict[str, Any]:
        """Per latent, for JSON: ``ids``; ``cofiring``, ``cofiring_silent``, ``lens`` (of 20 words), each ``_dealt``.

        A dealt AUROC is that of another latent's row of the same condition; a dealt overlap is the mean one with the
        other latents' own words.
        """
        places, several = self._places(rows), len(rows) > 1
        table = np.asarray(overlap_table(self.lens_words(rows), [self.words[k] for k in places]), dtype=np.float64)
        own = np.diag(table)
        others = (table.sum(axis=1) - own) / (len(rows) - 1) if several else np.full(len(rows), np.nan)
        other, none = dealt(rows, self.seed) if several else rows, np.full(len(rows), np.nan)
        return {
            "ids": list(rows.ids),
            "cofiring": plain(self.cofiring(rows)),
            "cofiring_dealt": plain(self.cofiring(other) if several else none),
            "cofiring_silent": plain(self.cofiring_silent(rows)),
            "cofiring_silent_dealt": plain(self.cofiring_silent(other) if several else none),
            "lens": plain(own),
            "lens_dealt": plain(others),
        }

    def _places(self, rows: Directions) -> NDArray[np.int64]:
        return np.array([self._at[i] for i in rows.ids], dtype=np.int64)

    @cached_property
    def _at(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.rows.ids)}


def telling(
    rows: Directions,
    every: Directions,
    fired: Any,
    documents: NDArray[np.int64],
    *,
    siblings: bool = True,
    most: int = FEW,
    seed: int = 0,
) -> TellingTokens:
    """Tokens at which each latent is told from silence and from its siblings in the whole dictionary.

    Args:
        rows: of the latents.
        every: the whole dictionary, in the order of the columns of ``fired``.
        fired: (T, M) sparse activations.
        documents: (T,) of each token.
        siblings: whether half of the negatives are theirs; else all are tokens at which the latent is silent.
        most: tokens of a kind and latent.
        seed: of the draws.
    """
    where = {name: k for k, name in enumerate(every.ids)}
    return telling_tokens(
        fired,
        documents,
        columns=np.array([where[i] for i in rows.ids]),
        siblings=nearest_columns(rows, every) if siblings else None,
        most=most,
        rng=np.random.default_rng(seed),
    )


def nearest_columns(rows: Directions, every: Directions) -> NDArray[np.int64]:
    """(n, 5): numbers of the dictionary's rows that are nearest each, itself excepted."""
    cosines = rows.unit @ every.unit.T
    where = {name: k for k, name in enumerate(every.ids)}
    cosines[np.arange(len(rows)), [where[i] for i in rows.ids]] = -np.inf
    return np.argsort(-cosines, axis=1)[:, : min(SIBLINGS, len(every) - 1)]


def own_words(lens: Lens, rows: Directions) -> list[tuple[str, ...]]:
    """What latents' own rows write, by the lens of their model."""
    return lens.top(rows.unit, TOP)


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
