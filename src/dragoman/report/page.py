"""A run folder as one page that a reader can judge the run by.

In: a run folder's manifest, rows and scores. Out: one static HTML file. Refuses a manifest that names no conditions and
a run without a single row. Computes no number: what stands on the page stood in the folder, sorted and formatted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.core import Refusal, Site
from dragoman.report import figures
from dragoman.report.figures import LiftRow, finite, share, signed
from dragoman.store import RunFolder, write_text

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_SHOWN = ("native", "plain", "washed", "direct")  # side by side on a card, in this order; the others are folded
_DRAWN = ("plain", "washed", "direct")  # in the figure, in the order of its marks
_DIAGNOSTICS = ("coverage", "kappa", "rel", "cycle", "n_eff", "agreement", "margin", "nearest", "norm")
_HEADLINE = ("washed", "direct", "plain")  # whose score the verdict states: the first there is, not the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What one condition said of one feature: the first sample's row, the later ones, and its scores if any."""

    condition: str
    slot: int | None
    row: Mapping[str, Any] | None
    more: Sequence[Mapping[str, Any]]
    lift: float | None
    names_category: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCard:
    """Everything the page says of one direction; ``anchor`` is its place on the page."""

    id: str
    anchor: str
    label: str
    category: str
    topic: str
    tokens: Sequence[str]
    shown: Sequence[Spoken]
    folded: Sequence[Spoken]
    numbers: Sequence[tuple[str, Mapping[str, Any]]]
    control: bool
    missed: bool
    flagged: bool


def _brief(value: object) -> str:
    """A value of the manifest in a line: digests cut to ten characters, mappings as ``name value``."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k} ({_brief(v)})" if isinstance(v, Mapping) else f"{k} {_brief(v)}" for k, v in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_brief(v) for v in value)
    return str(value)[:10] if re.fullmatch(r"[0-9a-f]{24,}", str(value)) else str(value)


def _pretty(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, default=str)


def _is_control(condition: str) -> bool:
    return condition.startswith(("random", "shuffled"))


def _in_order(names: Iterable[str], wanted: Sequence[str]) -> list[str]:
    have = list(dict.fromkeys(names))
    return [n for n in wanted if n in have] + [n for n in have if n not in wanted]


def _site(text: object) -> str:
    """A site in words; text that is no site stays as it is."""
    try:
        site = Site.parse(str(text))
    except Refusal:
        return str(text)
    return f"{site.model}, block {site.block}"


def verdict(scores: Mapping[str, Any], features: int, texts: int) -> str:
    """One sentence that says what the scores say, from the scores alone."""
    table = {str(row.get("condition")): row for row in scores.get("table") or []}
    scored = [c for c in table if not _is_control(c) and (table[c].get("lift") or table[c].get("category"))]
    named = next((c for c in _in_order(scored, _HEADLINE) if c != "native"), "native" if "native" in scored else "")
    counted = f"{figures.number(texts)} explanations of {figures.number(features)} features"
    if not named:
        return f"{counted}, none of them scored: nothing on this page says how far to trust them."
    lift, category = table[named].get("lift") or {}, table[named].get("category") or {}
    parts = []
    if finite(lift.get("value")):
        parts.append(_nearness(lift))
    if finite(category.get("value")):
        chance, low = category.get("random"), category.get("low")
        beside = f" against {share(chance)} on random directions" if finite(chance) else ""
        if finite(chance) and finite(low) and low <= chance:
            beside += ", which the interval does not exclude"
        parts.append(f"name the planted category of {share(category['value'])} of the features{beside}")
    if not parts:
        return f"{counted}; the scores hold no lift and no category to judge them by."
    return f"{named.capitalize()} explanations {' and '.join(parts)}{_alarm(table, lift)}."


def _nearness(lift: Mapping[str, Any]) -> str:
    """What a lift and its interval say, as the middle of a sentence."""
    value, low, high = signed(lift["value"]), lift.get("low"), lift.get("high")
    if not (finite(low) and finite(high)):
        return f"have a lift of {value}, with no interval to judge it by,"
    where, than = ("further from", "than from") if high < 0 else ("nearer to" if low > 0 else "no nearer to", "than to")
    return (
        f"lie {where} their own feature’s native explanation {than} those of other features "
        f"(lift {value}, {_level(lift)} interval {signed(low)} to {signed(high)})"
    )


def _level(lift: Mapping[str, Any]) -> str:
    return share(lift["level"]) if finite(lift.get("level")) else "95%"


def _alarm(table: Mapping[str, Mapping[str, Any]], lift: Mapping[str, Any]) -> str:
    """A clause when random directions score above nothing too, sharper when they reach the lift itself."""
    for name, row in table.items():
        chance = row.get("lift") or {}
        if not name.startswith("random") or not finite(chance.get("low")) or chance["low"] <= 0:
            continue
        found = f"random directions ({name}) have a lift of {signed(chance.get('value'))}"
        if not finite(lift.get("low")) or not finite(chance.get("high")) or chance["high"] >= lift["low"]:
            return f"; but {found}, so that lift shows nothing about the features"
        return f"; {found}"
    return ""


def _table(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores table with the drawing of each interval on a shared scale."""
    rows = list(scores.get("table") or []) + [
        {"condition": row.get("what"), "paired": True, "lift": row} for row in scores.get("paired") or []
    ]
    ends = [e for row in rows for e in ((row.get("lift") or {}).get(k) for k in ("low", "high")) if finite(e)]
    span = (min([0.0, *ends]), max([0.0, *ends]))
    out = []
    for row in rows:
        lift, category = row.get("lift") or {}, row.get("category") or {}
        out.append(
            {
                **row,
                "paired": bool(row.get("paired")),
                "control": _is_control(str(row.get("condition"))),
                "lift": lift,
                "category": category,
                "lift_mark": _mark(lift, span, 0.0),
                "category_mark": _mark(category, (0.0, 1.0), category.get("random")),
            }
        )
    return out


