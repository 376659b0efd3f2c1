"""The run in a sentence or two, from its scores alone.

In: scores, how many features and texts there are. Out: the sentences on top of the page. Refuses nothing: what was not
scored is said not to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragoman.report import figures
from dragoman.report.figures import finite, share, signed
from dragoman.report.words import Controls, spokesman


def headline(scores: Mapping[str, Any], features: int, texts: int, controls: Controls) -> str:
    """What the scores say: lift and category of the condition that speaks for the run, then what was read back."""
    table = {str(row.get("condition")): row for row in scores.get("table") or []}
    named = spokesman((c for c, row in table.items() if row.get("lift") or row.get("category")), controls)
    counted = f"{figures.number(texts)} explanations of {figures.number(features)} features"
    back, believed = _read_back(scores, controls), _believed(scores, controls)
    if not named:
        if back or believed:
            return f"{counted}{believed}. {back}".rstrip()
        return f"{counted}, none of them scored: nothing on this page says how far to trust them."
    lift, category = table[named].get("lift") or {}, table[named].get("category") or {}
    parts = []
    if finite(lift.get("value")):
        parts.append(_nearness(lift))
    if finite(category.get("value")):
        parts.append(
            f"name the planted category of {share(category['value'])} of the features"
            f"{_beside(category, category.get('random'), 'on random directions')}"
        )
    if not parts:
        return f"{counted}; the scores hold no lift and no category to judge them by. {back}".rstrip()
    said = f"{named[:1].upper()}{named[1:]} explanations {' and '.join(parts)}{_alarm(table, lift, controls)}."
    return f"{said} {back}".rstrip()


def _believed(scores: Mapping[str, Any], controls: Controls) -> str:
    """How many features dragoman answers for, in the condition that speaks for the run; nothing without confidences."""
    per_feature = (scores.get("confidence") or {}).get("per_feature") or {}
    named = spokesman(per_feature, controls)
    if not named:
        return ""
    answered = sum(bool(row.get("answered")) for row in per_feature[named])
    return f"; dragoman answers for {answered} of them and abstains from {len(per_feature[named]) - answered}"


def level(estimate: Mapping[str, Any]) -> str:
    """The level of an estimate's interval."""
    return share(estimate["level"]) if finite(estimate.get("level")) else "95%"


def _read_back(scores: Mapping[str, Any], controls: Controls) -> str:
    """One sentence on the reconstructor's top-1, or nothing."""
    found = scores.get("reconstruction") or {}
    table = {str(row.get("condition")): row for row in found.get("table") or []}
    named = spokesman((c for c, row in table.items() if finite((row.get("top1") or {}).get("value"))), controls)
    if not named:
        return ""
    top1 = table[named]["top1"]
    beside = _beside(top1, (top1.get("extra") or {}).get("chance"), "by chance")
    return (
        f"From the {named} texts alone {found.get('reconstructor') or 'a reconstructor'} picks the right direction "
        f"among {figures.number(table[named].get('n'))} for {share(top1['value'])} of them{beside}."
    )


def _beside(estimate: Mapping[str, Any], chance: object, whose: str) -> str:
    """A rate's rival, and a warning when the interval reaches down to it."""
    if not finite(chance):
        return ""
    low = estimate.get("low")
    doubt = ", which the interval does not exclude" if finite(low) and low <= chance else ""
    return f" against {share(chance)} {whose}{doubt}"


def _nearness(lift: Mapping[str, Any]) -> str:
    """What a lift and its interval say, as the middle of a sentence."""
    value, low, high = signed(lift["value"]), lift.get("low"), lift.get("high")
    if not (finite(low) and finite(high)):
        return f"have a lift of {value}, with no interval to judge it by,"
    where, than = ("further from", "than from") if high < 0 else ("nearer to" if low > 0 else "no nearer to", "than to")
    return (
        f"lie {where} their own feature’s native explanation {than} those of other features "
        f"(lift {value}, {level(lift)} interval {signed(low)} to {signed(high)})"
    )


def _alarm(table: Mapping[str, Mapping[str, Any]], lift: Mapping[str, Any], controls: Controls) -> str:
    """A clause when random directions score above nothing too, sharper when they reach the lift itself."""
    for name, row in table.items():
        chance = row.get("lift") or {}
        if name not in controls.random or not finite(chance.get("low")) or chance["low"] <= 0:
            continue
        found = f"random directions ({name}) have a lift of {signed(chance.get('value'))}"
        if not finite(lift.get("low")) or not finite(chance.get("high")) or chance["high"] >= lift["low"]:
            return f"; but {found}, so that lift shows nothing about the features"
        return f"; {found}"
    return ""
