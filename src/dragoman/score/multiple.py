"""Many tests at once: Holm's and Benjamini and Hochberg's adjusted p-values over named conditions.

In: a p-value, or an ``Estimate`` with one, per name. Out: ``Adjusted``. Refuses no tests and numbers that are no
p-values.

Holm bounds the chance of any false claim, whatever the dependence: for conditions times embedders. Benjamini and
Hochberg bound the expected share of false claims, for tests that are independent or positively dependent: for claims
per feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal

Method = Literal["holm", "benjamini-hochberg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """p-values of ``names`` as they were and ``adjusted``; ``holds`` where the adjusted one is at most ``level``."""

    names: tuple[str, ...]
    p: tuple[float, ...]
    adjusted: tuple[float, ...]
    holds: tuple[bool, ...]
    level: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a page or a file."""
        return asdict(self)

    def __getitem__(self, name: str) -> float:
        """Adjusted p of one name."""
        return self.adjusted[self.names.index(name)]


def holm(p: NDArray[Any]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values (n,): running maximum of (n - i) p_(i), at most 1.

    scipy has none of its own.
    """
    p = _checked(p)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out


def benjamini_hochberg(p: NDArray[Any]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's (1995) adjusted p-values (n,), by scipy."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(_checked(p), method="bh"), dtype=np.float64)


def adjust(tests: Mapping[str, Estimate | float], *, method: Method = "holm", level: float = 0.05) -> Adjusted:
    """Adjust the p-values of named tests.

    Raises:
        Refusal: no tests, a p-value outside 0 to 1 or NaN, an unknown method.
    """
    how = {"holm": holm, "benjamini-hochberg": benjamini_hochberg}
    if method not in how:
        raise Refusal(f"adjustment '{method}'", f"known are {', '.join(how)}", "use one of these")
    p = np.array([test.p if isinstance(test, Estimate) else test for test in tests.values()], dtype=np.float64)
    adjusted = how[method](p)
    return Adjusted(
        names=tuple(tests),
        p=tuple(p.tolist()),
        adjusted=tuple(adjusted.tolist()),
        holds=tuple((adjusted <= level).tolist()),
        level=level,
        method=method,
    )


def _checked(p: NDArray[Any]) -> NDArray[np.float64]:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not len(p):
        raise Refusal(f"p-values of shape {p.shape}", "there is nothing to adjust", "pass one p-value per test")
    if not ((p >= 0) & (p <= 1)).all():
        raise Refusal("p-values", "some are outside 0 to 1 or NaN", "pass the p-values of tests that could be made")
    return p
