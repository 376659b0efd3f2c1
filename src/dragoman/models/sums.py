"""What is summed of pairs while two models are read: in numpy on the host, or in torch where the activations are.

In: batches of pairs x (n, p) and y (n, q), all pairs of a document in one batch; an SAE's encoder, if there is one.
Out: ``Summed``, the same on either side but for rounding: moments by fold, and sums over firings at both sites. Refuses
what ``maps.moments`` and ``maps.direct`` refuse.

A device holds, at p = 3584 and q = 5376 with M features watched, in float64: moments of five folds 2.4 GB, sums of
firings 8 M (p + q + M), and of calibration 0.11 GB, and 2.8 GB where direct rows of all 65,536 features are asked for;
in float32 the encoder, 0.94 GB for so many, and some slices of its activations, 0.5 GB each. Sums there are in float64
throughout; those over firings touch only the features that fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Site, frozen
from dragoman.dictionaries import Encoder
from dragoman.maps import DirectTable, FiringSums
from dragoman.maps.direct import WHOLE, add_by_fold
from dragoman.maps.moments import FoldedMoments, Moments, MomentStream, fold_of, refuse_empty
from dragoman.models.algebra import fetched
from dragoman.models.encoding import DeviceEncoding, Encodes, HostEncoding, to_host
from dragoman.models.fused import add_sums
from dragoman.models.harvest import unit_sum

_BAND = 8192  # features whose sums are made at a time
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """Features that are counted: ``columns`` of the dictionary, ``chosen`` among them (by place) for calibration."""

    columns: NDArray[np.int64]
    chosen: NDArray[np.int64]

    @property
    def ids(self) -> list[str]:
        """As the dictionary calls them."""
        return [str(c) for c in self.columns]


@dataclass(frozen=True, kw_only=True, eq=False)
class Firing:
    """Sums over firings: rows of the ``target``, rows of the ``source``, and of a few features by fold."""

    target: FiringSums
    source: FiringSums
    calibration: tuple[FiringSums, ...] | None

    @classmethod
    def of(cls, sites: tuple[Site, Site], widths: tuple[int, int], watched: Watched, folds: int) -> Firing:
        """Nothing seen yet."""
        (source, target), (p, q), ids = sites, widths, watched.ids
        names = [ids[i] for i in watched.chosen]
        return cls(
            target=FiringSums(target, ids, q, pairs=len(ids) <= WHOLE),
            source=FiringSums(source, ids, p),
            calibration=tuple(FiringSums(target, names, q) for _ in range(folds)) if names else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Summed:
    """All of it.

    ``units``: sums (p,) and (q,) of rows brought to unit length. ``table``: the direct route's rows of all features,
    where they were asked for besides those that are watched.
    """

    folded: FoldedMoments
    firing: Firing | None
    units: tuple[Doubles, Doubles]
    table: DirectTable | None = None


class PairSums(Protocol):
    """Takes batches of pairs, on either side."""

    def add(self, x: Any, y: Any, documents: NDArray[np.int64]) -> csr_array | None:
        """Add a batch; the watched features' activations (n, M) on the host, None where none are watched."""
        ...

    def finish(self) -> Summed:
        """What was summed; nothing may be added afterwards."""
        ...


