"""Fitting a confidence in two steps: did the feature's vector arrive at all, and if so, are the words right?

In: evidence of explanations that were checked, and of nulls (random directions, rows under a wrong name, a map fitted
on shuffled pairs). Out: a ``Confidence``. Refuses what ``fit_step`` and ``threshold_for_nulls`` refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_step
from dragoman.confidence.model import Confidence
from studies.selective import threshold_for_nulls

RATE = 0.02  # share of nulls that may be given a confident label
LEAST = 0.5  # no answer is confident below even odds


def fit_two_steps(
    rows: Sequence[Evidence],
    right: Sequence[Any] | NDArray[Any],
    nulls: Sequence[Evidence],
    *,
    groups: Sequence[Any],
    asks: Mapping[str, Sequence[str]],
    seed: int = 0,
    fitted_on: str = "",
) -> Confidence:
    """Fit both steps, and draw the line where at most 2 % of nulls get an answer (Clopper-Pearson, 95 %).

    Args:
        rows: evidence of n explanations of features.
        right: n times yes or no.
        nulls: evidence of explanations of nulls; every other one is fitted on, the rest draw the line.
        groups: n topics, which are not split between fitting and calibrating.
        asks: ``arrived`` and ``right``: names of the evidence each step reads.
        seed: of the deal into folds.
        fitted_on: in words, for whoever reads a page.
    """
    seen, unseen = nulls[::2], nulls[1::2]
    both = [*_only(rows, asks["arrived"]), *_only(seen, asks["arrived"])]
    there = [True] * len(rows) + [False] * len(seen)
    apart = [*map(str, groups), *(f"null {k % 40}" for k in range(len(seen)))]
    arrived = fit_step(both, there, groups=apart, seed=seed)
    judged = fit_step(_only(rows, asks["right"]), right, groups=groups, seed=seed)
    made = Confidence(arrived=arrived, right=judged, threshold=1.0, report={})
    line = threshold_for_nulls(made.predict(unseen), RATE)
    report = {"fitted_on": fitted_on, "n": len(rows), "right": int(np.sum(right)), "nulls": asdict(line)}
    threshold = max(LEAST, min(line.value, 1.0))
    return Confidence(arrived=arrived, right=judged, threshold=threshold, report=report)


def _only(rows: Sequence[Evidence], names: Sequence[str]) -> list[Evidence]:
    return [{name: row.get(name) for name in names} for row in rows]
