"""Fitting a map on a device: what ``maps.algebra`` does in numpy, in torch and float64.

In: moments by fold, penalties, rows, all in numpy. Out: the same as ``HostAlgebra`` gives, in numpy, but for rounding.
Cards made for it solve a few dozen systems quicker than they find eigenvalues, so every penalty is solved by Cholesky
on its own: at width 5376 a penalty takes some 0.6 TFLOP, a fold's 28 a second, where an eigendecomposition on sixteen
cores takes the better part of a minute.

Memory on the device at p = 3584 and q = 5376: moments of five folds, 2.4 GB, kept until another reading's are asked
for; joined ones of all but one fold 0.5 GB; a solution and what it is solved by 0.5 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.maps.algebra import HOST, SHRINK, Algebra, LeftOutFold, Paths
from dragoman.maps.moments import Doubles, FoldedMoments, Moments

_PARTS = ("mean_x", "mean_y", "sxx", "sxy", "syy")


@dataclass(frozen=True, eq=False)
class _Held:
    """``Moments`` on a device."""

    count: int
    mean_x: torch.Tensor
    mean_y: torch.Tensor
    sxx: torch.Tensor
    sxy: torch.Tensor
    syy: torch.Tensor

    @classmethod
    def of(cls, moments: Moments, device: torch.device) -> _Held:
        return cls(moments.count, *(_there(getattr(moments, name), device) for name in _PARTS))

    @classmethod
    def together(cls, parts: list[_Held]) -> _Held:
        count = sum(part.count for part in parts)
        mean_x = torch.stack([part.count / count * part.mean_x for part in parts]).sum(dim=0)
        mean_y = torch.stack([part.count / count * part.mean_y for part in parts]).sum(dim=0)
        sxx, sxy, syy = (torch.zeros_like(getattr(parts[0], name)) for name in ("sxx", "sxy", "syy"))
        for part in parts:
            dx, dy = part.mean_x - mean_x, part.mean_y - mean_y
            for products, theirs, u, v in ((sxx, part.sxx, dx, dx), (sxy, part.sxy, dx, dy), (syy, part.syy, dy, dy)):
                products += theirs
                products.addr_(u, v, alpha=part.count)
        return cls(count, mean_x, mean_y, sxx, sxy, syy)

    def on_host(self) -> Moments:
        arrays = {name: getattr(self, name).cpu().numpy() for name in _PARTS}
        for array in arrays.values():
            array.flags.writeable = False
        return Moments(count=self.count, **arrays)

    def rescaled(self, scale: torch.Tensor) -> _Held:
        sxx, sxy = self.sxx / scale[:, None] / scale, self.sxy / scale[:, None]
        return _Held(self.count, self.mean_x / scale, self.mean_y, sxx, sxy, self.syy)

    def relative(self, lam_rel: float) -> float:
        return lam_rel * float(self.sxx.trace()) / len(self.mean_x)

    def solution(self, lam: float) -> torch.Tensor:
        """The map's weight (p, q) at a penalty on the raw scale."""
        return _solved(self.sxx, lam, self.sxy)


class _LeftOut:
    """One fold against the others; the last solution is kept, since errors and images are asked for one by one."""

    def __init__(self, fitted: _Held, fold: _Held) -> None:
        self._fitted, self._fold = fitted, fold
        self._unit = fitted.relative(1.0)

    @property
    def spread(self) -> float:
        fold = self._fold
        return float(fold.syy.trace() + fold.count * (fold.mean_y - self._fitted.mean_y).square().sum())

    @torch.inference_mode()
    def errors(self, grid: Doubles) -> Doubles:
        fold, found = self._fold, []
        dx, dy = fold.mean_x - self._fitted.mean_x, fold.mean_y - self._fitted.mean_y
        for lam_rel in np.asarray(grid, dtype=np.float64):
            weight = self._fitted.solution(float(lam_rel) * self._unit)
            # SSE = tr Syy - 2 <Sxy, W> + <W, Sxx W>, and what the means are off
            explained = (weight * (fold.sxx @ weight - 2 * fold.sxy)).sum()
            found.append(fold.syy.trace() + explained + fold.count * (dy - dx @ weight).square().sum())
        return torch.stack(found).cpu().numpy()

    @torch.inference_mode()
    def images(self, rows: Doubles, lam_rel: float) -> Doubles:
        # rows W = (rows (Sxx + lam)^-1) Sxy: of a few rows cheaper than W itself.
        own = _there(rows, self._fitted.sxx.device)
        return (_solved(self._fitted.sxx, lam_rel * self._unit, own.T).T @ self._fitted.sxy).cpu().numpy()

    @cached_property
    def _factor(self) -> torch.Tensor:
        covariance = self._fitted.syy / max(self._fitted.count - 1, 1)
        covariance.diagonal().add_(SHRINK * float(covariance.trace()) / len(covariance))
        return torch.linalg.cholesky(covariance)

    @torch.inference_mode()
    def read_outs(self, images: Doubles) -> Doubles:
        own = _there(images, self._fitted.sxx.device)
        return torch.cholesky_solve(own.T, self._factor).T.cpu().numpy()


