"""Intervals and p-values at 95 %: from scipy.stats, which is imported when one is asked for, and by resampling.

In: per-feature numbers or counts; for statistics that have no formula, a function of row numbers. Out: intervals, a
``Bootstrap``, or an ``Estimate`` with all its words filled in. Refuses too few units to have a spread, clusters that do
not go with the rows, and statistics that most draws leave undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal

PERMUTATIONS = 9999
Topics = Sequence[Any] | NDArray[Any] | None
_LEVEL = 0.95
DRAWS = 2000
_HELD = 1 << 20  # row numbers that are drawn together
Rows = NDArray[np.intp]


def t_interval(mean: float, sd: float, n: int) -> tuple[float, float, float]:
    """Student's interval for the mean of ``n`` independent values, and its two-sided p against 0: ``low, high, p``.

    ``sd``: their standard deviation (n - 1 in the denominator).
    """
    if n < 2:
        raise Refusal(f"an interval from {n} values", "one value has no spread", "score at least two features")
    return _about(mean, sd / np.sqrt(n), n - 1)


def clustered_interval(values: NDArray[Any], clusters: Sequence[Any] | NDArray[Any]) -> tuple[float, float, float, int]:
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
    error = float(np.sqrt(_variance_of(values, where)))
    return *_about(float(values.mean()), error, g - 1), g


def mean_interval(values: NDArray[Any], topics: Topics) -> tuple[float, float, int, str]:
    """Student's interval for a mean of per-feature values (n,), over topics where they are given.

    Returns:
        ``low, high``, how many units, and what they are: "features" or "topics".
    """
    if topics is None:
        low, high, _ = t_interval(float(values.mean()), float(values.std(ddof=1)), len(values))
        return low, high, len(values), "features"
    low, high, _, count = clustered_interval(values, topics)
    return low, high, count, "topics"


def units_of(n: int, topics: Topics) -> tuple[int, str]:
    """How many units n features are, and what they are called."""
    return (n, "features") if topics is None else (len(np.unique(np.asarray(topics))), "topics")


def _about(mean: float, error: float, df: int) -> tuple[float, float, float]:
    from scipy import stats

    if error <= 0:  # all values equal: the interval is a point
        return mean, mean, float(mean == 0)
    low, high = stats.t.interval(_LEVEL, df, loc=mean, scale=error)
    return float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, df))


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's (1927) score interval for a rate of ``hits`` in ``n``."""
    from scipy import stats

    if n < 1 or not 0 <= hits <= n:
        raise Refusal(f"a rate of {hits} in {n}", "there must be at least one trial", "score at least one feature")
    found = stats.binomtest(hits, n).proportion_ci(_LEVEL, method="wilson")
    return float(found.low), float(found.high)


