"""What ``scores.json`` holds, typed.

In: JSON text, or values. Out: frozen records, whose estimates name their nulls, and JSON objects to write. Refuses what
`records.Record` refuses, and another format: scores can be made anew from the rows at any time. Computes nothing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from dragoman.core import Estimate, Refusal, harmless
from dragoman.records import Record

FORMAT = 2
Chance = Annotated[float, Field(ge=0, le=1)]
NoAnswer = Literal["no line", "below the line", "row not measured", "row does not stand out"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PairedDifference(Estimate):
    """An estimate of the difference of two conditions; ``what`` says which from which."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NamingRate(Estimate):
    """Share of texts that name the planted category; ``random``: the same of random directions' texts."""

    random: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DetectionRate(Estimate):
    """Mean AUROC of a condition's texts over ``features`` (``n`` counts ``unit``, categories where they share them)."""

    condition: str
    features: int


class BareRate(Record):
    """A naming rate without random directions to compare it with."""

    value: float
    n: int
    random: None = None


class Compared(Record):
    """How many features were ``drawn``, of how many ``features``, for estimates that compare each with all others."""

    drawn: int
    features: int


class ConditionScores(Record):
    """One line of the table: lift over other features, share of texts that name the planted category."""

    condition: str
    route: str | None = None
    washout: str | None = None
    verbalizer: str | None = None
    lift: Estimate | None = None
    category: NamingRate | BareRate | None = None


class FeatureScore(Record):
    """One feature's lift, and whether its text names its category; None where that could not be had."""

    feature: str
    lift: float | None = None
    names_category: bool | None = None


class AgainstNull(Record):
    """One condition against one null: the post's lift, the centred lift, retrieval of the own native."""

    lift: Estimate
    centred: Estimate
    top1: Estimate
    mrr: Estimate


class LiftBy(Record):
    """A condition's lift by one further embedder: the post's, and centred."""

    lift: Estimate
    centred: Estimate


class Embedders(Record):
    """Lifts by every embedder.

    ``names``: the first is the one of the table; ``lifts``: further embedder -> condition; ``agree``: claim -> whether
    all have the first one's sign; ``summary``: that in a sentence.
    """

    names: tuple[str, ...]
    lifts: Mapping[str, Mapping[str, LiftBy]]
    agree: Mapping[str, bool]
    summary: str


class AdjustedTest(Record):
    """One test: its p, the adjusted one, and whether that is at most the level."""

    condition: str
    embedder: str
    p: float
    adjusted: float
    holds: bool


class Adjusted(Record):
    """All tests of lift as one family."""

    method: str
    level: float
    tests: tuple[AdjustedTest, ...]


class Power(Record):
    """Features that the next study needs to find a paired difference (see ``stats.power.Needed``)."""

    what: str
    n: int
    low: int
    high: int
    lift: float
    sd: float
    design_effect: float
    power: float
    level: float
    observed: int
    detectable: float


class Ceiling(Record):
    """Lift of one native sample over another, and each condition's share of it."""

    ceiling: Estimate
    share: Mapping[str, Estimate]


class FeatureDetection(Record):
    """One feature's AUROC with its interval, over so many ``firing`` and ``silent`` windows."""

    feature: str
    auroc: float
    low: float
    high: float
    firing: int
    silent: int


class Detection(Record):
    """Do texts tell windows where their features fire from others?"""

    embedder: str
    table: tuple[DetectionRate, ...]
    per_feature: Mapping[str, tuple[FeatureDetection, ...]]


class LabelScores(Record):
    """Do labels from contexts tell where features fire, in windows that they were not made from? And the run's texts?

    ``model``: which made the labels; ``label``: what ``table`` and ``per_feature`` call them. ``over``: by how much the
    texts of each condition do better than the labels, each less what dealt ones reach on the same windows.
    """

    embedder: str
    model: str
    label: str
    table: tuple[DetectionRate, ...]
    over: tuple[PairedDifference, ...]
    per_feature: Mapping[str, tuple[FeatureDetection, ...]]


class ReconstructionRow(Record):
    """What a reconstructor made of one condition's ``n`` texts."""

    condition: str
    n: int
    cosine: Estimate
    cosine_over_shuffled: Estimate
    fve: Estimate
    top1: Estimate
    mrr: Estimate


class FeatureReadBack(Record):
    """One text read back: ``rank`` of its own direction, and the id of the ``nearest`` one."""

    feature: str
    cosine: float
    lift: float
    rank: int
    nearest: str


