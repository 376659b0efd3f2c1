"""Intervals and p-values, each a thin name over scipy.stats, which is imported when one is asked for.

In: per-feature numbers or counts. Out: intervals, or an ``Estimate`` with all its words filled in. Refuses too few
units to have a spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal

PERMUTATIONS = 9999


def t_interval(mean: float, sd: float, n: int, *, level: float = 0.95) -> tuple[float, float, float]:
    """Student's interval for a mean, and its two-sided p against 0.

    Args:
        mean: of ``n`` independent values.
        sd: their standard deviation (n - 1 in the denominator).
        n: how many.
        level: coverage.

    Returns:
        ``low, high, p``.
    """
    if n < 2:
        raise Refusal(f"an interval from {n} values", "one value has no spread", "score at least two features")
    return _about(mean, sd / np.sqrt(n), n - 1, level)


def clustered_interval(
    values: NDArray[Any], clusters: Sequence[Any] | NDArray[Any], *, level: float = 0.95
) -> tuple[float, float, float, int]:
    """Interval for a mean whose values come in clusters: CR1 standard error, t with clusters - 1 degrees of freedom.

    With equal cluster sizes this is Student's interval over cluster means. Features of one topic succeed and fail
    together: the interval that ignores it covers 58 % instead of 95 % at 9 topics of 5.

    Returns:
        ``low, high, p, number of clusters``.
    """
    values = np.asarray(values, dtype=np.float64)
    names, where = np.unique(np.asarray(clusters), return_inverse=True)
    g = len(names)
    if len(where) != len(values) or g < 2:
        raise Refusal(
            f"{len(values)} values in {g} clusters",
            "each value needs a cluster, and one cluster has no spread",
            "score features of at least two topics",
        )
    sums = np.bincount(where, weights=values - values.mean())
    error = np.sqrt(g / (g - 1) * np.sum(sums**2)) / len(values)
    return *_about(float(values.mean()), error, g - 1, level), g


def _about(mean: float, error: float, df: int, level: float) -> tuple[float, float, float]:
    from scipy import stats

    if error <= 0:  # all values equal: the interval is a point
        return mean, mean, float(mean == 0)
    low, high = stats.t.interval(level, df, loc=mean, scale=error)
    return float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, df))


def wilson_interval(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) score interval for a rate of ``hits`` in ``n``."""
    from scipy import stats

    if n < 1 or not 0 <= hits <= n:
        raise Refusal(f"a rate of {hits} in {n}", "there must be at least one trial", "score at least one feature")
    found = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def mean_estimate(
    values: NDArray[Any],
    rng: np.random.Generator,
    *,
    statistic: str,
    null: str,
    unit: str = "features",
    permutations: int = PERMUTATIONS,
) -> Estimate:
    """Mean of per-unit differences ``values`` (n,): t interval, and a sign-flip p, two-sided.

    The p-value takes the values to be symmetric about 0 under the null; it is exact where 2^n is small and otherwise
    (1 + hits) / (1 + permutations), so never 0. ``extra`` has ``sd``, ``d_z`` = mean / sd, and ``p_t``, the t test's p.
    """
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    low, high, p_t = t_interval(mean, sd, len(values))
    flips = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=1000,
        rng=rng,
    )
    return Estimate(
        value=mean,
        low=low,
        high=high,
        p=float(flips.pvalue),
        n=len(values),
        statistic=statistic,
        null=null,
        unit=unit,
        method=f"t interval; two-sided sign-flip permutation p, at most {permutations} draws",
        extra={"sd": sd, "d_z": mean / sd if sd > 0 else 0.0, "p_t": p_t},
    )
