"""What a comparison of two runs says, typed; as JSON it is the schema ``dragoman.comparison``.

In: values. Out: frozen records, whose estimates name their nulls and tests, and JSON objects. Refuses what
`records.Record` refuses. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dragoman.core import Estimate
from dragoman.records import Record, distrust_of


class Side(Record):
    """One of the two runs: where it is, the digest of its plan, who speaks in it, and how many features it explains.

    ``map_doubt``: what is wrong with its map, where that is unusable; believe no text that it carried.
    """

    run: str
    plan: str
    verbalizers: Mapping[str, str | None]
    features: int
    map_doubt: str | None = None

    @property
    def distrust(self) -> str:
        """The same as it is told; "" where nothing is wrong."""
        return distrust_of(self.map_doubt)


class Differing(Record):
    """A setting, version or digest that the two runs do not share; None where a run does not tell it."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Difference(Estimate):
    """Mean of A less B over features, by one ``measure``.

    ``a``, ``b``: the two means over the features that both have. ``features``: how many (``n`` counts ``unit``).
    ``extra``: ``over_a``, ``over_b``, how many features either number is over, where it depends on the others.
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


class FeatureAgreement(Record):
    """How alike two verbalizers' texts of a feature are (mean cosine over pairs of samples); ``p`` among the nulls.

    ``p``: the largest over the nulls, each of the half that the feature is not in. ``agreed``: p is at most .05.
    """

    feature: str
    likeness: float
    p: float
    agreed: bool


class AgreementOnNull(Record):
    """One ``null`` of so many ``pairs`` of texts.

    ``lines``: under which 95 % of either half's lie. ``share``: of its pairs above the highest line of the other half;
    ``by_dealt``: above the line of dealt texts alone.
    """

    null: str
    pairs: int
    lines: tuple[float, ...]
    share: float
    by_dealt: float | None = None


class AgreementOverNulls(Record):
    """How often two verbalizers agree about a feature, and what of that is left when the nulls' share is taken off.

    ``first``, ``second``: the two runs' numbers, 0 and 1 of two that are compared. ``n``: features held against one
    another. ``share`` of them agreed on, its interval over ``units``. ``null``: the null agreed on most often, and
    ``null_share``. ``corrected``: (share - null share) / (1 - null share), with interval. ``by_dealt``: the share by
    the line of dealt texts alone. ``why``: what is missing, or why there is no verdict; then all numbers are None.
    """

    first: int
    second: int
    n: int
    embedder: str = ""
    share: float | None = None
    low: float | None = None
    high: float | None = None
    units: int = 0
    unit: str = ""
    nulls: tuple[AgreementOnNull, ...] = ()
    null: str | None = None
    null_share: float | None = None
    corrected: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None
    by_dealt: float | None = None
    why: str = ""
    features: tuple[FeatureAgreement, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """It in words: how often on features and on nulls, what is left, what is missing."""
        if self.corrected is None or self.share is None or self.null_share is None:
            return (f"agreement: {self.why}.",)
        told = (
            f"they agree on {self.share:.0%} of {self.n} features [{self.low:.0%}, {self.high:.0%}], on nulls "
            f"{self.null_share:.0%} ({self.null})",
            f"agreement above nulls: {self.corrected:.0%} [{self.corrected_low:.0%}, {self.corrected_high:.0%}]",
        )
        return (*told, f"{self.why}.") if self.why else told


class ConditionPair(Record):
    """A condition of A beside one of B, over the features that both have; ``only_a``, ``only_b``: how many others.

    ``features``: least alike first. ``over_nulls``: agreement of two verbalizers; None where one said both.
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
    over_nulls: AgreementOverNulls | None = None


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


class Rated(Record):
    """One run's mean by one measure, over the features that all runs have.

    ``run``: its number, from 0. ``low``, ``high``: of a 95 % interval over ``n`` units of ``unit``, made as ``method``
    says. ``dealt``: the mean of texts or rows dealt to other features; None where there is no such null. ``place``: 1
    more than how many runs are better and told apart from it; runs that are not share one.
    """

    run: int
    value: float
    low: float
    high: float
    n: int
    unit: str
    method: str
    dealt: float | None
    place: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Contrast(Estimate):
    """Mean of run ``first`` less run ``second``, by number; ``adjusted``: p by Holm over all tests; ``holds``."""

    first: int
    second: int
    adjusted: float
    holds: bool


class RankedMeasure(Record):
    """All runs by one measure, over so many ``features``; ``best``: the run of the best mean, told apart or not.

    ``fewer``: whether less of it is better. ``contrasts``: every pair of runs.
    """

    measure: str
    features: int
    fewer: bool
    best: int
    rated: tuple[Rated, ...]
    contrasts: tuple[Contrast, ...]

    @property
    def tied(self) -> bool:
        """Whether no two runs are told apart."""
        return not any(one.holds for one in self.contrasts)

    def to_best(self, run: int) -> Contrast | None:
        """The contrast of a run with the best one; None for that itself."""
        return next((one for one in self.contrasts if {one.first, one.second} == {run, self.best}), None)


class RankedCondition(Record):
    """All runs by every measure that all of them have; ``conditions``: whose texts, one a run.

    ``over_nulls``: agreement of every two runs of different verbalizers.
    """

    conditions: tuple[str, ...]
    n: int
    measures: tuple[RankedMeasure, ...]
    missing: tuple[Missing, ...]
    over_nulls: tuple[AgreementOverNulls, ...] = ()


class Ranking(Record):
    """Several runs of one dictionary in one table, a verbalizer each.

    ``names``: of the verbalizers. ``tests``: of differences of any two runs, which p is adjusted over.
    """

    source: str
    names: tuple[str, ...]
    runs: tuple[Side, ...]
    targets: tuple[str, ...]
    conditions: tuple[RankedCondition, ...]
    tests: int
    method: str
    level: float
    seed: int

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Who is ranked, and over how many tests: what a notebook shows."""
        return [("names", list(self.names)), ("tests", self.tests)]
