"""What a comparison of two runs says, typed; as JSON it is the schema ``dragoman.comparison``.

In: values. Out: frozen records, whose estimates name their nulls and tests, and JSON objects. Refuses what
`records.Record` refuses. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dragoman.core import Estimate
from dragoman.records import Record


class Side(Record):
    """One of the two runs: where it is, the digest of its plan, who speaks in it, and how many features it explains."""

    run: str
    plan: str
    verbalizers: Mapping[str, str | None]
    features: int


class Differing(Record):
    """A setting, version or digest that the two runs do not share; None where a run does not tell it."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Difference(Estimate):
    """Mean of A less B over features, by one ``measure``.

    ``a``, ``b``: the two means over the features that both have. ``features``: how many (``n`` counts ``unit``).
    ``adjusted``: p by Holm over all tests of the comparison; ``holds``: whether that is at most the level.
    """

    measure: str
    a: float
    b: float
    features: int
    adjusted: float
    holds: bool


class Missing(Record):
    """A measure that the two runs cannot be compared by, and why."""

    measure: str
    why: str


class Agreement(Record):
    """How alike the texts of one feature are.

    ``same``: of ``n`` pairs of texts, how many are the same to the letter. ``likeness``: by words, of a feature's two
    texts, less that with the other run's texts of other features; None of fewer than three features. ``embedder``: by
    which words are weighed.
    """

    n: int
    same: int
    likeness: Estimate | None
    embedder: str


class FeaturePair(Record):
    """One feature: how alike its two texts are by words, -1 to 1, and its numbers in either run, by measure."""

    feature: str
    likeness: float
    a: Mapping[str, float]
    b: Mapping[str, float]


class ConditionPair(Record):
    """A condition of A beside one of B, over the features that both have; ``only_a``, ``only_b``: how many others.

    ``features``: least alike first.
    """

    a: str
    b: str
    n: int
    only_a: int
    only_b: int
    differences: tuple[Difference, ...]
    missing: tuple[Missing, ...]
    agreement: Agreement
    features: tuple[FeaturePair, ...]


class Comparison(Record):
    """Two runs, or two conditions of one, paired by feature.

    ``tests``: how many tests of difference were made, which p is adjusted over. ``method``, ``level``: of that.
    ``seed``: of bootstrap and flips.
    """

    source: str
    target: str
    a: Side
    b: Side
    differing: tuple[Differing, ...]
    pairs: tuple[ConditionPair, ...]
    tests: int
    method: str
    level: float
    seed: int

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Which conditions, how many tests, and what is told apart: what a notebook shows."""
        apart = [f"{pair.a}: {one.measure}" for pair in self.pairs for one in pair.differences if one.holds]
        return [("conditions", [(pair.a, pair.b) for pair in self.pairs]), ("tests", self.tests), ("apart", apart)]