def rate_interval(values: NDArray[Any], clusters: Topics = None) -> tuple[float, float]:
    """Wilson's interval for a mean of values in [0, 1] (hits, or shares of a hit), at their effective number.

    The effective number is mean (1 - mean) over the variance of the mean, CR1 over clusters where there are some (Korn
    and Graubard 1998), and at most the number of values; where all values agree, the number of clusters.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise Refusal(
            f"a rate of {len(values)} values", "they are shares from 0 to 1, at least one", "score at least one feature"
        )
    n, mean = len(values), float(values.mean())
    most, variance = n, mean * (1 - mean) / n  # of single hits; shares of a hit vary less, which is not counted on
    if clusters is not None:
        most = clustered_interval(values, clusters)[3]
        variance = max(variance, _variance_of(values, clusters))
    effective = mean * (1 - mean) / variance if variance > 0 else most
    return _wilson(mean, min(effective, n))


def _variance_of(values: NDArray[Any], clusters: Sequence[Any] | NDArray[Any]) -> float:
    """CR1 variance of the mean."""
    where = np.unique(np.asarray(clusters), return_inverse=True)[1]
    g = int(where.max()) + 1
    sums = np.bincount(where, weights=values - values.mean())
    return float(g / (g - 1) * np.sum(sums**2) / len(values) ** 2)


def _wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's interval at an effective number, seldom a whole one; scipy's takes whole counts only."""
    from scipy import stats

    z = float(stats.norm.ppf((1 + _LEVEL) / 2))
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def two_way_interval(
    values: NDArray[Any], null_means: NDArray[Any], clusters: Topics = None
) -> tuple[float, float, float]:
    """Interval for the mean of ``values`` (n,), differences from the mean of m texts that all features share.

    The variance has two parts, features (CR1 where they cluster) and texts (``null_means`` (m,), each text's mean over
    the features; none where m is 1): t with Satterthwaite's (1946) degrees of freedom.

    Returns:
        ``low, high, p``.
    """
    from scipy import stats

    values, null_means = np.asarray(values, dtype=np.float64), np.asarray(null_means, dtype=np.float64)
    if len(values) < 2:
        raise Refusal(
            f"an interval from {len(values)} values", "one value has no spread", "score at least two features"
        )
    own, df = float(values.var(ddof=1)) / len(values), len(values) - 1
    if clusters is not None:
        df = clustered_interval(values, clusters)[3] - 1
        own = _variance_of(values, clusters)
    theirs = float(null_means.var(ddof=1)) / len(null_means) if len(null_means) > 1 else 0.0
    if own + theirs <= 0:
        return float(values.mean()), float(values.mean()), float(values.mean() == 0)
    joint = (own + theirs) ** 2 / (own**2 / df + (theirs**2 / (len(null_means) - 1) if theirs > 0 else 0.0))
    mean, error = float(values.mean()), float(np.sqrt(own + theirs))
    low, high = stats.t.interval(_LEVEL, joint, loc=mean, scale=error)
    return float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, joint))


def mean_estimate(
    values: NDArray[Any],
    rng: np.random.Generator,
    *,
    statistic: str,
    null: str,
) -> Estimate:
    """Mean of per-feature differences ``values`` (n,): t interval, and a sign-flip p, two-sided.

    The p-value takes the values to be symmetric about 0 under the null; it is exact where 2^n is small and otherwise
    (1 + hits) / (1 + draws), so never 0. ``extra`` has ``sd``, ``d_z`` = mean / sd, and ``p_t``, the t test's p.
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
        n_resamples=PERMUTATIONS,
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
        unit="features",
        method=f"t interval; two-sided sign-flip permutation p, at most {PERMUTATIONS} draws",
        extra={"sd": sd, "d_z": mean / sd if sd > 0 else 0.0, "p_t": p_t},
    )


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
    _refuse_one_row(n)
    found = np.array([statistic(rows) for rows in resampled(n, rng, clusters=clusters, draws=draws)])
    return _percentiles(found, n, clusters, draws)


def bootstrap_mean(
    values: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    draws: int = DRAWS,
) -> Bootstrap:
    """``bootstrap`` of the mean of ``values`` (n,), number for number; single rows are drawn many draws at once.

    Raises:
        Refusal: as ``bootstrap``.
    """
    n = len(values)
    if clusters is not None:
        return bootstrap(lambda rows: float(values[rows].mean()), n, rng=rng, clusters=clusters, draws=draws)
    _refuse_one_row(n)
    at_once = max(1, _HELD // n)
    found = [
        values[rng.integers(n, size=(min(at_once, draws - first), n))].mean(axis=1)
        for first in range(0, draws, at_once)
    ]
    return _percentiles(np.concatenate(found), n, None, draws)


def _refuse_one_row(n: int) -> None:
    if n < 2:
        raise Refusal(f"a bootstrap of {n} rows", "one row has no spread", "score at least two features")


def _percentiles(found: NDArray[np.float64], n: int, clusters: Any, draws: int) -> Bootstrap:
    """The interval of a statistic's values, one a draw, those that are no numbers left out."""
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