class Reconstruction(Record):
    """What a reconstructor at ``site`` made of the texts; ``identity``: what decides its vectors."""

    reconstructor: str
    site: str
    identity: Mapping[str, Any]
    table: tuple[ReconstructionRow, ...]
    per_feature: Mapping[str, tuple[FeatureReadBack, ...]]


class Reason(Record):
    """What one piece of evidence adds to the log-odds of an average explanation."""

    evidence: str
    adds: float


class FeatureConfidence(Record):
    """One text's chance of being right by a ``member`` of the set; not ``answered`` is an abstention."""

    feature: str
    probability: Chance
    answered: bool
    member: str
    why: tuple[Reason, ...]


class MemberReport(Record):
    """A member of the set that was used: what it ``needs`` and ``reads``, and what it was fitted on."""

    needs: tuple[str, ...]
    reads: tuple[str, ...]
    threshold: float
    fitted_on: str | None = None
    n: int | None = None
    right: int | None = None


class ConfidenceScores(Record):
    """The confidence in every text; features for which no member applies are left out."""

    embedder: str
    members: Mapping[str, MemberReport]
    per_feature: Mapping[str, tuple[FeatureConfidence, ...]]


class ClaimStatus(Record):
    """One sentence of a text, and whether where its feature fires bears it out.

    ``sentence``: as the text has it. ``kind``: it speaks of a theme, of salient words, or of the final token.
    ``quoted``: the words it quotes. ``status``: "unchecked" where there is too little to check it by. ``why``: in one
    clause. ``figures``: what was measured, and what the line was. By a calibration besides, ``probability``: that
    held-out documents bear it out; ``answered``: that is enough for an answer; ``unanswered``: the first reason why
    not, None too where scores were written before it was kept. ``figures`` then hold ``answer_line``, or the share of
    fake latents that stand out, ``fakes_stand_out``.
    """

    sentence: str
    kind: Literal["theme", "words", "token"]
    status: Literal["supported", "unsupported", "unchecked"]
    why: str
    figures: Mapping[str, float] = {}
    quoted: tuple[str, ...] = ()
    probability: Chance | None = None
    answered: bool | None = None
    unanswered: NoAnswer | None = None


class CalibrationSummary(Record):
    """The calibration that sentences' probabilities are by: one line of it, its line for answers, on what, when."""

    told: str
    line: float | None
    on: str
    when: str


class FeatureClaims(Record):
    """The sentences of one feature's first text; ``label``: a short one, of the supported ones alone, else ""."""

    feature: str
    label: str
    claims: tuple[ClaimStatus, ...]


class Passage(Record):
    """What the source's model wrote from a text, its beginning, and the feature's largest activation on all of it."""

    text: str
    peak: float


class FeatureGenerated(Record):
    """What was written from one feature's first text."""

    feature: str
    passages: tuple[Passage, ...]


class FeatureMeasures(Record):
    """What only models tell of one feature, None where it was not measured.

    ``window_lift``: its text's likeness to its own windows less that to other features'. ``steering``: the share of
    other features whose words its carried row raises less than its own.
    """

    feature: str
    window_lift: float | None = None
    steering: float | None = None


def _beside_dealt(measure: Estimate | None) -> str:
    if measure is None:
        return ""
    dealt = measure.extra.get("dealt")
    return f"{measure.value:.3f}" + ("" if dealt is None else f" (dealt {dealt:.3f})")


class Lifts(dict[str, Estimate]):
    """Lift by condition, whose names are told where another is asked for."""

    def __missing__(self, condition: str) -> Estimate:
        """Refuse a condition that has no lift.

        Raises:
            Refusal: naming those that have one.
        """
        there = ", ".join(self) or "none"
        raise Refusal(
            f"lift of condition '{str(condition)[:40]}'", f"those with a lift are: {there}", "name one of them"
        )


