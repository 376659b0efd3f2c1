"""One probability per explanation that it is right, from what is known of it without knowing the answer.

In: evidence. Out: probabilities with their reasons; JSON and back. Refuses evidence that shares no name with what was
fitted on, numbers that are not finite, and a file whose parts do not fit one another.

A confidence has one step, right against wrong explanations, or a second one before it, features against nulls: did the
vector arrive at all? A model fitted on features alone gives some nulls a high probability; one fitted on both spends
its weights on telling nulls apart, and is worse on features. The product P(arrived) P(right | arrived) does both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dragoman.confidence.evidence import MISSING, Evidence
from dragoman.core import Refusal
from dragoman.records import Record

Doubles = NDArray[np.float64]
# Of numbers in a file: finite, and products of two stay so.
Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e100, lt=1e100)]
STEP, TWO_STEPS = "dragoman confidence", "dragoman trust"  # kinds in a file


class Step(Record):
    """A calibrated logistic regression.

    ``names``: the evidence it reads, standardised by ``centre`` and ``scale``; ``flagged``: those whose absence itself
    counts. ``weights``: of names, then of flags. Log-odds z = weights . x + ``intercept``; the probability is
    expit(``slope`` z + ``offset``). ``threshold``: answers are given at or above it. ``report``: how it was fitted.
    """

    format: Literal[1] = 1
    kind: Literal["dragoman confidence"] = STEP
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    flagged: tuple[str, ...]
    centre: tuple[Number, ...]
    scale: tuple[Number, ...]
    weights: tuple[Number, ...]
    intercept: Number
    slope: Number
    offset: Number
    threshold: Number
    report: Mapping[str, Any]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        width = len(self.names)
        if len(self.weights) != width + len(self.flagged) or {len(self.centre), len(self.scale)} != {width}:
            raise ValueError("its names and flags need as many weights, centres and scales")
        if not set(self.flagged) <= set(self.names) or not all(self.scale):
            raise ValueError("flags are names, and no scale is 0")
        return self

    def predict(self, rows: Sequence[Evidence]) -> Doubles:
        """Probabilities (n,); numbers never missing when it was fitted are taken as average where they are missing.

        Raises:
            Refusal: no row has any of the evidence it reads.
        """
        return expit(self.slope * self.log_odds(rows) + self.offset)

    def log_odds(self, rows: Sequence[Evidence]) -> Doubles:
        """Before calibration (n,)."""
        if rows and not any(row.get(name) is not None for row in rows for name in self.names):
            raise Refusal(
                f"confidence of {len(rows)} explanations",
                f"none of them has any of {', '.join(self.names)}",
                "make their cards, or fit on the evidence there is",
            )
        return self._read(rows) @ np.array(self.weights) + self.intercept

    def why(self, row: Evidence) -> dict[str, float]:
        """What each piece of evidence adds to the calibrated log-odds of an average explanation, largest first."""
        parts = self.slope * self._read([row])[0] * np.array(self.weights)
        names = [*self.names, *(f"{name}{MISSING}" for name in self.flagged)]
        return _largest_first(dict(zip(names, parts.tolist(), strict=True)))

    def _read(self, rows: Sequence[Evidence]) -> Doubles:
        return standardised(rows, self.names, self.flagged, self.centre, self.scale)


class Confidence(Record):
    """``right``: right against wrong explanations of features; ``arrived``, of two steps: features against nulls.

    ``threshold``: answers are given at or above it. ``report``: what it was fitted on and promises.
    """

    format: Literal[1] = 1
    kind: Literal["dragoman trust"] = TWO_STEPS
    arrived: Step | None = None
    right: Step
    threshold: Number
    report: Mapping[str, Any]

    @classmethod
    def in_one_step(cls, step: Step) -> Confidence:
        """A confidence of one step."""
        return cls(right=step, threshold=step.threshold, report=step.report)

    @property
    def names(self) -> tuple[str, ...]:
        """Evidence either step reads."""
        return self.right.names if self.arrived is None else tuple(sorted({*self.arrived.names, *self.right.names}))

    def predict(self, rows: Sequence[Evidence]) -> Doubles:
        """Probabilities (n,) that each explanation is right; refusals as of a step."""
        right = self.right.predict(rows)
        return right if self.arrived is None else self.arrived.predict(rows) * right

    def why(self, row: Evidence) -> dict[str, float]:
        """What each piece of evidence adds to the log-odds of being right; ``arrived`` is log P(arrived), 0 at best."""
        reasons = self.right.why(row)
        if self.arrived is None:
            return reasons
        return _largest_first(reasons | {"arrived": float(np.log(max(self.arrived.predict([row])[0], 1e-12)))})

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file, where one step stands by itself."""
        data = super().to_json()
        return data if self.arrived is not None else data["right"] | {key: data[key] for key in ("threshold", "report")}


def expit(z: NDArray[Any]) -> Doubles:
    """1 / (1 + e^-z) without overflow; scipy's differs in the last digit, which probabilities in files would show."""
    z = np.asarray(z, dtype=np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def tabled(rows: Sequence[Evidence], names: Sequence[str]) -> Doubles:
    """(n, names) with NaN where missing; refuse infinite numbers."""
    out = np.array([[np.nan if (v := row.get(name)) is None else float(v) for name in names] for row in rows])
    out = out.reshape(len(rows), len(names))
    if np.isinf(out).any():
        name = names[int(np.flatnonzero(np.isinf(out).any(axis=0))[0])]
        raise Refusal(f"evidence '{name}'", "it is infinite", "leave it out (None) where it could not be measured")
    return out


def standardised(
    rows: Sequence[Evidence],
    names: tuple[str, ...],
    flagged: tuple[str, ...],
    centre: tuple[float, ...],
    scale: tuple[float, ...],
) -> Doubles:
    """(n, names + flags): standardised, missing numbers at their mean, then 1 where a flagged one is missing."""
    table = tabled(rows, names)
    gone = np.isnan(table)
    x = np.where(gone, 0.0, (table - np.array(centre)) / np.array(scale))
    flags = gone[:, [names.index(name) for name in flagged]].astype(np.float64)
    return np.column_stack([x, flags])


def _largest_first(parts: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(parts.items(), key=lambda item: -abs(item[1])))
