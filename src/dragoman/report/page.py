"""A run folder as one page that a reader can judge the run by.

In: a run folder's manifest, rows and scores. Out: one static HTML file. Refuses a manifest that names no conditions and
a run without a single row. Computes no number: what stands on the page stood in the folder, sorted, counted, formatted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.core import Refusal, Site
from dragoman.report import figures, tables, trust, words
from dragoman.report.cards import FeatureCard, Known, feature_cards, label_doubt, label_origin, wrote_more
from dragoman.report.figures import LiftRow, finite
from dragoman.report.headline import headline, level
from dragoman.report.words import Controls, in_order, spokesman
from dragoman.store import RunFolder, write_text

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_DRAWN = ("plain", "washed", "direct")  # have marks of their own in the figure; others take what is left
# Line ends between blocks say nothing, and a page of hundreds of features has a hundred thousand of them. Text that was
# said holds no angle brackets any more, so none of it can match.
_BETWEEN = re.compile(
    r"(?<=>)\s*\n\s*(?=</?(?:article|d[dlt]|details|div|h[1-6]|li|option|p|section|summary|t[dhr]|tbody|thead|ul)\b)"
)
_CONTROLS = 100  # random directions whose texts are shown; they are there for a look, not for reading
_UNFOLDED = 12  # a run of more features than this opens as a list


def write_page(run: RunFolder, out: Path) -> Path:
    """Write the run's page to ``out`` and return it.

    Raises:
        Refusal: for a manifest without conditions, a run without rows, or a place that cannot be written.
    """
    room = _environment()
    page = room.get_template("page.html.j2").render(_context(run))
    # Lone surrogates cannot be written; other control characters have no place in HTML.
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", _BETWEEN.sub("", page))
    write_text(out, clean.encode("utf-8", "replace").decode())
    return out


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything the template reads."""
    manifest, rows, scores = run.manifest, run.rows(), run.scores or {}
    conditions = manifest.get("conditions")
    if not isinstance(conditions, list) or not all(isinstance(c, Mapping) and c.get("name") for c in conditions):
        raise Refusal(f"{run.path}", "its manifest names no conditions", "name a folder that dragoman wrote")
    if not rows:
        raise Refusal(f"{run.path}", "it holds no explanation yet", "finish the run first")
    lifts, controls = _lifts(scores), Controls.of(conditions)
    slots = _slots(lifts, controls)
    cards = feature_cards(rows, Known.of(manifest, scores, slots, run.contexts))
    features = [c for c in cards if not c.control]
    figure = _figure(features, lifts, slots, controls)
    place = {feature: k for k, feature in enumerate(figure["order"])} if figure else {}
    features.sort(key=lambda card: place.get(card.id, len(place)))
    table = tables.scores_table(scores, controls)
    texts = sum(1 for row in rows if row.get("condition") not in controls)
    source, target = str(manifest.get("source", "")), str(manifest.get("target", ""))
    return {
        "manifest": manifest,
        "scores": scores,
        "source": _site(source),
        "target": _site(target),
        "at_home": bool(source) and _site(source) == _site(target),
        "headline": headline(scores, len(features), texts, controls),
        "table": table,
        "level": level(next((row["lift"] for row in table if row["lift"]), {})),
        "against": tables.tested_against(table),
        "methods": list(dict.fromkeys(row["lift"]["method"] for row in table if row["lift"].get("method"))),
        "read_back": tables.read_back_table(scores, controls),
        "nulls": trust.nulls_table(scores),
        "embedders": trust.embedders_table(scores, controls),
        "power": trust.power_lines(scores),
        "detection": trust.detection_rows(scores, controls),
        "confidence": trust.confidence_part(scores, controls),
        "maps": tables.maps(scores, manifest),
        "background": scores.get("background") or manifest.get("background") or {},
        "verdicts": tables.verdict_tally(features),
        "problems": tables.problem_tally(rows, controls),
        "texts": texts,
        "figure": figure,
        "features": features,
        "unfolded": len(features) <= _UNFOLDED,
        "columns": _columns(features),
        "choices": tables.choices(features),
        "speaker": spokesman((str(c["name"]) for c in conditions), controls),
        "controls": [c for c in cards if c.control][:_CONTROLS],
        "controls_in_all": sum(c.control for c in cards),
        "conditions": sorted(
            conditions, key=lambda c: in_order([x["name"] for x in conditions], words.SHOWN).index(c["name"])
        ),
        "label_origin": label_origin(manifest),
        "label_doubt": label_doubt(manifest),
        "called": {card.id: card.name for card in cards if card.name != f"Feature {card.id}"},
        "anchors": {card.id: card.anchor for card in features},
    }


