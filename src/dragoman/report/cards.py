"""One card per direction: the texts of every condition, how it crossed, what was read back.

In: a run's records. Out: ``FeatureCard``, one per direction. Refuses nothing: what the scores lack is left empty.
Computes no number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dragoman.neuronpedia import short_label
from dragoman.records import Card, PromptToken, Reading, Row
from dragoman.report import figures
from dragoman.report.claims import Piece, claims_by_row, paragraphs
from dragoman.report.evidence import Evidence, evidence_of, windows_of
from dragoman.report.lit import Lit
from dragoman.report.opened import FeatureInfo, ShownRun
from dragoman.report.words import DIAGNOSTICS, SHARES, SHOWN, UNMAPPED, in_order, spokesman, title
from dragoman.scores import FeatureClaims, FeatureConfidence, FeatureReadBack, FeatureScore

BESIDE = 4  # texts side by side on a card; further conditions are folded
GIST = 150  # characters of the line that stands for a folded card
_SIGNED = ("margin", "agreement", "home_margin", "home_agreement")
_UNKNOWN = FeatureInfo(category="")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionTexts:
    """One condition's rows on one direction, samples in order, and what is known of the first.

    ``reading``: which of the feature's two it is, if any. ``slot``: its mark in the figure. ``among``: how many
    directions ``read_back`` ranks. ``status``: its card's, or "no map" where it read another vector than the map's
    image, which statuses are of; empty without a card, and of a reading, as it is of both. ``claims``: of the first
    sample. ``evidence``: of a reading. ``absent``: why it has no row.
    """

    condition: str
    reading: Reading | None
    slot: int | None
    rows: Sequence[Row]
    score: FeatureScore | None
    read_back: FeatureReadBack | None
    among: int | None
    confidence: FeatureConfidence | None
    claims: FeatureClaims | None
    evidence: Evidence
    absent: str
    status: str

    @property
    def title(self) -> str:
        """What stands over its text."""
        return title(self.condition) if self.reading else self.condition

    @property
    def short(self) -> str:
        """The label made of the sentences that the evidence supports; "" where there is none."""
        return self.claims.label if self.claims else ""

    def pieces(self, row: Row) -> list[list[Piece]]:
        """A row's paragraphs, with what was checked of its sentences if it is the first sample."""
        return paragraphs(row.text, self.claims.claims if self.claims and row.sample == 0 else ())

    @property
    def card(self) -> Card | None:
        """The diagnostics of the direction that was read."""
        return self.rows[0].card if self.rows else None

    @property
    def lift(self) -> float | None:
        """The first sample's lift."""
        return self.score.lift if self.score else None

    @property
    def names_category(self) -> bool | None:
        """Whether the first sample names the planted category."""
        return self.score.names_category if self.score else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """How a direction came to the target, once for the ``conditions`` that share the ``card``.

    ``unmapped``: the conditions among them that read another vector than the map's image, which a status is of;
    ``readings``: whether they are a feature's readings, which share all of this.
    """

    conditions: Sequence[str]
    card: Card
    unmapped: Sequence[str]
    readings: bool

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """Each diagnostic's key and value as written."""
        return [(key, _written(key, value)) for key in DIAGNOSTICS if (value := getattr(self.card, key)) is not None]

    @property
    def unknown(self) -> list[str]:
        """Keys of the diagnostics that could not be had."""
        return [key for key in DIAGNOSTICS if getattr(self.card, key) is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLabelShown:
    """What ``model`` said from texts in which a feature fires; ``areas``: of it and of texts, on windows held back."""

    label: str
    model: str
    areas: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCard:
    """Everything the page says of one direction; ``anchor`` is its place, ``head`` the text that speaks for it.

    ``windows``: of the texts that were read, where it fires most, strongest first; of a run without readings.
    ``token``: of an activation, where it was read. ``context_label``: no verbalizer's, where one was made.
    """

    id: str
    anchor: str
    name: str
    label: str
    category: str
    tokens: Sequence[str]
    windows: Sequence[Sequence[Lit]]
    shown: Sequence[ConditionTexts]
    folded: Sequence[ConditionTexts]
    crossed: Sequence[Crossed]
    head: ConditionTexts
    gist: str
    status: str
    control: bool
    flagged: bool
    token: PromptToken | None = None
    context_label: ContextLabelShown | None = None

    @property
    def marks(self) -> str:
        """What the page can be filtered by besides status and category."""
        confidence, read_back = self.head.confidence, self.head.read_back
        there = {
            "flagged": self.flagged,
            "missed": self.head.names_category is False,
            "named": self.head.names_category is True,
            "astray": read_back is not None and read_back.rank > 1,
            "answered": confidence is not None and confidence.answered,
            "abstained": confidence is not None and not confidence.answered,
        }
        return " ".join(mark for mark, is_there in there.items() if is_there)


def feature_cards(run: ShownRun, slots: Mapping[str, int]) -> list[FeatureCard]:
    """One card per direction, in the order of its rows; ``slots``: the figure's mark of each condition that has one."""
    lookup = _Lookup(run, slots)
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in run.rows:
        grouped.setdefault(row.feature, {}).setdefault(row.condition, []).append(row)
    return [_card(feature, where, rows, lookup) for where, (feature, rows) in enumerate(grouped.items())]


def wrote_more(row: Row) -> bool:
    """Whether a verbalizer wrote more than the text taken from it and tags around that."""
    return re.sub(r"</?\w{1,20}>", "", row.raw).strip() not in ("", row.text.strip())


class _Lookup:
    """What scores and manifest know, by condition and feature."""

    def __init__(self, run: ShownRun, slots: Mapping[str, int]) -> None:
        scores = run.scores
        self.run, self.slots = run, slots
        self.routes = {entry.name: entry.route for entry in run.conditions}
        self.readings: dict[str, Reading | None] = {
            entry.name: entry.reading for entry in run.conditions if entry.reading == entry.name
        }
        self.claims = claims_by_row(scores)
        self.scores = {(c, one.feature): one for c, some in scores.per_feature.items() for one in some}
        back, sure = scores.reconstruction, scores.confidence
        by_windows = scores.context_labels.per_feature if scores.context_labels else {}
        self.areas = {name: {one.feature: one.auroc for one in some} for name, some in by_windows.items()}
        self.among = {row.condition: row.n for row in back.table} if back else {}
        self.read_back = {(c, one.feature): one for c, some in back.per_feature.items() for one in some} if back else {}
        self.sure = {(c, one.feature): one for c, some in sure.per_feature.items() for one in some} if sure else {}

    def texts(self, feature: str, condition: str, rows: Sequence[Row]) -> ConditionTexts:
        """One condition's rows on one direction; none where the run does not have it."""
        rows, at = sorted(rows, key=lambda row: row.sample), (condition, feature)
        card, reading = rows[0].card if rows else None, self.readings.get(condition)
        status = "" if card is None or reading else "no map" if self.unmapped(condition, card) else card.status
        return ConditionTexts(
            condition=condition,
            reading=reading,
            slot=self.slots.get(condition),
            rows=rows,
            score=self.scores.get(at),
            read_back=self.read_back.get(at),
            among=self.among.get(condition),
            confidence=self.sure.get(at),
            claims=self.claims.get(at),
            evidence=evidence_of(self.run, feature, condition, card) if reading and rows else Evidence(),
            absent=self.run.manifest.absent(feature, condition) or "not in this run",
            status=status,
        )

    def context_label(self, feature: str) -> ContextLabelShown | None:
        """The label that was made from windows in which it fires."""
        if feature not in self.run.labels:
            return None
        return ContextLabelShown(
            label=self.run.labels[feature].label,
            model=self.run.labelled_by,
            areas=[(title(name), by[feature]) for name, by in self.areas.items() if feature in by],
        )

    def unmapped(self, condition: str, card: Card) -> bool:
        """Whether a condition read something else than the map's image, which is what statuses are of."""
        return condition not in self.readings and (card.route or self.routes.get(condition)) in UNMAPPED


def _card(feature: str, where: int, by_condition: Mapping[str, list[Row]], lookup: _Lookup) -> FeatureCard:
    run = lookup.run
    control = all(condition in run.controls for condition in by_condition)
    everything = [
        lookup.texts(feature, condition, by_condition.get(condition, []))
        for condition in in_order([*lookup.routes, *by_condition], SHOWN)
        if condition in by_condition or not (control or condition in run.controls)
    ]
    # A card has room for a few conditions; those of the post come first, whoever else there is follows or is folded.
    shown = [one for one in everything if control or one.condition not in run.controls][:BESIDE] or everything[:BESIDE]
    speaker = spokesman((one.condition for one in shown if one.rows), run.controls)
    head = next((one for one in shown if one.condition == speaker), shown[0])
    info, crossed = run.manifest.feature_info.get(feature, _UNKNOWN), [] if control else _crossed(everything, lookup)
    first = next(iter(by_condition.values()))[0]
    label = first.label
    statuses = [head.status, *(one.card.status for one in crossed)]
    return FeatureCard(
        id=feature,
        anchor=f"feature-{feature}" if re.fullmatch(r"[\w-]{1,64}", feature, re.ASCII) else f"nth-{where}",
        name=info.topic or label or (feature if control else f"Feature {feature}"),
        label="" if first.token or label in (info.topic, f"{info.category}: {info.topic}") else label,
        category=info.category,
        tokens=info.top_tokens,
        windows=[] if any(one.evidence.windows for one in everything) else windows_of(run, feature),
        shown=shown,
        folded=[one for one in everything if one not in shown],
        crossed=crossed,
        head=head,
        gist=head.short or short_label(head.rows[0].text if head.rows else "", GIST),
        status=next(filter(None, statuses), ""),
        control=control,
        flagged=any(one.rows[0].problems for one in shown if one.rows),
        token=first.token,
        context_label=None if control else lookup.context_label(feature),
    )


def _crossed(texts: Sequence[ConditionTexts], lookup: _Lookup) -> list[Crossed]:
    """The diagnostics of a feature, equal ones once for all the conditions that share them."""
    cards: dict[Card, list[str]] = {}
    for one in texts:
        if one.card is not None:
            # Two readings share what is known of the crossing; how each came about stands with it.
            shared = {"route": None, "route_why": None} if one.reading else {}
            cards.setdefault(one.card.model_copy(update=shared), []).append(one.title)
    return [
        Crossed(
            conditions=conditions,
            card=card,
            unmapped=[name for name in conditions if name in lookup.routes and lookup.unmapped(name, card)],
            readings=all(one.reading for one in texts if one.title in conditions),
        )
        for card, conditions in cards.items()
    ]


def _written(key: str, value: float | str) -> str:
    """A diagnostic as people read it."""
    if isinstance(value, str):
        return value
    if key in SHARES:
        return figures.share(value)
    if key in _SIGNED:
        return figures.signed(value)
    return figures.number(round(value) if key == "n_eff" else value)
