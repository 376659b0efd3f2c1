"""Answer or abstain: what is gained by leaving the least sure explanations out, and where to draw the line.

In: ``Outcomes``, and confidences of nulls (random, shuffled, unused directions). Out: curves, estimates, thresholds.
Refuses coverages outside 0 to 1, and thresholds that the nulls are too few to promise.

Equal scores are left out or kept together only in part: a cut through a run of equals takes their mean, so a score that
says nothing gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import DRAWS, bootstrap, rate_interval
from dragoman.stats.roc import Outcomes, area_of, auroc_estimate

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """Share wrong among the surest k of n: ``coverage`` k/n and ``risk``, k = 1 ... n.

    ``area`` under the curve (mean risk); ``least`` the area if all right ones came first, ``chance`` if the order said
    nothing.
    """

    coverage: Doubles
    risk: Doubles
    area: float
    least: float
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Answer at or above ``value``; ``bound`` on the share of nulls that then get an answer, from ``hits`` of ``n``.

    A ``value`` above 1 never answers.
    """

    value: float
    bound: float
    hits: int
    n: int
    rate: float
    method: str


def kept_right(score: NDArray[Any], right: NDArray[Any]) -> Doubles:
    """How many of the surest k are right, k = 1 ... n; within a run of equal scores, its mean rate."""
    score, right = np.asarray(score, dtype=np.float64), np.asarray(right, dtype=np.float64)
    _, where, counts = np.unique(-score, return_inverse=True, return_counts=True)
    rates = np.bincount(where, weights=right) / counts
    return np.cumsum(np.repeat(rates, counts))


def risk_coverage(outcomes: Outcomes) -> RiskCoverage:
    """The curve, with its area, and the areas of a perfect and of a meaningless order."""
    n, hits = len(outcomes), int(outcomes.right.sum())
    k = np.arange(1, n + 1)
    risk = 1 - kept_right(outcomes.score, outcomes.right) / k
    best = np.maximum(0, k - hits) / k
    return RiskCoverage(
        coverage=k / n,
        risk=risk,
        area=float(risk.mean()),
        least=float(best.mean()),
        chance=1 - hits / n,
    )


def accuracy_of(score: NDArray[Any], right: NDArray[Any], coverage: float) -> float:
    """Share right among the surest ``coverage`` of all, at least one."""
    k = max(1, round(coverage * len(score)))
    return float(kept_right(score, right)[k - 1] / k)


