"""Detection: does an explanation tell contexts where its feature fires from contexts where it does not?

In: embedded explanations, and per feature embedded contexts of both kinds; the embedder is the judge. Out: the AUROC of
every explanation on every feature's contexts, and an ``Estimate`` of the mean. Refuses features without contexts of
both kinds. Truth here is the dictionary's own activations: no verbalizer is asked, native or other (Paulo et al.,
arXiv 2410.13928, embedding score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Floats, Refusal, frozen
from dragoman.score.intervals import clustered_interval, t_interval
from dragoman.score.lift import doubly_centred_lift, permutation_p, square
from dragoman.score.roc import auroc_interval

FEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """Embedded contexts of one feature: ``firing`` (m, e) where it fires, ``silent`` (n, e) where it does not."""

    firing: Floats
    silent: Floats

    @classmethod
    def of(cls, firing: NDArray[Any], silent: NDArray[Any]) -> Contexts:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a page or a file."""
        return asdict(self)


def detection_table(explanations: NDArray[Any], contexts: Sequence[Contexts]) -> NDArray[np.float64]:
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
        out[:, j] = (above + 0.5 * equal).mean(axis=(1, 2))  # score.roc.auroc of every row at once
    return out


def detection_per_feature(table: NDArray[Any], contexts: Sequence[Contexts]) -> list[Detected]:
    """The own explanation's AUROC of every feature, the diagonal of A (N, N), with intervals."""
    table = square(table)
    found: list[Detected] = []
    for value, one in zip(np.diag(table).tolist(), contexts, strict=True):
        m, n = len(one.firing), len(one.silent)
        low, high = auroc_interval(value, m, n)
        found.append(Detected(auroc=value, low=low, high=high, firing=m, silent=n))
    return found


def detection_estimate(
    table: NDArray[Any],
    topics: Sequence[Any] | NDArray[Any] | None = None,
    *,
    rng: np.random.Generator,
    permutations: int = 9999,
) -> Estimate:
    """Mean AUROC of the own explanations, A (N, N), by features; p when explanations are dealt to features at random.

    A mean above 0.5 is not enough: firing contexts of different features have things in common, and a text about those
    detects them all. The null is therefore other features' explanations on the same contexts. ``extra``: ``others``,
    their mean AUROC, and ``lift``, ``lift_low``, ``lift_high``, the doubly-centred difference.
    """
    table = square(table)
    own, lifts, n = np.diag(table), doubly_centred_lift(table), len(table)
    if topics is None:
        spans, units = [t_interval(float(v.mean()), float(v.std(ddof=1)), n)[:2] for v in (own, lifts)], n
    else:
        spans = [clustered_interval(v, topics)[:2] for v in (own, lifts)]
        units = clustered_interval(own, topics)[3]
    unit = "features" if topics is None else "topics"
    return Estimate(
        value=float(own.mean()),
        low=max(0.0, spans[0][0]),
        high=min(1.0, spans[0][1]),
        p=permutation_p(table, rng, permutations),
        n=units,
        statistic="mean AUROC of firing against silent contexts, by cosine with the explanation",
        null="explanations dealt to features at random",
        unit=unit,
        method=f"t interval over {unit}; two-sided permutation p, at most {permutations} draws",
        extra={
            "others": float((table.sum() - np.trace(table)) / (n * (n - 1))),
            "lift": float(lifts.mean()),
            "lift_low": spans[1][0],
            "lift_high": spans[1][1],
        },
    )


def length_matched(firing: Sequence[int], candidates: Sequence[int], rng: np.random.Generator) -> list[int]:
    """For each firing context the unused candidate of nearest length, by row number; ties are drawn.

    Contexts of different lengths can be told apart without reading them.

    Raises:
        Refusal: fewer candidates than firing contexts.
    """
    if len(candidates) < len(firing):
        raise Refusal(
            f"{len(candidates)} silent contexts for {len(firing)} firing ones",
            "each firing context needs one of its own",
            "read more text, or keep fewer firing contexts",
        )
    lengths, free = np.asarray(candidates, dtype=np.float64), rng.permutation(len(candidates))
    picked: list[int] = []
    for length in firing:
        at = int(np.argmin(np.abs(lengths[free] - length)))
        picked.append(int(free[at]))
        free = np.delete(free, at)
    return picked
