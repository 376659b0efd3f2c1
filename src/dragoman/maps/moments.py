"""Everything a linear map needs to know of paired rows, in one pass.

In: rows x (n, p) and y (n, q), the same positions of the same texts seen by two models. Out: ``Moments``, which join
exactly, so document folds need no second pass. Refuses rows that do not pair or are not finite.

One set of sums takes 8 (p^2 + p q + q^2) bytes: 488 MB from Qwen2.5-7B (3584) to Gemma-3-27B (5376), however many rows
it stands for. ``folds`` keeps five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.store import Contents, write_arrays

Doubles = NDArray[np.float64]

_BLOCK = 4096  # rows per product: float32 products are summed in float64, one block at a time
_BAND = 256  # rows of an outer product held at a time
_FILE = Contents(
    called="moments",
    holds="moments",
    origin="dragoman harvest",
    arrays={"mean_x": "p", "mean_y": "q", "sxx": "pp", "sxy": "pq", "syy": "qq"},
    words={"count": int},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Count, means and centred sums of products of paired rows, all float64 and read-only.

    ``mean_x`` (p,), ``mean_y`` (q,); with rows centred on these means, ``sxx`` = x'x (p, p), ``sxy`` = x'y (p, q) and
    ``syy`` = y'y (q, q): sums, not divided by ``count``.
    """

    count: int
    mean_x: Doubles
    mean_y: Doubles
    sxx: Doubles
    sxy: Doubles
    syy: Doubles

    @classmethod
    def of(
        cls,
        x: NDArray[Any],
        y: NDArray[Any],
        *,
        pilot: tuple[NDArray[Any], NDArray[Any]] | None = None,
        product: type[np.floating[Any]] = np.float64,
    ) -> Moments:
        """Summarise one batch of pairs.

        Args:
            x: (n, p) source rows.
            y: (n, q) target rows, row i of the same text position as row i of ``x``.
            pilot: shifts (p,) and (q,) subtracted before multiplying; the batch's own means when left out. The result
                does not depend on it in exact arithmetic. In float32 it matters: where means are 30 standard
                deviations from zero, unshifted products turn mapped directions by up to 1 - cos = 5e-3.
            product: precision of the products (``numpy.float32`` is about twice as fast); sums are always float64.

        Raises:
            Refusal: the rows do not pair, there are none, or some are not finite.
        """
        x, y = checked_pairs(x, y)
        shift = pilot if pilot is not None else (x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64))
        sums = Sums(x.shape[1], y.shape[1])
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            sums.add((x[rows] - shift[0]).astype(product), (y[rows] - shift[1]).astype(product))
        return sums.sealed(*shift)

    @classmethod
    def together(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of all parts' rows; one new set of sums is held, however many parts there are.

        Raises:
            Refusal: no parts, or parts of different widths.
        """
        if not parts:
            raise Refusal("moments of nothing", "there are no parts to join", "pass at least one")
        if any((part.p, part.q) != (parts[0].p, parts[0].q) for part in parts):
            raise Refusal("moments of several widths", "they do not combine", "join shards of one pair of sites")
        count = sum(part.count for part in parts)
        mean_x = np.sum([part.count / count * part.mean_x for part in parts], axis=0)
        mean_y = np.sum([part.count / count * part.mean_y for part in parts], axis=0)
        sxx, sxy, syy = (np.zeros_like(getattr(parts[0], name)) for name in ("sxx", "sxy", "syy"))
        for part in parts:
            dx, dy = part.mean_x - mean_x, part.mean_y - mean_y
            for products, theirs, u, v in ((sxx, part.sxx, dx, dx), (sxy, part.sxy, dx, dy), (syy, part.syy, dy, dy)):
                products += theirs
                _add_outer(products, part.count, u, v)
        return _locked(count, mean_x, mean_y, sxx, sxy, syy)

    def reversed(self) -> Moments:
        """The same rows with source and target exchanged, for the map back; nothing is copied but ``sxy``."""
        return _locked(self.count, self.mean_y, self.mean_x, self.syy, np.array(self.sxy.T, order="C"), self.sxx)

    def rescaled(self, scale: Doubles) -> Moments:
        """The moments of x / ``scale`` (p,) and y."""
        return _locked(
            self.count,
            self.mean_x / scale,
            self.mean_y,
            self.sxx / scale[:, None] / scale,
            self.sxy / scale[:, None],
            self.syy,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all sums, 8 (p^2 + p q + q^2 + p + q): the number of rows has no part in it."""
        return sum(getattr(self, f.name).nbytes for f in fields(self) if f.name != "count")

    @property
    def p(self) -> int:
        """Width of the source."""
        return len(self.mean_x)

    @property
    def q(self) -> int:
        """Width of the target."""
        return len(self.mean_y)

    @property
    def underdetermined(self) -> bool:
        """Whether a direction can leave the span of the rows (n <= p); a random one keeps (n - 1) / p of its energy."""
        return self.count <= self.p

    def refuse_too_few(self, *, allow_underdetermined: bool) -> None:
        """Refuse to have a map fitted to fewer rows than it needs."""
        refuse_few(self.count, self.p, allow_underdetermined=allow_underdetermined)

    def save(self, path: Path) -> None:
        """Write all six parts to one file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "count"}
        write_arrays(path, arrays, {"holds": "moments", "count": self.count})

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        return cls(count=words["count"], **{name: frozen(a, np.float64) for name, a in arrays.items()})


def refuse_few(count: int, p: int, *, allow_underdetermined: bool) -> None:
    """Refuse to have a map fitted to ``count`` rows of a source ``p`` wide when they are too few."""
    if count < 3:
        raise Refusal(f"a map from {count} rows", "three are the least that vary", "harvest more text")
    if count <= p and not allow_underdetermined:
        raise Refusal(
            f"a map from {count} rows of width {p}",
            f"most directions lie partly outside their span; a random one keeps {(count - 1) / p:.0%}",
            f"harvest more than {p} rows, or allow an underdetermined fit",
        )


class Sums:
    """Running sums of shifted rows, added to in place: what one pass over the rows holds.

    Products are taken in the rows' own precision, one block at a time, and summed in float64.
    """

    __slots__ = ("count", "sum_x", "sum_y", "sxx", "sxy", "syy")

    def __init__(self, p: int, q: int) -> None:
        """Nothing seen yet, for rows of widths ``p`` and ``q``."""
        self.count = 0
        self.sum_x, self.sum_y = np.zeros(p), np.zeros(q)
        self.sxx, self.sxy, self.syy = np.zeros((p, p)), np.zeros((p, q)), np.zeros((q, q))

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Add rows (n, p) and (n, q) that the pilot was already taken off."""
        self.count += len(a)
        self.sum_x += a.sum(0, dtype=np.float64)
        self.sum_y += b.sum(0, dtype=np.float64)
        self.sxx += a.T @ a
        self.sxy += a.T @ b
        self.syy += b.T @ b

    def sealed(self, shift_x: NDArray[Any], shift_y: NDArray[Any]) -> Moments:
        """Moments of the rows with the pilot put back. They own the sums: nothing may be added afterwards."""
        n = self.count
        _add_outer(self.sxx, -1.0, self.sum_x, self.sum_x / n)
        _add_outer(self.sxy, -1.0, self.sum_x, self.sum_y / n)
        _add_outer(self.syy, -1.0, self.sum_y, self.sum_y / n)
        return _locked(n, shift_x + self.sum_x / n, shift_y + self.sum_y / n, self.sxx, self.sxy, self.syy)


def _add_outer(products: Doubles, weight: float, u: Doubles, v: Doubles) -> None:
    """Add weight u v' in place, a band of rows at a time: the whole of u v' would be as large as ``products``."""
    for start in range(0, len(products), _BAND):
        band = slice(start, start + _BAND)
        products[band] += weight * np.outer(u[band], v)


def checked_pairs(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows that pair, at least one, all finite; or a refusal."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise Refusal(
            f"rows of shapes {x.shape} and {y.shape}",
            "source and target rows pair one to one, and there is at least one",
            "pass x of shape (n, p) and y of shape (n, q)",
        )
    for name, rows in (("source", x), ("target", y)):
        if not np.isfinite(rows).all():
            raise Refusal(f"{name} rows", "they hold NaN or infinite numbers", "harvest them again in float32")
    return x, y


def _locked(count: int, *parts: Doubles) -> Moments:
    """Freeze arrays that nobody else holds, without copying them."""
    for part in parts:
        part.flags.writeable = False
    mean_x, mean_y, sxx, sxy, syy = parts
    return Moments(count=count, mean_x=mean_x, mean_y=mean_y, sxx=sxx, sxy=sxy, syy=syy)
