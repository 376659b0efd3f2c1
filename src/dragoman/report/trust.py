"""How sure the run is of each text and of its own numbers: confidences, nulls, embedders, detection, for the page.

In: scores. Out: badges with their reasons, and rows of tables with the drawing of each interval. Refuses nothing: what
is missing or odd is left out. Computes no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.confidence.evidence import evidence_words
from dragoman.report import figures
from dragoman.report.figures import finite
from dragoman.report.words import in_order, is_control

GUESS = "on another pair of models it is a guess until you check some"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sure:
    """A confidence as a badge: ``word`` on it, ``answered`` or an abstention, and ``why`` in a line."""

    probability: float
    answered: bool
    word: str
    why: str


def sure_of(entry: Mapping[str, Any] | None) -> Sure | None:
    """The badge of one entry of the scores; None where there is no probability."""
    value = (entry or {}).get("probability")
    if entry is None or not finite(value):
        return None
    answered = bool(entry.get("answered"))
    word = f"confidence {value:.2f}" if answered else f"abstains ({value:.2f})"
    return Sure(probability=value, answered=answered, word=word, why=_reasons(entry.get("why")))


def _reasons(why: object) -> str:
    """What weighed most, for and against."""
    told = [w for w in why if isinstance(w, Mapping) and finite(w.get("adds"))] if isinstance(why, list) else []
    sides = {
        "for it": [evidence_words(str(w.get("evidence"))) for w in told if w["adds"] > 0],
        "against it": [evidence_words(str(w.get("evidence"))) for w in told if w["adds"] < 0],
    }
    return "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)


def by_feature(scores: Mapping[str, Any]) -> dict[tuple[str, str], Sure]:
    """Badges by (condition, feature)."""
    per_feature = (scores.get("confidence") or {}).get("per_feature") or {}
    found = {(str(c), str(e.get("feature"))): sure_of(e) for c, entries in per_feature.items() for e in entries}
    return {at: sure for at, sure in found.items() if sure is not None}


def confidence_part(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page says of the confidences as a whole: counts by condition, and on what they were fitted."""
    found = scores.get("confidence") or {}
    counts = [
        {"condition": str(c), "n": len(rows), "answered": sum(bool(r.get("answered")) for r in rows)}
        for c, rows in (found.get("per_feature") or {}).items()
        if rows
    ]
    if not counts:
        return None
    names = in_order([row["condition"] for row in counts], ())
    counts.sort(key=lambda row: (is_control(row["condition"]), names.index(row["condition"])))
    members = [one for one in (found.get("members") or {}).values() if isinstance(one, Mapping)]
    fitted = list(dict.fromkeys(_fitted(one) for one in members))
    lines = sorted({one["threshold"] for one in members if finite(one.get("threshold"))})
    return {"counts": counts, "fitted": "; ".join(fitted), "lines": lines, "embedder": found.get("embedder")}


def _fitted(member: Mapping[str, Any]) -> str:
    """On what a member of the set was fitted, from its report."""
    if member.get("fitted_on"):
        return f"fitted on {member['fitted_on']}"
    return (
        f"fitted on {figures.number(member.get('n'))} explanations"
        if member.get("n")
        else "fitted on what its file does not say"
    )


def nulls_table(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per condition and null, lifts on one scale."""
    pairs = [(c, null, e) for c, by in (scores.get("nulls") or {}).items() for null, e in by.items()]
    ends = [end for _, _, e in pairs for end in _ends(e.get("lift") or {})]
    span = (min([0.0, *ends]), max([0.0, *ends]))
    out, before = [], None
    for condition, null, entry in pairs:
        parts = {name: entry.get(name) or {} for name in ("lift", "centred", "top1", "mrr")}
        chance = (parts["top1"].get("extra") or {}).get("chance")
        out.append({
            "condition": condition, "first": condition != before, "null": null, **parts, "chance": chance,
            "mark": mark(parts["lift"], span, 0.0), "top1_mark": mark(parts["top1"], (0.0, 1.0), chance),
        })  # fmt: skip
        before = condition
    return out


def detection_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per condition: mean AUROC with its interval, other features' texts as the tick it stands by."""
    out = []
    for row in (scores.get("detection") or {}).get("table") or []:
        others = (row.get("extra") or {}).get("others")
        low = min([0.5, *filter(finite, [row.get("low"), others])])
        told = {"control": is_control(str(row.get("condition"))), "others": others}
        out.append({**row, **told, "mark": mark(row, (min(low, 0.3), 1.0), others)})
    return out


def embedders_table(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lift of each condition by each embedder, with the p that is adjusted over all of them."""
    found, adjusted = scores.get("embedders") or {}, scores.get("adjusted") or {}
    names = [str(name) for name in found.get("names") or []]
    if len(names) < 2:
        return None
    first = {str(row.get("condition")): row["lift"] for row in scores.get("table") or [] if row.get("lift")}
    lifts = {names[0]: first} | {
        e: {c: one.get("centred") or {} for c, one in by.items()} for e, by in (found.get("lifts") or {}).items()
    }
    holm = {(t.get("condition"), t.get("embedder")): t for t in adjusted.get("tests") or []}
    conditions = in_order([c for by in lifts.values() for c in by], ())
    span_ends = [end for by in lifts.values() for one in by.values() for end in _ends(one)]
    span = (min([0.0, *span_ends]), max([0.0, *span_ends]))
    rows = [
        {
            "condition": c,
            "control": is_control(c),
            "cells": [
                {"lift": (one := lifts.get(e, {}).get(c) or {}), "mark": mark(one, span, 0.0), "holm": holm.get((c, e))}
                for e in names
            ],
        }
        for c in conditions
    ]
    return {"names": names, "rows": rows, "summary": found.get("summary") or "", "tests": len(holm)}


def power_lines(scores: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Plans that have all their numbers."""
    wanted = ("lift", "n", "observed", "detectable")
    return [row for row in scores.get("power") or [] if all(finite(row.get(key)) for key in wanted)]


def mark(estimate: Mapping[str, Any], span: tuple[float, float], reference: object) -> str:
    """An estimate drawn with its interval; nothing where it has none."""
    value, low, high = (estimate.get(k) for k in ("value", "low", "high"))
    if not (finite(value) and finite(low) and finite(high)):
        return ""
    return figures.interval_mark(value, low, high, span, reference if finite(reference) else None)


def _ends(estimate: Mapping[str, Any]) -> list[float]:
    return [end for end in (estimate.get("low"), estimate.get("high")) if finite(end)]
