"""Feature-specific lift: is an explanation nearer its own feature's reference than the other features' references?

In: unit sentence embeddings, or their similarity S (N, N), row k the explanation carried for feature k, column j the
native explanation of feature j. Out: lifts per feature, ``Estimate``s of their mean, of differences of two conditions
and of the share of the ceiling. Refuses S that is not square or has fewer than three features, and a share of a ceiling
that cannot be told from zero.

The post's lift is L_k = S_kk - mean_{j != k} S_kj. The primary one here is doubly centred: it also removes hubs,
natives that resemble every explanation. Both have the same mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import PERMUTATIONS, Topics, mean_estimate, mean_interval, t_interval

Doubles = NDArray[np.float64]
FEWEST_OTHERS = 10  # features whose windows make a null
_BLOCK = 4096  # rows taken to float64 together


def similarity(carried: NDArray[Any], native: NDArray[Any]) -> Doubles:
    """S = C B' from unit embeddings ``carried`` (n, e) and ``native`` (N, e)."""
    carried, native = np.asarray(carried, dtype=np.float64), np.asarray(native, dtype=np.float64)
    if carried.ndim != 2 or native.ndim != 2 or carried.shape[1] != native.shape[1]:
        raise Refusal(
            f"embeddings of shapes {carried.shape} and {native.shape}",
            "they are one row per text, of equal width",
            "embed both sides with the same embedder",
        )
    return carried @ native.T


def lift_per_feature(s: NDArray[Any]) -> Doubles:
    """The post's lift (N,): S_kk - mean_{j != k} S_kj = N / (N - 1) (S_kk - row mean)."""
    s = square(s)
    n = len(s)
    return n / (n - 1) * (np.diag(s) - s.mean(axis=1))


def own_lift(carried: NDArray[Any], native: NDArray[Any]) -> Doubles:
    """The post's lift (n,) of ``carried`` (n, e) over ``native`` (n, e), row k of both of one feature, without S.

    Equal to ``lift_per_feature(similarity(carried, native))``, in memory and time that grow with n and not with n^2.

    Raises:
        Refusal: unequal shapes, fewer than three features, or embeddings that are not finite.
    """
    if carried.shape != native.shape or carried.ndim != 2 or len(carried) < 3:
        raise Refusal(
            f"embeddings of shapes {carried.shape} and {native.shape}",
            "lift compares each explanation with every feature's native, three features at least",
            "embed one text of either kind for each feature, in the same order",
        )
    n, mean = len(native), native.mean(axis=0, dtype=np.float64)
    blocks = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
    own = [np.einsum("ke,ke->k", carried[b].astype(np.float64), native[b] - mean) for b in blocks]
    lifts = n / (n - 1) * np.concatenate(own)
    if not np.isfinite(lifts).all():
        raise Refusal("embeddings", "some are NaN or infinite", "embed the texts again")
    return lifts


def doubly_centred(s: NDArray[Any]) -> Doubles:
    """D = S - row means - column means + grand mean (N, N); adding a_k + b_j to S leaves it unchanged."""
    s = square(s)
    return s - s.mean(axis=1, keepdims=True) - s.mean(axis=0, keepdims=True) + s.mean()


def doubly_centred_lift(s: NDArray[Any]) -> Doubles:
    """N / (N - 1) D_kk (N,): generic explanations and hub natives removed; its mean is the mean of the post's lift."""
    d = doubly_centred(s)
    return len(d) / (len(d) - 1) * np.diag(d)


def permutation_moments(s: NDArray[Any]) -> tuple[float, float]:
    """Mean and variance of T = sum_k S[k, pi(k)] over uniform permutations pi, in closed form.

    E T = 1'S1 / N and Var T = sum_ij D_ij^2 / (N - 1) (Hoeffding 1951).
    """
    d = doubly_centred(s)
    return float(np.sum(s) / len(d)), float(np.sum(d**2) / (len(d) - 1))


def permutation_p(s: NDArray[Any], rng: np.random.Generator, n: int = PERMUTATIONS) -> float:
    """Two-sided p of trace S when explanations are dealt to features at random.

    Exact where N! <= n, else from n draws with (1 + hits) / (1 + n) on either side, so never 0.
    """
    from scipy import stats

    s = square(s)
    rows = np.arange(len(s))

    def trace(dealt: NDArray[np.intp], axis: int = -1) -> Doubles:
        return s[rows, dealt.astype(np.intp)].sum(axis=axis)

    dealt = stats.permutation_test(
        (rows,), trace, permutation_type="pairings", vectorized=True, n_resamples=n, batch=1000, rng=rng
    )
    return float(dealt.pvalue)


