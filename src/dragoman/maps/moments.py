"""Everything a linear map needs to know of paired rows, in one pass, by fold of documents.

In: rows x (n, p) and y (n, q), the same positions of the same texts seen by two models; batches of them with the
document each row came from. Out: ``Moments``, which join exactly, so that any fold can be left out again without a
second pass; ``FoldedMoments``, one set of sums per fold. Refuses rows that do not pair or are not finite, and folds
that stay empty.

Tokens of one document are alike, so an error judged on random tokens is too kind: folds are folds of documents.

Memory at 200,000 pairs of widths 3584 -> 5376 (Qwen2.5-7B to Gemma-3-27B), float64: sums are 8 (p^2 + p q + q^2) =
103 + 154 + 231 = 488 MB a fold, 2.44 GB for five, whatever the number of pairs. While reading: + 0.23 GB for one
product and 0.18 GB of waiting rows (5 x 1024 x 8960 float32) = 2.9 GB. While fitting: + 0.49 GB for the rows outside
one fold, 0.26 GB for eigenvectors and scores and 0.31 GB for workspace = 3.5 GB. Saved one file a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.store import Contents, write_arrays, write_json

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
FOLDS = 5
PER_DOCUMENT = 64  # rows: those of one document are alike
PILOT = 512  # rows whose mean is taken off before multiplying
_WAITING = 1024  # rows a fold gathers before they are multiplied: each product costs a pass over all sums
_INDEX = "folds.json"
_FOLDER = Contents(called="folded moments", holds="folded moments", origin="dragoman harvest", words={"folds": int})
_DOCUMENTS = Contents(called="document ids", holds=None, origin="dragoman harvest", arrays={"documents": "n"})


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
    def of(cls, x: NDArray[Any], y: NDArray[Any]) -> Moments:
        """Summarise source rows ``x`` (n, p) and target rows ``y`` (n, q), row i of either at the same text position.

        Raises:
            Refusal: the rows do not pair, there are none, or some are not finite.
        """
        x, y = checked_pairs(x, y)
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        sums = Sums(x.shape[1], y.shape[1])
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            sums.add(x[rows] - mean_x, y[rows] - mean_y)
        return sums.sealed(mean_x, mean_y)

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
        """The same rows with source and target exchanged, for the map back; nothing is copied."""
        return _locked(self.count, self.mean_y, self.mean_x, self.syy, self.sxy.T, self.sxx)

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


def refuse_empty(empty: Sequence[int], folds: int, documents: int) -> None:
    """Refuse folds that no document fell into."""
    if empty:
        raise Refusal(
            f"{documents} documents in {folds} folds",
            "a fold without documents leaves nothing to judge on",
            "read more documents or use fewer folds",
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


def fold_of(documents: NDArray[Any], folds: int = FOLDS) -> NDArray[np.int64]:
    """Which fold (n,) each document id (n,) belongs to: the same in every shard, and blind to any order in the ids.

    A corpus that deals its topics in turn would put whole topics into one fold if ids were simply counted off.
    """
    mixed = scrambled(np.asarray(documents).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return (mixed % np.uint64(folds)).astype(np.int64)


def scrambled(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Other numbers (n,) for other numbers, without any order that was in them: splitmix64's finaliser."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedMoments:
    """Moments of each fold of documents. ``documents``: ids of all that were seen, sorted."""

    folds: tuple[Moments, ...]
    documents: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse what cannot be left out one by one."""
        if len(self.folds) < 2:
            raise Refusal(f"{len(self.folds)} folds", "one is left out while the others fit", "use at least two")

    @property
    def total(self) -> Moments:
        """The moments of all rows."""
        return Moments.together(self.folds)

    def without(self, fold: int) -> Moments:
        """The moments of all rows but one fold's."""
        return Moments.together([m for k, m in enumerate(self.folds) if k != fold])

    def reversed(self) -> FoldedMoments:
        """The same rows with source and target exchanged."""
        return FoldedMoments(folds=tuple(fold.reversed() for fold in self.folds), documents=self.documents)

    @property
    def count(self) -> int:
        """Rows in all folds."""
        return sum(m.count for m in self.folds)

    def source_variance(self) -> Doubles:
        """Variance (p,) of each source dimension over all rows, without joining the folds' sums."""
        mean = np.sum([m.count / self.count * m.mean_x for m in self.folds], axis=0)
        squares = [np.diag(m.sxx) + m.count * (m.mean_x - mean) ** 2 for m in self.folds]
        return np.sum(squares, axis=0) / self.count

    @property
    def rows_per_document(self) -> float:
        """Mean number of rows a document gave."""
        return self.count / max(len(self.documents), 1)

    def save(self, folder: Path) -> None:
        """Write one file a fold, so that no more than one is held twice; the index last."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, moments in enumerate(self.folds):
            moments.save(folder / f"fold-{k}.safetensors")
        write_arrays(folder / "documents.safetensors", {"documents": self.documents})
        write_json(folder / _INDEX, {"holds": "folded moments", "folds": len(self.folds)})

    @classmethod
    def load(cls, folder: Path) -> FoldedMoments:
        """Read what ``save`` wrote."""
        index = _FOLDER.read_index(folder / _INDEX)
        folds = tuple(Moments.load(folder / f"fold-{k}.safetensors") for k in range(index["folds"]))
        arrays, _ = _DOCUMENTS.read(folder / "documents.safetensors")
        return cls(folds=folds, documents=frozen(arrays["documents"], np.int64))


class MomentStream:
    """Takes batches of paired rows as they come; holds sums and at most a thousand waiting rows a fold.

    The mean of the first ``PILOT`` rows is taken off everything before multiplying, in the products' precision, and put
    back at the end: in float32 this is what keeps large means from drowning what varies.
    """

    def __init__(self, p: int, q: int, *, folds: int = FOLDS, product: type[np.floating[Any]] = np.float64) -> None:
        """For rows of widths ``p`` and ``q``.

        Args:
            p: source width.
            q: target width.
            folds: number of document folds.
            product: precision of the products (``numpy.float32`` is about twice as fast); sums are always float64.
        """
        self.p, self.q, self.product = p, q, product
        self._sums: list[Sums | None] = [None] * folds
        self._waiting: list[list[tuple[NDArray[Any], NDArray[Any]]]] = [[] for _ in range(folds)]
        self._documents = np.empty(0, dtype=np.int64)
        self._shift: tuple[Doubles, Doubles] | None = None
        self._finished = False

    def add(self, x: NDArray[Any], y: NDArray[Any], documents: NDArray[Any]) -> None:
        """Take rows x (n, p) and y (n, q) of documents (n,), integer ids that are the same in every shard.

        A document's rows may come in several batches.

        Raises:
            Refusal: rows that do not pair, other widths, ids that are not integers, or a stream already finished.
        """
        x, y = checked_pairs(x, y)
        documents = np.asarray(documents)
        if self._finished:
            raise Refusal("adding rows", "the stream was finished", "open another and merge the two")
        if (x.shape[1], y.shape[1]) != (self.p, self.q) or documents.shape != (len(x),):
            raise Refusal(
                f"rows {x.shape} and {y.shape} of documents {documents.shape}",
                f"the stream takes widths {self.p} and {self.q} and one document a row",
                "pass rows of the two sites it was opened for",
            )
        if not np.issubdtype(documents.dtype, np.integer):
            raise Refusal(f"document ids of type {documents.dtype}", "they are integers", "number the documents")
        self._documents = np.union1d(self._documents, documents.astype(np.int64))
        mine = fold_of(documents, len(self._sums))
        for start in range(0, len(x), _WAITING):
            piece = slice(start, start + _WAITING)
            self._wait(x[piece], y[piece], mine[piece])

    def _wait(self, x: NDArray[Any], y: NDArray[Any], mine: NDArray[np.int64]) -> None:
        """Gather rows by fold; multiply those of folds that have enough."""
        for k in np.unique(mine):
            self._waiting[k].append((x[mine == k], y[mine == k]))
        if self._shift is None and self._held() < PILOT:
            return
        self._settle_pilot()
        for k in range(len(self._sums)):
            if sum(len(a) for a, _ in self._waiting[k]) >= _WAITING:
                self._multiply(k)

    def finish(self) -> FoldedMoments:
        """The moments of every fold. They own the sums, so that nothing is held twice; the stream is closed."""
        if self._finished:
            raise Refusal("finishing a stream", "it was finished before", "keep what it gave")
        self._settle_pilot()
        for k in range(len(self._sums)):
            self._multiply(k)
        refuse_empty([k for k, sums in enumerate(self._sums) if sums is None], len(self._sums), len(self._documents))
        self._finished, shift = True, self._shift or (np.zeros(0), np.zeros(0))
        folds = tuple(sums.sealed(*shift) for sums in self._sums if sums is not None)
        self._sums = [None] * len(folds)
        return FoldedMoments(folds=folds, documents=frozen(self._documents, np.int64))

    def _held(self) -> int:
        return sum(len(a) for rows in self._waiting for a, _ in rows)

    def _settle_pilot(self) -> None:
        if self._shift is None and self._held():
            rows = [pair for waiting in self._waiting for pair in waiting]
            means = [np.concatenate([pair[side] for pair in rows]).mean(0, dtype=np.float64) for side in (0, 1)]
            self._shift = (means[0], means[1])

    def _multiply(self, k: int) -> None:
        """Move a fold's waiting rows into its sums."""
        if not self._waiting[k] or self._shift is None:
            return
        sums = self._sums[k] or Sums(self.p, self.q)
        a, b = (np.concatenate([pair[side] for pair in self._waiting[k]]) for side in (0, 1))
        self._waiting[k] = []
        for start in range(0, len(a), _WAITING):
            rows = slice(start, start + _WAITING)
            sums.add((a[rows] - self._shift[0]).astype(self.product), (b[rows] - self._shift[1]).astype(self.product))
        self._sums[k] = sums
