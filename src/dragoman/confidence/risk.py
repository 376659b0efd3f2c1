"""From which probability on sentences are answered: the lowest line at which error is kept in bounds, or none.

In: probabilities of sentences by fits that had not seen them, whether each is right, the largest probability of each
null's texts. Out: a ``Line``. Refuses shapes that do not fit and levels that are none.

Lines are tried in an order that no outcome decides, strictest first, each answering a share of the sentences; testing
stops at the first that fails, so that all that passed hold together with the stated confidence (Learn then Test, fixed
sequence; Angelopoulos et al., arXiv 2110.01052). A line passes where the one-sided Clopper-Pearson bound of the error
among the answered is small enough. Sentences of features that fire together may be right or wrong together, so as many
count as would if each group were right or wrong as one (Kish's effective number). Lines whose sentences count so little
that they would not pass with nothing wrong are left out; what is wrong has no part in that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal

ERROR, SURE, OF_NULL = 0.2, 0.9, 0.02  # error among the answered, how surely, and share of each null that is answered
SHARES = tuple(k / 40 for k in range(2, 41))  # of the sentences that a line answers: 5 %, 7.5 %, ... all
FEWEST = 20  # sentences that the first line answers at least
NEVER = -1.0  # in the place of a probability: of a sentence that no line answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``threshold``: answers are given at or above it; None where no line is safe, and ``why``.

    ``answered`` of ``n`` reach it, ``wrong`` of these are wrong, and at most ``bound`` would be with 90 % confidence.
    ``nulls``: null -> share of its texts with a sentence that counts as wrong and reaches it.
    """

    threshold: float | None
    why: str
    n: int
    answered: int
    wrong: int
    bound: float | None
    nulls: Mapping[str, float]


def error_bound(wrong: float, n: float, *, sure: float = SURE) -> float:
    """The largest error rate that ``wrong`` of ``n`` leave possible: Clopper and Pearson's one-sided upper bound.

    Numbers need not be whole: drawn in by a design effect they seldom are.

    Raises:
        Refusal: no trial, more wrong than trials, or a confidence that is none.
    """
    from scipy.stats import beta

    if not (n > 0 and 0 <= wrong <= n and 0 < sure < 1):
        raise Refusal(f"a bound for {wrong:g} wrong of {n:g}", "it needs a trial, and a confidence", "answer something")
    return 1.0 if wrong >= n else float(beta.ppf(sure, wrong + 1, n - wrong))


def independent(clusters: NDArray[Any]) -> float:
    """How many sentences (n,) count where all of a group are right or wrong as one: Kish's effective number.

    Where a group holds most of them they count as few, however many others there are.
    """
    sizes = np.unique(clusters, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / np.sum(sizes**2)) if len(sizes) else 0.0


def bound_of(wrong: NDArray[Any], clusters: NDArray[Any], *, sure: float = SURE) -> float:
    """The error rate that is possible among sentences (n,) of which some are ``wrong``, by groups (n,)."""
    count = independent(clusters)
    return error_bound(float(np.mean(wrong)) * count, count, sure=sure)


def answer_line(
    p: NDArray[Any],
    right: NDArray[Any],
    clusters: Sequence[Any] | NDArray[Any],
    nulls: Mapping[str, Sequence[float] | NDArray[Any]],
    *,
    error: float = ERROR,
    sure: float = SURE,
    of_null: float = OF_NULL,
) -> Line:
    """The lowest safe line.

    Args:
        p: probabilities (n,) of the sentences, each by a fit that had not seen its group; ``NEVER`` of those that no
            line may answer.
        right: (n,) whether each is right.
        clusters: (n,) groups of sentences that are right together.
        nulls: null -> the largest probability among those sentences of each of its texts that count as wrong.
        error: of the answered at most.
        sure: how surely.
        of_null: share of every null's texts that may be answered.

    Raises:
        Refusal: shapes that do not fit.
    """
    p, right, clusters = np.asarray(p, dtype=np.float64), np.asarray(right, dtype=bool), np.asarray(clusters)
    if p.ndim != 1 or right.shape != p.shape or clusters.shape != p.shape or not len(p):
        raise Refusal(f"{p.shape} probabilities and {right.shape} outcomes", "each needs one", "pass equal lengths")
    safe, why = None, ""
    able = [line for line in _lines(p) if error_bound(0, independent(clusters[p >= line]), sure=sure) <= error]
    if not able:
        count, fewest = independent(clusters[p > NEVER]), np.ceil(np.log(1 - sure) / np.log(1 - error))
        why = f"those it could answer are of features that fire together, and count as {count:.0f} "
        why += f"({fewest:.0f} at least)"
    for threshold in able:
        taken = p >= threshold
        bound = bound_of(~right[taken], clusters[taken], sure=sure)
        if bound > error:
            why = why or _too_many(~right[taken], clusters[taken], bound, error, sure)
            break
        shares = _shares(nulls, threshold)
        worst = max(shares, key=lambda name: shares[name], default=None)
        if worst is None or shares[worst] <= of_null:
            safe = (threshold, bound)
        elif not why:  # of the strictest line, where what is answered is surest
            many = f"{shares[worst]:.0%} of the texts of the null '{worst}'"
            why = f"{many} would be answered wrongly ({of_null:.0%} at most)"
    if safe is None:
        return Line(threshold=None, why=why, n=len(p), answered=0, wrong=0, bound=None, nulls=_shares(nulls, np.inf))
    threshold, bound = safe
    taken = p >= threshold
    wrong = int((~right[taken]).sum())
    told = {"n": len(p), "answered": int(taken.sum()), "wrong": wrong, "bound": bound}
    return Line(threshold=threshold, why="", nulls=_shares(nulls, threshold), **told)


def _too_many(wrong: NDArray[Any], clusters: NDArray[Any], bound: float, error: float, sure: float) -> str:
    """Why the strictest line that could pass does not."""
    counts = "" if len(np.unique(clusters)) == len(wrong) else f", which count as {independent(clusters):.0f}"
    told = f"of its {len(wrong)} surest sentences{counts}, {int(wrong.sum())} are wrong"
    return f"{told}: with {sure:.0%} confidence up to {bound:.0%}, and {error:.0%} at most may be"


def _lines(p: NDArray[np.float64]) -> list[float]:
    """Thresholds from the strictest on, by the share of sentences that reach each."""
    ordered = np.sort(p)[::-1]
    counts = [int(np.ceil(share * len(p))) for share in SHARES]
    lines = dict.fromkeys(float(ordered[k - 1]) for k in counts if k >= min(FEWEST, len(p)))
    return [line for line in lines if line > NEVER]


def _shares(nulls: Mapping[str, Any], threshold: float) -> dict[str, float]:
    return {name: float(np.mean(np.asarray(some) >= threshold)) if len(some) else 0.0 for name, some in nulls.items()}