def dealt_estimate(
    table: NDArray[Any],
    values: Doubles,
    topics: Topics,
    *,
    statistic: str,
    null: str,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
    extra: Mapping[str, float],
) -> Estimate:
    """Mean of ``values`` (N,) with a t interval, over topics where given, and p by dealing rows of ``table`` (N, N)."""
    low, high, units, unit = mean_interval(values, topics)
    return Estimate(
        value=float(values.mean()),
        low=low,
        high=high,
        p=permutation_p(table, rng, permutations),
        n=units,
        statistic=statistic,
        null=null,
        unit=unit,
        method=f"t interval over {unit}; two-sided permutation p, at most {permutations} draws",
        extra=dict(extra),
    )


def lift_estimate(
    s: NDArray[Any], topics: Topics = None, *, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> Estimate:
    """Mean doubly-centred lift of S (N, N).

    Args:
        s: similarity of carried explanations (rows) and native ones (columns), same feature order.
        topics: one per feature. When given, the interval is over topics and the one over features goes into ``extra``.
        rng: for the permutation p.
        permutations: draws.

    Returns:
        ``extra``: ``features_low``, ``features_high`` and ``features_p`` of the t interval over features; ``post_low``,
        ``post_high`` and ``post_p`` of the same on the post's lift; ``sd``, ``post_sd``; ``z``, trace S standardised by
        its permutation moments.
    """
    lifts, posts = doubly_centred_lift(s), lift_per_feature(s)
    n, value = len(lifts), float(lifts.mean())
    extra = {"sd": float(lifts.std(ddof=1)), "post_sd": float(posts.std(ddof=1))}
    for name, spread in (("features", extra["sd"]), ("post", extra["post_sd"])):
        ends = t_interval(value, spread, n)
        extra |= dict(zip((f"{name}_low", f"{name}_high", f"{name}_p"), ends, strict=True))
    mean, variance = permutation_moments(s)
    extra["z"] = float((np.trace(s) - mean) / np.sqrt(variance)) if variance > 0 else 0.0
    return dealt_estimate(
        s,
        lifts,
        topics,
        statistic="mean doubly-centred feature-specific lift",
        null="explanations dealt to features at random",
        rng=rng,
        permutations=permutations,
        extra=extra,
    )


def lift_over_others(s: NDArray[Any], others: NDArray[Any], *, rng: np.random.Generator, draws: int = 9999) -> Estimate:
    """Mean of S_kk - mean_m others_km: is a text nearer its own feature's reference than those of M other features?

    For few features, two suffice: the null is drawn from features that nobody asked for.

    Args:
        s: (N, N) similarity of texts (rows) and their features' references (columns), in one order.
        others: (N, M) the texts' similarities with the references of other features, the same for all texts.
        rng: deals references.
        draws: of the null.

    Returns:
        An estimate with a t interval over features; p is two-sided, of the mean of N similarities, each text dealt its
        own or one of the M other references at random, and never 0. ``extra``: ``others``, M; ``dealt``, the lift that
        the same texts have under one another's features, which should be near 0.

    Raises:
        Refusal: fewer than two features, or fewer than ten others.
    """
    s, others = np.asarray(s, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if (
        s.ndim != 2
        or s.shape[0] != s.shape[1]
        or len(s) < 2
        or others.ndim != 2
        or others.shape[0] != len(s)
        or others.shape[1] < FEWEST_OTHERS
    ):
        raise Refusal(
            f"a lift of {len(s)} texts over {others.shape[-1]} other features",
            f"it takes two texts and {FEWEST_OTHERS} others",
            "explain more features, or read more text",
        )
    own, n = np.diag(s), len(s)
    lifts = own - others.mean(axis=1)
    swapped = (s.sum() - own.sum()) / (n * (n - 1)) - others.mean()
    pool, dealt = np.column_stack([own, others]), np.zeros(draws)
    for row in pool:  # one after the other, so that memory does not grow with the features
        dealt += row[rng.integers(len(row), size=draws)] / len(pool)
    hits = int((np.abs(dealt - pool.mean()) >= abs(own.mean() - pool.mean()) - 1e-12).sum())
    low, high, _ = t_interval(float(lifts.mean()), float(lifts.std(ddof=1)), n)
    return Estimate(
        value=float(lifts.mean()),
        low=low,
        high=high,
        p=(1 + hits) / (1 + draws),
        n=n,
        statistic="mean similarity with the own feature's windows, less that with other features' windows",
        null=f"windows of {others.shape[1]} other features, dealt at random",
        unit="feature",
        method=f"t interval over features; two-sided p from {draws} draws",
        extra={"others": others.shape[1], "dealt": float(swapped)},
    )


def paired_difference(first: NDArray[Any], second: NDArray[Any], rng: np.random.Generator) -> Estimate:
    """Mean of ``second - first``, per-feature lifts (N,) of two conditions on the same features."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise Refusal(
            f"lifts of shapes {first.shape} and {second.shape}",
            "a paired difference needs the same features in the same order",
            "score both conditions on one set of features",
        )
    return mean_estimate(
        second - first, rng, statistic="mean paired difference of lift", null="the two conditions are exchangeable"
    )


def square(s: NDArray[Any]) -> Doubles:
    """S as float64, checked: square, finite, three features at least."""
    s = np.asarray(s, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or len(s) < 3:
        raise Refusal(
            f"similarities of shape {s.shape}",
            "lift compares each explanation with every feature's native, three features at least",
            "pass a square matrix, same features in the same order",
        )
    if not np.isfinite(s).all():
        raise Refusal("similarities", "some are NaN or infinite", "embed the texts again")
    return s


def ceiling_estimate(s: NDArray[Any], rng: np.random.Generator) -> Estimate:
    """Mean doubly-centred lift of one native sample over another, S (N, N) their similarity.

    The two samples play the same part, so S is made symmetric first. Greedy decoding says the same twice; sample both
    at the temperature the carried texts are sampled at.
    """
    s = square(s)
    lift = lift_estimate((s + s.T) / 2, rng=rng)
    return replace(lift, statistic="mean doubly-centred lift of one native sample over another (ceiling)")


def share_of_ceiling(lifts: NDArray[Any], ceilings: NDArray[Any]) -> Estimate:
    """Mean of ``lifts`` (N,) over mean of ``ceilings`` (N,), per-feature lifts of the same features.

    Interval: Fieller's (1954), which takes both means to be normal and keeps their covariance. ``p``: that the
    share is 1, by the paired t test.

    Raises:
        Refusal: unequal lengths, or a ceiling whose own interval holds 0.
    """
    from scipy import stats

    lifts, ceilings = np.asarray(lifts, dtype=np.float64), np.asarray(ceilings, dtype=np.float64)
    if lifts.ndim != 1 or lifts.shape != ceilings.shape or len(lifts) < 3:
        raise Refusal(
            f"lifts of shapes {lifts.shape} and {ceilings.shape}",
            "a share needs the same features in the same order, three at least",
            "score both on one set of features",
        )
    g = len(lifts)
    off = np.stack([v - v.mean() for v in (lifts, ceilings)])
    cov = g / (g - 1) * (off @ off.T) / g**2
    a, b = float(lifts.mean()), float(ceilings.mean())
    t2 = float(stats.t.ppf((1 + 0.95) / 2, g - 1)) ** 2
    lead = b**2 - t2 * cov[1, 1]
    if b <= 0 or lead <= 0:
        raise Refusal(
            f"a share of a ceiling of {b:.3g}",
            "the ceiling cannot be told from zero",
            "score more features, or report the lift without a share",
        )
    middle = a * b - t2 * cov[0, 1]
    half = np.sqrt(max(0.0, middle**2 - lead * (a**2 - t2 * cov[0, 0])))
    error = float(np.sqrt(max(0.0, cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])))
    return Estimate(
        value=a / b,
        low=float((middle - half) / lead),
        high=float((middle + half) / lead),
        p=float(2 * stats.t.sf(abs(a - b) / error, g - 1)) if error > 0 else float(a == b),
        n=g,
        statistic="lift as a share of the native-native ceiling",
        null="as good as a second native sample (share 1)",
        unit="features",
        method="Fieller's interval; paired t test",
        extra={"lift": a, "ceiling": b},
    )