def _mark(estimate: Mapping[str, Any], span: tuple[float, float], reference: object) -> str:
    value, low, high = (estimate.get(k) for k in ("value", "low", "high"))
    if not (finite(value) and finite(low) and finite(high)):
        return ""
    return figures.interval_mark(value, low, high, span, reference if finite(reference) else None)


def _maps(scores: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Held-out numbers by map; a report of one nameless map is taken too."""
    report = scores.get("map_report") or manifest.get("map_report") or {}
    named = {str(k): v for k, v in report.items() if isinstance(v, Mapping)}
    return named or ({"map": report} if report else {})


def _cards(run: RunFolder, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> list[FeatureCard]:
    """One card per direction, in the order of its rows."""
    grouped: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        grouped.setdefault(str(row.get("feature")), {}).setdefault(str(row.get("condition")), []).append(row)
    info = run.manifest.get("feature_info") or {}
    judged = {
        (str(condition), str(entry.get("feature"))): entry
        for condition, entries in (scores.get("per_feature") or {}).items()
        for entry in entries
    }
    named = [str(c.get("name")) for c in run.manifest["conditions"]]
    return [
        _card(feature, where, spoken, info.get(feature) or {}, judged, named)
        for where, (feature, spoken) in enumerate(grouped.items())
    ]


def _card(
    feature: str,
    where: int,
    spoken: Mapping[str, list[Mapping[str, Any]]],
    info: Mapping[str, Any],
    judged: Mapping[tuple[str, str], Mapping[str, Any]],
    named: Sequence[str],
) -> FeatureCard:
    first = next(iter(spoken.values()))[0]
    control = all(row.get("kind", "feature") in ("random", "shuffled") for rows in spoken.values() for row in rows)
    order = _in_order([*named, *spoken], _SHOWN)
    all_spoken = []
    for condition in order:
        rows = sorted(spoken.get(condition, []), key=lambda row: row.get("sample") or 0)
        if not rows and (control or _is_control(condition)):
            continue
        entry = judged.get((condition, feature), {})
        lift, names = entry.get("lift"), entry.get("names_category")
        slot = _DRAWN.index(condition) if condition in _DRAWN else None
        all_spoken.append(
            Spoken(
                condition=condition,
                slot=slot,
                row=rows[0] if rows else None,
                more=rows[1:],
                lift=lift if finite(lift) else None,
                names_category=names if isinstance(names, bool) else None,
            )
        )
    known = [s for s in all_spoken if s.condition in _SHOWN]
    shown = known or [s for s in all_spoken if control or not _is_control(s.condition)] or all_spoken
    judge = next((s for c in (*_HEADLINE, "native") for s in shown if s.condition == c), shown[0])
    numbers = _numbers(all_spoken)
    return FeatureCard(
        id=feature,
        anchor=f"feature-{feature}" if re.fullmatch(r"[\w-]{1,64}", feature, re.ASCII) else f"nth-{where}",
        label=str(first.get("label") or ""),
        category=str(info.get("category") or ""),
        topic=str(info.get("topic") or ""),
        tokens=[str(t) for t in info.get("top_tokens") or []],
        shown=shown,
        folded=[s for s in all_spoken if s not in shown],
        numbers=[] if control else numbers,
        control=control,
        missed=judge.names_category is False,
        flagged=any(_drifted(card) for _, card in numbers) or any(s.row and s.row.get("problems") for s in shown),
    )


def _drifted(card: Mapping[str, Any]) -> bool:
    """By the margin's definition: another feature's direct direction agrees better than the feature's own."""
    return finite(card.get("margin")) and card["margin"] <= 0


def _numbers(spoken: Sequence[Spoken]) -> list[tuple[str, Mapping[str, Any]]]:
    """The diagnostics of a feature, equal ones told once: names of conditions and what they share."""
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
    return [(", ".join(names), {k: card[k] for k in _in_order(card, _DIAGNOSTICS)}) for names, card in found]


def _figure(cards: Sequence[FeatureCard], scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figure of lifts: sorted by the first drawn condition of the verdict's order; None when nothing has a lift."""
    lifts = {
        str(condition): {str(e.get("feature")): float(e["lift"]) for e in entries if finite(e.get("lift"))}
        for condition, entries in (scores.get("per_feature") or {}).items()
    }
    scored = [c for c in lifts if lifts[c] and not _is_control(c) and c != "native"]
    drawn = [c for c in _in_order(scored, _DRAWN) if c in _DRAWN] or scored[: figures.SLOTS]
    if not drawn:
        return None
    slots = {c: _DRAWN.index(c) if c in _DRAWN else k for k, c in enumerate(drawn)}
    by = next((c for c in _HEADLINE if c in drawn), drawn[0])
    rows = [
        LiftRow(
            feature=card.id,
            label=card.topic or card.label,
            note=card.category,
            anchor=card.anchor,
            lifts={c: lifts[c][card.id] for c in drawn if card.id in lifts[c]},
        )
        for card in cards
    ]
    rows = [row for row in rows if row.lifts]
    rows.sort(key=lambda row: -row.lifts.get(by, -math.inf))
    controls = [c for c in lifts if c.startswith("random") and lifts[c]]
    spread = [lift for c in controls for lift in lifts[c].values()]
    band = (min(spread), max(spread)) if spread else None
    places = [next((c for c in drawn if slots[c] == k), "") for k in range(figures.SLOTS)]
    return {
        "svg": figures.lifts_figure(rows, places, band),
        "drawn": [(c, slots[c]) for c in drawn],
        "by": by,
        "band": controls if band else [],
        "left_out": [c for c in scored if c not in drawn],
        "count": len(rows),
        "order": [row.feature for row in rows],
    }


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything the template reads."""
    manifest, rows, scores = run.manifest, run.rows(), run.scores or {}
    conditions = manifest.get("conditions")
    if not isinstance(conditions, list) or not all(isinstance(c, Mapping) and c.get("name") for c in conditions):
        raise Refusal(f"{run.path}", "its manifest names no conditions", "name a folder that dragoman wrote")
    if not rows:
        raise Refusal(f"{run.path}", "it holds no explanation yet", "finish the run first")
    cards = _cards(run, rows, scores)
    features = [c for c in cards if not c.control]
    figure = _figure(features, scores)
    place = {feature: k for k, feature in enumerate(figure["order"])} if figure else {}
    features.sort(key=lambda card: place.get(card.id, len(place)))
    table = _table(scores)
    texts = sum(1 for row in rows if not _is_control(str(row.get("condition"))))
    return {
        "manifest": manifest,
        "scores": scores,
        "source": _site(manifest.get("source", "")),
        "target": _site(manifest.get("target", "")),
        "verdict": verdict(scores, len(features), texts),
        "table": table,
        "level": _level(next((row["lift"] for row in table if row["lift"]), {})),
        "methods": list(dict.fromkeys(row["lift"]["method"] for row in table if row["lift"].get("method"))),
        "maps": _maps(scores, manifest),
        "background": scores.get("background") or manifest.get("background") or {},
        "figure": figure,
        "features": features,
        "controls": [c for c in cards if c.control],
        "conditions": sorted(
            conditions, key=lambda c: _in_order([x["name"] for x in conditions], _SHOWN).index(c["name"])
        ),
        "called": {card.id: card.topic or card.label for card in cards},
        "anchors": {card.id: card.anchor for card in features},
    }


def _environment() -> Environment:
    """Jinja with autoescape, strict about names, and the filters the template uses."""
    # Here, not above: ``dragoman --help`` must stay quick.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    room.filters.update({name: getattr(figures, name) for name in ("signed", "number", "probability", "share")})
    room.filters.update(brief=_brief, drifted=_drifted, pretty=_pretty)
    room.filters["paragraphs"] = lambda text: [p.strip() for p in re.split(r"\n\s*\n", str(text)) if p.strip()]
    room.filters["drawing"] = Markup  # only ever given what figures.py made, which escapes its labels
    room.filters["fingerprint"] = lambda s: base64.b64encode(hashlib.sha256(str(s).encode()).digest()).decode()
    room.globals.update(glyph=figures.glyph)
    return room


def write_page(run: RunFolder, out: Path) -> Path:
    """Write the run's page to ``out`` and return it.

    Raises:
        Refusal: for a manifest without conditions, a run without rows, or a place that cannot be written.
    """
    room = _environment()
    page = room.get_template("page.html.j2").render(_context(run))
    # Lone surrogates cannot be written; other control characters have no place in HTML.
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", page)
    write_text(out, clean.encode("utf-8", "replace").decode())
    return out
