"""Several confidences in one file, each for what is known of an explanation: the first that applies gives its word.

In: ``Confidence``s and the evidence each cannot do without; evidence. Out: ``Judged``, a probability with the reasons
for it, or None where no kit applies. Refuses kits that share a name or are none, and files that hold anything else.

How much is known differs from run to run: one has contexts, another a reconstructor, a third several samples. A number
that was always there when a confidence was fitted must not be made up where it is missing, hence the order of kits:
those that need most come first, the barest last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.score.confidence import Confidence
from dragoman.score.evidence import Evidence
from dragoman.score.trust import KIND as TRUST
from dragoman.score.trust import Trust
from dragoman.store import read_json, write_json

FORMAT = 1
KIND = "dragoman confidences"
REASONS = 3
LARGEST = 1e100  # of numbers in a file; products of two stay finite
_LISTS = ("names", "flagged", "centre", "scale", "weights")
_NUMBERS = ("intercept", "slope", "offset", "threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One explanation's chance of being right, by the kit ``kit``.

    ``answered``: it reaches the kit's threshold, so the text is given out; else dragoman abstains. ``why``: what
    weighed most, name -> log-odds added to those of an average explanation, largest first.
    """

    probability: float
    answered: bool
    kit: str
    why: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a page or a file; ``why`` is a list, since objects in a file have no order to rely on."""
        return asdict(self) | {"why": [{"evidence": name, "adds": adds} for name, adds in self.why.items()]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A confidence by name, in one step or in two. ``needs``: evidence that must all be there for it to be used.

    ``confidence.report["fitted_on"]`` says in words on what it was fitted, where somebody wrote that down.
    """

    name: str
    needs: tuple[str, ...]
    confidence: Confidence | Trust

    def applies(self, row: Evidence) -> bool:
        """Whether all it needs is there, and anything that it reads."""
        there = all(row.get(name) is not None for name in self.needs)
        return there and any(row.get(name) is not None for name in self.confidence.names)

    def told(self) -> dict[str, Any]:
        """What a page says of it: ``needs``, ``reads``, ``threshold``, and ``fitted_on``, ``n``, ``right``."""
        report = {key: self.confidence.report.get(key) for key in ("fitted_on", "n", "right")}
        reads = list(self.confidence.names)
        return {"needs": list(self.needs), "reads": reads, "threshold": self.confidence.threshold, **report}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kits:
    """Kits in the order they are tried."""

    kits: tuple[Kit, ...]

    @classmethod
    def of(cls, kits: Mapping[str, tuple[Sequence[str], Confidence | Trust]]) -> Kits:
        """From name -> (needs, confidence), in order.

        Raises:
            Refusal: there is none.
        """
        if not kits:
            raise Refusal("a collection of no confidences", "it could judge nothing", "put one into it")
        return cls(kits=tuple(Kit(name=n, needs=tuple(needs), confidence=c) for n, (needs, c) in kits.items()))

    def predict(self, rows: Sequence[Evidence]) -> list[Judged | None]:
        """One word per explanation, of the first kit that applies to it; None where none does."""
        return [self._judged(row) for row in rows]

    def _judged(self, row: Evidence) -> Judged | None:
        kit = next((one for one in self.kits if one.applies(row)), None)
        if kit is None:
            return None
        (probability,) = kit.confidence.predict([row]).tolist()
        why = dict(islice(kit.confidence.why(row).items(), REASONS))
        return Judged(probability=probability, answered=probability >= kit.confidence.threshold, kit=kit.name, why=why)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``from_dict`` reads it."""
        kits = [{"name": k.name, "needs": list(k.needs), "confidence": k.confidence.to_dict()} for k in self.kits]
        return {"format": FORMAT, "kind": KIND, "kits": kits}

    @classmethod
    def from_dict(cls, told: object, what: str = "confidences") -> Kits:
        """What ``to_dict`` gave, also after JSON.

        Raises:
            Refusal: anything else, in one sentence that begins with ``what``.
        """
        if not isinstance(told, Mapping) or told.get("kind") != KIND or told.get("format") != FORMAT:
            raise Refusal(
                what, f"it is not a collection of confidences in format {FORMAT}", "use one that this version wrote"
            )
        kits = told.get("kits")
        damaged = Refusal(what, "its confidences are damaged", "fetch or fit them again")
        if not isinstance(kits, list) or not all(isinstance(kit, Mapping) and _whole(kit) for kit in kits):
            raise damaged
        made = {kit["name"]: (tuple(kit["needs"]), _read(kit["confidence"])) for kit in kits}
        if len(made) != len(kits) or not made:
            raise damaged
        return cls.of(made)

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> Kits:
        """Read what ``save`` wrote; refuse anything else."""
        return cls.from_dict(read_json(path), str(path))


def _whole(kit: Mapping[str, Any]) -> bool:
    """Whether a kit of a file has all its parts, of the right kind and length, and no number that is none."""
    told, name, needs = kit.get("confidence"), kit.get("name"), kit.get("needs")
    if not (isinstance(name, str) and name and _texts(needs) and isinstance(told, Mapping)):
        return False
    if told.get("kind") != TRUST:
        return _whole_step(told)
    parts = [told.get(key) for key in ("arrived", "right")]
    steps = all(isinstance(step, Mapping) and _whole_step(step) for step in parts)
    return steps and _number(told.get("threshold")) and isinstance(told.get("report"), Mapping)


def _read(told: Mapping[str, Any]) -> Confidence | Trust:
    return Trust.from_dict(told) if told["kind"] == TRUST else Confidence.from_dict(told)


def _whole_step(told: Mapping[str, Any]) -> bool:
    """The same of one confidence."""
    if set(told) != {"format", "kind", "report", *_LISTS, *_NUMBERS} or not isinstance(told["report"], Mapping):
        return False
    names, flagged, centre, scale, weights = (told[key] for key in _LISTS)
    if not (_texts(names) and _texts(flagged) and names and set(flagged) <= set(names)):
        return False
    if not all(isinstance(values, list) and all(map(_number, values)) for values in (centre, scale, weights)):
        return False
    fits = len(centre) == len(scale) == len(names) and len(weights) == len(names) + len(flagged)
    return fits and all(scale) and all(_number(told[key]) for key in _NUMBERS)


def _texts(told: object) -> bool:
    return isinstance(told, list) and all(isinstance(text, str) for text in told)


def _number(told: object) -> bool:
    if not isinstance(told, int | float) or isinstance(told, bool):
        return False
    return abs(told) < LARGEST and math.isfinite(told)
