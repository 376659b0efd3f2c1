"""Lift, top-1 and reciprocal rank against each named null, and Holm's p of many tests: no conclusion from one number.

In: similarities S (N, N) of carried explanations (rows) with the natives of the same features (columns), and R (M, N)
of a null's explanations with those natives; p-values. Out: ``Against``, four ``Estimate``s that name the null; adjusted
p-values. Refuses similarities with other natives, no tests, and numbers that are no p-values.

The nulls: *other features* (row k of S is dealt to another feature; no texts of its own), *random directions*
(covariance-matched, carried and washed alike), *shuffled map* (a map fitted on shuffled pairs), *unused rows* (decoder
rows of features outside the study), *background alone* (what the verbalizer says of the mean). Each of the last four
answers "nearer than texts that know nothing of the feature"; their plain lift also holds style, whatever brings all
carried texts nearer to all natives, which the centred lift takes out.

Retrieval shares ties out: a verbalizer says the same of several features often enough that they matter. A text among e
equals takes the mean over the e places they share, so that one that always says the same scores exactly chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import Topics, clustered_interval, rate_interval, two_way_interval, units_of
from dragoman.stats.lift import doubly_centred, lift_estimate, lift_per_feature, permutation_p, square

Doubles = NDArray[np.float64]

OTHERS = "other features"
DEALS = 1999
DIGITS = 9  # equal texts have equal embeddings, but a matrix product may differ in its last bits from row to row
FIXED = 45  # the post's number of features


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """One condition against one null.

    ``lift``: the post's, mean S_kk - mean of the null's similarity to native k. ``centred``: the same after taking from
    every text its mean similarity to the other natives (and from every native its mean); against every null its value
    is the mean lift over other features, only interval and p differ. ``top1``, ``mrr``: against other features, whether
    text k finds native k among N; against the others, whether it is the nearest to native k of itself and the null's M.
    """

    null: str
    lift: Estimate
    centred: Estimate
    top1: Estimate
    mrr: Estimate


def against_each(
    s: NDArray[Any],
    nulls: Mapping[str, NDArray[Any]],
    *,
    topics: Topics = None,
    rng: np.random.Generator,
    permutations: int = DEALS,
) -> dict[str, Against]:
    """S (N, N) against other features, then against each of ``nulls``: name -> R (M, N)."""
    out = {OTHERS: against_others(s, topics=topics, rng=rng, permutations=permutations)}
    for name, r in nulls.items():
        out[name] = against_texts(name, s, r, topics=topics, rng=rng, permutations=permutations)
    return out


def against_others(
    s: NDArray[Any], *, topics: Topics = None, rng: np.random.Generator, permutations: int = DEALS
) -> Against:
    """S (N, N) against other features: p by dealing explanations to features.

    Retrieval is on the doubly-centred similarities, so that a native near everything is not everyone's answer; its
    ``extra`` has ``chance``, ``candidates`` and, for top-1, ``among_45`` where there are more features (the rate if
    every list were cut to the post's 45).
    """
    s = square(s)
    centred = lift_estimate(s, topics, rng=rng, permutations=permutations)
    low, high = centred.extra["post_low"], centred.extra["post_high"]
    if topics is not None:
        low, high, *_ = clustered_interval(lift_per_feature(s), topics)
    lift = replace(
        centred,
        low=low,
        high=high,
        statistic="mean feature-specific lift (the post's)",
        extra={"sd": centred.extra["post_sd"]},
    )
    d = doubly_centred(s)
    shares: list[Estimate] = []
    for table, level, what in zip(row_credits(d), chance(len(s)), ("top-1", "mean reciprocal rank"), strict=True):
        extra: dict[str, float] = {"chance": level, "candidates": len(s)}
        if what == "top-1" and len(s) > FIXED:
            extra["among_45"] = _among_45(d)
        p = permutation_p(table, rng, permutations)
        shares.append(_share(np.diag(table), topics, p, f"{what} of the own native, doubly centred", OTHERS, extra))
    return Against(null=OTHERS, lift=lift, centred=centred, top1=shares[0], mrr=shares[1])


def against_texts(
    null: str,
    s: NDArray[Any],
    r: NDArray[Any],
    *,
    topics: Topics = None,
    rng: np.random.Generator,
    permutations: int = DEALS,
) -> Against:
    """S (N, N) against a null's own texts, R (M, N) their similarity to the same natives.

    The interval counts both the features and the null's texts as samples (the null's are taken as given where M is 1).
    p: all N + M texts are dealt, N to features and the rest to the null; exact under the null that they are
    exchangeable, for each of the four statistics.

    Raises:
        Refusal: an R whose columns are not the natives of S.
    """
    s, r = square(s), np.asarray(r, dtype=np.float64)
    if r.ndim != 2 or r.shape[1] != len(s) or not len(r) or not np.isfinite(r).all():
        raise Refusal(
            f"similarities of {null} of shape {r.shape}",
            f"they are finite, one row per text and {len(s)} columns",
            "compare the null's texts with the same natives, in the same order",
        )
    pool = np.concatenate([s, r])
    p = _dealt(pool, len(s), rng, permutations)
    lift = _over_texts(
        s, r, "mean similarity to the own native, less that of the null's texts", p["lift"], null, topics
    )
    lone = _alone(pool)
    what = "the same after taking each text's mean over the other natives"
    centred = _over_texts(lone[: len(s)], lone[len(s) :], what, p["centred"], null, topics)
    lift.extra["style"] = lift.value - centred.value
    rounded = np.asarray(np.round(pool, DIGITS), dtype=np.float64)
    top1, mrr = _credits_of(rounded[len(s) :], np.diag(rounded))
    levels = chance(len(r) + 1)
    shares = [
        _share(values, topics, p[key], what, null, {"chance": level, "candidates": len(r) + 1})
        for key, values, level, what in (
            ("top1", top1, levels[0], "nearest to the own native, among itself and the null's texts"),
            ("mrr", mrr, levels[1], "mean reciprocal rank by nearness to the own native, among itself and the null's"),
        )
    ]
    return Against(null=null, lift=lift, centred=centred, top1=shares[0], mrr=shares[1])


def _over_texts(s: Doubles, r: Doubles, what: str, p: float, null: str, topics: Topics) -> Estimate:
    """Mean of S_kk - mean_r R_rk, with both features and texts as samples."""
    values = np.diag(s) - r.mean(axis=0)
    low, high, _ = two_way_interval(values, r.mean(axis=1), topics)
    units = units_of(len(s), topics)
    return Estimate(
        value=float(values.mean()),
        low=low,
        high=high,
        p=p,
        n=units[0],
        statistic=what,
        null=null,
        unit=units[1],
        method=f"two-way t interval over {units[1]} and {len(r)} texts of the null; two-sided p by dealing texts",
        extra={"sd": float(values.std(ddof=1)), "null_texts": len(r)},
    )


def _alone(pool: Doubles) -> Doubles:
    """x_k - mean_{j != k} x_j along every row: what a text has for native k beyond what it has for the others."""
    n = pool.shape[1]
    return n / (n - 1) * (pool - pool.mean(axis=1, keepdims=True))


def _credits_of(rest: Doubles, mine: Doubles) -> tuple[Doubles, Doubles]:
    """Credits of ``mine`` (n,) in its column, among itself and ``rest`` (m, n)."""
    return credits((rest > mine).sum(axis=0), 1 + (rest == mine).sum(axis=0))


def _dealt(pool: Doubles, n: int, rng: np.random.Generator, deals: int) -> dict[str, float]:
    """Two-sided p of the four statistics, rows of ``pool`` (n + m, n) dealt: n to the columns, m to the null."""
    columns, means, alone, rounded = np.arange(n), pool.mean(axis=1), _alone(pool), np.round(pool, DIGITS)

    def statistics(order: NDArray[np.intp]) -> tuple[float, ...]:
        own, rest = order[:n], order[n:]
        top1, mrr = _credits_of(rounded[rest], rounded[own, columns])
        lift = pool[own, columns].mean() - means[rest].mean()
        return float(lift), float(alone[own, columns].mean()), float(top1.mean()), float(mrr.mean())

    seen = np.array(statistics(np.arange(len(pool))))
    drawn = np.array([statistics(rng.permutation(len(pool))) for _ in range(deals)])
    slack = 1e-9  # a deal that gives the same texts counts as a tie, whatever its last bits
    above = 1 + (drawn >= seen - slack).sum(axis=0)
    below = 1 + (drawn <= seen + slack).sum(axis=0)
    p = np.minimum(1.0, 2 * np.minimum(above, below) / (1 + deals))
    return dict(zip(("lift", "centred", "top1", "mrr"), p.tolist(), strict=True))


def _among_45(d: Doubles) -> float:
    rounded = np.round(d, DIGITS)
    own = np.diag(rounded)[:, None]
    return among((rounded > own).sum(axis=1), (rounded == own).sum(axis=1), len(d), FIXED)


def _share(values: Doubles, topics: Topics, p: float, what: str, null: str, extra: dict[str, float]) -> Estimate:
    """A mean of credits between 0 and 1."""
    low, high = rate_interval(values, topics)
    n, unit = units_of(len(values), topics)
    return Estimate(
        value=float(values.mean()),
        low=low,
        high=high,
        p=p,
        n=n,
        statistic=what,
        null=null,
        unit=unit,
        method=f"Wilson interval at the effective number of {unit}; two-sided p by dealing texts",
        extra=extra,
    )


def credits(greater: NDArray[Any], equal: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Top-1 and reciprocal-rank credit of items with ``greater`` rivals above them, among ``equal`` equals (>= 1).

    The places greater + 1 ... greater + equal are shared: top-1 is 1 / equal where nothing is above, and the reciprocal
    rank is the mean of 1 / place.
    """
    greater, equal = np.asarray(greater, dtype=np.intp), np.asarray(equal, dtype=np.intp)
    harmonic = harmonic_numbers(int((greater + equal).max(initial=1)))
    top1 = np.where(greater == 0, 1.0 / equal, 0.0)
    return top1, (harmonic[greater + equal] - harmonic[greater]) / equal


