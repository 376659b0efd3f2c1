"""Telling right from wrong: the area under the ROC curve of scores, and of explanations on contexts of their features.

In: scores of two kinds, or one score and one yes or no per explanation; for detection embedded explanations, and per
feature embedded contexts in which it fires and in which it does not; the embedder is the judge. Out: ``Outcomes``, the
area, an interval that does not collapse at 0 or 1, ``Estimate``s. Refuses a side without members, unequal lengths, too
few, numbers that are not finite, and where it matters scores that are no probabilities.

Truth in detection is the dictionary's own activations: no verbalizer is asked, native or other (Paulo et al., arXiv
2410.13928, embedding score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Floats, Refusal, frozen
from dragoman.stats.intervals import DRAWS, Topics, bootstrap, cluster_numbers, mean_interval
from dragoman.stats.lift import dealt_estimate, doubly_centred_lift, square

FEWEST_OUTCOMES = 10
FEWEST = 3


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
        if len(score) < FEWEST_OUTCOMES:
            raise Refusal(
                f"{len(score)} {what}",
                f"{FEWEST_OUTCOMES} is the fewest a rate can be read from",
                "score more features",
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
    m, n = len(positive), len(negative)
    if not m or not n:
        raise Refusal(
            f"an AUROC of {m} against {n}", "one of the two kinds has no members", "give at least one of each"
        )
    lower = np.sort(negative)
    if np.isnan(lower[-1]) or np.isnan(positive).any():
        return float("nan")
    below = sum(int(np.searchsorted(lower, positive, side=side).sum()) for side in ("left", "right"))
    return below / 2 / (m * n)


@lru_cache(maxsize=1 << 14)  # few windows have few areas
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEmbeddings:
    """Embedded contexts of one feature: ``firing`` (m, e) where it fires, ``silent`` (n, e) where it does not."""

    firing: Floats
    silent: Floats

    @classmethod
    def of(cls, firing: NDArray[Any], silent: NDArray[Any]) -> ContextEmbeddings:
        """Check and keep; refuse fewer than three of either kind, unequal widths, NaN."""
        firing, silent = np.asarray(firing), np.asarray(silent)
        if firing.ndim != 2 or silent.ndim != 2 or firing.shape[1] != silent.shape[1]:
            raise Refusal(
                f"contexts of shapes {firing.shape} and {silent.shape}",
                "they are one row per context, of equal width",
                "embed both kinds with the same embedder",
            )
        if min(len(firing), len(silent)) < FEWEST:
            raise Refusal(
                f"{len(firing)} firing and {len(silent)} silent contexts",
                f"detection needs {FEWEST} of each at least",
                "leave the feature out, or read more text",
            )
        if not (np.isfinite(firing).all() and np.isfinite(silent).all()):
            raise Refusal("contexts", "some hold NaN or infinite numbers", "embed the texts again")
        return cls(firing=frozen(firing), silent=frozen(silent))


def detection_table(explanations: NDArray[Any], contexts: Sequence[ContextEmbeddings]) -> NDArray[np.float64]:
    """A (n, N): AUROC of explanation i (n, e), by cosine, on the contexts of feature j."""
    explanations = np.asarray(explanations, dtype=np.float64)
    if explanations.ndim != 2 or not contexts or explanations.shape[1] != contexts[0].firing.shape[1]:
        raise Refusal(
            f"explanations of shape {explanations.shape} and contexts of {len(contexts)} features",
            "they are one row per text, as wide as the contexts",
            "embed explanations and contexts with the same embedder",
        )
    out = np.empty((len(explanations), len(contexts)))
    for j, one in enumerate(contexts):
        near, far = ((explanations @ some.T).T.copy() for some in (one.firing, one.silent))
        # stats.roc.auroc of every row at once: pairs in order count two, ties one.
        pairs = [above(near[:, None], far[None]).reshape(-1, len(out)) for above in (np.greater, np.greater_equal)]
        out[:, j] = sum(np.add.reduce(some, axis=0, dtype=np.uint32) for some in pairs) / 2 / len(pairs[0])
    return out


def detection_per_feature(table: NDArray[Any], contexts: Sequence[ContextEmbeddings]) -> list[dict[str, Any]]:
    """Of every feature the own explanation's ``auroc``, the diagonal of A (N, N), with Newcombe's 95 % interval.

    ``low`` and ``high`` are its ends, ``firing`` and ``silent`` how many contexts it is over.
    """
    each = zip(np.diag(square(table)).tolist(), contexts, strict=True)
    return [own_area(value, one) for value, one in each]


def own_area(value: float, contexts: ContextEmbeddings) -> dict[str, Any]:
    """One feature's of `detection_per_feature`, from its own explanation's AUROC alone."""
    m, n = len(contexts.firing), len(contexts.silent)
    low, high = auroc_interval(value, m, n)
    return {"auroc": float(value), "low": low, "high": high, "firing": m, "silent": n}


def detection_estimate(table: NDArray[Any], topics: Topics = None, *, rng: np.random.Generator) -> Estimate:
    """Mean AUROC of the own explanations, A (N, N), by features; p when explanations are dealt to features at random.

    A mean above 0.5 is not enough: firing contexts of different features have things in common, and a text about those
    detects them all. The null is therefore other features' explanations on the same contexts. ``extra``: ``others``,
    their mean AUROC, and ``lift``, ``lift_low``, ``lift_high``, the doubly-centred difference.
    """
    table = square(table)
    lifts, n = doubly_centred_lift(table), len(table)
    low, high, *_ = mean_interval(lifts, topics)
    mean = dealt_estimate(
        table,
        np.diag(table),
        topics,
        statistic="mean AUROC of firing against silent contexts, by cosine with the explanation",
        null="explanations dealt to features at random",
        rng=rng,
        extra={
            "others": float((table.sum() - np.trace(table)) / (n * (n - 1))),
            "lift": float(lifts.mean()),
            "lift_low": low,
            "lift_high": high,
        },
    )
    return replace(mean, low=max(0.0, mean.low), high=min(1.0, mean.high))