class Scores(Record):
    """What a run's texts are worth: ``scores.json``. Parts that could not be had are None or empty.

    ``rule``: when a text names a category. ``per_feature``, ``nulls``, ``claims``: by condition, nulls then by name.
    ``window_lift``: by condition, where there are no natives but windows in which features fire. ``measures``: by
    condition, then ``firing_word``, ``final_token``, ``lens_overlap``, ``steering``, ``generation``: what texts and
    rows say of features, each with what the same ones reach when dealt to other features as ``extra["dealt"]``.
    ``calibration``: by which sentences have probabilities. ``generated``: by condition, what the source's model wrote
    from the texts. ``measured``: of ``window_lift`` and of steering, each feature's own, by condition. ``plan_digest``:
    of the run they are of, which the run's folder writes and compares. ``compared``: where a run has more features than
    are compared with one another, on how many drawn ones every estimate is made; what is told of single features is
    told of all of them.
    """

    format: Literal[2]
    plan_digest: str | None = None
    compared: Compared | None = None
    embedder: str | None = None
    seed: int | None = None
    rule: str | None = None
    table: tuple[ConditionScores, ...] = ()
    paired: tuple[PairedDifference, ...] = ()
    per_feature: Mapping[str, tuple[FeatureScore, ...]] = {}
    nulls: Mapping[str, Mapping[str, AgainstNull]] = {}
    embedders: Embedders | None = None
    adjusted: Adjusted | None = None
    power: tuple[Power, ...] = ()
    ceiling: Ceiling | None = None
    detection: Detection | None = None
    context_labels: LabelScores | None = None
    window_lift: Mapping[str, Estimate] = {}
    measures: Mapping[str, Mapping[str, Estimate]] = {}
    measured: Mapping[str, tuple[FeatureMeasures, ...]] = {}
    reconstruction: Reconstruction | None = None
    confidence: ConfidenceScores | None = None
    claims: Mapping[str, tuple[FeatureClaims, ...]] = {}
    calibration: CalibrationSummary | None = None
    generated: Mapping[str, tuple[FeatureGenerated, ...]] = {}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Which conditions, and which parts there are: what a notebook shows."""
        parts = (
            "measures",
            "native_lift",
            "window_lift",
            "category",
            "paired",
            "nulls",
            "embedders",
            "ceiling",
            "detection",
            "context_labels",
        )
        parts = (*parts, "reconstruction", "confidence", "claims", "generated")
        conditions = [row.condition for row in self.table] or list(self.window_lift)
        return [("conditions", conditions), ("parts", [name for name in parts if getattr(self, name)])]

    def _repr_html_(self) -> str:
        """A line a condition: lift, category, measures, each measure beside what dealt ones reach; for a notebook."""
        lifts, rates = self.lift, self.category
        conditions = dict.fromkeys([*(row.condition for row in self.table), *lifts, *self.measures])
        measured = list(dict.fromkeys(name for some in self.measures.values() for name in some))
        head = ["condition", *(["lift"] if lifts else []), *(["category"] if rates else []), *measured]
        lines = [
            [
                name,
                *([str(lifts[name]) if name in lifts else ""] if lifts else []),
                *([f"{rates[name].value:.0%}" if name in rates else ""] if rates else []),
                *(_beside_dealt(self.measures.get(name, {}).get(one)) for one in measured),
            ]
            for name in conditions
        ]
        cells = ["".join(f"<td>{html.escape(harmless(cell))}</td>" for cell in line) for line in lines]
        body = "".join(f"<tr>{line}</tr>" for line in cells)
        top = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in head)
        paired = "".join(f"<p>{html.escape(harmless(one.what))}: {html.escape(repr(one))}</p>" for one in self.paired)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{paired}"

    @classmethod
    def read(cls, text: str | bytes, where: str) -> Self:
        """Scores from JSON text; refuse anything else, and another format, by the name of its file."""
        try:
            return super().read(text, where)
        except Refusal as refusal:
            raise Refusal(refusal.what, refusal.why, "score the run again with this version") from refusal

    @classmethod
    def of(cls, told: object, where: str) -> Self:
        """Scores from a JSON object that is parsed already; refusals as of `read`."""
        return cls.read(json.dumps(told), where)

    def to_json(self) -> dict[str, object]:
        """What was scored, as it is written; parts nobody asked for are left out."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def lift(self) -> Lifts:
        """Lift by condition: over native texts of other features, else over windows of other features."""
        return Lifts(self.native_lift or self.window_lift)

    @property
    def native_lift(self) -> dict[str, Estimate]:
        """Lift over other features' native texts by condition, where there is one."""
        return {row.condition: row.lift for row in self.table if row.lift is not None}

    @property
    def category(self) -> dict[str, NamingRate | BareRate]:
        """Share that names the planted category by condition, where there is one."""
        return {row.condition: row.category for row in self.table if row.category is not None}