def harmonic_numbers(n: int) -> Doubles:
    """H_0 ... H_n."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])


def chance(n: int) -> tuple[float, float]:
    """Expected top-1 and mean reciprocal rank among ``n`` candidates: 1/n and H_n/n."""
    return 1.0 / n, float(harmonic_numbers(n)[n] / n)


def row_credits(s: Doubles) -> tuple[Doubles, Doubles]:
    """Credits (N, N) of every column within its row: [i, k] is what text i scores if k is the one it should find."""
    from scipy.stats import rankdata

    upside = -np.round(s, DIGITS)
    first = rankdata(upside, method="min", axis=1)
    last = rankdata(upside, method="max", axis=1)
    return credits(first - 1, last - first + 1)


def among(greater: NDArray[Any], equal: NDArray[Any], n: int, size: int) -> float:
    """Top-1 rate if each of ``n`` candidates' lists were cut to ``size`` at random, the right one always kept.

    Makes studies of different sizes comparable: P(none of ``greater`` is among the size - 1 others), hypergeometric.
    """
    from scipy.stats import hypergeom

    places = [
        np.mean(hypergeom.pmf(0, n - 1, np.arange(g, g + e), size - 1)) for g, e in zip(greater, equal, strict=True)
    ]
    return float(np.mean(places))


def holm(p: NDArray[Any]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values (n,): running maximum of (n - i) p_(i), at most 1.

    Raises:
        Refusal: no tests, a p-value outside 0 to 1 or NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not len(p):
        raise Refusal(f"p-values of shape {p.shape}", "there is nothing to adjust", "pass one p-value per test")
    if not ((p >= 0) & (p <= 1)).all():
        raise Refusal("p-values", "some are outside 0 to 1 or NaN", "pass the p-values of tests that could be made")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out