def _columns(features: Sequence[FeatureCard]) -> list[str]:
    """Which columns the list of features has: those that at least one feature fills."""
    there = {
        "category": any(card.category for card in features),
        "verdict": any(card.verdict for card in features),
        "lift": any(card.head.lift is not None for card in features),
        "back": any(card.head.read_back for card in features),
        "sure": any(card.head.sure for card in features),
    }
    return [name for name, filled in there.items() if filled]


def _lifts(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Condition -> feature -> lift, where there is one."""
    found = {
        str(condition): {str(e.get("feature")): float(e["lift"]) for e in entries if finite(e.get("lift"))}
        for condition, entries in (scores.get("per_feature") or {}).items()
    }
    return {condition: lifts for condition, lifts in found.items() if lifts}


def _slots(lifts: Mapping[str, Any], controls: Controls) -> dict[str, int]:
    """The conditions the figure has marks for, and which: the spokesman first, then those of the post, then others."""
    scored = [c for c in lifts if c not in controls and c != "native"]
    first = spokesman(scored, controls)
    drawn = in_order(scored, [first, *_DRAWN] if first else _DRAWN)[: figures.SLOTS]
    free = iter([k for k, name in enumerate(_DRAWN) if name not in drawn])
    slots = {c: _DRAWN.index(c) if c in _DRAWN else next(free) for c in drawn}
    return dict(sorted(slots.items(), key=lambda item: item[1]))


def _figure(
    cards: Sequence[FeatureCard],
    lifts: Mapping[str, Mapping[str, float]],
    slots: Mapping[str, int],
    controls: Controls,
) -> dict[str, Any] | None:
    """The figure of lifts, sorted by the condition that speaks for the run; None when nothing has a lift."""
    by = spokesman(slots, controls)
    if by is None:
        return None
    rows = [
        LiftRow(
            feature=card.id,
            label=card.name,
            note=card.category,
            anchor=card.anchor,
            lifts={c: lifts[c][card.id] for c in slots if card.id in lifts[c]},
        )
        for card in cards
    ]
    rows = [row for row in rows if row.lifts]
    rows.sort(key=lambda row: -row.lifts.get(by, -math.inf))
    band = [c for c in lifts if c in controls.random]
    spread = [lift for c in band for lift in lifts[c].values()]
    places = [next((c for c in slots if slots[c] == k), "") for k in range(figures.SLOTS)]
    return {
        "svg": figures.lifts_figure(rows, places, (min(spread), max(spread)) if spread else None),
        "drawn": list(slots.items()),
        "by": by,
        "band": band,
        "left_out": [c for c in lifts if c not in slots and c not in controls and c != "native"],
        "count": len(rows),
        "order": [row.feature for row in rows],
    }


@cache
def _environment() -> Environment:
    """Jinja with autoescape, strict about names, and the filters the template uses."""
    # Here, not above: ``dragoman --help`` must stay quick.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    room.filters.update({name: getattr(figures, name) for name in ("signed", "number", "probability", "share")})
    room.filters.update(brief=_brief, pretty=_pretty, wrote_more=wrote_more)
    room.filters.update(problem=words.problem_words, condition=words.condition_words)
    room.filters["paragraphs"] = lambda text: [p.strip() for p in re.split(r"\n\s*\n", str(text)) if p.strip()]
    room.filters["drawing"] = Markup  # only ever given what figures.py made, which escapes its labels
    room.globals.update(
        glyph=figures.glyph,
        diagnostics=words.DIAGNOSTICS,
        verdict_words=words.VERDICTS,
        guess=trust.GUESS,
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        seal=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return room


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


def _site(text: object) -> str:
    """A site in words; text that is no site stays as it is."""
    try:
        site = Site.parse(str(text))
    except Refusal:
        return str(text)
    return f"{site.model}, block {site.block}"