class HostSums:
    """In numpy; ``product``: precision of products, see ``MomentStream``."""

    def __init__(
        self,
        sites: tuple[Site, Site],
        widths: tuple[int, int],
        folds: int,
        watched: Watched | None = None,
        encoding: HostEncoding | None = None,
        product: type[np.floating[Any]] = np.float64,
    ) -> None:
        """Nothing seen yet."""
        self._stream = MomentStream(*widths, folds=folds, product=product)
        self._units = np.zeros(widths[0]), np.zeros(widths[1])
        self._watched, self._encoding = watched, encoding
        self._firing = Firing.of(sites, widths, watched, folds) if watched is not None else None

    def add(self, x: Any, y: Any, documents: NDArray[np.int64]) -> csr_array | None:
        """As the protocol says."""
        self._stream.add(x, y, documents)
        for total, rows in zip(self._units, (x, y), strict=True):
            total += unit_sum(rows)
        if self._firing is None or self._watched is None or self._encoding is None:
            return None
        fired = self._encoding.sparse(x, self._watched.columns)
        self._firing.target.add(fired, y, documents)
        self._firing.source.add(fired, x, documents)
        if self._firing.calibration is not None:
            add_by_fold(self._firing.calibration, fired.tocsc()[:, self._watched.chosen], y, documents)
        return fired

    def finish(self) -> Summed:
        """As the protocol says."""
        return Summed(folded=self._stream.finish(), firing=self._firing, units=self._units)


class DeviceSums:
    """In torch, where the activations are."""

    def __init__(
        self,
        sites: tuple[Site, Site],
        widths: tuple[int, int],
        folds: int,
        device: str,
        watched: Watched | None = None,
        encoding: DeviceEncoding | None = None,
        *,
        every: bool = False,
    ) -> None:
        """Nothing seen yet; ``every``: whether direct rows of all features are summed, 8 d_sae q bytes there."""
        self._device = torch.device(device)
        self._moments = _Moments(*widths, folds, self._device)
        self._units = tuple(torch.zeros(width, dtype=torch.float64, device=device) for width in widths)
        self._watched, self._encoding = watched, encoding
        self._firing = Firing.of(sites, widths, watched, folds) if watched is not None else None
        self._weighted: list[Weighted] = []
        if self._firing is not None and watched is not None:
            parts = (self._firing.target, self._firing.source, *(self._firing.calibration or ()))
            self._weighted = [Weighted(part, device) for part in parts]
            self._columns = torch.as_tensor(watched.columns, device=device)
        self._all: Weighted | None = None
        if every and encoding is not None:
            self._all = Weighted(FiringSums(sites[1], range(encoding.encoder.d_sae), widths[1]), device)

    @torch.inference_mode()
    def add(self, x: Any, y: Any, documents: NDArray[np.int64]) -> csr_array | None:
        """As the protocol says; rows may lie on either side."""
        single = torch.as_tensor(x, device=self._device)
        wide = single.double(), torch.as_tensor(y, device=self._device).double()
        self._moments.add(*wide, documents)
        for total, rows in zip(self._units, wide, strict=True):
            total += _unit(rows).sum(dim=0)
        if self._encoding is None or self._watched is None:
            return None
        dense = self._encoding.dense(single, None if self._all is not None else self._columns)
        if self._all is not None:
            self._all.add(to_host(dense), wide[1], documents)
            dense = dense[:, self._columns]
        fired = to_host(dense)
        target, source, *calibration = self._weighted
        target.add(fired, wide[1], documents)
        target.add_pairs(dense)
        source.add(fired, wide[0], documents)
        self._calibrate(calibration, wide[1], fired, documents)
        return fired

    def _calibrate(
        self, folds: Sequence[Weighted], y: torch.Tensor, fired: csr_array, documents: NDArray[np.int64]
    ) -> None:
        """Add the few features' firings to the folds of their documents."""
        if not folds or self._watched is None:
            return
        few, mine = fired.tocsc()[:, self._watched.chosen].tocsr(), fold_of(documents, len(folds))
        for k in np.unique(mine):
            rows = np.flatnonzero(mine == k)
            there = torch.as_tensor(rows, device=self._device)
            folds[k].add(csr_array(few[rows]), y[there], documents[rows])

    def finish(self) -> Summed:
        """As the protocol says."""
        for part in self._weighted:
            part.finish()
        first, second = (total.cpu().numpy() for total in self._units)
        table = self._all.table() if self._all is not None else None
        self._all = None  # its room is needed where the moments are finished
        return Summed(folded=self._moments.finish(), firing=self._firing, units=(first, second), table=table)


