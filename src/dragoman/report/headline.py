"""The run in a sentence or two, from its scores alone.

In: scores, how many features and texts there are. Out: the sentences on top of the page. Refuses nothing: the sentence
says what was not scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from dragoman.core import Estimate
from dragoman.report import figures
from dragoman.report.claims import counted
from dragoman.report.figures import finite, share, signed
from dragoman.report.words import TITLES, Controls, spokesman, title
from dragoman.scores import DetectionRate, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What is counted of single features, by condition: how many texts are ``answered`` for, of how many.

    ``claims``: how many sentences have each status.
    """

    answered: Mapping[str, tuple[int, int]]
    claims: Mapping[str, Counter[str]]

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Counted in scores that hold single features."""
        per_feature = scores.confidence.per_feature if scores.confidence else {}
        return cls(
            answered={name: (sum(one.answered for one in some), len(some)) for name, some in per_feature.items()},
            claims={name: counted(some) for name, some in scores.claims.items()},
        )


def headline(
    scores: Scores,
    features: int,
    texts: int,
    controls: Controls,
    *,
    readings: Sequence[str] = (),
    rare: int = 0,
    noun: str = "features",
    told: Counted | None = None,
) -> str:
    """What the scores say: lift and category of the condition that speaks for the run, then what was read back.

    A run of both readings is spoken for by both. ``readings``: those of the run; ``rare``: features that fire too
    rarely to have the first; ``noun``: what they are; ``told``: what was counted of single features, where these
    scores do not hold them.
    """
    about, told = _readings(readings, rare), told or Counted.of(scores)
    said = _scored(scores, controls)
    back = _read_back(scores, controls)
    if not said:
        counts = f"{figures.number(texts)} explanations of {figures.number(features)} {noun}"
        answered, windows = _answered(told, controls), _windows(scores, controls) or _labels(scores, controls)
        if answered or windows or back:
            said = " ".join(filter(None, [f"{counts}{answered}.", windows, back]))
        else:
            said = f"{counts}, none of them scored: nothing on this page says how far to trust them."
            said = said if not told.claims else f"{counts}."
    else:
        said = f"{said} {back}".rstrip()
    return " ".join(filter(None, [about, said, compared_words(scores), _claims(told, controls)]))


def compared_words(scores: Scores) -> str:
    """On how many features estimates are made, where that is not on all of them; else ""."""
    if scores.compared is None:
        return ""
    drawn, features = figures.number(scores.compared.drawn), figures.number(scores.compared.features)
    return (
        f"Estimates are of {drawn} features, drawn at random from the {features}, as each is compared with all others; "
        "single features’ own numbers are there for all."
    )


def _readings(readings: Sequence[str], rare: int) -> str:
    """What is read of each feature, and how many lack a reading; nothing of a run without readings."""
    if not readings:
        return ""
    words = {"fires": "what it fires on", "writes": "what its row writes"}
    told = " and ".join(words[name] for name in words if name in readings)
    whose = "Each feature is read twice" if len(readings) > 1 else "Each feature is read once"
    left = "for the first" if len(readings) > 1 else "and is left out" if rare == 1 else "and are left out"
    few = f" {rare} fire{'s' if rare == 1 else ''} too rarely {left}." if rare else ""
    return f"{whose}: {told}.{few}"


def _speakers(conditions: Iterable[str], controls: Controls) -> list[str]:
    """Both readings where one of them speaks for a run, else the one condition that does."""
    there = list(conditions)
    named = spokesman(there, controls)
    return [name for name in TITLES if name in there] if named in TITLES else [named] if named else []


def _called(name: str) -> str:
    """A condition as the beginning of a sentence on its texts."""
    return (
        f"“{title(name)[:1].upper()}{title(name)[1:]}” explanations"
        if name in TITLES
        else f"{name[:1].upper()}{name[1:]} explanations"
    )


def _scored(scores: Scores, controls: Controls) -> str:
    """A sentence on lift and category for each condition that speaks; nothing where neither was had."""
    lifts, categories, sentences = scores.native_lift, scores.category, list[str]()
    for named in _speakers((row.condition for row in scores.table if row.lift or row.category), controls):
        lift, category, parts = lifts.get(named), categories.get(named), list[str]()
        if lift:
            parts.append(_nearness(lift, "their own feature’s native explanation"))
        if category:
            low = category.low if isinstance(category, Estimate) else None
            rate = f"name the planted category of {share(category.value)} of the features"
            parts.append(rate + _beside(low, category.random, "on random directions"))
        sentences.append(f"{_called(named)} {' and '.join(parts)}{_alarm(lifts, lift, controls)}.")
    return " ".join(sentences)


def _claims(told: Counted, controls: Controls) -> str:
    """How many sentences the evidence supports and does not, by condition that speaks; nothing where none was."""
    parts = list[str]()
    for name in _speakers(told.claims, controls):
        found = told.claims[name]
        if found["unchecked"] == found.total():
            continue
        supported, n = figures.number(found["supported"]), figures.number(found.total())
        unchecked = f", {figures.number(found['unchecked'])} could not be checked" if found["unchecked"] else ""
        parts.append(f"{supported} of {n} sentences of “{title(name)}”{unchecked}")
    return f"The documents they fire in support {'; '.join(parts)}." if parts else ""


def _answered(told: Counted, controls: Controls) -> str:
    """How many features dragoman answers for, in each condition that speaks; nothing without confidences."""
    speakers = _speakers(told.answered, controls)
    counts = {name: told.answered[name] for name in speakers}
    if len(speakers) == 1 and speakers[0] not in TITLES:
        answered, n = counts[speakers[0]]
        return f"; dragoman answers for {answered} of them and abstains from {n - answered}"
    each = [f"{answered} of {n} texts of “{title(name)}”" for name, (answered, n) in counts.items()]
    return f"; dragoman answers for {' and '.join(each)}" if each else ""


def _read_back(scores: Scores, controls: Controls) -> str:
    """A sentence on the reconstructor's top-1 for each condition that speaks, or nothing."""
    found = scores.reconstruction
    table, sentences = {row.condition: row for row in found.table} if found else {}, list[str]()
    for named in _speakers(table, controls):
        top1, who = table[named].top1, found.reconstructor if found else ""
        sentences.append(
            f"From the {f'“{title(named)}”' if named in TITLES else named} texts alone {who} picks the right direction "
            f"among {figures.number(table[named].n)} for {share(top1.value)} of them"
            f"{_beside(top1.low, top1.extra.get('chance'), 'by chance')}."
        )
    return " ".join(sentences)


