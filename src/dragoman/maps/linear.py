"""Linear maps from one residual stream into another: ridge regression and orthogonal Procrustes, from moments.

In: ``Moments``. Out: a ``LinearMap``, which carries points by the affine map and directions by its linear part; or a
``RidgePath``, which answers for every penalty from one eigendecomposition. Refuses fewer rows than a map needs,
penalties that are not positive, ranks that do not exist, and directions of another site or that a map sends to nothing.

The penalty is on the sum of squares, as in scikit-learn's ``Ridge(alpha)``; the intercept is not penalised. Its scale
is that of tr(Sxx) / p, so a bare number like 100 means nothing without the data: see ``relative_lambda``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, Site, frozen, refuse_other_site
from dragoman.maps.moments import Doubles, Moments, refuse_few
from dragoman.store import Contents, write_arrays

Solve = Callable[[Doubles, float, Doubles], Doubles]  # (sxx, lam, right) -> (sxx + lam I)^-1 right
_FILE = Contents(
    called="a map",
    holds="map",
    origin="dragoman fit",
    arrays={"weight": "pq", "mean_x": "p", "mean_y": "q"},
    words={"source": str, "target": str, "method": str, "settings": dict, "report": dict},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearMap:
    """y = mean_y + (x - mean_x) @ weight, from ``source`` to ``target``.

    ``weight`` (p, q), ``mean_x`` (p,), ``mean_y`` (q,), float64 and read-only. ``method`` is ``"ridge"`` or
    ``"procrustes"``, ``settings`` what it was told, ``report`` what is known of its quality.
    """

    source: Site
    target: Site
    weight: Doubles
    mean_x: Doubles
    mean_y: Doubles
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the three arrays against each other."""
        for name in ("weight", "mean_x", "mean_y"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64))
        if self.weight.shape != (self.mean_x.size, self.mean_y.size):
            raise Refusal(
                f"a map with weight {self.weight.shape}",
                f"its means are {self.mean_x.size} and {self.mean_y.size} wide",
                "pass weight (p, q) with means (p,) and (q,)",
            )

    def points(self, x: NDArray[Any]) -> Doubles:
        """Carry activations ``(n, p)`` into the target stream ``(n, q)``: the affine map."""
        self._refuse_width(np.shape(x)[-1])
        return self.mean_y + (np.asarray(x, dtype=np.float64) - self.mean_x) @ self.weight

    def carry(self, d: Directions) -> Directions:
        """Carry directions into the target stream; rows come back at unit length.

        The linear part only: a direction is a difference of points, so both means cancel.

        Raises:
            Refusal: ``d`` lives at another site, or has no image (it lies outside the span of the fitted rows).
        """
        refuse_other_site("directions", d.site, self.source)
        self._refuse_width(d.d_model)
        image = d.unit @ self.weight
        lost = np.flatnonzero(np.linalg.norm(image, axis=1) <= 1e-9 * np.linalg.norm(self.weight))
        if lost.size:
            raise Refusal(
                f"feature {d.ids[lost[0]]}",
                f"the {self.method} map sends it to zero, so nothing is known of its image",
                "fit the map on more rows, or leave the feature out",
            )
        return d.moved(self.target, image, f"{d.origin or d.site}, by {self.method} map {self.source} to {self.target}")

    def _refuse_width(self, width: int) -> None:
        if width != self.mean_x.size:
            raise Refusal(
                f"rows of width {width}",
                f"the map from {self.source} takes width {self.mean_x.size}",
                "use rows from that site",
            )

    def save(self, path: Path) -> None:
        """Write the map, its settings and its report to one file."""
        arrays = {name: getattr(self, name) for name in ("weight", "mean_x", "mean_y")}
        words = {name: getattr(self, name) for name in ("method", "settings", "report")}
        write_arrays(path, arrays, {"holds": "map", "source": str(self.source), "target": str(self.target), **words})

    @classmethod
    def load(cls, path: Path) -> LinearMap:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        source, target = (Site.parse(words.pop(name)) for name in ("source", "target"))
        return cls(source=source, target=target, **arrays, **words)


def relative_lambda(moments: Moments, lam_rel: float) -> float:
    """``lam_rel`` times the mean eigenvalue tr(Sxx) / p: a penalty that keeps its meaning when x is rescaled."""
    return lam_rel * float(np.trace(moments.sxx)) / moments.p


def solve_shifted(sxx: NDArray[Any], lam: float, right: NDArray[Any]) -> Doubles:
    """(sxx + lam I)^-1 right by Cholesky; ``sxx`` (p, p) symmetric, ``right`` (p, k)."""
    from scipy.linalg import cho_factor, cho_solve

    shifted = np.array(sxx)
    shifted[np.diag_indices_from(shifted)] += positive(lam)
    return cho_solve(cho_factor(shifted, overwrite_a=True), right)


def fit_ridge(
    moments: Moments,
    source: Site,
    target: Site,
    lam: float,
    *,
    allow_underdetermined: bool = False,
    solve: Solve = solve_shifted,
) -> LinearMap:
    """Fit W = (Sxx + lam I)^-1 Sxy (Hoerl and Kennard 1970); equals scikit-learn's ``Ridge(alpha=lam)``.

    ``solve``: how, for instance on a device; by Cholesky here.

    Raises:
        Refusal: fewer than 3 rows, no more rows than the source is wide (unless allowed), or ``lam`` not positive.
    """
    refuse_few(moments.count, moments.p, allow_underdetermined=allow_underdetermined)
    return LinearMap(
        source=source,
        target=target,
        weight=solve(moments.sxx, lam, moments.sxy),
        mean_x=moments.mean_x,
        mean_y=moments.mean_y,
        method="ridge",
        settings={"lam": float(lam), "lam_rel": float(lam) / relative_lambda(moments, 1.0)},
        report={"rows": moments.count, "underdetermined": moments.underdetermined},
    )


