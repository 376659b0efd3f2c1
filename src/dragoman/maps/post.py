"""The seed post's map, as it was made: mean-pooled texts, 80 % for fitting, ridge with lambda 100 or Procrustes.

In: one pooled row per text and model. Out: a ``LinearMap`` whose report was filled from the other 20 %. Refuses rows
that do not pair and splits that leave a side empty.

Kept for comparison. It is underdetermined at the post's size (800 texts, width 3584) and says so on its report; aligned
tokens and a relative penalty do better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, Site
from dragoman.maps.evaluate import held_out as judge
from dragoman.maps.linear import LinearMap, fit_procrustes, fit_ridge
from dragoman.maps.moments import Moments

FEWEST = 8  # texts: the fifth of them that judges is two


def fit_pooled(
    x_pooled: NDArray[Any],
    y_pooled: NDArray[Any],
    source: Site,
    target: Site,
    *,
    lam: float = 100.0,
    held_out: float = 0.2,
    seed: int = 0,
    method: Literal["ridge", "procrustes"] = "ridge",
) -> tuple[LinearMap, Moments]:
    """Fit on a random ``1 - held_out`` of the texts and judge on the rest.

    Args:
        x_pooled: (texts, p) mean over a text's source activations.
        y_pooled: (texts, q) the same of the target.
        source: where ``x_pooled`` was read.
        target: where ``y_pooled`` was read.
        lam: ridge penalty on the raw scale, scikit-learn's ``alpha``; Procrustes has none.
        held_out: share of the texts kept for judging.
        seed: of the split.
        method: ``"ridge"`` or ``"procrustes"``.

    Returns:
        The map, and the moments of the texts it was fitted on, which cards speak of.

    Raises:
        Refusal: rows that do not pair, fewer than 3 texts to fit or 2 to judge on, or an unknown method.
    """
    x, y = np.asarray(x_pooled), np.asarray(y_pooled)
    if method not in ("ridge", "procrustes"):
        raise Refusal(f"method '{method}'", "the post used ridge and Procrustes", "say ridge or procrustes")
    judged = round(held_out * len(x))
    if not 2 <= judged <= len(x) - 3:
        raise Refusal(
            f"holding out {held_out:g} of {len(x)} texts",
            "at least 3 texts are needed to fit and 2 to judge",
            "pass more texts or another share",
        )
    if len(x) != len(y):
        raise Refusal(f"{len(x)} source and {len(y)} target rows", "they pair one to one", "pool the same texts twice")
    order = np.random.default_rng(seed).permutation(len(x))
    fitted, kept = order[judged:], order[:judged]
    moments = Moments.of(x[fitted], y[fitted])
    if method == "ridge":
        made = fit_ridge(moments, source, target, lam, allow_underdetermined=True)
    else:
        made = fit_procrustes(moments, source, target, allow_underdetermined=True)
    settings = made.settings | {"recipe": "post", "pooling": "mean", "held_out": held_out, "seed": seed}
    report = made.report | {"held_out": judge(made, x[kept], y[kept], seed=seed)}
    return replace(made, settings=settings, report=report), moments
