"""What the run's tables need besides their records: scales that a column shares, tallies, counts, words on confidence.

In: scores, rows, cards. Out: spans, marks, small tables. Refuses nothing: what is missing is left out. Computes no
number of its own. The page reads everything else of a table from the scores' records themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dragoman.confidence.evidence import evidence_words
from dragoman.core import Estimate
from dragoman.records import Row
from dragoman.report import figures
from dragoman.report.cards import FeatureCard
from dragoman.report.figures import finite
from dragoman.report.words import MARKS, PROBLEMS, STATUSES, Controls, in_order
from dragoman.scores import (
    AdjustedTest,
    BareRate,
    ConfidenceScores,
    DetectionRate,
    FeatureConfidence,
    MemberReport,
    ReconstructionRow,
    Scores,
)

GUESS = "on another pair of models it is a guess until you check some"
Span = tuple[float, float]
Tally = Sequence[tuple[str, int, str]]  # a word, how often it occurs, what it means


def mark(estimate: Estimate | BareRate, span: Span, reference: float | None) -> str:
    """An estimate drawn with its interval on a scale; nothing where it has none."""
    if isinstance(estimate, BareRate):
        return ""
    return figures.interval_mark(estimate.value, estimate.low, estimate.high, span, reference)


def span_of(estimates: Iterable[Estimate], *points: float) -> Span:
    """The smallest scale that holds the intervals, the points and zero."""
    ends = [0.0, *points, *(end for one in estimates for end in (one.low, one.high))]
    return min(filter(finite, ends)), max(filter(finite, ends))


def lift_span(scores: Scores) -> Span:
    """The scale of lifts and their differences."""
    return span_of([*scores.native_lift.values(), *scores.paired])


def null_span(scores: Scores) -> Span:
    """The scale of lifts over each null."""
    return span_of(one.lift for by in scores.nulls.values() for one in by.values())


def read_back_span(rows: Sequence[ReconstructionRow]) -> Span:
    """The scale of cosines read back, and of the same of shuffled texts."""
    shuffled = [row.cosine.extra["shuffled"] for row in rows if "shuffled" in row.cosine.extra]
    return span_of([row.cosine for row in rows], *shuffled)


def detection_span(row: DetectionRate) -> Span:
    """From 0.3, or lower where the interval or other features' texts are, to 1."""
    return min(filter(finite, [0.3, row.low, row.extra.get("others")])), 1.0


def level(scores: Scores) -> str:
    """The level of the intervals of lift."""
    return next((figures.share(one.level) for one in (*scores.native_lift.values(), *scores.paired)), "95%")


def methods(scores: Scores) -> list[str]:
    """How the intervals and p of lift were made, each once."""
    return list(dict.fromkeys(one.method for one in (*scores.native_lift.values(), *scores.paired) if one.method))


def tested_against(scores: Scores) -> list[str]:
    """What every p of the table is against and what its n counts: no bare p, and no column that repeats itself."""
    words = []
    for what, part in (
        ("lift", scores.native_lift.items()),
        ("differences", [(one.what, one) for one in scores.paired]),
    ):
        whose: dict[tuple[str, str], list[str]] = {}
        for name, estimate in part:
            whose.setdefault((estimate.null, estimate.unit), []).append(name)
        for (null, unit), names in whose.items():
            who = what if len(whose) == 1 else f"{what} of {', '.join(names)}"
            words.append(f"{who} is against “{null}” (n counts {unit})")
    return words


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddersTable:
    """Lifts by condition, one for each of ``names``, with its test that is adjusted over all ``tests``."""

    names: Sequence[str]
    rows: Mapping[str, Sequence[tuple[Estimate | None, AdjustedTest | None]]]
    span: Span
    summary: str
    tests: int


def embedders_table(scores: Scores) -> EmbeddersTable | None:
    """Lift of each condition by each embedder; None where there is but one."""
    embedders = scores.embedders
    if embedders is None or len(embedders.names) < 2:
        return None
    names = embedders.names
    lifts = {names[0]: scores.native_lift}
    lifts |= {name: {c: one.centred for c, one in by.items()} for name, by in embedders.lifts.items()}
    tests = scores.adjusted.tests if scores.adjusted else ()
    adjusted = {(test.condition, test.embedder): test for test in tests}
    conditions = dict.fromkeys(c for by in lifts.values() for c in by)
    rows = {c: [(lifts.get(name, {}).get(c), adjusted.get((c, name))) for name in names] for c in conditions}
    span = span_of(one for by in lifts.values() for one in by.values())
    return EmbeddersTable(names=names, rows=rows, span=span, summary=embedders.summary, tests=len(tests))


def confidence_words(confidence: FeatureConfidence) -> str:
    """``confidence 0.87``, or ``abstains (0.21)`` below the threshold."""
    chance = f"{confidence.probability:.2f}"
    return f"confidence {chance}" if confidence.answered else f"abstains ({chance})"


def reasons(confidence: FeatureConfidence) -> str:
    """What weighed most, for and against."""
    sides = {
        "for it": [evidence_words(reason.evidence) for reason in confidence.why if reason.adds > 0],
        "against it": [evidence_words(reason.evidence) for reason in confidence.why if reason.adds < 0],
    }
    return "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)


def answer_counts(confidence: ConfidenceScores | None, controls: Controls) -> list[tuple[str, int, int]]:
    """Condition, how many texts have a confidence, how many are answered for; controls last."""
    per_feature = confidence.per_feature if confidence else {}
    counts = [(c, len(rows), sum(one.answered for one in rows)) for c, rows in per_feature.items() if rows]
    return sorted(counts, key=lambda row: row[0] in controls)


def fitted_on(confidence: ConfidenceScores) -> str:
    """On what the members of the set were fitted, from their reports."""
    return "; ".join(dict.fromkeys(map(_fitted, confidence.members.values()))) or "fitted on what its file does not say"


def _fitted(member: MemberReport) -> str:
    if member.fitted_on:
        return f"fitted on {member.fitted_on}"
    what = f"{figures.number(member.n)} explanations" if member.n else "what its file does not say"
    return f"fitted on {what}"


def status_tally(cards: Sequence[FeatureCard]) -> Tally:
    """How many features have each status, and what it means; empty when none has one."""
    counts = Counter(card.status for card in cards if card.status)
    return [(word, counts[word], STATUSES[word]) for word in in_order(counts, list(STATUSES))]


def problem_tally(rows: Iterable[Row], controls: Controls) -> Tally:
    """How many explanations of features bear each flag, most frequent first; controls are not counted."""
    counts = Counter(
        problem for row in rows if row.condition not in controls for problem in dict.fromkeys(row.problems)
    )
    return [(problem, count, PROBLEMS.get(problem, "")) for problem, count in counts.most_common()]


def choices(cards: Sequence[FeatureCard]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the list can be filtered by: name, the words for no filter, and values with their counted words."""
    statuses = Counter(card.status for card in cards if card.status)
    categories = Counter(card.category for card in cards if card.category)
    marks = Counter(mark for card in cards for mark in card.marks.split())
    filters = [
        ("status", "any verdict", [(w, f"{w}: {statuses[w]}") for w in in_order(statuses, list(STATUSES))]),
        ("category", "any category", [(w, f"{w}: {categories[w]}") for w in sorted(categories)]),
        ("marks", "all features", [(w, f"{MARKS[w]}: {marks[w]}") for w in in_order(marks, list(MARKS))]),
    ]
    return [(name, every, options) for name, every, options in filters if len(options) > (name == "category")]
