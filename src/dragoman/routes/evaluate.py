"""How good a map is on rows it has not seen.

In: a ``LinearMap`` and paired held-out rows. Out: a dict of numbers, the trustworthy ones first. Refuses rows that do
not pair.

A raw cosine comes last because it says almost nothing where activations share a large mean: on Gemma-3-27B a constant
already reaches 0.971. It is therefore never given without the constant's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.routes.linear import LinearMap
from dragoman.routes.moments import Doubles

_CANDIDATES = 1000


def held_out(bridge: LinearMap, x: NDArray[Any], y: NDArray[Any], *, seed: int = 0) -> dict[str, float]:
    """Judge ``bridge`` on held-out rows ``x`` (n, p) and ``y`` (n, q).

    Returns:
        In this order: ``n``; ``fve_raw``, the fraction of variance about the *training* mean that is explained;
        ``fve_unit``, the same on unit rows as the NLA papers report it, 1 - 2 (1 - cos) / Var, Var the spread of the
        held-out unit rows; ``centred_cosine`` and its 10th percentile ``centred_cosine_p10``, after subtracting the
        training mean from both sides (0 where a prediction is the mean itself); ``top1``, how often a prediction is
        nearest its own row among ``top1_among`` (evenly spaced when there are more than 1000), by centred cosine;
        ``shuffled_fve``, ``fve_raw`` of the same predictions dealt to other rows; ``constant_cosine``, the raw cosine
        of predicting the training mean; ``raw_cosine``, not comparable between models.

    Raises:
        Refusal: fewer than two rows, or rows that do not pair.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(y) < 2 or y.shape[1] != bridge.mean_y.size:
        raise Refusal(
            f"held-out rows of shapes {x.shape} and {y.shape}",
            f"a map into width {bridge.mean_y.size} is judged on at least two pairs of rows",
            "pass x of shape (n, p) and y of shape (n, q)",
        )
    n, truth = len(y), y - bridge.mean_y
    guess = bridge.points(x) - bridge.mean_y
    unit_y = _unit(y)
    raw = np.sum(_unit(guess + bridge.mean_y) * unit_y, axis=1)
    spread = 1.0 - float(np.sum(unit_y.mean(axis=0) ** 2))
    centred = np.sum(_unit(guess) * _unit(truth), axis=1)
    few = np.unique(np.linspace(0, n - 1, min(n, _CANDIDATES)).astype(int))
    nearest = np.argmax(_unit(guess[few]) @ _unit(truth[few]).T, axis=1)
    dealt = np.random.default_rng(seed).permutation(n)
    return {
        "n": n,
        "fve_raw": _explained(guess, truth),
        "fve_unit": float(1.0 - 2.0 * (1.0 - raw.mean()) / spread),
        "centred_cosine": float(centred.mean()),
        "centred_cosine_p10": float(np.quantile(centred, 0.1)),
        "top1": float(np.mean(nearest == np.arange(len(few)))),
        "top1_among": len(few),
        "shuffled_fve": _explained(guess[dealt], truth),
        "constant_cosine": float(np.mean(unit_y @ _unit(bridge.mean_y[None])[0])),
        "raw_cosine": float(raw.mean()),
    }


def _explained(guess: Doubles, truth: Doubles) -> float:
    """1 - SSE / SST, both already about the training mean."""
    return float(1.0 - np.sum((truth - guess) ** 2) / np.sum(truth**2))


def _unit(rows: Doubles) -> Doubles:
    """Unit rows; a zero row stays zero, so that its cosines are 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
