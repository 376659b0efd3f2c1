"""One batch of what the direct route adds up: where features fire, and what the target holds there.

In: activations, target rows and documents of the same positions. Out: them, checked, and the sums over features that
``DirectStatistics`` and ``Tally`` have in common. Refuses rows that do not pair, numbers that are not finite, negative
activations, and documents that are not integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.routes.moments import Doubles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Activations and target rows at n positions.

    ``f``: sparse (n, M) float64, >= 0. ``y``: (n, q) float64. ``documents``: the different ones, sorted.
    ``weight_sum`` (M,): sum of activations. ``weight_sq_sum`` (M,): sum over documents of the squared activation total.
    """

    f: csr_array
    y: Doubles
    documents: NDArray[np.int64]
    weight_sum: Doubles
    weight_sq_sum: Doubles

    @classmethod
    def of(cls, f: Any, y: NDArray[Any], documents: NDArray[Any], *, features: int, width: int) -> Batch:
        """Check a batch and add it up by feature.

        Args:
            f: (n, ``features``) activations >= 0, dense or scipy sparse.
            y: (n, ``width``) target rows at the same positions.
            documents: (n,) integer id of each row's document.
            features: how many are watched.
            width: of the target's stream.

        Raises:
            Refusal: shapes that do not fit, negative or non-finite numbers, or documents that are not integers.
        """
        f, y, documents = csr_array(f, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(documents)
        if f.shape != (len(y), features) or y.shape[1:] != (width,) or documents.shape != (len(y),):
            raise Refusal(
                f"activations {f.shape}, target rows {y.shape} and documents {documents.shape}",
                f"{features} features and width {width} are watched",
                "pass f (n, M), y (n, q) and documents (n,) of the same rows",
            )
        if not (np.isfinite(f.data).all() and np.isfinite(y).all()) or (f.data < 0).any():
            raise Refusal(
                "activations or target rows",
                "some are NaN, infinite or, for activations, negative",
                "pass the SAE's activations after its nonlinearity",
            )
        if not np.issubdtype(documents.dtype, np.integer):
            raise Refusal(f"document ids of type {documents.dtype}", "they are integers", "number the documents")
        names, where = np.unique(documents, return_inverse=True)
        member = csr_array((np.ones(len(where)), (where, np.arange(len(where)))), shape=(len(names), len(where)))
        totals: Any = member @ f
        return cls(
            f=f,
            y=y,
            documents=names.astype(np.int64),
            weight_sum=np.asarray(f.sum(axis=0)),
            weight_sq_sum=np.asarray(totals.power(2).sum(axis=0)),
        )
