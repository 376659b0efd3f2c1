"""Are probabilities what they say: the reliability curve and the calibration error.

In: ``Outcomes`` whose scores are probabilities. Out: bins and an ``Estimate``. Refuses scores that are no
probabilities, and bins of fewer than two.

The calibration error is a sum of absolute values, so noise only ever adds to it: perfect probabilities of 500
explanations in 10 bins score about 0.045. That floor stands beside every value, with a test against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import rate_interval
from dragoman.stats.resample import DRAWS, bootstrap
from dragoman.stats.roc import Outcomes

Doubles = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """``n`` explanations of similar probability: its mean, and the share that was right with Wilson's interval."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def bins_of(p: NDArray[Any], bins: int = BINS) -> NDArray[np.intp]:
    """Bin of each probability (n,): equal mass by rank; equal probabilities share a bin, so bins may be fewer."""
    p = np.asarray(p, dtype=np.float64)
    if bins < 1 or len(p) < 2 * bins:
        raise Refusal(
            f"{bins} bins of {len(p)} explanations",
            "a bin needs at least two explanations",
            "ask for fewer bins, or score more features",
        )
    order = np.sort(p)
    # A value belongs where the middle of its run of equals falls.
    middle = (np.searchsorted(order, p, "left") + np.searchsorted(order, p, "right") - 1) / 2
    return np.minimum((middle * bins / len(p)).astype(np.intp), bins - 1)


def reliability_curve(outcomes: Outcomes, *, bins: int = BINS) -> list[Bin]:
    """Predicted against observed, by equal-mass bins, low probabilities first."""
    p, right = outcomes.probabilities("a reliability curve"), outcomes.right
    where = bins_of(p, bins)
    curve: list[Bin] = []
    for k in np.unique(where):
        rows = where == k
        low, high = rate_interval(right[rows])
        curve.append(
            Bin(
                predicted=float(p[rows].mean()),
                observed=float(right[rows].mean()),
                low=low,
                high=high,
                n=int(rows.sum()),
            )
        )
    return curve


def calibration_error(p: NDArray[Any], right: NDArray[Any], bins: int = BINS) -> float:
    """Expected calibration error: sum over equal-mass bins of share * |mean probability - share right|."""
    where = bins_of(p, bins)
    return float(np.abs(np.bincount(where, weights=np.asarray(p) - np.asarray(right))).sum() / len(where))


def ece_estimate(outcomes: Outcomes, *, rng: np.random.Generator, bins: int = BINS, draws: int = DRAWS) -> Estimate:
    """Expected calibration error over equal-mass bins.

    Interval: bootstrap over features or topics, the outer ends of the percentile and the basic interval, since the
    value is biased upwards and its bootstrap twice so. ``p``: that the probabilities are exact, one-sided, by drawing
    outcomes from them; it takes explanations to be independent. ``extra``: ``if_calibrated``, the mean over those
    draws (the floor); ``corrected``, the value less its bootstrap bias; ``signed``, mean probability minus share right.
    """
    p, right = outcomes.probabilities("a calibration error"), outcomes.right.astype(np.float64)
    value = calibration_error(p, right, bins)
    spread = bootstrap(
        lambda rows: calibration_error(p[rows], right[rows], bins),
        len(outcomes),
        rng=rng,
        clusters=outcomes.clusters,
        draws=draws,
    )
    where = bins_of(p, bins)
    exact = np.array(
        [np.abs(np.bincount(where, weights=p - (rng.random(len(p)) < p))).sum() / len(p) for _ in range(draws)]
    )
    return Estimate(
        value=value,
        low=max(0.0, min(spread.low, 2 * value - spread.high)),
        high=min(1.0, max(spread.high, 2 * value - spread.low)),
        p=float((1 + (exact >= value - 1e-12).sum()) / (1 + draws)),
        n=spread.units,
        statistic=f"expected calibration error, {len(np.unique(where))} equal-mass bins",
        null="probabilities that are exact",
        unit=spread.unit,
        method=f"{spread.method}, outer ends of percentile and basic; one-sided p by drawing outcomes",
        extra={
            "if_calibrated": float(exact.mean()),
            "corrected": max(0.0, 2 * value - spread.mean),
            "signed": float(p.mean() - right.mean()),
            "bins": len(np.unique(where)),
        },
    )
