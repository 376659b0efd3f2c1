"""How good a map is on rows it has not seen.

In: a ``LinearMap`` and paired held-out rows. Out: a dict of numbers, the trustworthy ones first. Refuses rows that do
not pair.

A raw cosine comes last because it says almost nothing where activations share a large mean: on Gemma-3-27B a constant
already reaches 0.971. It is therefore never given without the constant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.maps.linear import LinearMap
from dragoman.maps.moments import Doubles

_CANDIDATES = 1000
_LOUD = 10
_USABLE, _GOOD, _FOUND = 0.15, 0.25, 0.3


def held_out(
    map_: LinearMap,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    seed: int = 0,
    documents: NDArray[Any] | None = None,
) -> dict[str, float]:
    """Judge ``map_`` on held-out rows ``x`` (n, p) and ``y`` (n, q).

    Args:
        map_: the map.
        x: source rows it has not seen.
        y: target rows of the same positions.
        seed: of the shuffle, and of the choice of one row a document.
        documents: (n,) whose rows they are. Retrieval is then among rows of different documents only, since rows of one
            document resemble each other.

    Returns:
        In this order: ``n``; ``fve_raw``, the fraction of variance about the *training* mean that is explained;
        ``fve_unit``, the same on unit rows as the NLA papers report it, 1 - 2 (1 - cos) / Var, Var the spread of the
        held-out unit rows; ``centred_cosine`` and its 10th percentile ``centred_cosine_p10``, after subtracting the
        training mean from both sides (0 where a prediction is the mean itself); ``top1``, how often a prediction is
        nearest its own row among ``top1_among`` (evenly spaced when there are more than 1000), by centred cosine, and
        ``mrr``, the mean of 1 / rank; ``median_r2``, over target dimensions; ``fve_quiet``, ``fve_raw`` without the 10
        dimensions that vary most (or half of them, if there are fewer than 20).

        Then the baselines: ``shuffled_fve`` and ``shuffled_centred_cosine`` of the same predictions dealt to other
        rows, and ``shuffled_top1``, what that leads to expect; ``constant_fve_unit`` of predicting the training mean
        (whose ``fve_raw`` and centred cosine are 0) and ``constant_cosine``, its raw cosine. Last ``raw_cosine``, not
        comparable between models.

    Raises:
        Refusal: fewer than two rows, or rows or documents that do not pair.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(y) < 2 or y.shape[1] != map_.mean_y.size:
        raise Refusal(
            f"held-out rows of shapes {x.shape} and {y.shape}",
            f"a map into width {map_.mean_y.size} is judged on at least two pairs of rows",
            "pass x of shape (n, p) and y of shape (n, q)",
        )
    n, truth = len(y), y - map_.mean_y
    guess = map_.points(x) - map_.mean_y
    unit_y = _unit(y)
    raw = np.sum(_unit(guess + map_.mean_y) * unit_y, axis=1)
    constant = unit_y @ _unit(map_.mean_y[None])[0]
    spread = 1.0 - float(np.sum(unit_y.mean(axis=0) ** 2))
    flat_guess, flat_truth = _unit(guess), _unit(truth)
    centred = np.sum(flat_guess * flat_truth, axis=1)
    few = _candidates(n, documents, seed)
    ranks = _ranks(flat_guess[few] @ flat_truth[few].T)
    dealt = np.random.default_rng(seed).permutation(n)
    per_output = 1.0 - _ratio(np.sum((truth - guess) ** 2, axis=0), np.sum(truth**2, axis=0))
    quiet = np.argsort(-np.var(truth, axis=0), kind="stable")[min(_LOUD, truth.shape[1] // 2) :]
    return {
        "n": n,
        "fve_raw": _explained(guess, truth),
        "fve_unit": float(1.0 - 2.0 * (1.0 - raw.mean()) / spread),
        "centred_cosine": float(centred.mean()),
        "centred_cosine_p10": float(np.quantile(centred, 0.1)),
        "top1": float(np.mean(ranks == 1)),
        "mrr": float(np.mean(1.0 / ranks)),
        "top1_among": len(few),
        "median_r2": float(np.median(per_output)),
        "fve_quiet": _explained(guess[:, quiet], truth[:, quiet]),
        "shuffled_fve": _explained(guess[dealt], truth),
        "shuffled_centred_cosine": float(np.mean(np.sum(flat_guess[dealt] * flat_truth, axis=1))),
        "shuffled_top1": 1.0 / len(few),
        "constant_fve_unit": float(1.0 - 2.0 * (1.0 - constant.mean()) / spread),
        "constant_cosine": float(np.mean(constant)),
        "raw_cosine": float(raw.mean()),
    }


def usable(report: Mapping[str, float]) -> tuple[str, str]:
    """``good``, ``usable`` or ``unusable`` by what ``held_out`` found, and the reason; a raw cosine has no part in it.

    Gates of Gemma-like targets, provisional: unit-row FVE of 0.15 to be used and 0.25 to be good, top-1 of 0.3 among a
    thousand, and a shuffled map that explains nothing.
    """
    fve, top1, shuffled = report["fve_unit"], report["top1"], report["shuffled_fve"]
    if shuffled > 0:
        return "unusable", f"predictions dealt to other rows explain {shuffled:.2f} too, so rows are not told apart"
    if fve < _USABLE:
        return "unusable", f"it explains {fve:.2f} of the unit rows' variance, {_USABLE:g} are needed"
    if fve < _GOOD or top1 < _FOUND:
        return "usable", f"it explains {fve:.2f} of the unit rows' variance and finds {top1:.0%} of its rows"
    return "good", f"it explains {fve:.2f} of the unit rows' variance and finds {top1:.0%} of its rows"


def _candidates(n: int, documents: NDArray[Any] | None, seed: int) -> NDArray[np.int64]:
    """Rows that retrieval is among: at most 1000, evenly spaced; one a document, drawn at random, where they are known.

    Raises:
        Refusal: not one document a row, or rows of a single one.
    """
    rows = np.arange(n)
    if documents is not None:
        documents = np.asarray(documents)
        if documents.shape != (n,) or len(np.unique(documents)) < 2:
            raise Refusal(
                f"documents of shape {documents.shape} for {n} rows",
                "each row has one, and retrieval is among at least two",
                "pass the document of every held-out row",
            )
        order = np.random.default_rng(seed).permutation(n)
        rows = np.sort(order[np.unique(documents[order], return_index=True)[1]])
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _CANDIDATES)).astype(int))]


