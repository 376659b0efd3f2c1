"""One probability in two steps: did the feature's vector arrive at all, and if so, are the words right?

In: evidence of explanations that were checked, and of nulls (random directions, rows under a wrong name, a map fitted
on shuffled pairs). Out: a ``Trust``, a page of JSON. Refuses what ``Confidence`` refuses, and a probability of another
kind.

A confidence fitted on features alone has never seen a null, and is sure of some; one fitted on both spends its weights
on telling nulls apart, and is worse on features. The product P(arrived) P(right | arrived) does both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.score.confidence import Confidence
from dragoman.score.evidence import Evidence
from dragoman.score.selective import threshold_for_nulls

KIND, FORMAT = "dragoman trust", 1
RATE = 0.02  # share of nulls that may be given a confident label
LEAST = 0.5  # no answer is confident below even odds


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """``arrived``: features against nulls. ``right``: right against wrong explanations of features.

    ``threshold``: answers are given at or above it. ``report``: what it was fitted on and promises.
    """

    arrived: Confidence
    right: Confidence
    threshold: float
    report: dict[str, Any]

    @classmethod
    def fit(
        cls,
        rows: Sequence[Evidence],
        right: Sequence[Any] | NDArray[Any],
        nulls: Sequence[Evidence],
        *,
        groups: Sequence[Any],
        asks: Mapping[str, Sequence[str]],
        seed: int = 0,
        fitted_on: str = "",
    ) -> Trust:
        """Fit both steps, and draw the line where at most 2 % of nulls get an answer (Clopper-Pearson, 95 %).

        Args:
            rows: evidence of n explanations of features.
            right: n times yes or no.
            nulls: evidence of explanations of nulls; every other one is fitted on, the rest draw the line.
            groups: n topics, which are not split between fitting and calibrating.
            asks: ``arrived`` and ``right``: names of the evidence each step reads.
            seed: of the deal into folds.
            fitted_on: in words, for whoever reads a page.

        Raises:
            Refusal: as ``Confidence.fit`` and ``threshold_for_nulls`` do.
        """
        seen, unseen = nulls[::2], nulls[1::2]
        both = [*_only(rows, asks["arrived"]), *_only(seen, asks["arrived"])]
        there = [True] * len(rows) + [False] * len(seen)
        apart = [*map(str, groups), *(f"null {k % 40}" for k in range(len(seen)))]
        arrived = Confidence.fit(both, there, groups=apart, seed=seed)
        judged = Confidence.fit(_only(rows, asks["right"]), right, groups=groups, seed=seed)
        made = cls(arrived=arrived, right=judged, threshold=1.0, report={})
        line = threshold_for_nulls(made.predict(unseen), RATE)
        report = {"fitted_on": fitted_on, "n": len(rows), "right": int(np.sum(right)), "nulls": line.to_dict()}
        return replace(made, threshold=max(LEAST, min(line.value, 1.0)), report=report)

    @property
    def names(self) -> tuple[str, ...]:
        """Evidence either step reads."""
        return tuple(sorted({*self.arrived.names, *self.right.names}))

    def predict(self, rows: Sequence[Evidence]) -> NDArray[np.float64]:
        """Probabilities (n,) that each explanation is right."""
        return self.arrived.predict(_only(rows, self.arrived.names)) * self.right.predict(_only(rows, self.right.names))

    def answers(self, rows: Sequence[Evidence]) -> NDArray[np.bool_]:
        """Whether each explanation is given out; False is an abstention."""
        return self.predict(rows) >= self.threshold

    def why(self, row: Evidence) -> dict[str, float]:
        """What each piece of evidence adds to the log-odds of being right; ``arrived`` is log P(arrived), 0 at best."""
        reasons = self.right.why(row) | {"arrived": float(np.log(max(self.arrived.predict([row])[0], 1e-12)))}
        return dict(sorted(reasons.items(), key=lambda item: -abs(item[1])))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``from_dict`` reads it."""
        return {
            "format": FORMAT,
            "kind": KIND,
            "arrived": self.arrived.to_dict(),
            "right": self.right.to_dict(),
            "threshold": self.threshold,
            "report": self.report,
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Trust:
        """What ``to_dict`` gave, also after JSON; refuse other kinds and formats."""
        if (
            told.get("kind") != KIND
            or told.get("format") != FORMAT
            or not {"arrived", "right", "threshold"} <= set(told)
        ):
            raise Refusal(
                f"a trust of kind '{told.get('kind')}', format {told.get('format')}",
                f"this version reads kind '{KIND}', format {FORMAT}, whole",
                "fit it again with this version",
            )
        return cls(
            arrived=Confidence.from_dict(told["arrived"]),
            right=Confidence.from_dict(told["right"]),
            threshold=float(told["threshold"]),
            report=dict(told.get("report") or {}),
        )


def _only(rows: Sequence[Evidence], names: Sequence[str]) -> list[Evidence]:
    return [{name: row.get(name) for name in names} for row in rows]
