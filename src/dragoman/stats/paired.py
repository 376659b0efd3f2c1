"""Two settings on the same features: the mean difference, its interval and a named test.

In: values of two settings, one a feature, in one order; perhaps what features cluster by. Out: an ``Estimate`` of the
first less the second. Refuses unequal lengths, fewer than two features and values that are not finite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import PERMUTATIONS, Topics, bootstrap_mean, cluster_numbers

TEST = "paired sign-flip permutation"
_HELD = 1 << 22  # signs that are drawn together


def paired_estimate(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    rng: np.random.Generator,
    *,
    statistic: str,
    topics: Topics = None,
) -> Estimate:
    """Mean of ``first - second``, both (n,): percentile bootstrap interval, and a two-sided sign-flip p.

    The p takes the two settings to be exchangeable: the sign of each feature's difference (of each topic's sum, where
    topics are given) is as likely the other one. It is exact where there are few of them, else (1 + hits) / (1 + draws)
    and never 0. No difference anywhere has p 1.

    Args:
        first: values of one setting, one a feature.
        second: of the other, in the same order.
        rng: draws features, then signs.
        statistic: what is averaged.
        topics: one a feature where these succeed and fail together; whole topics are then drawn, and change sign.

    Returns:
        ``extra``: ``first`` and ``second``, the two means, and ``sd`` of the differences.

    Raises:
        Refusal: as the module says, and topics that do not go with the values.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        why = "a paired difference needs the same features in the same order, two at least"
        raise Refusal(f"values of shapes {a.shape} and {b.shape}", why, "measure both on one set of features")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise Refusal("values to compare", "some are NaN or infinite", "leave those features out")
    gap = a - b
    drawn = bootstrap_mean(gap, rng=rng, clusters=topics)
    where = cluster_numbers(len(gap), topics)
    sums = gap if where is None else np.bincount(where, weights=gap).astype(np.float64)
    return Estimate(
        value=float(gap.mean()),
        low=drawn.low,
        high=drawn.high,
        p=_flipped(sums, rng),
        n=drawn.units,
        statistic=statistic,
        null="the two settings are exchangeable",
        unit=drawn.unit,
        method=f"{drawn.method}; two-sided {TEST} test over {drawn.unit}, at most {PERMUTATIONS} draws",
        extra={"first": float(a.mean()), "second": float(b.mean()), "sd": float(gap.std(ddof=1))},
    )


def _flipped(sums: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Two-sided p of the mean under flips of sign."""
    from scipy import stats

    if not sums.any():
        return 1.0
    found = stats.permutation_test(
        (sums,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, _HELD // len(sums)),
        rng=rng,
    )
    return float(found.pvalue)
