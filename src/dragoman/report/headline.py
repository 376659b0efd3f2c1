"""The run in a sentence or two, from its scores alone.

In: scores, how many features and texts there are. Out: the sentences on top of the page. Refuses nothing: the sentence
says what was not scored.
"""

from __future__ import annotations

from collections.abc import Mapping

from dragoman.core import Estimate
from dragoman.report import figures
from dragoman.report.figures import finite, share, signed
from dragoman.report.words import Controls, spokesman
from dragoman.scores import Scores


def headline(scores: Scores, features: int, texts: int, controls: Controls) -> str:
    """What the scores say: lift and category of the condition that speaks for the run, then what was read back."""
    lifts, categories = scores.native_lift, scores.category
    named = spokesman((row.condition for row in scores.table if row.lift or row.category), controls)
    back = _read_back(scores, controls)
    if not named:
        counted = f"{figures.number(texts)} explanations of {figures.number(features)} features"
        answered, windows = _answered(scores, controls), _windows(scores, controls)
        if answered or windows or back:
            return " ".join(filter(None, [f"{counted}{answered}.", windows, back]))
        return f"{counted}, none of them scored: nothing on this page says how far to trust them."
    lift, category, parts = lifts.get(named), categories.get(named), []
    if lift:
        parts.append(_nearness(lift, "their own feature’s native explanation"))
    if category:
        low = category.low if isinstance(category, Estimate) else None
        rate = f"name the planted category of {share(category.value)} of the features"
        parts.append(rate + _beside(low, category.random, "on random directions"))
    sentence = f"{named[:1].upper()}{named[1:]} explanations {' and '.join(parts)}{_alarm(lifts, lift, controls)}."
    return f"{sentence} {back}".rstrip()


def _answered(scores: Scores, controls: Controls) -> str:
    """How many features dragoman answers for, in the condition that speaks for the run; nothing without confidences."""
    per_feature = scores.confidence.per_feature if scores.confidence else {}
    named = spokesman(per_feature, controls)
    if not named:
        return ""
    answered = sum(one.answered for one in per_feature[named])
    return f"; dragoman answers for {answered} of them and abstains from {len(per_feature[named]) - answered}"


def _read_back(scores: Scores, controls: Controls) -> str:
    """One sentence on the reconstructor's top-1, or nothing."""
    table = {row.condition: row for row in scores.reconstruction.table} if scores.reconstruction else {}
    named = spokesman(table, controls)
    if not named or not scores.reconstruction:
        return ""
    top1 = table[named].top1
    return (
        f"From the {named} texts alone {scores.reconstruction.reconstructor} picks the right direction among "
        f"{figures.number(table[named].n)} for {share(top1.value)} of them"
        f"{_beside(top1.low, top1.extra.get('chance'), 'by chance')}."
    )


def _windows(scores: Scores, controls: Controls) -> str:
    """One sentence on the windows in which features fire, or nothing: lift over others', else what tells them apart."""
    if named := spokesman(scores.window_lift, controls):
        nearness = _nearness(scores.window_lift[named], "the windows in which their own feature fires")
        return f"{named[:1].upper()}{named[1:]} explanations {nearness}."
    table = {row.condition: row for row in scores.detection.table} if scores.detection else {}
    if not (named := spokesman(table, controls)):
        return ""
    row, beside = table[named], ""
    if (others := row.extra.get("others")) is not None:
        doubt = ", which the interval does not exclude" if row.low <= others else ""
        beside = f", other features’ texts with {figures.number(others)}{doubt}"
    return (
        f"{named[:1].upper()}{named[1:]} explanations tell windows in which their feature fires from others with a "
        f"mean AUROC of {figures.number(row.value)}{beside}."
    )


def _beside(low: float | None, chance: float | None, whose: str) -> str:
    """A rate's rival, and a warning when the rate's interval, from ``low``, reaches down to it, or where none is."""
    if chance is None:
        return f"; nothing was scored {whose} to compare it with"
    doubt = ", which the interval does not exclude" if low is not None and low <= chance else ""
    return f" against {share(chance)} {whose}{doubt}"


def _nearness(lift: Estimate, own: str) -> str:
    """What a lift over other features and its interval say, as the middle of a sentence; ``own``: what it is over."""
    if not (finite(lift.low) and finite(lift.high)):
        return f"have a lift of {signed(lift.value)}, with no interval to judge it by,"
    where, than = "no nearer to", "than to"
    if lift.low > 0 or lift.high < 0:
        where, than = ("nearer to", "than to") if lift.low > 0 else ("further from", "than from")
    return (
        f"lie {where} {own} {than} those of other features "
        f"(lift {signed(lift.value)}, {share(lift.level)} interval {signed(lift.low)} to {signed(lift.high)})"
    )


def _alarm(lifts: Mapping[str, Estimate], lift: Estimate | None, controls: Controls) -> str:
    """A clause when random directions score above nothing too, sharper when they reach the lift itself."""
    for name, chance in lifts.items():
        if name in controls.random and chance.low > 0:
            clause = f"random directions ({name}) have a lift of {signed(chance.value)}"
            if lift is None or not chance.high < lift.low:
                return f"; but {clause}, so that lift shows nothing about the features"
            return f"; {clause}"
    return ""