class HostFirings:
    """Sums over firings of all features at the target alone, in numpy, and of its rows brought to unit length."""

    def __init__(self, sums: FiringSums, encoder: Encoder) -> None:
        """Nothing seen yet; ``sums`` gets everything."""
        self._sums, self._encoding, self._units = sums, HostEncoding(encoder), np.zeros(sums.y_sum.shape)

    def add(self, x: Any, y: Any, documents: NDArray[np.int64]) -> None:
        """Add rows at the same positions, all of a document's at once."""
        self._sums.add(self._encoding.sparse(x), y, documents)
        self._units += unit_sum(y)

    def finish(self) -> Doubles:
        """The sum (q,) of unit rows."""
        return self._units


class DeviceFirings:
    """The same on a device: 8 d_sae q bytes there."""

    def __init__(self, sums: FiringSums, encoder: Encoder, device: str) -> None:
        """Nothing seen yet; ``sums`` gets everything in the end."""
        self._encoding, self._weighted = DeviceEncoding(encoder, device), Weighted(sums, device)
        self._units = torch.zeros(sums.y_sum.shape, dtype=torch.float64, device=device)

    @torch.inference_mode()
    def add(self, x: Any, y: Any, documents: NDArray[np.int64]) -> None:
        """Add rows at the same positions, all of a document's at once."""
        dense = self._encoding.dense(torch.as_tensor(x, device=self._units.device))
        wide = torch.as_tensor(y, device=self._units.device).double()
        self._weighted.add(to_host(dense), wide, documents)
        self._units += _unit(wide).sum(dim=0)

    def finish(self) -> Doubles:
        """The sum (q,) of unit rows."""
        self._weighted.finish()
        return self._units.cpu().numpy()


class Weighted:
    """The dear half of ``FiringSums`` on a device: sums of activation times row; the rest is counted on the host."""

    def __init__(self, sums: FiringSums, device: str | torch.device) -> None:
        """Nothing seen yet; ``sums`` gets everything."""
        self._sums = sums
        self._total = torch.zeros(sums.weighted_sum.shape, dtype=torch.float64, device=device)
        self._rows = torch.zeros(sums.y_sum.shape, dtype=torch.float64, device=device)
        self._gram = None
        if sums.gram is not None:
            self._gram = torch.zeros((len(sums.ids), len(sums.ids)), dtype=torch.float64, device=device)

    def add(self, fired: csr_array, y: torch.Tensor, documents: NDArray[np.int64]) -> None:
        """Add activations (n, M) of the host and float64 rows (n, q) at the same positions."""
        self._sums.add_activations(csr_array(fired, dtype=np.float64), documents, pairs=False)
        add_sums(self._total, fired, y)
        self._rows += y.sum(dim=0)

    def add_pairs(self, dense: torch.Tensor) -> None:
        """Count which features fire together, where that is counted, by the same activations (n, M) there."""
        if self._gram is not None:
            wide = dense.double()
            self._gram.addmm_(wide.T, wide)

    @torch.inference_mode()
    def table(self) -> DirectTable:
        """The means of ``FiringSums.table``, computed here: on the host the float64 sums would take gigabytes more."""
        sums, device = self._sums, self._total.device
        weights = torch.as_tensor(sums.weight_sum, device=device)[:, None]
        mean, beta = self._rows / max(sums.count, 1), np.empty(self._total.shape, np.float32)
        for start in range(0, len(beta), _BAND):
            band = slice(start, start + _BAND)
            found = self._total[band] / weights[band].clamp_min(torch.finfo(torch.float64).tiny) - mean
            found = torch.where(weights[band] > 0, found, torch.zeros_like(found))
            torch.from_numpy(beta[band]).copy_(found.float())
        beta.flags.writeable = False  # handed over: it is gigabytes
        return DirectTable.of(sums.site, sums.ids, beta, sums.n_eff)

    def finish(self) -> None:
        """Put into the sums what was summed here."""
        self._sums.weighted_sum, self._sums.y_sum = self._total.cpu().numpy(), self._rows.cpu().numpy()
        if self._gram is not None:
            self._sums.gram = csr_array(self._gram.cpu().numpy())


