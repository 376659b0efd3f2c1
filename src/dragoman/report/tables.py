"""The run's tables as the page prints them: conditions, what was read back, maps, tallies.

In: scores, manifest and cards. Out: rows with the drawing of each interval on a scale its column shares. Refuses
nothing: what is missing is left empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dragoman.report.cards import FeatureCard
from dragoman.report.figures import finite
from dragoman.report.trust import mark
from dragoman.report.words import MARKS, PROBLEMS, VERDICTS, Controls, in_order

Row = dict[str, Any]


def scores_table(scores: Mapping[str, Any], controls: Controls) -> list[Row]:
    """Conditions, then paired differences: lift, category and their intervals."""
    rows = list(scores.get("table") or []) + [
        {"condition": row.get("what"), "paired": True, "lift": row} for row in scores.get("paired") or []
    ]
    span = _span(end for row in rows for end in _ends(row.get("lift") or {}))
    out = []
    for row in rows:
        lift, category = row.get("lift") or {}, row.get("category") or {}
        out.append(
            {
                **row,
                "paired": bool(row.get("paired")),
                "control": row.get("condition") in controls,
                "lift": lift,
                "category": category,
                "lift_mark": mark(lift, span, 0.0),
                "category_mark": mark(category, (0.0, 1.0), category.get("random")),
            }
        )
    return out


def tested_against(table: Sequence[Row]) -> list[str]:
    """What every p of the table is against and what its n counts: no bare p, and no column that repeats itself."""
    told = []
    for what, part in (
        ("lift", [r for r in table if not r["paired"]]),
        ("differences", [r for r in table if r["paired"]]),
    ):
        whose: dict[tuple[str, str], list[str]] = {}
        for row in part:
            if row["lift"].get("null"):
                key = (str(row["lift"]["null"]), str(row["lift"].get("unit") or "explanations"))
                whose.setdefault(key, []).append(str(row.get("condition")))
        for (null, unit), names in whose.items():
            who = what if len(whose) == 1 else f"{what} of {', '.join(names)}"
            told.append(f"{who} is against “{null}” (n counts {unit})")
    return told


def read_back_table(scores: Mapping[str, Any], controls: Controls) -> list[Row]:
    """What the reconstructor made of each condition, with shuffled and chance as the ticks its intervals stand by."""
    rows = (scores.get("reconstruction") or {}).get("table") or []
    ends = [end for row in rows for end in _ends(row.get("cosine") or {})]
    shuffled = [_extra(row, "cosine", "shuffled") for row in rows]
    span = _span([*ends, *filter(finite, shuffled)])
    out = []
    for row in rows:
        parts = {name: row.get(name) or {} for name in ("cosine", "cosine_over_shuffled", "fve", "top1", "mrr")}
        chance = _extra(row, "top1", "chance")
        out.append(
            {
                "condition": row.get("condition"),
                "control": row.get("condition") in controls,
                "n": row.get("n"),
                **parts,
                "shuffled": _extra(row, "cosine", "shuffled"),
                "constant": _extra(row, "cosine", "constant"),
                "fve_shuffled": _extra(row, "fve", "shuffled"),
                "chance": chance,
                "mrr_chance": _extra(row, "mrr", "chance"),
                "cosine_mark": mark(parts["cosine"], span, _extra(row, "cosine", "shuffled")),
                "top1_mark": mark(parts["top1"], (0.0, 1.0), chance),
            }
        )
    return out


def maps(scores: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Held-out numbers by map; a report of one nameless map is taken too."""
    report = scores.get("map_report") or manifest.get("map_report") or {}
    named = {str(k): v for k, v in report.items() if isinstance(v, Mapping)}
    return named or ({"map": report} if report else {})


def verdict_tally(cards: Sequence[FeatureCard]) -> list[tuple[str, int, str]]:
    """How many features have each verdict, and what it means; empty when none has one."""
    counts = Counter(card.verdict for card in cards if card.verdict)
    return [(word, counts[word], VERDICTS.get(word, "")) for word in in_order(counts, list(VERDICTS))]


def problem_tally(rows: Iterable[Mapping[str, Any]], controls: Controls) -> list[tuple[str, int, str]]:
    """How many explanations of features bear each flag, most frequent first; controls are not counted."""
    counts = Counter(
        str(problem)
        for row in rows
        if row.get("condition") not in controls
        for problem in dict.fromkeys(row.get("problems") or [])
    )
    return [(problem, count, PROBLEMS.get(problem, "")) for problem, count in counts.most_common()]


def choices(cards: Sequence[FeatureCard]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the list can be filtered by: name, the words for no filter, and values with their counted words."""
    verdicts = Counter(card.verdict for card in cards if card.verdict)
    categories = Counter(card.category for card in cards if card.category)
    marks = Counter(mark for card in cards for mark in card.marks.split())
    found = [
        ("verdict", "any verdict", [(w, f"{w}: {verdicts[w]}") for w in in_order(verdicts, list(VERDICTS))]),
        ("category", "any category", [(w, f"{w}: {categories[w]}") for w in sorted(categories)]),
        ("marks", "all features", [(w, f"{MARKS[w]}: {marks[w]}") for w in in_order(marks, list(MARKS))]),
    ]
    return [(name, every, options) for name, every, options in found if len(options) > (name == "category")]


def _ends(estimate: Mapping[str, Any]) -> list[float]:
    return [end for end in (estimate.get("low"), estimate.get("high")) if finite(end)]


def _span(values: Iterable[float]) -> tuple[float, float]:
    """The smallest scale that holds the values and zero."""
    ends = [0.0, *values]
    return min(ends), max(ends)


def _extra(row: Mapping[str, Any], name: str, key: str) -> Any:
    return ((row.get(name) or {}).get("extra") or {}).get(key)
