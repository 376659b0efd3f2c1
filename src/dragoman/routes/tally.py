"""``DirectStatistics`` and the table of co-firing, added to in place: what one pass over many rows holds.

In: batches of sparse activations, target rows and documents, then the finish. Out: the ``DirectStatistics``, and the
``DictionaryStatistics``, that ``accumulate`` would have given. Refuses what it refuses (``Batch`` says what), rows
of a document that come twice, and rows after the finish.

``accumulate`` gives a new value and leaves the old as it was, which at each batch costs several copies of M x q sums
(352 MB at 8192 features and width 5376). Here they are held once: 8 M q bytes, and a band of them more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Refusal, Site
from dragoman.routes.batch import Batch
from dragoman.routes.dictionary import DictionaryStatistics
from dragoman.routes.direct import DirectStatistics

_BAND = 1024  # features whose sums are made at a time


class Tally:
    """Sums over rows for M features at ``site``; with ``pairs``, the table of co-firing too (12 bytes an entry)."""

    def __init__(self, site: Site, ids: Sequence[str], d_model: int, *, pairs: bool = False) -> None:
        """Nothing seen yet of features ``ids`` at ``site``, ``d_model`` wide."""
        m = len(ids)
        self._site, self._ids, self._count, self._finished = site, tuple(ids), 0, False
        self._weight, self._squares = np.zeros(m), np.zeros(m)
        self._weighted, self._sum = np.zeros((m, d_model)), np.zeros(d_model)
        self._documents: set[int] = set()
        self._gram = csr_array((m, m)) if pairs else None

    def add(self, f: csr_array, y: NDArray[Any], documents: NDArray[np.int64]) -> None:
        """Take activations f (n, M) >= 0 and rows y (n, q); all rows of a document (n,) come in one call.

        Raises:
            Refusal: a batch that ``Batch`` refuses, a document seen before, or a tally already finished.
        """
        if self._finished:
            raise Refusal("adding rows", "the tally was finished", "open another and merge the two")
        batch = Batch.of(f, y, documents, features=len(self._ids), width=self._sum.size)
        fresh = set(batch.documents.tolist())
        again = fresh & self._documents
        if again:
            raise Refusal(
                f"document {min(again)}", "its rows came before, and it would count twice", "keep a document together"
            )
        self._documents |= fresh
        self._count += len(batch.y)
        self._weight += batch.weight_sum
        self._squares += batch.weight_sq_sum
        self._sum += batch.y.sum(axis=0)
        columns = batch.f.tocsc()
        for start in range(0, len(self._ids), _BAND):
            band = columns[:, start : start + _BAND]
            if band.nnz:
                self._weighted[start : start + _BAND] += band.T @ batch.y
        if self._gram is not None:
            self._gram = csr_array(self._gram + batch.f.T @ batch.f)

    def finish(self) -> tuple[DirectStatistics, DictionaryStatistics | None]:
        """The statistics, and with ``pairs`` the dictionary's. They own the sums; the tally is closed."""
        self._finished = True
        arrays = {
            "weight_sum": self._weight,
            "weight_sq_sum": self._squares,
            "weighted_sum": self._weighted,
            "y_sum": self._sum,
            "documents": np.array(sorted(self._documents), dtype=np.int64),
        }
        for array in arrays.values():
            array.flags.writeable = False
        direct = DirectStatistics(site=self._site, ids=self._ids, count=self._count, **arrays)
        return direct, None if self._gram is None else DictionaryStatistics(direct=direct, gram=self._gram)
