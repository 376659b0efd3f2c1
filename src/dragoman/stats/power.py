"""How many features the next study needs: power of the test of a mean lift, from the spread of this one.

In: lifts, or paired differences, per feature. Out: features needed, differences detectable, ``Needed``. Refuses
too few features, no spread, and differences of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.stats.intervals import cluster_numbers

MOST = 10_000_000
POWER, LEVEL = 0.8, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """Features needed to find a mean ``lift`` with ``power`` at two-sided ``level``, the least of 80 % and 5 %.

    ``n`` from the observed ``sd``; ``low`` and ``high`` from the ends of the spread's own 95 % interval.
    ``design_effect``: how many times wider topics make the variance of the mean; ``n`` already holds it, and takes
    topics to be of the size they were. ``observed``: how many features the spread was seen on.
    """

    n: int
    low: int
    high: int
    lift: float
    sd: float
    design_effect: float
    power: float
    level: float
    observed: int


def power_of(n: float, effect: float) -> float:
    """Power of the two-sided one-sample t test of ``n`` values whose mean is ``effect`` standard deviations."""
    from scipy import stats

    df, shift = n - 1, abs(effect) * np.sqrt(n)
    edge = stats.t.isf(LEVEL / 2, df)
    wrong_side = stats.nct.cdf(-edge, df, shift)  # NaN in scipy where it is below what a float can hold
    return float(stats.nct.sf(edge, df, shift) + np.nan_to_num(wrong_side))


def features_needed(lift: float, sd: float, *, design_effect: float = 1.0) -> int:
    """Fewest features with which the t test of a mean ``lift`` with standard deviation ``sd`` has 80 % power.

    ``design_effect`` multiplies the number: 1 for independent features.
    """
    if not (np.isfinite([lift, sd]).all() and lift != 0 and sd > 0):
        raise Refusal(
            f"features needed for a lift of {lift:g} with spread {sd:g}",
            "a lift of zero is never found and a spread of zero needs no study",
            "name a lift worth finding, and the spread of a study that was made",
        )
    few, many = 1, 2
    while power_of(many, lift / sd) < POWER:
        few, many = many, 2 * many
        if many > MOST:
            raise Refusal(
                f"features needed for a lift of {lift:g} with spread {sd:g}",
                f"it is more than {MOST}",
                "name a larger lift",
            )
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power_of(middle, lift / sd) >= POWER else (middle, many)
    return int(np.ceil(many * max(design_effect, 1.0)))


def detectable(n: int, *, sd: float) -> float:
    """Smallest mean lift that ``n`` independent features of spread ``sd`` show with 80 % power."""
    from scipy import optimize

    if n < 3:
        raise Refusal(f"power of {n} features", "the t test needs a spread", "plan at least three")
    effect = optimize.brentq(lambda d: power_of(n, float(d)) - POWER, 1e-9, 50.0)
    return float(effect) * sd  # pyright: ignore[reportArgumentType]


def plan(lifts: NDArray[Any], *, clusters: Sequence[Any] | NDArray[Any] | None = None) -> Needed:
    """Features needed by the next study, from per-feature lifts or paired differences (n,) of this one.

    Args:
        lifts: at least 5 of them.
        clusters: topics, one per feature. Their design effect is the CR1 variance of the mean over that of independent
            features, at least 1.

    The observed mean is what is to be found again. It is noisy and, where the study was run because it looked large,
    too large.
    """
    from scipy import stats

    lifts = np.asarray(lifts, dtype=np.float64)
    if lifts.ndim != 1 or len(lifts) < 5 or not np.isfinite(lifts).all():
        raise Refusal(
            f"a plan from lifts of shape {lifts.shape}",
            "a spread needs five finite lifts at least",
            "pass one lift per feature of a pilot study",
        )
    n, sd, effect = len(lifts), float(lifts.std(ddof=1)), 1.0
    where = cluster_numbers(n, clusters)
    if where is not None and sd > 0:
        g = int(where.max()) + 1
        sums = np.bincount(where, weights=lifts - lifts.mean())
        effect = max(1.0, float(g / (g - 1) * np.sum(sums**2) / n**2 / (sd**2 / n)))
    aim = float(lifts.mean())
    ends = [sd * float(np.sqrt((n - 1) / stats.chi2.ppf(q, n - 1))) for q in (0.975, 0.025)]
    need = [features_needed(aim, s, design_effect=effect) for s in (sd, *ends)]
    return Needed(
        n=need[0],
        low=need[1],
        high=need[2],
        lift=aim,
        sd=sd,
        design_effect=effect,
        power=POWER,
        level=LEVEL,
        observed=n,
    )
