"""Paired rows in a stream, kept apart by document so that any part of them can be left out again.

In: batches of rows with the document each row came from. Out: ``FoldedMoments``, one set of
sums per fold. Refuses folds that stay empty.

Tokens of one document are alike, so an error judged on random tokens is too kind: folds are folds of documents.

Memory at 200,000 pairs of widths 3584 -> 5376 (Qwen2.5-7B to Gemma-3-27B), float64: sums are 8 (p^2 + p q + q^2) =
103 + 154 + 231 = 488 MB a fold, 2.44 GB for five, whatever the number of pairs. While reading: + 0.23 GB for one
product and 0.18 GB of waiting rows (5 x 1024 x 8960 float32) = 2.9 GB. While fitting: + 0.49 GB for the rows outside
one fold, 0.26 GB for eigenvectors and scores and 0.31 GB for workspace = 3.5 GB. Saved one file a fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.maps.moments import Doubles, Moments, Sums, checked_pairs
from dragoman.store import Contents, write_arrays, write_json

FOLDS = 5
PER_DOCUMENT = 64  # rows: those of one document are alike
PILOT = 512  # rows whose mean is taken off before multiplying
_WAITING = 1024  # rows a fold gathers before they are multiplied: each product costs a pass over all sums
_INDEX = "folds.json"
_FOLDER = Contents(called="folded moments", holds="folded moments", origin="dragoman harvest", words={"folds": int})
_DOCUMENTS = Contents(called="document ids", holds=None, origin="dragoman harvest", arrays={"documents": "n"})


def fold_of(documents: NDArray[Any], folds: int = FOLDS) -> NDArray[np.int64]:
    """Which fold (n,) each document id (n,) belongs to: the same in every shard, and blind to any order in the ids.

    A corpus that deals its topics in turn would put whole topics into one fold if ids were simply counted off.
    """
    mixed = np.asarray(documents).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finaliser
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(folds)).astype(np.int64)


def at_most(documents: NDArray[Any], rng: np.random.Generator, *, rows: int = PER_DOCUMENT) -> NDArray[np.bool_]:
    """A random choice of at most ``rows`` rows of each document, as a mask (n,); rows of one document are alike."""
    documents = np.asarray(documents)
    order = rng.permutation(len(documents))
    sort = order[np.argsort(documents[order], kind="stable")]
    _, first, counts = np.unique(documents[sort], return_index=True, return_counts=True)
    rank = np.arange(len(documents)) - np.repeat(first, counts)
    keep = np.zeros(len(documents), dtype=bool)
    keep[sort[rank < rows]] = True
    return keep


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
        empty = [k for k, sums in enumerate(self._sums) if sums is None]
        if empty or self._shift is None:
            raise Refusal(
                f"{len(self._documents)} documents in {len(self._sums)} folds",
                "a fold without documents leaves nothing to judge on",
                "read more documents or use fewer folds",
            )
        self._finished = True
        folds = tuple(sums.sealed(*self._shift) for sums in self._sums if sums is not None)
        self._sums = [None] * len(folds)
        return FoldedMoments(folds=folds, documents=frozen(self._documents, np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes held now: sums and waiting rows."""
        names = ("sum_x", "sum_y", "sxx", "sxy", "syy")
        sums = sum(getattr(s, name).nbytes for s in self._sums if s is not None for name in names)
        return sums + sum(a.nbytes + b.nbytes for rows in self._waiting for a, b in rows)

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
