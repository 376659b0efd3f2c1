"""Everything a linear map needs to know of paired rows, in one pass.

In: rows x (n, p) and y (n, q), the same positions of the same texts seen by two models. Out: ``Moments``, which merge
and subtract exactly, so shards and document folds need no second pass. Refuses rows that do not pair or are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.store import read_arrays, write_arrays

Doubles = NDArray[np.float64]

_BLOCK = 4096  # rows per product: float32 products are summed in float64, one block at a time


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
        x, y = _checked(x, y)
        shift_x, shift_y = pilot if pilot is not None else (x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64))
        n, p, q = len(x), x.shape[1], y.shape[1]
        sum_x, sum_y = np.zeros(p), np.zeros(q)
        sxx, sxy, syy = np.zeros((p, p)), np.zeros((p, q)), np.zeros((q, q))
        for start in range(0, n, _BLOCK):
            a = (x[start : start + _BLOCK] - shift_x).astype(product)
            b = (y[start : start + _BLOCK] - shift_y).astype(product)
            sum_x += a.sum(0, dtype=np.float64)
            sum_y += b.sum(0, dtype=np.float64)
            sxx += a.T @ a
            sxy += a.T @ b
            syy += b.T @ b
        return _sealed(
            n,
            shift_x + sum_x / n,
            shift_y + sum_y / n,
            sxx - np.outer(sum_x, sum_x / n),
            sxy - np.outer(sum_x, sum_y / n),
            syy - np.outer(sum_y, sum_y / n),
        )

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows together (Chan, Golub and LeVeque 1983)."""
        return self._with(other, +1)

    def minus(self, other: Moments) -> Moments:
        """The moments of these rows without ``other``, which must be a part of them: a fold held out."""
        if other.count >= self.count:
            raise Refusal(
                f"subtracting {other.count} rows from {self.count}",
                "nothing would be left",
                "subtract a fold of the rows that were merged",
            )
        return self._with(other, -1)

    def _with(self, other: Moments, sign: int) -> Moments:
        """Chan's update; removing rows is adding them with a negative count."""
        if (self.p, self.q) != (other.p, other.q):
            raise Refusal(
                f"moments of widths {other.p} and {other.q}",
                f"they do not combine with widths {self.p} and {self.q}",
                "combine shards of the same pair of sites",
            )
        count = self.count + sign * other.count
        share = sign * other.count / count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * share
        return _sealed(
            count,
            self.mean_x + share * dx,
            self.mean_y + share * dy,
            self.sxx + sign * other.sxx + weight * np.outer(dx, dx),
            self.sxy + sign * other.sxy + weight * np.outer(dx, dy),
            self.syy + sign * other.syy + weight * np.outer(dy, dy),
        )

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
        if self.count < 3:
            raise Refusal(f"a map from {self.count} rows", "three are the least that vary", "harvest more text")
        if self.underdetermined and not allow_underdetermined:
            raise Refusal(
                f"a map from {self.count} rows of width {self.p}",
                f"most directions lie partly outside their span; a random one keeps {(self.count - 1) / self.p:.0%}",
                f"harvest more than {self.p} rows, or allow an underdetermined fit",
            )

    def save(self, path: Path) -> None:
        """Write all six parts to one file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "count"}
        write_arrays(path, arrays, {"holds": "moments", "count": self.count})

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what ``save`` wrote."""
        arrays, meta = read_arrays(path)
        if meta.get("holds") != "moments":
            raise Refusal(f"{path}", "it does not hold moments", "name a file that dragoman harvest wrote")
        return cls(count=int(meta["count"]), **{name: frozen(a, np.float64) for name, a in arrays.items()})


def _checked(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
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


def _sealed(count: int, *parts: Doubles) -> Moments:
    mean_x, mean_y, sxx, sxy, syy = (frozen(part, np.float64) for part in parts)
    return Moments(count=count, mean_x=mean_x, mean_y=mean_y, sxx=sxx, sxy=sxy, syy=syy)