class _Moments:
    """``MomentStream`` on a device: rows are shifted by the mean of the first batch before they are multiplied."""

    def __init__(self, p: int, q: int, folds: int, device: torch.device) -> None:
        self._widths, self._device = (p, q), device
        self._parts: list[tuple[torch.Tensor, ...] | None] = [None] * folds
        self._counts = [0] * folds
        self._documents = np.empty(0, dtype=np.int64)
        self.shift = tuple(torch.zeros(width, dtype=torch.float64, device=device) for width in (p, q))

    def add(self, x: torch.Tensor, y: torch.Tensor, documents: NDArray[np.int64]) -> None:
        """Add float64 rows."""
        if not len(self._documents):
            self.shift = x.mean(dim=0), y.mean(dim=0)
        self._documents = np.union1d(self._documents, documents)
        a, b = x - self.shift[0], y - self.shift[1]
        mine = fold_of(documents, len(self._parts))
        for k in np.unique(mine):
            rows = np.flatnonzero(mine == k)
            there = torch.as_tensor(rows, device=self._device)
            self._multiply(int(k), a[there], b[there])

    def _multiply(self, k: int, a: torch.Tensor, b: torch.Tensor) -> None:
        p, q = self._widths
        part = self._parts[k]
        if part is None:
            shapes = ((p,), (q,), (p, p), (p, q), (q, q))
            part = tuple(torch.zeros(shape, dtype=torch.float64, device=self._device) for shape in shapes)
            self._parts[k] = part
        sum_x, sum_y, sxx, sxy, syy = part
        self._counts[k] += len(a)
        sum_x += a.sum(dim=0)
        sum_y += b.sum(dim=0)
        for products, left, right in ((sxx, a, a), (sxy, a, b), (syy, b, b)):
            products.addmm_(left.T, right)

    @torch.inference_mode()
    def finish(self) -> FoldedMoments:
        """The moments of every fold, on the host."""
        refuse_empty([k for k, n in enumerate(self._counts) if not n], len(self._counts), len(self._documents))
        folds = tuple(self._centred(k) for k in range(len(self._counts)))
        return FoldedMoments(folds=folds, documents=frozen(self._documents, np.int64))

    def _centred(self, k: int) -> Moments:
        """A fold's moments; its sums are given up."""
        part, n, shift = self._parts[k], self._counts[k], self.shift
        if part is None:
            raise RuntimeError("a fold without rows passed for one with some")
        sum_x, sum_y, sxx, sxy, syy = part
        for products, left, right in ((sxx, sum_x, sum_x), (sxy, sum_x, sum_y), (syy, sum_y, sum_y)):
            products.addr_(left, right, alpha=-1.0 / n)
        arrays = [fetched(t) for t in (shift[0] + sum_x / n, shift[1] + sum_y / n, sxx, sxy, syy)]
        self._parts[k] = None
        mean_x, mean_y, *products = arrays
        return Moments(count=n, mean_x=mean_x, mean_y=mean_y, sxx=products[0], sxy=products[1], syy=products[2])


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def pair_sums(
    sites: tuple[Site, Site],
    widths: tuple[int, int],
    folds: int,
    watched: Watched | None,
    encoding: Encodes | None,
    *,
    device: str | None,
    product: type[np.floating[Any]],
    every: bool,
) -> PairSums:
    """On a device, or in numpy where none is named; direct rows of ``every`` feature on a device alone."""
    if device is None:
        here = encoding if isinstance(encoding, HostEncoding) else None
        return HostSums(sites, widths, folds, watched, here, product)
    own = encoding if isinstance(encoding, DeviceEncoding) else None
    return DeviceSums(sites, widths, folds, device, watched, own, every=every)
