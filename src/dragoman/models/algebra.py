"""Fitting a map on a device: what ``maps.algebra`` does in numpy, in torch and float64.

In: moments by fold, penalties, rows, all in numpy. Out: the same as ``HostAlgebra`` gives, in numpy, but for rounding.
One eigendecomposition a fold gives every penalty, as on the host: at width 3584 it takes a tenth of a second on a card
made for float64, as long as six penalties solved by Cholesky.

Memory on the device at p = 3584 and q = 5376: moments of five folds, 2.4 GB, kept until another reading's are asked
for; joined ones of all but one fold 0.5 GB; eigenvectors, and what is left out seen by them, 0.5 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.maps.algebra import HOST, SHRINK, Algebra, LeftOutFold, Paths
from dragoman.maps.linear import positive
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
        return Moments(count=self.count, **{name: fetched(getattr(self, name)) for name in _PARTS})

    def reversed(self) -> _Held:
        return _Held(self.count, self.mean_y, self.mean_x, self.syy, self.sxy.T, self.sxx)

    def rescaled(self, scale: torch.Tensor) -> _Held:
        sxx, sxy = self.sxx / scale[:, None] / scale, self.sxy / scale[:, None]
        return _Held(self.count, self.mean_x / scale, self.mean_y, sxx, sxy, self.syy)

    def relative(self, lam_rel: float) -> float:
        return lam_rel * float(self.sxx.trace()) / len(self.mean_x)


class _Path:
    """``RidgePath`` on a device."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    @cached_property
    def eigen(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Eigenvalues (p,), eigenvectors V (p, p), V' Sxy (p, q)."""
        values, vectors = torch.linalg.eigh(self._held.sxx)
        return values.clamp_min(0.0), vectors, vectors.T @ self._held.sxy

    @torch.inference_mode()
    def images(self, rows: Doubles, lam: float) -> Doubles:
        values, vectors, scores = self.eigen
        return (_there(rows, vectors.device) @ vectors / (values + positive(lam)) @ scores).cpu().numpy()


class _LeftOut:
    """One fold against the others."""

    def __init__(self, fitted: _Held, fold: _Held) -> None:
        self._fitted, self._fold, self._path = fitted, fold, _Path(fitted)
        self._unit = fitted.relative(1.0)

    @property
    def spread(self) -> float:
        fold = self._fold
        return float(fold.syy.trace() + fold.count * (fold.mean_y - self._fitted.mean_y).square().sum())

    @torch.inference_mode()
    def errors(self, grid: Doubles) -> Doubles:
        # As ``RidgePath.held_out_curve``: in the eigenbasis every penalty costs a few products with vectors.
        values, vectors, scores = self._path.eigen
        fold = self._fold
        dx, dy = (fold.mean_x - self._fitted.mean_x) @ vectors, fold.mean_y - self._fitted.mean_y
        linear = ((vectors.T @ fold.sxy) * scores).sum(dim=1)
        quadratic = (vectors.T @ fold.sxx @ vectors) * (scores @ scores.T)
        total, found = fold.syy.trace(), []
        for lam_rel in np.asarray(grid, dtype=np.float64):
            share = 1.0 / (values + positive(float(lam_rel) * self._unit))
            missed = (dy - (dx * share) @ scores).square().sum()
            found.append(total - 2 * linear @ share + share @ quadratic @ share + fold.count * missed)
        return torch.stack(found).cpu().numpy()

    def images(self, rows: Doubles, lam_rel: float) -> Doubles:
        return self._path.images(rows, lam_rel * self._unit)

    @cached_property
    def _factor(self) -> torch.Tensor:
        covariance = self._fitted.syy / max(self._fitted.count - 1, 1)
        covariance.diagonal().add_(SHRINK * float(covariance.trace()) / len(covariance))
        return torch.linalg.cholesky(covariance)

    @torch.inference_mode()
    def read_outs(self, images: Doubles) -> Doubles:
        own = _there(images, self._fitted.sxx.device)
        return torch.cholesky_solve(own.T, self._factor).T.cpu().numpy()


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

    def reversed(self, moments: FoldedMoments) -> FoldedMoments:
        """As the protocol says; what lies on the device is looked at the other way round."""
        held, turned = self._holding(moments), moments.reversed()
        self._kept += ((one, there.reversed()) for one, there in zip(turned.folds, held, strict=True))
        return turned

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
        return _Path(_Held.of(moments, self._device))

    @torch.inference_mode()
    def solve_shifted(self, sxx: NDArray[Any], lam: float, right: NDArray[Any]) -> Doubles:
        """As the protocol says."""
        return fetched(_solved(_there(sxx, self._device), lam, _there(right, self._device)))


def in_double(device: str) -> str | None:
    """The device where it adds and solves in float64; None for a CPU, where numpy does, and for cards without it."""
    return device if torch.device(device).type == "cuda" else None


def algebra_of(device: str) -> Algebra:
    """On the device where it computes in float64, in numpy elsewhere."""
    there = in_double(device)
    return HOST if there is None else DeviceAlgebra(there)


def fetched(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's numbers on the host, read-only and held by nobody else.

    Into memory that numpy asked for: in large pages, where fresh small ones cost more than the numbers' way there.
    """
    out = np.empty(tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype)
    torch.from_numpy(out).copy_(tensor)
    out.flags.writeable = False
    return out


def _there(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Float64 numbers on a device; those on the CPU are a copy too, since numpy's may be read-only."""
    return torch.tensor(np.asarray(array, dtype=np.float64), device=device)


def _solved(sxx: torch.Tensor, lam: float, right: torch.Tensor) -> torch.Tensor:
    shifted = sxx.clone()
    shifted.diagonal().add_(positive(lam))
    return torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
