"""One card per direction: what was said of it, how it crossed, what was read back.

In: a run's manifest, rows and scores. Out: ``FeatureCard``, one per direction. Refuses nothing: rows, cards and scores
that lack a part leave that part of the card empty. Computes no number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.neuronpedia import short_label
from dragoman.report import figures
from dragoman.report.figures import finite
from dragoman.report.trust import Sure, by_feature
from dragoman.report.words import DIAGNOSTICS, SHARES, SHOWN, UNMAPPED, Controls, in_order, spokesman

BESIDE = 4  # texts side by side on a card; further conditions are folded
GIST = 150  # characters of the line that stands for a folded card
WINDOWS = 5  # of text in which a feature fires
_TOLD = ("status", "why", "route", "route_why")  # of a card, in sentences; the rest is numbers
_SIGNED = ("margin", "agreement", "home_margin", "home_agreement")
_NAMES = ("nearest", "home_nearest")  # features, not sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What a reconstructor made of a text: ``rank`` of its own direction among ``n``, and which came first."""

    rank: int
    n: int | None
    cosine: float | None
    nearest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What one condition said of one direction: the first sample's row, the later ones, and what is known of it."""

    condition: str
    slot: int | None
    row: Mapping[str, Any] | None
    more: Sequence[Mapping[str, Any]]
    lift: float | None
    names_category: bool | None
    read_back: ReadBack | None
    verdict: str
    sure: Sure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """How a direction came to the target, told once for the conditions that share it.

    ``numbers``: each diagnostic's key and value as written; ``unknown``: keys of those that could not be had;
    ``unmapped``: the conditions among them that read another vector than the map's image, which a verdict is of.
    """

    conditions: Sequence[str]
    verdict: str
    why: str
    route: str
    route_why: str
    nearest: str
    numbers: Sequence[tuple[str, str]]
    unknown: Sequence[str]
    unmapped: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCard:
    """Everything the page says of one direction; ``anchor`` is its place, ``head`` the text that speaks for it.

    ``windows``: of the texts that were read, where it fires most, strongest first.
    """

    id: str
    anchor: str
    name: str
    label: str
    category: str
    tokens: Sequence[str]
    windows: Sequence[str]
    shown: Sequence[Spoken]
    folded: Sequence[Spoken]
    crossed: Sequence[Crossed]
    head: Spoken
    gist: str
    verdict: str
    control: bool
    flagged: bool

    @property
    def marks(self) -> str:
        """What the page can be filtered by besides verdict and category."""
        found = {
            "flagged": self.flagged,
            "missed": self.head.names_category is False,
            "named": self.head.names_category is True,
            "astray": self.head.read_back is not None and self.head.read_back.rank > 1,
            "answered": self.head.sure is not None and self.head.sure.answered,
            "abstained": self.head.sure is not None and not self.head.sure.answered,
        }
        return " ".join(mark for mark, there in found.items() if there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What scores and manifest know, looked up by (condition, feature) or by feature."""

    info: Mapping[str, Mapping[str, Any]]
    judged: Mapping[tuple[str, str], Mapping[str, Any]]
    read_back: Mapping[tuple[str, str], ReadBack]
    slots: Mapping[str, int]
    conditions: Mapping[str, str]  # name and route
    contexts: Mapping[str, Mapping[str, Sequence[str]]]
    sure: Mapping[tuple[str, str], Sure]
    controls: Controls

    @classmethod
    def of(
        cls,
        manifest: Mapping[str, Any],
        scores: Mapping[str, Any],
        slots: Mapping[str, int],
        contexts: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    ) -> Known:
        """From a run folder's own words."""
        found = scores.get("reconstruction") or {}
        among = {str(row.get("condition")): row.get("n") for row in found.get("table") or []}
        back = {
            (condition, feature): ReadBack(
                rank=entry["rank"],
                n=among.get(condition),
                cosine=entry["cosine"] if finite(entry.get("cosine")) else None,
                nearest=str(entry.get("nearest")),
            )
            for (condition, feature), entry in _entries(found).items()
            if isinstance(entry.get("rank"), int)
        }
        return cls(
            info=manifest.get("feature_info") or {},
            judged=_entries(scores),
            read_back=back,
            slots=slots,
            conditions={str(c.get("name")): str(c.get("route") or "") for c in manifest["conditions"]},
            contexts=contexts or {},
            sure=by_feature(scores),
            controls=Controls.of(manifest["conditions"]),
        )


def feature_cards(rows: Sequence[Mapping[str, Any]], known: Known) -> list[FeatureCard]:
    """One card per direction, in the order of its rows."""
    grouped: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        grouped.setdefault(str(row.get("feature")), {}).setdefault(str(row.get("condition")), []).append(row)
    return [_card(feature, where, spoken, known) for where, (feature, spoken) in enumerate(grouped.items())]


def label_origin(manifest: Mapping[str, Any]) -> str:
    """Whose the rows' labels are: a Neuronpedia export's, or the dictionary's own."""
    return "Neuronpedia" if (manifest.get("settings") or {}).get("labels") else "dictionary"


def label_doubt(manifest: Mapping[str, Any]) -> str:
    """The source that an export's labels are of, where nothing tells that they are this dictionary's own; else none."""
    told = manifest.get("labels") or {}
    return "" if told.get("verified", True) else str(told.get("source", "another source"))


def wrote_more(row: Mapping[str, Any]) -> bool:
    """Whether a verbalizer wrote more than the text taken from it and tags around that."""
    raw, text = str(row.get("raw") or ""), str(row.get("text") or "")
    return re.sub(r"</?\w{1,20}>", "", raw).strip() not in ("", text.strip())


def _entries(scores: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """``per_feature`` by (condition, feature)."""
    return {
        (str(condition), str(entry.get("feature"))): entry
        for condition, entries in (scores.get("per_feature") or {}).items()
        for entry in entries
    }


def _card(feature: str, where: int, spoken: Mapping[str, list[Mapping[str, Any]]], known: Known) -> FeatureCard:
    rows = [row for said in spoken.values() for row in said]
    controls = known.controls
    control = all(condition in controls for condition in spoken)
    everything = [
        _spoken(feature, condition, spoken.get(condition, []), known)
        for condition in in_order([*known.conditions, *spoken], SHOWN)
        if condition in spoken or not (control or condition in controls)
    ]
    # A card has room for a few conditions; those of the post come first, whoever else there is follows or is folded.
    shown = [s for s in everything if control or s.condition not in controls][:BESIDE] or everything[:BESIDE]
    speaker = spokesman((s.condition for s in shown if s.row), controls)
    head = next((s for s in shown if s.condition == speaker), shown[0])
    info, crossed = known.info.get(feature) or {}, [] if control else _crossed(everything, known)
    topic, category, label = (str(x or "") for x in (info.get("topic"), info.get("category"), rows[0].get("label")))
    text = str((head.row or {}).get("text") or "")
    return FeatureCard(
        id=feature,
        anchor=f"feature-{feature}" if re.fullmatch(r"[\w-]{1,64}", feature, re.ASCII) else f"nth-{where}",
        name=topic or label or (feature if control else f"Feature {feature}"),
        label=label if label not in (topic, f"{category}: {topic}") else "",
        category=category,
        tokens=[str(t) for t in info.get("top_tokens") or []],
        windows=list((known.contexts.get(feature) or {}).get("firing") or [])[:WINDOWS],
        shown=shown,
        folded=[s for s in everything if s not in shown],
        crossed=crossed,
        head=head,
        gist=short_label(text, GIST),
        verdict=head.verdict or next((c.verdict for c in crossed if c.verdict), ""),
        control=control,
        flagged=any(s.row and s.row.get("problems") for s in shown),
    )


def _spoken(feature: str, condition: str, rows: Sequence[Mapping[str, Any]], known: Known) -> Spoken:
    rows = sorted(rows, key=lambda row: row.get("sample") or 0)
    entry = known.judged.get((condition, feature), {})
    lift, names = entry.get("lift"), entry.get("names_category")
    card = rows[0].get("card") if rows else None
    word, _ = _verdict(card)
    return Spoken(
        condition=condition,
        slot=known.slots.get(condition),
        row=rows[0] if rows else None,
        more=rows[1:],
        lift=lift if finite(lift) else None,
        names_category=names if isinstance(names, bool) else None,
        read_back=known.read_back.get((condition, feature)),
        verdict="no map" if word and _unmapped(condition, card, known) else word,
        sure=known.sure.get((condition, feature)),
    )


def _unmapped(condition: str, card: object, known: Known) -> bool:
    """Whether a condition read something else than the map's image, which is what verdicts are of."""
    route = card.get("route") if isinstance(card, Mapping) else None
    return (route or known.conditions.get(condition)) in UNMAPPED


def _verdict(card: object) -> tuple[str, str]:
    """The card's verdict and its reason; cards of older runs have none, and only their margin can say drift."""
    if not isinstance(card, Mapping):
        return "", ""
    if card.get("status"):
        return str(card["status"]), str(card.get("why") or "")
    if finite(card.get("margin")) and card["margin"] <= 0:
        return (
            "drift",
            f"what arrived lies nearer another feature than its own (margin {figures.signed(card['margin'], 2)})",
        )
    return "", ""


def _crossed(spoken: Sequence[Spoken], known: Known) -> list[Crossed]:
    """The diagnostics of a feature, equal ones told once for all the conditions that share them."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for one in spoken:
        card = one.row.get("card") if one.row else None
        if not isinstance(card, Mapping) or not card:
            continue
        same = next((names for names, other in found if other == card), None)
        if same is not None:
            same.append(one.condition)
        else:
            found.append(([one.condition], card))
    return [_diagnosis(names, card, known) for names, card in found]


def _diagnosis(conditions: Sequence[str], card: Mapping[str, Any], known: Known) -> Crossed:
    word, why = _verdict(card)
    keys = [k for k in in_order(card, tuple(DIAGNOSTICS)) if k not in _TOLD]
    return Crossed(
        conditions=conditions,
        verdict=word,
        why=why,
        route=str(card.get("route") or ""),
        route_why=str(card.get("route_why") or ""),
        nearest="" if card.get("nearest") is None else str(card["nearest"]),
        numbers=[(k, _written(k, card[k])) for k in keys if card[k] is not None],
        unknown=[k for k in keys if card[k] is None],
        unmapped=[c for c in conditions if _unmapped(c, card, known)],
    )


def _written(key: str, value: object) -> str:
    """A diagnostic as people read it."""
    if key in SHARES:
        return figures.share(value)
    if key in _SIGNED:
        return figures.signed(value)
    if key == "n_eff" and finite(value):
        return figures.number(round(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if key in _NAMES else figures.number(value)