class _Paths:
    def __init__(self, held: _Held) -> None:
        self._held = held

    @torch.inference_mode()
    def images(self, rows: Doubles, lam: float) -> Doubles:
        own = _there(rows, self._held.sxx.device)
        return (_solved(self._held.sxx, lam, own.T).T @ self._held.sxy).cpu().numpy()


class DeviceAlgebra:
    """In torch, on a device that computes in float64."""

    def __init__(self, device: str | torch.device) -> None:
        """Nothing is held yet."""
        self._device = torch.device(device)
        self._kept: list[tuple[Moments, _Held]] = []

    @torch.inference_mode()
    def left_out(self, moments: FoldedMoments, fold: int, scale: Doubles | None) -> LeftOutFold:
        """As the protocol says."""
        every = self._holding(moments)
        fitted, own = _Held.together([one for k, one in enumerate(every) if k != fold]), every[fold]
        if scale is not None:
            there = _there(scale, self._device)
            fitted, own = fitted.rescaled(there), own.rescaled(there)
        return _LeftOut(fitted, own)

    @torch.inference_mode()
    def total(self, moments: FoldedMoments) -> Moments:
        """As the protocol says."""
        return _Held.together(self._holding(moments)).on_host()

    def _holding(self, moments: FoldedMoments) -> list[_Held]:
        """The folds on the device; those of another reading are given up first: there may not be room for both."""
        known = {id(one): held for one, held in self._kept}
        if not any(id(one) in known for one in moments.folds):
            self._kept.clear()
            known = {}
        for one in moments.folds:
            if id(one) not in known:
                known[id(one)] = _Held.of(one, self._device)
                self._kept.append((one, known[id(one)]))
        return [known[id(one)] for one in moments.folds]

    def paths(self, moments: Moments) -> Paths:
        """As the protocol says."""
        return _Paths(_Held.of(moments, self._device))

    @torch.inference_mode()
    def solve_shifted(self, sxx: NDArray[Any], lam: float, right: NDArray[Any]) -> Doubles:
        """As the protocol says."""
        return _solved(_there(sxx, self._device), lam, _there(right, self._device)).cpu().numpy()


def in_double(device: str) -> str | None:
    """The device where it adds and solves in float64; None for a CPU, where numpy does, and for cards without it."""
    return device if torch.device(device).type == "cuda" else None


def algebra_of(device: str) -> Algebra:
    """On the device where it computes in float64, in numpy elsewhere."""
    there = in_double(device)
    return HOST if there is None else DeviceAlgebra(there)


def _there(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Float64 numbers on a device; those on the CPU are a copy too, since numpy's may be read-only."""
    return torch.tensor(np.asarray(array, dtype=np.float64), device=device)


def _solved(sxx: torch.Tensor, lam: float, right: torch.Tensor) -> torch.Tensor:
    if not (np.isfinite(lam) and lam > 0):
        raise Refusal(
            f"ridge with lambda {lam}", "the penalty must be a positive number", "use 1e-8 of tr(Sxx)/p for almost none"
        )
    shifted = sxx.clone()
    shifted.diagonal().add_(lam)
    return torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
