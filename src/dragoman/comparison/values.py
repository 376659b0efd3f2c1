"""What is measured of each feature's text in one condition of a run, a number a feature, and what it was measured by.

In: a run read to be judged, its scores. Out: ``Values`` by measure. Refuses nothing: a measure that a run does not have
says why. Numbers of two runs are the same measure only where they were measured by the same things, which are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dragoman.scores import Scores
from dragoman.scoring.judged_run import FEWEST, NATIVE, JudgedRun
from dragoman.scoring.measures import of_one_text, single_words

NOT_SCORED = "it was not scored"
MOSTLY = 0.9  # of the features that a number is over, shared by the runs whose numbers are compared
BOTH = "of both runs: "  # how a reason begins that is one of both
NO_NATIVES = "it has no native texts that a lift is measured against"
# Measures in the order in which they are shown: what each is called, and what it is.
MEASURES: dict[str, tuple[str, str]] = {
    "lift": ("lift", "likeness of the text to its own feature's native text, less that to other features'"),
    "window_lift": ("window lift", "the same with windows of text in which features fire in place of native texts"),
    "category": ("category named", "share of texts that name the feature's planted category"),
    "detection": ("detection", "AUROC of telling windows where the feature fires from others by the text"),
    "read_back": (
        "read back",
        "cosine of what a reconstructor reads in the text with its own direction, less that with other features'",
    ),
    "firing_word": ("firing word", "share of texts that quote the one word on which the feature fires"),
    "final_token": ("final token", "share of them that call it the final token"),
    "lens_overlap": ("lens words", "of the 20 words that the row writes most, how many the carried row writes as well"),
    "steering": ("steering", "how often the carried row raises its own feature's words above another feature's"),
    "theme": ("supported theme", "share of a text's theme sentences that where its feature fires bears out"),
    "words": ("supported words", "the same of sentences that quote words"),
    "token": ("supported token", "the same of sentences about the final token"),
    "confidence": ("confidence", "the calibrated chance that the text is right"),
    "flagged": ("flagged", "share of texts that bear a flag, such as one that repeats itself; fewer is better"),
}
CLAIMS: Sequence[Literal["theme", "words", "token"]] = ("theme", "words", "token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """One measure of one condition.

    ``by``: feature -> its own number. ``alike``: in words, what it was measured by, the same in two runs where their
    numbers are to be compared. ``own``: the same of single features. ``among``: the features whose numbers are told
    apart from one another's, where a number depends on the others. ``why``: there are none, and why.
    """

    by: Mapping[str, float] = field(default_factory=dict)
    alike: Mapping[str, object] = field(default_factory=dict)
    own: Mapping[str, object] = field(default_factory=dict)
    among: frozenset[str] | None = None
    why: str = ""


def values_of(run: JudgedRun, scores: Scores | None, condition: str) -> dict[str, Values]:
    """Every measure of a condition, in the order of ``MEASURES``.

    Args:
        run: read once.
        scores: of the run, None where it was not scored.
        condition: one of the run's, with texts.
    """
    found = {
        "lift": _lift(run, scores, condition),
        "window_lift": _measured(run, scores, condition, "window_lift"),
        "category": _category(run, scores, condition),
        "detection": _detection(run, scores, condition),
        "read_back": _read_back(scores, condition),
        **_firing(run, condition),
        "lens_overlap": _lens(run, condition),
        "steering": _measured(run, scores, condition, "steering"),
        **_claims(run, scores, condition),
        "confidence": _confidence(scores, condition),
        "flagged": _flagged(run, condition),
    }
    return {name: found[name] for name in MEASURES}


def _lift(run: JudgedRun, scores: Scores | None, condition: str) -> Values:
    if NATIVE not in run.texts:
        return Values(why=NO_NATIVES)
    if scores is None:
        return Values(why=NOT_SCORED)
    by = {one.feature: one.lift for one in scores.per_feature.get(condition, ()) if one.lift is not None}
    if not by:
        return Values(why="its scores hold no lift of this condition")
    own = {f: run.texts[NATIVE].get(f) for f in by}
    return Values(by=by, alike={"embedder": scores.embedder}, own=own, among=frozenset(by))


def _category(run: JudgedRun, scores: Scores | None, condition: str) -> Values:
    if not run.category:
        return Values(why="no category is planted in its features")
    if scores is None:
        return Values(why=NOT_SCORED)
    by = {
        one.feature: float(one.names_category)
        for one in scores.per_feature.get(condition, ())
        if one.names_category is not None
    }
    own = {f: (run.category[f], tuple(run.words[run.category[f]])) for f in by if f in run.category}
    return Values(by=by, own=own, why="" if by else "its scores tell of no text whether it names its category")


def _detection(run: JudgedRun, scores: Scores | None, condition: str) -> Values:
    if not run.contexts:
        return Values(why="it holds no windows in which features fire")
    if scores is None:
        return Values(why=NOT_SCORED)
    if scores.detection is None or condition not in scores.detection.per_feature:
        return Values(why="its scores hold no detection of this condition")
    by = {one.feature: one.auroc for one in scores.detection.per_feature[condition]}
    return Values(by=by, alike={"embedder": scores.detection.embedder}, own={f: _windows(run, f) for f in by})


def _read_back(scores: Scores | None, condition: str) -> Values:
    if scores is None:
        return Values(why=NOT_SCORED)
    back = scores.reconstruction
    if back is None or condition not in back.per_feature:
        return Values(why="it was not scored with a reconstructor (--ar)")
    by = {one.feature: one.lift for one in back.per_feature[condition]}
    return Values(by=by, alike={"reconstructor": (back.site, dict(back.identity))}, among=frozenset(by))


def _firing(run: JudgedRun, condition: str) -> dict[str, Values]:
    """Measured anew, as ``score`` does it: rows and windows are all it takes."""
    names = ("firing_word", "final_token")
    if not any("words" in entry for entry in run.contexts.values()):
        return dict.fromkeys(names, Values(why="nobody counted on which words its features fire"))
    single = single_words(run)
    told = {f: of_one_text(text, single[f]) for f, text in run.texts[condition].items() if f in single}
    if not told:
        return dict.fromkeys(names, Values(why="none of its features fires on one word"))
    own = {f: single[f] for f in told}
    return {name: Values(by={f: two[k] for f, two in told.items()}, own=own) for k, name in enumerate(names)}


def _lens(run: JudgedRun, condition: str) -> Values:
    words = (run.folder.lens or {}).get(condition)
    if not words:
        return Values(why="it holds no lens words of this condition")
    by = {f: float(len(set(one["source"]) & set(one["carried"]))) for f, one in words.items()}
    return Values(by=by, own={f: frozenset(one["source"]) for f, one in words.items()})


def _measured(
    run: JudgedRun, scores: Scores | None, condition: str, name: Literal["window_lift", "steering"]
) -> Values:
    """What only models tell, as it was kept when it was scored."""
    if name == "window_lift" and NATIVE in run.texts:
        return Values(why="it has native texts, which lift is measured against in its place")
    if scores is None:
        return Values(why=NOT_SCORED)
    by = {one.feature: value for one in scores.measured.get(condition, ()) if (value := getattr(one, name)) is not None}
    if by and name == "window_lift":
        asked = {f for texts in run.texts.values() for f in texts}
        others = {f: _windows(run, f) for f in run.contexts if f not in asked}
        own = {f: _windows(run, f) for f in by}
        return Values(by=by, own=own, alike={"embedder": scores.embedder, "windows of other features": others})
    if by:
        return Values(by=by, among=frozenset(by))
    kept = condition in scores.window_lift if name == "window_lift" else name in scores.measures.get(condition, {})
    if kept:
        return Values(why="its scores hold the mean alone; score it again")
    return Values(why="it was not scored so" + (" (--steer)" if name == "steering" else ""))


def _claims(run: JudgedRun, scores: Scores | None, condition: str) -> dict[str, Values]:
    """Of each kind of sentence, the share that is supported of those that could be checked."""
    if scores is None or condition not in scores.claims:
        return dict.fromkeys(CLAIMS, Values(why="its sentences were not checked"))
    found: dict[str, Values] = {}
    for kind in CLAIMS:
        by: dict[str, float] = {}
        for one in scores.claims[condition]:
            checked = [c.status for c in one.claims if c.kind == kind and c.status != "unchecked"]
            if checked:
                by[one.feature] = checked.count("supported") / len(checked)
        own = {f: _windows(run, f) for f in by}
        found[kind] = Values(by=by, own=own, why="" if by else "none of its sentences of this kind could be checked")
    return found


def _confidence(scores: Scores | None, condition: str) -> Values:
    if scores is None or scores.confidence is None or condition not in scores.confidence.per_feature:
        return Values(why="it has no confidences")
    sure = scores.confidence
    by = {one.feature: one.probability for one in sure.per_feature[condition]}
    # By a member of another name other evidence was weighed.
    own = {one.feature: (one.member, sure.members.get(one.member)) for one in sure.per_feature[condition]}
    return Values(by=by, own=own)


def _flagged(run: JudgedRun, condition: str) -> Values:
    rows = [row for row in run.rows if row.condition == condition and row.sample == 0]
    return Values(by={row.feature: float(bool(row.problems)) for row in rows})


def _windows(run: JudgedRun, feature: str) -> object:
    """What a feature's text is checked by."""
    entry = run.contexts.get(feature, {})
    return entry.get("firing"), entry.get("silent"), entry.get("words")


def shared_values(each: Sequence[Values], features: Sequence[str]) -> tuple[list[str], str]:
    """The features that a measure compares runs by, or why it cannot; all of them have it.

    Args:
        each: the measure in each run; none of them is missing.
        features: that all of them have texts of.
    """
    first, others = each[0], each[1:]
    for name in first.alike:
        if any(one.alike.get(name) != first.alike[name] for one in others):
            return [], f"the runs were measured by different things ({name})"
    sets = [one.among for one in each if one.among is not None]
    if sets and len(frozenset.intersection(*sets)) < MOSTLY * len(frozenset.union(*sets)):
        return [], f"each is over the other features of its run, and fewer than {MOSTLY:.0%} of these are in all"
    there = [f for f in features if all(f in one.by for one in each)]
    alike = [f for f in there if all(one.own.get(f) == first.own.get(f) for one in others)]
    if there and len(alike) < (MOSTLY if sets else 0) * len(there):
        return [], f"fewer than {MOSTLY:.0%} of the texts that it is measured against are the same"
    if len(alike) < FEWEST <= len(there):
        return [], "the runs know different things of where their features fire"
    return (alike, "") if len(alike) >= FEWEST else ([], f"fewer than {FEWEST} features have it in all runs")
