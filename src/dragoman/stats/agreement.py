"""How often two speakers agree, beside how often they do where there is nothing to agree about.

In: how alike two texts of each feature are, how alike pairs are that share nothing (nulls), which half each is in.
Out: ``Agreement``: shares of features and nulls, the corrected share with interval, p by feature. Refuses few nulls.

A line is chosen on one half of a null: 95 % lie under it, counted so that another of its kind lies above it at most one
time in twenty (a conformal p of at most .05, Vovk et al. 2005). It is told of the other half, of features and nulls
alike, and the other way round; of several nulls the highest line counts. The correction is Cohen's (1960) with the
nulls' share in the place of chance: (share - null) / (1 - null).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.stats.intervals import Topics, rate_interval, resampled, units_of

LEVEL = 0.05
DRAWS = 1000
FEWEST_FEATURES = 20
FEWEST_ROWS = 40  # of a null: 20 in each half, whose highest is the line for one in twenty
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class NullPairs:
    """``values`` (m,): how alike pairs are; ``half`` (m,): 0 or 1. ``units`` (m, 2): both features, of dealt pairs."""

    name: str
    values: Doubles
    half: Ints
    units: Ints | None = None

    @property
    def enough(self) -> bool:
        """Whether each half has pairs for a line."""
        return int(np.bincount(self.half, minlength=2).min()) >= FEWEST_ROWS // 2

    @cached_property
    def _rising(self) -> list[Ints]:
        rows = [np.flatnonzero(self.half == side) for side in (0, 1)]
        return [own[np.argsort(self.values[own], kind="stable")] for own in rows]

    def lines(self, weights: Doubles) -> list[float]:
        """The line of each half, infinite where there is none; ``weights`` (m,): how often each pair is there."""
        found = []
        for order in self._rising:
            counts = np.cumsum(weights[order])
            at = int(np.searchsorted(counts, np.ceil((1 - LEVEL) * (counts[-1] + 1) - 1e-9)))
            found.append(float(self.values[order[at]]) if at < len(order) else np.inf)
        return found

    def p(self, own: Doubles, half: Ints) -> Doubles:
        """Of each feature among the other half's pairs: (1 + those as alike) / (1 + all)."""
        found = np.empty(len(own))
        for side, order in enumerate(self._rising):
            mine = half != side
            found[mine] = 1 + len(order) - np.searchsorted(self.values[order], own[mine], side="left")
            found[mine] /= 1 + len(order)
        return found

    def redrawn(self, features: Doubles, rng: np.random.Generator) -> Doubles:
        """How often each pair is there in a draw: dealt ones as often as both features, others drawn in their half."""
        if self.units is not None:
            return features[self.units].prod(axis=1)
        rows = np.concatenate([rng.choice(order, len(order)) for order in self._rising])
        return np.bincount(rows, minlength=len(self.values)).astype(float)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreement:
    """``agreed``, ``p`` (n,): by feature, p the largest among the nulls. ``share`` with interval over ``units``.

    ``lines``: by null, each half's. ``shares``: by null, of its pairs above the other half's highest line; ``null``:
    that of the largest. ``by_first``: the shares of features and of each null above the first null's lines alone.
    ``corrected`` with a percentile bootstrap over units and nulls, lines chosen anew.
    """

    agreed: NDArray[np.bool_]
    p: Doubles
    share: float
    low: float
    high: float
    units: int
    unit: str
    lines: dict[str, list[float]]
    shares: dict[str, float]
    null: str
    by_first: list[float]
    corrected: float
    corrected_low: float
    corrected_high: float


def agreement(
    own: Doubles, half: Ints, nulls: Sequence[NullPairs], *, topics: Topics = None, rng: np.random.Generator
) -> Agreement:
    """Agreement on n features: ``own`` (n,), how alike two texts of each are; ``half`` (n,), 0 or 1.

    Args:
        own: rounded as the nulls are, so that what is the same compares as the same.
        half: of each feature.
        nulls: one at least, each with pairs enough.
        topics: what features cluster by, if anything.
        rng: of the bootstrap.

    Raises:
        Refusal: no null, or one with too few pairs.
    """
    if not nulls or not all(one.enough for one in nulls):
        raise Refusal("agreement", f"it takes nulls of {FEWEST_ROWS // 2} pairs in each half", "pass more nulls")

    def shares(features: Doubles, each: Sequence[Doubles], count: int | None = None) -> list[float]:
        """Of features and each null's pairs, above the other half's highest line of the first ``count`` nulls."""
        top = np.max([one.lines(rows) for one, rows in zip(nulls[:count], each, strict=False)], axis=0)
        pools = [(own, half, features), *((o.values, o.half, rows) for o, rows in zip(nulls, each, strict=True))]
        return [float(rows @ (values > top[1 - of]) / max(rows.sum(), 1e-12)) for values, of, rows in pools]

    whole = [np.ones(len(one.values)) for one in nulls]
    lines = {one.name: one.lines(rows) for one, rows in zip(nulls, whole, strict=True)}
    agreed = own > np.max(list(lines.values()), axis=0)[1 - half]
    found, drawn = shares(np.ones(len(own)), whole), []
    for chosen in resampled(len(own), rng, clusters=topics, draws=DRAWS):
        features = np.bincount(chosen, minlength=len(own)).astype(float)
        drawn.append(_corrected(shares(features, [one.redrawn(features, rng) for one in nulls])))
    by_null = dict(zip(lines, found[1:], strict=True))
    low, high = rate_interval(agreed.astype(float), topics)
    ends, (units, unit) = np.percentile(drawn, [2.5, 97.5]).tolist(), units_of(len(own), topics)
    return Agreement(
        agreed=agreed, p=np.max([one.p(own, half) for one in nulls], axis=0), share=found[0], low=low, high=high,
        units=units, unit=unit, lines=lines, shares=by_null, null=max(by_null, key=lambda name: (by_null[name], name)),
        by_first=shares(np.ones(len(own)), whole, 1), corrected=_corrected(found), corrected_low=ends[0],
        corrected_high=ends[1],
    )  # fmt: skip


def _corrected(shares: Sequence[float]) -> float:
    null = max(shares[1:])
    return (shares[0] - null) / (1 - null) if null < 1 else 0.0
