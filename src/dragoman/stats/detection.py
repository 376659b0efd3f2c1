"""Detection: does an explanation tell contexts where its feature fires from contexts where it does not?

In: embedded explanations, and per feature embedded contexts of both kinds; the embedder is the judge. Out: the AUROC of
every explanation on every feature's contexts, and an ``Estimate`` of the mean. Refuses features without contexts of
both kinds. Truth here is the dictionary's own activations: no verbalizer is asked, native or other (Paulo et al.,
arXiv 2410.13928, embedding score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Floats, Refusal, frozen
from dragoman.stats.intervals import Topics, mean_interval
from dragoman.stats.lift import dealt_estimate, doubly_centred_lift, square
from dragoman.stats.roc import auroc_interval

FEWEST = 3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """One feature's detection: ``auroc`` with Newcombe's 95 % interval, over ``firing`` and ``silent`` contexts."""

    auroc: float
    low: float
    high: float
    firing: int
    silent: int


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
        near, far = explanations @ one.firing.T, explanations @ one.silent.T
        above, equal = near[:, :, None] > far[:, None, :], near[:, :, None] == far[:, None, :]
        out[:, j] = (above + 0.5 * equal).mean(axis=(1, 2))  # stats.roc.auroc of every row at once
    return out


def detection_per_feature(table: NDArray[Any], contexts: Sequence[ContextEmbeddings]) -> list[Detected]:
    """The own explanation's AUROC of every feature, the diagonal of A (N, N), with intervals."""
    table = square(table)
    found: list[Detected] = []
    for value, one in zip(np.diag(table).tolist(), contexts, strict=True):
        m, n = len(one.firing), len(one.silent)
        low, high = auroc_interval(value, m, n)
        found.append(Detected(auroc=value, low=low, high=high, firing=m, silent=n))
    return found


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