def accuracy_at(outcomes: Outcomes, coverage: float, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """Accuracy of the surest ``coverage`` of the explanations, against always answering.

    Interval: bootstrap over features or topics, which draws the line anew each time. ``p``: two-sided, from the
    bootstrap of the gain. ``extra``: ``gain`` over always answering with ``gain_low`` and ``gain_high``, ``always``,
    and the ``threshold`` that leaves this many.
    """
    if not 0 < coverage <= 1:
        raise Refusal(f"coverage {coverage:g}", "it is a share of the explanations", "ask for 0.8")
    score, right = outcomes.score, outcomes.right
    value = accuracy_of(score, right, coverage)
    gains: list[float] = []

    def drawn(rows: NDArray[np.intp]) -> float:
        at = accuracy_of(score[rows], right[rows], coverage)
        gains.append(at - float(right[rows].mean()))
        return at

    spread = bootstrap(drawn, len(outcomes), rng=rng, clusters=outcomes.clusters, draws=draws)
    low, high = np.percentile(gains, [2.5, 97.5])
    k = max(1, round(coverage * len(outcomes)))
    return Estimate(
        value=value,
        low=spread.low,
        high=spread.high,
        p=_two_sided(gains),
        n=spread.units,
        statistic=f"accuracy at {coverage:.0%} coverage",
        null="always answering",
        unit=spread.unit,
        method=f"{spread.method}; p from the bootstrap of the gain",
        extra={
            "gain": value - outcomes.base_rate,
            "gain_low": float(low),
            "gain_high": float(high),
            "always": outcomes.base_rate,
            "threshold": float(np.sort(score)[::-1][k - 1]),
        },
    )


def against_one_feature(
    outcomes: Outcomes,
    columns: Mapping[str, Sequence[float | None]],
    *,
    coverage: float = 0.8,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> dict[str, dict[str, Estimate]]:
    """The baselines: what each piece of evidence does alone, and how much better the confidence is.

    Args:
        outcomes: the confidence's.
        columns: name -> the same explanations' numbers, higher for surer (turn round what counts against); missing
            ones rank below all others.
        coverage: of the accuracy compared.
        rng: of the bootstrap.
        draws: of it.

    Returns:
        name -> ``auroc`` of the number alone; ``auroc_gain`` and ``accuracy_gain`` of the confidence over it, paired
        (the same draws for both).

    Raises:
        Refusal: a column of another length, or all right or all wrong.
    """
    outcomes.both("a comparison with one feature")
    out: dict[str, dict[str, Estimate]] = {}
    for name, column in columns.items():
        if len(column) != len(outcomes):
            raise Refusal(
                f"'{name}' of {len(column)} explanations",
                f"the confidence is of {len(outcomes)}",
                "pass the same explanations in the same order",
            )
        alone = np.array([np.nan if v is None else float(v) for v in column])
        floor = np.nanmin(alone) - 1.0 if np.isfinite(alone).any() else 0.0
        single = Outcomes.of(
            np.where(np.isnan(alone), floor, alone), outcomes.right, clusters=outcomes.clusters, what=f"'{name}'"
        )
        out[name] = {
            "auroc": auroc_estimate(single, rng=rng, draws=draws),
            "auroc_gain": _gain(outcomes, single, name, "AUROC", area_of, rng, draws),
            "accuracy_gain": _gain(
                outcomes,
                single,
                name,
                f"accuracy at {coverage:.0%} coverage",
                lambda score, right: accuracy_of(score, right, coverage),
                rng,
                draws,
            ),
        }
    return out


def _gain(
    ours: Outcomes, theirs: Outcomes, name: str, what: str, measure: Any, rng: np.random.Generator, draws: int
) -> Estimate:
    """Paired difference of a measure between two scores of the same explanations."""
    right = ours.right
    found: list[float] = []

    def drawn(rows: NDArray[np.intp]) -> float:
        gain = measure(ours.score[rows], right[rows]) - measure(theirs.score[rows], right[rows])
        found.append(gain)
        return gain

    spread = bootstrap(drawn, len(ours), rng=rng, clusters=ours.clusters, draws=draws)
    return Estimate(
        value=measure(ours.score, right) - measure(theirs.score, right),
        low=spread.low,
        high=spread.high,
        p=_two_sided(found),
        n=spread.units,
        statistic=f"gain in {what}",
        null=f"'{name}' alone",
        unit=spread.unit,
        method=f"paired {spread.method}; p from the same draws",
    )


def _two_sided(differences: Sequence[float]) -> float:
    """P that a difference is 0, from its bootstrap draws; never 0."""
    found = np.array([d for d in differences if np.isfinite(d)])
    either = min((found <= 0).sum(), (found >= 0).sum())
    return float(min(1.0, 2 * (1 + either) / (1 + len(found))))


def false_label_rate(nulls: NDArray[Any], threshold: float, *, null: str) -> Estimate:
    """Share of a null's directions (m,) that get an answer at ``threshold``, with Clopper and Pearson's interval.

    ``p`` is that of the binomial test against 2 %, the rate that is promised.
    """
    from scipy import stats

    nulls = _null_scores(nulls)
    hits, m = int((nulls >= threshold).sum()), len(nulls)
    test = stats.binomtest(hits, m, 0.02)
    span = test.proportion_ci(0.95, method="exact")
    return Estimate(
        value=hits / m,
        low=float(span.low),
        high=float(span.high),
        p=float(test.pvalue),
        n=m,
        statistic=f"share of {null} given a confident label",
        null="2 %",
        unit="directions",
        method="Clopper-Pearson interval; exact binomial test",
        extra={"hits": hits, "threshold": float(threshold)},
    )


def threshold_for_nulls(
    nulls: NDArray[Any],
    rate: float = 0.02,
    *,
    level: float = 0.95,
) -> Threshold:
    """Lowest confidence at which at most ``rate`` of null directions get an answer, from m confidences of nulls.

    With confidence ``level`` over such samples, the rate itself is at most the exact (Clopper-Pearson) upper bound of
    hits in m; lines are tried from the strictest down and the last before the first failure is taken, which
    needs no correction as the bound only grows. Take nulls the confidence was not fitted on.

    Raises:
        Refusal: a rate or level outside 0 to 1, nulls that are not finite, or too few of them for the rate even
            without a single hit (149 for 2 %).
    """
    nulls = _null_scores(nulls)
    if not (0 < rate < 1 and 0 < level < 1):
        raise Refusal(f"a false-label rate of {rate:g} at level {level:g}", "both are shares", "ask for 0.02 at 0.95")
    bounds = _bounds(len(nulls), level)
    if bounds[0] > rate:
        need = int(np.ceil(np.log(1 - level) / np.log(1 - rate) - 1e-9))
        raise Refusal(
            f"a false-label rate of {rate:g} from {len(nulls)} nulls",
            f"even without a hit their clopper-pearson bound is {bounds[0]:.3g}",
            f"judge {need} null directions at least",
        )
    allowed = int(np.flatnonzero(bounds <= rate)[-1])
    falling = np.sort(nulls)[::-1]
    # The line goes just above the first null that must not pass; equal ones stay out together.
    value = float(np.nextafter(falling[allowed], np.inf))
    hits = int((nulls >= value).sum())
    return Threshold(
        value=value, bound=float(bounds[hits]), hits=hits, n=len(nulls), rate=rate, method="clopper-pearson"
    )


def _bounds(m: int, level: float) -> Doubles:
    """Upper bound of the rate for 0 ... m hits; Clopper and Pearson's is ``binomtest``'s one-sided, for all at once."""
    from scipy import stats

    hits = np.arange(m + 1)
    return np.append(stats.beta.ppf(level, hits[:-1] + 1, m - hits[:-1]), 1.0)


def _null_scores(nulls: NDArray[Any]) -> Doubles:
    nulls = np.asarray(nulls, dtype=np.float64)
    if nulls.ndim != 1 or not len(nulls) or not np.isfinite(nulls).all():
        raise Refusal(
            f"confidences of nulls of shape {nulls.shape}",
            "they are finite numbers, one per null direction",
            "predict the confidence of at least one null direction",
        )
    return nulls


def answered_accuracy(outcomes: Outcomes, threshold: float) -> dict[str, float | None]:
    """Of explanations at or above ``threshold``: ``accuracy`` with Wilson's ``low`` and ``high``, ``coverage``, ``n``.

    Accuracy and interval are None where nothing is answered.
    """
    rows = outcomes.score >= threshold
    out: dict[str, float | None] = {"coverage": float(rows.mean()), "n": int(rows.sum()), "threshold": float(threshold)}
    if not rows.any():
        return out | {"accuracy": None, "low": None, "high": None}
    clusters = None if outcomes.clusters is None else outcomes.clusters[rows]
    if clusters is not None and len(np.unique(clusters)) < 2:
        clusters = None
    low, high = rate_interval(outcomes.right[rows], clusters)
    return out | {"accuracy": float(outcomes.right[rows].mean()), "low": low, "high": high}
