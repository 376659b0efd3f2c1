"""One probability per explanation that it is right, from what is known of it without knowing the answer.

In: evidence. Out: probabilities with their reasons, ``Prediction``s of the first member of a set that applies; JSON and
back. Refuses evidence that shares no name with what was fitted on, numbers that are not finite, a set without members
or with two of one name, and files whose parts do not fit one another or that hold anything else.

A confidence has one step, right against wrong explanations, or a second one before it, features against nulls: did the
vector arrive at all? A model fitted on features alone gives some nulls a high probability; one fitted on both spends
its weights on telling nulls apart, and is worse on features. The product P(arrived) P(right | arrived) does both.

How much is known differs from run to run: one has contexts, another a reconstructor, a third several samples. A number
that was always there when a confidence was fitted must not be made up where it is missing, so a set holds several: the
members that need most come first, the barest last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dragoman.confidence.evidence import MISSING, Evidence
from dragoman.core import Refusal, Site, is_format
from dragoman.records import Record
from dragoman.store import read_json, write_json

Doubles = NDArray[np.float64]
# Of numbers in a file: finite, and products of two stay so.
Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e100, lt=1e100)]
STEP, TWO_STEPS = "dragoman confidence", "dragoman trust"  # kinds in a file
FORMAT = 1
KIND = "dragoman confidences"
REASONS = 3
_LEAST_SCALE = 1e-30


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
        if not set(self.flagged) <= set(self.names) or len(set(self.names)) < width:
            raise ValueError("flags are names, and no name stands twice")
        if min(self.scale) < _LEAST_SCALE:
            raise ValueError("scales are standard deviations, above 0")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One explanation's chance of being right, by the member ``member``.

    ``answered``: it reaches the member's threshold, so the text is given out; else dragoman abstains. ``why``: what
    weighed most, name -> log-odds added to those of an average explanation, largest first.
    """

    probability: float
    answered: bool
    member: str
    why: dict[str, float]


class Member(Record):
    """A confidence by name. ``needs``: evidence that must all be there for it to be used.

    ``confidence.report["fitted_on"]`` says in words on what it was fitted, where somebody wrote that down.
    """

    name: Annotated[str, Field(min_length=1)]
    needs: tuple[str, ...]
    confidence: Confidence

    def applies(self, row: Evidence) -> bool:
        """Whether all it needs is there, and anything that it reads."""
        there = all(row.get(name) is not None for name in self.needs)
        return there and any(row.get(name) is not None for name in self.confidence.names)

    def predict(self, row: Evidence) -> Prediction:
        """For an explanation it applies to."""
        (probability,) = self.confidence.predict([row]).tolist()
        return Prediction(
            probability=probability,
            answered=probability >= self.confidence.threshold,
            member=self.name,
            why=dict(islice(self.confidence.why(row).items(), REASONS)),
        )


class ConfidenceSet(Record):
    """Members in the order they are tried. ``sites``: source and target they were calibrated on, if known."""

    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    sites: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({member.name for member in self.members}) < len(self.members):
            raise ValueError("two members have one name")
        _ = self.pair
        return self

    @property
    def pair(self) -> tuple[Site, Site] | None:
        """``sites``, as sites."""
        return None if self.sites is None else (Site.parse(self.sites[0]), Site.parse(self.sites[1]))

    @classmethod
    def holding(cls, members: Mapping[str, tuple[Sequence[str], Confidence]]) -> ConfidenceSet:
        """From name -> (needs, confidence), in order.

        Raises:
            Refusal: there is none.
        """
        if not members:
            raise Refusal("a set of no confidences", "it could judge nothing", "put one into it")
        made = (Member(name=n, needs=tuple(needs), confidence=c) for n, (needs, c) in members.items())
        return cls(members=tuple(made))

    def member_for(self, row: Evidence) -> Member | None:
        """The first that applies."""
        return next((member for member in self.members if member.applies(row)), None)

    def predict(self, rows: Sequence[Evidence]) -> list[Prediction | None]:
        """One prediction per explanation, of the first member that applies to it; None where none does."""
        found = ((row, self.member_for(row)) for row in rows)
        return [None if member is None else member.predict(row) for row, member in found]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file; ``from_json`` reads it."""
        kits = [{"name": m.name, "needs": list(m.needs), "confidence": m.confidence.to_json()} for m in self.members]
        sites = {} if self.sites is None else {"sites": list(self.sites)}
        return {"format": FORMAT, "kind": KIND, **sites, "kits": kits}

    @classmethod
    def from_json(cls, data: object, what: str = "confidences") -> ConfidenceSet:
        """What ``to_json`` gave, also after JSON.

        Raises:
            Refusal: anything else, in one sentence that begins with ``what``.
        """
        if not isinstance(data, Mapping) or data.get("kind") != KIND or not is_format(data.get("format"), FORMAT):
            raise Refusal(what, f"it is not a set of confidences in format {FORMAT}", "use one that this version wrote")
        members = data.get("kits")
        ready = [_in_steps(one) for one in members] if isinstance(members, list) else members
        try:
            return cls.of({"members": ready, "sites": data.get("sites")}, what)
        except Refusal as refusal:
            raise Refusal(what, f"its confidences are damaged ({refusal.why})", "fetch or fit them again") from refusal

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> ConfidenceSet:
        """Read what ``save`` wrote; refuse anything else."""
        return cls.from_json(read_json(path), str(path))


def _in_steps(member: object) -> object:
    """A member of a file with its confidence's steps named; one step stands by itself there."""
    found = member.get("confidence") if isinstance(member, Mapping) else None
    if not isinstance(member, Mapping) or not isinstance(found, Mapping) or found.get("kind") != STEP:
        return member
    whole = {"kind": TWO_STEPS, "right": found} | {key: found.get(key) for key in ("threshold", "report")}
    return {**member, "confidence": whole}