@dataclass(frozen=True, eq=False)
class RidgePath:
    """The ridge fit at every penalty, from one eigendecomposition Sxx = V diag(e) V' (kept after first use)."""

    moments: Moments

    @cached_property
    def _eigen(self) -> tuple[Doubles, Doubles, Doubles]:
        """Eigenvalues e (p,), eigenvectors V (p, p) and C = V' Sxy (p, q)."""
        values, vectors = np.linalg.eigh(self.moments.sxx)
        return np.clip(values, 0.0, None), vectors, vectors.T @ self.moments.sxy

    def images(self, rows: NDArray[Any], lam: float) -> Doubles:
        """Rows (k, p) times W, (k, q), without making W: k p (p + q) products."""
        values, vectors, scores = self._eigen
        return (rows @ vectors / (values + positive(lam))) @ scores

    def held_out_curve(self, lams: NDArray[Any], fold: Moments) -> Doubles:
        """Sum of squared errors (k,) on rows that were left out, at many penalties, from their moments alone.

        Predictions are centred on the fitted rows' means, as they would be in use.

        In the eigenbasis W = V B with B = C / (e + lam), so SSE = tr Syy - 2 <V'Sxy, B> + <B, (V'Sxx V) B>.
        """
        values, vectors, scores = self._eigen
        dx = (fold.mean_x - self.moments.mean_x) @ vectors
        dy = fold.mean_y - self.moments.mean_y
        linear = np.sum((vectors.T @ fold.sxy) * scores, axis=1)
        quadratic = (vectors.T @ fold.sxx @ vectors) * (scores @ scores.T)
        total = float(np.trace(fold.syy))
        errors = []
        for lam in np.asarray(lams, dtype=np.float64):
            share = 1.0 / (values + positive(float(lam)))
            missed = np.sum((dy - (dx * share) @ scores) ** 2)
            errors.append(total - 2 * linear @ share + share @ quadratic @ share + fold.count * missed)
        return np.array(errors)


def fit_procrustes(
    moments: Moments,
    source: Site,
    target: Site,
    *,
    rank: int | Literal["informative", "full"] = "informative",
    allow_underdetermined: bool = False,
) -> LinearMap:
    """Fit s U V' with Sxy = U S V' (Schönemann 1966), s = tr(S) / tr(Sxx), for any two widths.

    Only informative singular triplets are kept: those above 1e-9 of the largest, and at most n - 1. The others would
    carry the rest of the space to an arbitrary place at full gain, which is where Procrustes loses to ridge when rows
    are few. With enough rows it equals ``scipy.linalg.orthogonal_procrustes`` on centred rows (the narrower side padded
    with zeros).

    Args:
        moments: of the paired rows.
        source: where x was read.
        target: where y was read.
        rank: how many triplets are kept: ``"informative"`` as said, a smaller number, or ``"full"``, which is the
            textbook's map with its arbitrary part, kept to show what that part does.
        allow_underdetermined: fit no more rows than the source is wide.

    Raises:
        Refusal: fewer than 3 rows, no more rows than the source is wide (unless allowed), a rank below 1 or above the
            informative one, or nothing covaries.
    """
    refuse_few(moments.count, moments.p, allow_underdetermined=allow_underdetermined)
    left, strength, right = np.linalg.svd(moments.sxy, full_matrices=False)
    if strength[0] <= 0:
        raise Refusal("a Procrustes map", "source and target rows do not covary at all", "check that the rows pair")
    informative = min(int(np.sum(strength > 1e-9 * strength[0])), moments.count - 1)
    wanted, rank = rank, {"informative": informative, "full": len(strength)}.get(str(rank)) or int(rank)
    if not 1 <= rank <= max(informative, len(strength) if wanted == "full" else 0):
        raise Refusal(
            f"a Procrustes map of rank {rank}",
            f"{informative} singular triplets are informative",
            "ask for at least 1 and no more than these",
        )
    scale = float(strength[:rank].sum() / np.trace(moments.sxx))
    return LinearMap(
        source=source,
        target=target,
        weight=scale * left[:, :rank] @ right[:rank],
        mean_x=moments.mean_x,
        mean_y=moments.mean_y,
        method="procrustes",
        settings={"scale": scale, "rank": rank, "informative": informative},
        report={"rows": moments.count, "underdetermined": moments.underdetermined},
    )


def source_scale(variance: Doubles) -> Doubles:
    """Standard deviations (p,) from variances; a dimension that never varies keeps scale 1."""
    if not (variance > 0).any():
        raise Refusal("standardising the source", "none of its dimensions varies", "check what was harvested")
    return np.where(variance > 0, np.sqrt(variance), 1.0)


def positive(lam: float) -> float:
    """The penalty, or a refusal of one that is none."""
    if not (np.isfinite(lam) and lam > 0):
        raise Refusal(
            f"ridge with lambda {lam}", "the penalty must be a positive number", "use 1e-8 of tr(Sxx)/p for almost none"
        )
    return lam