def _windows(scores: Scores, controls: Controls) -> str:
    """A sentence on the windows in which features fire: lift over others', else what tells them apart; or nothing."""
    nearer = [
        f"{_called(named)} {_nearness(scores.window_lift[named], 'the windows in which their own feature fires')}."
        for named in _speakers(scores.window_lift, controls)
    ]
    if nearer:
        return " ".join(nearer)
    table = {row.condition: row for row in scores.detection.table} if scores.detection else {}
    sentences = list[str]()
    for named in _speakers(table, controls):
        sentences.append(f"{_called(named)} {_told_apart(table[named], 'other features’ texts')}.")
    return " ".join(sentences)


def _labels(scores: Scores, controls: Controls) -> str:
    """A sentence on labels from contexts, and whether the texts that speak tell more than they; or nothing."""
    found = scores.context_labels
    own = next((row for row in found.table if row.condition == found.label), None) if found else None
    if found is None or own is None:
        return ""
    over = {one.what.removesuffix(f" minus {found.label}"): one for one in found.over}
    parts = [f"Labels from contexts by {found.model} {_told_apart(own, 'labels of other features')}"]
    for named in _speakers(over, controls):
        low, high = over[named].low, over[named].high
        than = "tell more than they do" if low > 0 else "tell less than they do" if high < 0 else "do not beat them"
        parts.append(f"{f'“{title(named)}”' if named in TITLES else named} explanations {than}")
    return f"{'; '.join(parts)}."


def _told_apart(row: DetectionRate, whose: str) -> str:
    """How well a condition tells where features fire, beside what ``whose`` reach, as the middle of a sentence."""
    beside = ""
    if (others := row.extra.get("others")) is not None:
        doubt = ", which the interval does not exclude" if row.low <= others else ""
        beside = f", {whose} with {figures.number(others)}{doubt}"
    area = figures.number(row.value)
    return f"tell windows in which their feature fires from others with a mean AUROC of {area}{beside}"


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
