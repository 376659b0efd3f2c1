"""Several confidences in one file, each for what is known of an explanation: the first that applies is used.

In: ``Confidence``s and the evidence each cannot do without; evidence. Out: ``Prediction``, a probability with the
reasons for it, or None where no member applies. Refuses a set without members or with two of one name, and files that
hold anything else.

How much is known differs from run to run: one has contexts, another a reconstructor, a third several samples. A number
that was always there when a confidence was fitted must not be made up where it is missing, hence the order of members:
those that need most come first, the barest last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.model import STEP, TWO_STEPS, Confidence
from dragoman.core import Refusal
from dragoman.records import Record
from dragoman.store import read_json, write_json

FORMAT = 1
KIND = "dragoman confidences"
REASONS = 3


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
    """Members in the order they are tried."""

    members: Annotated[tuple[Member, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({member.name for member in self.members}) < len(self.members):
            raise ValueError("two members have one name")
        return self

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
        return {"format": FORMAT, "kind": KIND, "kits": kits}

    @classmethod
    def from_json(cls, data: object, what: str = "confidences") -> ConfidenceSet:
        """What ``to_json`` gave, also after JSON.

        Raises:
            Refusal: anything else, in one sentence that begins with ``what``.
        """
        if not isinstance(data, Mapping) or data.get("kind") != KIND or data.get("format") != FORMAT:
            raise Refusal(what, f"it is not a set of confidences in format {FORMAT}", "use one that this version wrote")
        members = data.get("kits")
        ready = [_in_steps(one) for one in members] if isinstance(members, list) else members
        try:
            return cls.of({"members": ready}, what)
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
