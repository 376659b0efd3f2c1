"""Many tests at once: Holm's adjusted p-values.

In: p-values. Out: adjusted ones. Refuses no tests, and numbers that are no p-values. Holm bounds the chance of any
false claim, whatever the dependence: for conditions times embedders. scipy has none of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal


def holm(p: NDArray[Any]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values (n,): running maximum of (n - i) p_(i), at most 1.

    Raises:
        Refusal: no tests, a p-value outside 0 to 1 or NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not len(p):
        raise Refusal(f"p-values of shape {p.shape}", "there is nothing to adjust", "pass one p-value per test")
    if not ((p >= 0) & (p <= 1)).all():
        raise Refusal("p-values", "some are outside 0 to 1 or NaN", "pass the p-values of tests that could be made")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out