def _ranks(scores: Doubles) -> NDArray[np.int64]:
    """Place (n,) of each row's own column among its scores, 1 the best; ties go to the first, as in arg-max."""
    own = np.diag(scores)[:, None]
    before = np.tril(np.ones(scores.shape, dtype=bool), -1)
    return 1 + np.sum((scores > own) | ((scores == own) & before), axis=1)


def _ratio(top: Doubles, bottom: Doubles) -> Doubles:
    """Quotient; 1 where nothing varies, so that nothing is explained there."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), 1.0)


def _explained(guess: Doubles, truth: Doubles) -> float:
    """1 - SSE / SST, both already about the training mean."""
    return float(1.0 - np.sum((truth - guess) ** 2) / np.sum(truth**2))


def _unit(rows: Doubles) -> Doubles:
    """Unit rows; a zero row stays zero, so that its cosines are 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def beside_baselines(held_out: Mapping[str, float]) -> list[tuple[str, float, float | None, float | None]]:
    """A held-out report as lines: measure, this map, the mean alone, rows dealt at random (None: there is no such)."""
    names: list[tuple[str, str, str | None, str | None]] = [
        ("variance explained, unit rows", "fve_unit", "constant_fve_unit", None),
        ("variance explained, raw rows", "fve_raw", None, "shuffled_fve"),
        ("cosine, mean taken off", "centred_cosine", None, "shuffled_centred_cosine"),
        (f"own row nearest of {held_out['top1_among']:.0f}", "top1", None, "shuffled_top1"),
        ("cosine, raw", "raw_cosine", "constant_cosine", None),
    ]
    return [
        (what, held_out[own], held_out[mean] if mean else None, held_out[dealt] if dealt else None)
        for what, own, mean, dealt in names
    ]
