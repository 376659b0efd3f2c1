"""Telling right from wrong: scores beside outcomes, the area under the ROC curve, and its intervals.

In: scores of two kinds, or one score and one yes or no per explanation. Out: ``Outcomes``, the area, an interval that
does not collapse at 0 or 1, an ``Estimate``. Refuses a side without members, unequal lengths, too few, numbers that are
not finite, and where it matters scores that are no probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal, frozen
from dragoman.stats.resample import DRAWS, bootstrap, cluster_numbers

FEWEST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """n explanations: ``score`` (n,) float64, higher is surer; ``right`` (n,) bool; ``clusters`` (n,) or None."""

    score: NDArray[np.float64]
    right: NDArray[np.bool_]
    clusters: NDArray[np.intp] | None = None

    @classmethod
    def of(
        cls,
        score: Sequence[float] | NDArray[Any],
        right: Sequence[Any] | NDArray[Any],
        *,
        clusters: Sequence[Any] | NDArray[Any] | None = None,
        what: str = "confidences",
    ) -> Outcomes:
        """Check and keep; ``right`` is taken as yes or no, ``clusters`` are topics or any labels.

        Raises:
            Refusal: unequal lengths, fewer than 10, NaN or infinite scores, a ``right`` that is no yes or no.
        """
        score, said = np.asarray(score, dtype=np.float64), np.asarray(right)
        if score.ndim != 1 or said.shape != score.shape:
            raise Refusal(
                f"{what} of shape {score.shape} and outcomes of shape {said.shape}",
                "each explanation needs one score and one outcome",
                "pass two lists of equal length",
            )
        if len(score) < FEWEST:
            raise Refusal(
                f"{len(score)} {what}", f"{FEWEST} is the fewest a rate can be read from", "score more features"
            )
        if not np.isfinite(score).all():
            raise Refusal(what, "some are NaN or infinite", "leave those explanations out and say how many they were")
        if not np.isin(said, (0, 1)).all():
            raise Refusal(f"outcomes of {what}", "some are neither right nor wrong", "pass true or false for each")
        return cls(
            score=frozen(score, np.float64),
            right=frozen(said, np.bool_),
            clusters=cluster_numbers(len(score), clusters),
        )

    def __len__(self) -> int:
        """How many explanations."""
        return len(self.score)

    @property
    def base_rate(self) -> float:
        """Share that is right: what always answering scores."""
        return float(self.right.mean())

    def probabilities(self, what: str) -> NDArray[np.float64]:
        """The scores, where they are probabilities; refuse any outside 0 to 1."""
        if self.score.min() < 0 or self.score.max() > 1:
            raise Refusal(
                what,
                f"the scores run from {self.score.min():.3g} to {self.score.max():.3g}, so they are no probabilities",
                "fit a Confidence on them first",
            )
        return self.score

    def both(self, what: str) -> tuple[int, int]:
        """How many are right and wrong; refuse where one of them is none."""
        hits = int(self.right.sum())
        if hits in (0, len(self)):
            raise Refusal(
                what,
                f"all {len(self)} explanations are {'right' if hits else 'wrong'}, so there is nothing to tell apart",
                "score a set that holds both",
            )
        return hits, len(self) - hits


def auroc(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann and Whitney's U / mn).

    Args:
        positive: scores (m,) of what should score high.
        negative: scores (n,) of what should score low.
    """
    from scipy.stats import rankdata

    m, n = len(positive), len(negative)
    if not m or not n:
        raise Refusal(
            f"an AUROC of {m} against {n}", "one of the two kinds has no members", "give at least one of each"
        )
    ranks = rankdata(np.concatenate([positive, negative]))
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def auroc_interval(value: float, m: int, n: int) -> tuple[float, float]:
    """Score-type 95 % interval for an area ``value`` of ``m`` positives against ``n`` negatives.

    Newcombe (2006), method 5: Hanley and McNeil's variance, with both sample sizes in its dependent part replaced by
    their mean, solved for the area rather than plugged in. Stays inside 0 to 1 and has width at both ends.
    """
    from scipy import optimize, stats

    z = float(stats.norm.ppf((1 + 0.95) / 2))
    half = (m + n) / 2 - 1

    def excess(area: float) -> float:
        variance = area * (1 - area) * (1 + half * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)
        return (value - area) ** 2 - z**2 * variance

    def end(edge: float) -> float:
        # The excess is below 0 next to the value and at least 0 at the edge; it also vanishes on a value of 0 or 1.
        start = min(max(value, 1e-12), 1 - 1e-12)
        return edge if value == edge else float(optimize.brentq(excess, start, edge))  # pyright: ignore[reportArgumentType]

    return end(0.0), end(1.0)


def auroc_estimate(outcomes: Outcomes, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """Area under the ROC curve of scores for being right.

    Interval: Newcombe's where explanations are independent, a bootstrap over topics where they cluster. ``p``: Mann and
    Whitney's test, two-sided, which takes explanations to be independent. ``extra``: ``right`` and ``wrong``.

    Raises:
        Refusal: all right or all wrong.
    """
    from scipy import stats

    m, n = outcomes.both("an AUROC")
    score, right = outcomes.score, outcomes.right
    value = auroc(score[right], score[~right])
    if outcomes.clusters is None:
        (low, high), units, unit = auroc_interval(value, m, n), len(outcomes), "features"
        method = "Newcombe's interval (method 5)"
    else:
        spread = bootstrap(
            lambda rows: area_of(score[rows], right[rows]),
            len(outcomes),
            rng=rng,
            clusters=outcomes.clusters,
            draws=draws,
        )
        low, high, units, unit, method = spread.low, spread.high, spread.units, spread.unit, spread.method
    p = float(stats.mannwhitneyu(score[right], score[~right]).pvalue) if np.ptp(score) > 0 else 1.0
    return Estimate(
        value=value,
        low=low,
        high=high,
        p=p,
        n=units,
        statistic="area under the ROC curve for being right",
        null="scores that say nothing (0.5)",
        unit=unit,
        method=f"{method}; Mann-Whitney test over features",
        extra={"right": m, "wrong": n},
    )


def area_of(score: NDArray[Any], right: NDArray[np.bool_]) -> float:
    """`auroc` of labelled scores; NaN where one class is missing, as happens when resampling."""
    if right.all() or not right.any():
        return float("nan")
    return auroc(score[right], score[~right])
