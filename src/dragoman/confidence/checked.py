"""A confidence from explanations that somebody checked: fitted anew, or one that exists calibrated anew.

In: a file of checked rows, a run's evidence, perhaps a set of confidences. Out: a set, and how reliable its
probabilities are on checked rows it was not fitted on. Refuses files that hold anything else, rows of features or
conditions that the run has no evidence on, rows that contradict one another, too few, one kind only, and rows that are
told apart without error: how sure to be cannot be learnt from them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import Bin, drawn_in, ece_estimate, fit_confidence, platt, reliability_curve
from dragoman.confidence.model import Confidence, ConfidenceSet, Doubles, Member, expit
from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.roc import Outcomes, auroc_estimate
from dragoman.store import refusing

FEWEST_TO_FIT, FEWEST_EACH_TO_FIT = 40, 8  # so that four fifths of them are enough for a fit
FEWEST_TO_RECALIBRATE, FEWEST_EACH_TO_RECALIBRATE = 30, 5
FOLDS = 5
MEMBER = "checked"
_LINE = 100_000  # characters
COLUMNS = ("feature", "condition", "right")
_NATIVE = "native"  # as runs name it
_RIGHT = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
EvidenceOf = Mapping[str, Mapping[str, Evidence]]  # condition -> feature -> evidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """n explanations that were checked: their ``features``, ``evidence``, and whether each is ``right`` (n,)."""

    features: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    right: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many."""
        return len(self.features)

    def of(self, rows: NDArray[Any]) -> Checked:
        """Those of some row numbers."""
        at = [int(k) for k in rows]
        return Checked(
            features=tuple(self.features[k] for k in at),
            evidence=tuple(self.evidence[k] for k in at),
            right=self.right[at],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What probabilities are worth on ``n`` checked explanations that they were not fitted on, by five folds.

    ``left_out``: checked ones to which no member of the set applies. ``answered`` of n reach their member's threshold;
    ``answered_right`` of those are right, with Wilson's ``low`` and ``high`` (None where none is answered).
    """

    n: int
    right: int
    left_out: int
    bins: tuple[Bin, ...]
    ece: Estimate
    auroc: Estimate
    answered: int
    answered_right: float | None
    low: float | None
    high: float | None


def read_checked(path: Path) -> list[tuple[str, str | None, bool]]:
    """Feature, condition (None where it is not told) and right or not, from CSV or from JSON lines.

    Raises:
        Refusal: the file is not there, is no text, lacks a column, or has another word than true, false, 1, 0, yes or
            no under "right".
    """
    with refusing("reading", path):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Refusal(f"{path}", "it is not UTF-8 text", "save it as CSV or JSON lines in UTF-8") from error
    lines = _json_lines(text, path) if text.lstrip().startswith("{") else _csv_lines(text, path)
    rows = [_checked_row(line, f"{path}, line {number}") for number, line in lines]
    if not rows:
        raise Refusal(f"{path}", "it holds no checked row", f"write the columns {', '.join(COLUMNS)}, one row a text")
    return rows


def matched(
    rows: Sequence[tuple[str, str | None, bool]], evidence: EvidenceOf, claims: Sequence[str], what: str
) -> Checked:
    """Checked rows with the run's evidence on them; the same row twice counts once.

    Args:
        rows: of `read_checked`.
        evidence: of the run.
        claims: the run's conditions that are no nulls; a row that names none is of the only one.
        what: how refusals call the file.

    Raises:
        Refusal: an unknown condition or feature, a condition that must be named, or rows that contradict one another.
    """
    found: dict[tuple[str, str], bool] = {}
    for feature, named, right in rows:
        condition = named or _only(claims, what)
        if condition not in claims:
            raise _no_claim(condition, claims, what)
        if feature not in evidence.get(condition, {}):
            raise Refusal(
                f"{what}, feature '{feature}'",
                f"the run has no explanation of it under {condition}",
                "check features of this run, by the ids of its rows",
            )
        if found.setdefault((condition, feature), right) != right:
            raise Refusal(
                f"{what}, feature '{feature}' under {condition}",
                "it is right in one row and wrong in another",
                "decide, and keep one of them",
            )
    return Checked(
        features=tuple(feature for _, feature in found),
        evidence=tuple(evidence[condition][feature] for condition, feature in found),
        right=np.array(list(found.values()), dtype=bool),
    )


def fit_checked(checked: Checked, *, fitted_on: str = "", seed: int = 0) -> tuple[ConfidenceSet, Reliability]:
    """A set of one confidence, fitted on all checked explanations, and its reliability where it had not seen them.

    It needs whatever evidence was always there, so that nothing is made up where it is missing.

    Args:
        checked: at least 40, 8 right and 8 wrong: each of five folds is judged by a fit on the others, which takes 30.
        fitted_on: in words, for whoever reads a page.
        seed: of the folds and of resampling.

    Raises:
        Refusal: too few, all of one kind, evidence that does not vary, or rows told apart without error.
    """
    _refuse_few(checked, "fit", FEWEST_TO_FIT, FEWEST_EACH_TO_FIT)

    def fitted(part: Checked) -> ConfidenceSet:
        confidence = fit_confidence(part.evidence, part.right, groups=part.features, seed=seed)
        confidence = confidence.model_copy(update={"report": {**confidence.report, "fitted_on": fitted_on}})
        always = [name for name in confidence.names if all(row.get(name) is not None for row in part.evidence)]
        return ConfidenceSet.holding({MEMBER: (always, confidence)})

    return fitted(checked), _reliability(fitted, checked, seed)


def recalibrate_checked(base: ConfidenceSet, checked: Checked, *, seed: int = 0) -> tuple[ConfidenceSet, Reliability]:
    """A set whose members keep their order of explanations, with slope and offset fitted anew on checked ones.

    Members that apply to fewer than 30 of them, 5 right and 5 wrong, are left out: their probabilities were fitted on
    other models. What a member promised of nulls is not promised any more.

    Args:
        base: the set.
        checked: at least 30, 5 right and 5 wrong.
        seed: of the folds and of resampling.

    Raises:
        Refusal: too few, all of one kind, no member that applies to enough, or rows told apart without error.
    """
    _refuse_few(checked, "recalibrate", FEWEST_TO_RECALIBRATE, FEWEST_EACH_TO_RECALIBRATE)
    usable = [member for member in base.members if _enough(_applying(member, checked))]
    if not usable:
        names = ", ".join(member.name for member in base.members)
        raise Refusal(
            f"recalibrating {names}",
            f"none of them applies to {FEWEST_TO_RECALIBRATE} checked explanations of both kinds",
            "check more, or fit a confidence on the evidence that this run has",
        )

    def recalibrated(part: Checked) -> ConfidenceSet:
        return ConfidenceSet(members=tuple(_recalibrated(member, _applying(member, part)) for member in usable))

    return recalibrated(checked), _reliability(recalibrated, checked, seed)


def reliability_lines(found: Reliability) -> list[str]:
    """The report as lines of at most 80 columns."""
    lines = [
        f"checked: {found.n} explanations, {found.right} right, {found.n - found.right} wrong",
        "each judged by a fit that had not seen its feature",
        "",
        "    n  predicted  observed  95 % interval",
    ]
    lines += [
        f"{one.n:5d}  {one.predicted:9.3f}  {one.observed:8.3f}  [{one.low:.3f}, {one.high:.3f}]" for one in found.bins
    ]
    exact = found.ece.extra["if_calibrated"]
    lines += [
        "",
        f"calibration error {found.ece.value:.3f} [{found.ece.low:.3f}, {found.ece.high:.3f}]; exact ones score "
        f"{exact:.3f}",
        f"AUROC {found.auroc.value:.3f} [{found.auroc.low:.3f}, {found.auroc.high:.3f}]",
    ]
    answers = f"answers {found.answered} of {found.n}"
    if found.answered_right is not None:
        answers += f", of which {found.answered_right:.0%} are right [{found.low:.3f}, {found.high:.3f}]"
    lines.append(answers)
    if found.left_out:
        lines.append(f"left out: {found.left_out} checked ones with too little evidence for any confidence")
    return lines


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{path}, line {number}", "it is not JSON", "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise Refusal(f"{path}, line {number}", "it is not a JSON object", "write one JSON object a line")
        yield number, row


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    # The csv module has a limit of its own, but one for the whole process, and scipy lifts it where it is loaded.
    long = next((n for n, line in enumerate(text.split("\n"), 1) if len(line) > _LINE), None)
    if long is not None:
        why = f"it is not CSV (more than {_LINE} characters)"
        raise Refusal(f"{path}, line {long}", why, "save it as CSV again")
    read = csv.DictReader(io.StringIO(text, newline=""))  # a cell may hold line ends of any kind
    try:
        read.fieldnames = _heads(read.fieldnames or [], path)
        for row in read:
            yield read.line_num, row
    except csv.Error as error:
        where = f"{path}, line {max(read.line_num, 1)}"
        raise Refusal(where, f"it is not CSV ({error})", "save it as CSV again") from error


def _heads(cells: Sequence[str], path: Path) -> list[str]:
    """The first line's names of columns; refuse a line without those that are needed."""
    heads = [str(head).strip().lower() for head in cells]
    missing = [name for name in ("feature", "right") if name not in heads]
    if missing and heads and {part.strip(' "') for part in heads[0].split(";")} >= {"feature", "right"}:
        raise Refusal(f"{path}", "it looks separated by semicolons", "save it with commas")
    if missing or len(set(heads)) < len(heads):
        raise Refusal(
            f"{path}",
            f"its first line does not name the column {missing[0]}" if missing else "it names a column twice",
            f"name the columns {', '.join(COLUMNS)}",
        )
    return heads


def _checked_row(row: Mapping[str, object], where: str) -> tuple[str, str | None, bool]:
    """One row, its words read; refuse what is missing or not understood."""
    feature, condition, right = (str("" if row.get(name) is None else row[name]).strip() for name in COLUMNS)
    if not feature:
        raise Refusal(where, "it names no feature", f"write the columns {', '.join(COLUMNS)}")
    if right.lower() not in _RIGHT:
        raise Refusal(where, f"right is '{right[:40]}'", "write true, false, 1, 0, yes or no")
    return feature, condition or None, _RIGHT[right.lower()]


def _no_claim(condition: str, claims: Sequence[str], what: str) -> Refusal:
    """Why rows of a condition have no place here."""
    known = ", ".join(claims) or "none"
    if condition == _NATIVE:
        why = "native texts are what others are held against, and no confidence is made of them"
        return Refusal(f"{what}, condition '{condition}'", why, f"check the run's others ({known})")
    return Refusal(f"{what}, condition '{condition}'", f"the run's are {known}", "name one of these")


def _only(claims: Sequence[str], what: str) -> str:
    if len(claims) == 1:
        return claims[0]
    names = ", ".join(claims) or "none"
    raise Refusal(what, f"it names no condition, and the run has {names}", "add a column condition")


def _enough(checked: Checked) -> bool:
    hits = int(checked.right.sum())
    few = min(hits, len(checked) - hits)
    return len(checked) >= FEWEST_TO_RECALIBRATE and few >= FEWEST_EACH_TO_RECALIBRATE


def _refuse_few(checked: Checked, what: str, fewest: int, each: int) -> None:
    hits = int(checked.right.sum())
    if len(checked) < fewest or min(hits, len(checked) - hits) < each:
        raise Refusal(
            f"a confidence from {hits} right and {len(checked) - hits} wrong explanations",
            f"to {what} one, and to judge it on rows it has not seen, takes {fewest}, {each} of each kind",
            "check more",
        )


def _applying(member: Member, checked: Checked) -> Checked:
    return checked.of(np.flatnonzero([member.applies(row) for row in checked.evidence]))


def _recalibrated(member: Member, checked: Checked) -> Member:
    """Slope and offset of the step "right" fitted anew; what is known of arrival stays."""
    old = member.confidence
    z, y = old.right.log_odds(checked.evidence), checked.right.astype(np.float64)
    slope, offset = platt(z, y)
    if old.arrived is not None:
        slope, offset = _platt_after(old.arrived.predict(checked.evidence), z, y, (slope, offset))
    report = {k: v for k, v in old.report.items() if k != "nulls"} | {"recalibrated_on": len(checked)}
    right = old.right.model_copy(update={"slope": slope, "offset": offset})
    made = Confidence(arrived=old.arrived, right=right, threshold=old.threshold, report=report)
    return Member(name=member.name, needs=member.needs, confidence=made)


def _platt_after(arrived: Doubles, z: Doubles, y: Doubles, start: tuple[float, float]) -> tuple[float, float]:
    """Slope (not below 0) and offset of P(right | arrived) for which P(arrived) times it fits the outcomes best."""
    from scipy.optimize import minimize

    aim = drawn_in(y)

    def loss(at: Doubles) -> float:
        p = np.clip(arrived * expit(at[0] * z + at[1]), 1e-12, 1 - 1e-12)
        return float(-np.mean(aim * np.log(p) + (1 - aim) * np.log1p(-p)))

    best = minimize(loss, np.array(start), method="L-BFGS-B", bounds=[(0, None), (-30, 30)]).x
    return float(best[0]), float(best[1])


def _reliability(make: Callable[[Checked], ConfidenceSet], checked: Checked, seed: int) -> Reliability:
    """Predictions for every fold by what was made of the others, whole features together; and what they are worth."""
    folds = _folds(checked, seed)
    p, answered = np.full(len(checked), np.nan), np.zeros(len(checked), dtype=bool)
    for fold in range(FOLDS):
        made, rows = make(checked.of(np.flatnonzero(folds != fold))), np.flatnonzero(folds == fold)
        for k, one in zip(rows, made.predict(checked.of(rows).evidence), strict=True):
            if one is not None:
                p[k], answered[k] = one.probability, one.answered
    seen = np.flatnonzero(~np.isnan(p))
    right, features = checked.right[seen], [checked.features[k] for k in seen]
    if right.any() and not right.all() and p[seen][right].min() > p[seen][~right].max():
        raise Refusal(
            f"a confidence from {len(seen)} checked explanations",
            "right and wrong are told apart without error, so how sure to be cannot be learnt from them",
            "check more, doubtful ones among them",
        )
    several = len(set(features)) < len(features)
    outcomes = Outcomes.of(p[seen], right, clusters=features if several else None)
    hits = right[answered[seen]]
    span = wilson_interval(int(hits.sum()), len(hits)) if len(hits) else (None, None)
    bins, rng = max(2, min(10, len(seen) // 10)), np.random.default_rng(seed)
    return Reliability(
        n=len(seen),
        right=int(right.sum()),
        left_out=len(checked) - len(seen),
        bins=tuple(reliability_curve(outcomes, bins=bins)),
        ece=ece_estimate(outcomes, rng=rng, bins=bins),
        auroc=auroc_estimate(outcomes, rng=rng),
        answered=len(hits),
        answered_right=float(hits.mean()) if len(hits) else None,
        low=span[0],
        high=span[1],
    )


def _folds(checked: Checked, seed: int) -> NDArray[np.intp]:
    """Fold of each row: features with something right and the others are dealt in turn, so that all folds have both."""
    some_right = dict.fromkeys(checked.features, False)
    for feature, right in zip(checked.features, checked.right, strict=True):
        some_right[feature] |= bool(right)
    names = list(some_right)
    order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda feature: some_right[feature])
    fold = {feature: place % FOLDS for place, feature in enumerate(order)}
    return np.array([fold[feature] for feature in checked.features], dtype=np.intp)
