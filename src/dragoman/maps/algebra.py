"""The dear products of fitting a map: in numpy here, or wherever an ``Algebra`` computes them.

In: moments by fold, relative penalties, source rows. Out: what choosing a penalty needs of each left-out fold, images
of rows at many penalties, the solution at one. Everything is float64 on every side, so a choice made elsewhere is the
same choice unless two penalties tie to the last digits. Refuses penalties that are not positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dragoman.maps.linear import RidgePath, relative_lambda, solve_shifted
from dragoman.maps.moments import Doubles, FoldedMoments, Moments

SHRINK = 1e-3  # of the target's mean variance, added to its covariance before it is inverted


class LeftOutFold(Protocol):
    """One fold of documents, and the map that the others give at any penalty.

    ``spread``: sum of squares of the fold's target rows about the mean of the fitted ones.
    """

    @property
    def spread(self) -> float:
        """As the class says."""
        ...

    def errors(self, grid: Doubles) -> Doubles:
        """Sum of squared errors (k,) on the fold, at relative penalties (k,)."""
        ...

    def images(self, rows: Doubles, lam_rel: float) -> Doubles:
        """Images (n, q) of source rows (n, p)."""
        ...

    def read_outs(self, images: Doubles) -> Doubles:
        """Images (n, q) times the inverse of the fitted target rows' shrunk covariance."""
        ...


class Algebra(Protocol):
    """Where maps are fitted."""

    def left_out(self, moments: FoldedMoments, fold: int, scale: Doubles | None) -> LeftOutFold:
        """A fold against the others, the source divided by ``scale`` (p,) first."""
        ...

    def total(self, moments: FoldedMoments) -> Moments:
        """The moments of all rows."""
        ...

    def reversed(self, moments: FoldedMoments) -> FoldedMoments:
        """The same rows with source and target exchanged."""
        ...

    def paths(self, moments: Moments) -> Paths:
        """What all rows give at any penalty."""
        ...

    def solve_shifted(self, sxx: Doubles, lam: float, right: Doubles) -> Doubles:
        """(sxx + lam I)^-1 right."""
        ...


class Paths(Protocol):
    """Images at many penalties."""

    def images(self, rows: Doubles, lam: float) -> Doubles:
        """Images (n, q) of source rows (n, p) at a penalty on the raw scale."""
        ...


@dataclass(frozen=True, eq=False)
class _LeftOut:
    fitted: Moments
    fold: Moments

    @cached_property
    def _path(self) -> RidgePath:
        return RidgePath(self.fitted)

    @cached_property
    def _precision(self) -> Doubles:
        covariance = self.fitted.syy / max(self.fitted.count - 1, 1)
        shrunk = covariance + SHRINK * float(np.trace(covariance)) / self.fitted.q * np.eye(self.fitted.q)
        return np.linalg.inv(shrunk).astype(np.float64, copy=False)

    @property
    def spread(self) -> float:
        fold = self.fold
        return float(np.trace(fold.syy) + fold.count * np.sum((fold.mean_y - self.fitted.mean_y) ** 2))

    def errors(self, grid: Doubles) -> Doubles:
        return self._path.held_out_curve(grid * relative_lambda(self.fitted, 1.0), self.fold)

    def images(self, rows: Doubles, lam_rel: float) -> Doubles:
        return self._path.images(rows, float(lam_rel * relative_lambda(self.fitted, 1.0)))

    def read_outs(self, images: Doubles) -> Doubles:
        return images @ self._precision


class HostAlgebra:
    """In numpy, by one eigendecomposition a fold."""

    def left_out(self, moments: FoldedMoments, fold: int, scale: Doubles | None) -> LeftOutFold:
        """As the protocol says."""
        fitted, own = moments.without(fold), moments.folds[fold]
        if scale is not None:
            fitted, own = fitted.rescaled(scale), own.rescaled(scale)
        return _LeftOut(fitted, own)

    def total(self, moments: FoldedMoments) -> Moments:
        """As the protocol says."""
        return moments.total

    def reversed(self, moments: FoldedMoments) -> FoldedMoments:
        """As the protocol says."""
        return moments.reversed()

    def paths(self, moments: Moments) -> Paths:
        """As the protocol says."""
        return RidgePath(moments)

    def solve_shifted(self, sxx: NDArray[Any], lam: float, right: NDArray[Any]) -> Doubles:
        """By Cholesky."""
        return solve_shifted(sxx, lam, right)


HOST: Algebra = HostAlgebra()
