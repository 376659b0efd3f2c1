"""Everything promised of a confidence, in one call: the figures of a page.

In: confidences with outcomes, the evidence alone, and confidences of nulls by name. Out: ``ConfidenceReport``. Refuses
what its parts refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.fit import Bin, ece_estimate, reliability_curve
from dragoman.core import Estimate
from dragoman.stats.intervals import DRAWS, bootstrap, t_interval
from dragoman.stats.roc import Outcomes, auroc_estimate
from studies.selective import (
    RiskCoverage,
    accuracy_at,
    against_one_feature,
    answered_accuracy,
    false_label_rate,
    risk_coverage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceReport:
    """What a confidence is worth on explanations it was not fitted on.

    ``ece``, ``brier``, ``auroc``; ``accuracy_at_80`` and ``accuracy_at_100``; ``curve`` and ``risk`` for figures;
    ``alone`` the baselines; ``false_labels`` per null at ``threshold``; ``answered`` accuracy and coverage there.
    """

    ece: Estimate
    brier: Estimate
    auroc: Estimate
    accuracy_at_80: Estimate
    accuracy_at_100: Estimate
    curve: list[Bin]
    risk: RiskCoverage
    alone: dict[str, dict[str, Estimate]]
    false_labels: dict[str, Estimate]
    answered: dict[str, float | None]


def confidence_report(
    outcomes: Outcomes,
    threshold: float,
    *,
    alone: Mapping[str, Sequence[float | None]] | None = None,
    nulls: Mapping[str, NDArray[Any]] | None = None,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> ConfidenceReport:
    """Judge confidences of held-out explanations.

    Args:
        outcomes: confidences and whether each explanation was right.
        threshold: the line below which dragoman abstains, settled elsewhere.
        alone: evidence by name, higher for surer: the baselines.
        nulls: confidences of null directions by name: none of them should get an answer.
        rng: of all resampling.
        draws: of each bootstrap.
    """
    return ConfidenceReport(
        ece=ece_estimate(outcomes, rng=rng, draws=draws),
        brier=brier_estimate(outcomes, rng=rng, draws=draws),
        auroc=auroc_estimate(outcomes, rng=rng, draws=draws),
        accuracy_at_80=accuracy_at(outcomes, 0.8, rng=rng, draws=draws),
        accuracy_at_100=accuracy_at(outcomes, 1.0, rng=rng, draws=draws),
        curve=reliability_curve(outcomes),
        risk=risk_coverage(outcomes),
        alone=against_one_feature(outcomes, alone or {}, rng=rng, draws=draws),
        false_labels={name: false_label_rate(score, threshold, null=name) for name, score in (nulls or {}).items()},
        answered=answered_accuracy(outcomes, threshold),
    )


def brier_parts(p: NDArray[Any], right: NDArray[Any]) -> dict[str, float]:
    """Brier score = miscalibration - discrimination + uncertainty, exactly and without bins.

    Dimitriadis, Gneiting and Jordan (2021): with q the isotonic regression of outcomes on p and B the Brier score,
    miscalibration = B(p) - B(q), discrimination = B(base rate) - B(q), uncertainty = B(base rate); none is negative.
    """
    from scipy.optimize import isotonic_regression

    p, y = np.asarray(p, dtype=np.float64), np.asarray(right, dtype=np.float64)
    _, where, counts = np.unique(p, return_inverse=True, return_counts=True)
    best = isotonic_regression(np.bincount(where, weights=y) / counts, weights=counts).x[where]
    score, least, base = (float(np.mean((q - y) ** 2)) for q in (p, best, np.full(len(y), y.mean())))
    return {
        "brier": score,
        "miscalibration": max(0.0, score - least),
        "discrimination": max(0.0, base - least),
        "uncertainty": base,
    }


def brier_estimate(outcomes: Outcomes, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """Brier score, lower is better, against always saying the base rate.

    ``p``: that the two do equally well, by the t test on the differences per explanation (independent explanations).
    ``extra``: ``miscalibration``, ``discrimination`` and ``uncertainty``, see ``brier_parts``, and ``skill``, the share
    of the base rate's score that is saved. The base rate is the set's own, which flatters it.
    """
    p, y = outcomes.probabilities("a Brier score"), outcomes.right.astype(np.float64)
    spread = bootstrap(
        lambda rows: float(np.mean((p[rows] - y[rows]) ** 2)),
        len(outcomes),
        rng=rng,
        clusters=outcomes.clusters,
        draws=draws,
    )
    parts = brier_parts(p, y)
    value = parts.pop("brier")
    saved = (y.mean() - y) ** 2 - (p - y) ** 2
    skill = 1 - value / parts["uncertainty"] if parts["uncertainty"] > 0 else 0.0
    return Estimate(
        value=value,
        low=spread.low,
        high=spread.high,
        p=t_interval(float(saved.mean()), float(saved.std(ddof=1)), len(y))[2] if np.ptp(saved) > 0 else 1.0,
        n=spread.units,
        statistic="Brier score",
        null="always saying the base rate",
        unit=spread.unit,
        method=f"{spread.method}; t test of the differences from the base rate's score",
        extra=parts | {"skill": skill},
    )
