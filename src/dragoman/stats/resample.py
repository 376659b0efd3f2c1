"""Resampling: intervals for statistics that have no formula, over features or whole topics.

In: a statistic of row numbers. Out: a percentile interval, with the standard error and the mean over the draws. Refuses
clusters that do not go with the rows, and statistics that most draws leave undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal

DRAWS = 2000
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What resampling says of a statistic.

    ``low``, ``high``: percentile interval; ``error``: standard deviation over the draws; ``mean``: over the draws;
    ``units`` things of ``unit`` were resampled, ``draws`` times.
    """

    low: float
    high: float
    error: float
    mean: float
    units: int
    unit: str
    draws: int

    @property
    def method(self) -> str:
        """In words, for an ``Estimate``."""
        return f"percentile bootstrap over {self.unit}, {self.draws} draws"


def cluster_numbers(n: int, clusters: Sequence[Any] | NDArray[Any] | None) -> NDArray[np.intp] | None:
    """Clusters as numbers from 0, one per row, or None; refuse a wrong length and a single cluster."""
    if clusters is None:
        return None
    names, where = np.unique(np.asarray(clusters), return_inverse=True)
    if len(where) != n or len(names) < 2:
        raise Refusal(
            f"{n} rows with {len(where)} clusters, {len(names)} of them different",
            "each row needs a cluster, and one cluster has no spread",
            "pass one topic per row, at least two different",
        )
    return where.astype(np.intp)


def resampled(
    n: int, rng: np.random.Generator, *, clusters: Sequence[Any] | NDArray[Any] | None = None, draws: int = DRAWS
) -> Iterator[Rows]:
    """Row numbers of each draw, with replacement: single rows, or whole clusters where clusters are given."""
    where = cluster_numbers(n, clusters)
    if where is None:
        for _ in range(draws):
            yield rng.integers(n, size=n)
        return
    members = np.split(np.argsort(where, kind="stable"), np.cumsum(np.bincount(where))[:-1])
    for _ in range(draws):
        yield np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])


def bootstrap(
    statistic: Callable[[Rows], float],
    n: int,
    *,
    rng: np.random.Generator,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    draws: int = DRAWS,
) -> Bootstrap:
    """Percentile bootstrap of ``statistic(row numbers)`` over ``n`` rows.

    Draws on which the statistic is NaN (an AUROC without one of the classes) are left out, and clusters of unequal size
    are drawn whole; where there are neither, this is ``scipy.stats.bootstrap`` with the percentile method.

    Raises:
        Refusal: fewer than two rows, clusters that do not fit, or more than half of the draws undefined.
    """
    if n < 2:
        raise Refusal(f"a bootstrap of {n} rows", "one row has no spread", "score at least two features")
    found = np.array([statistic(rows) for rows in resampled(n, rng, clusters=clusters, draws=draws)])
    found = found[np.isfinite(found)]
    if 2 * len(found) < draws:
        raise Refusal(
            f"a bootstrap of {n} rows",
            f"the statistic is undefined on {draws - len(found)} of {draws} draws",
            "score more features of the rarer outcome",
        )
    tail = 100 * (1 - 0.95) / 2  # of a 95 % interval, as floating point has it: published figures were made with it
    low, high = np.percentile(found, [tail, 100 - tail])
    units = n if clusters is None else len(np.unique(np.asarray(clusters)))
    return Bootstrap(
        low=float(low),
        high=float(high),
        error=float(found.std(ddof=1)),
        mean=float(found.mean()),
        units=units,
        unit="features" if clusters is None else "topics",
        draws=draws,
    )
