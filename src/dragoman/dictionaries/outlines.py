"""Arrays without their numbers: what an encoder would refuse, found before gigabytes are read.

In: a file of arrays. Out: the same names and shapes; vectors with their numbers, matrices of zeros that take no memory.
Refuses nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.store.spans import Arrays, Matrix


@dataclass(frozen=True, slots=True)
class Outlines:
    """A file of arrays whose matrices are not read."""

    arrays: Arrays

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names, sorted."""
        return self.arrays.names

    def array(self, name: str) -> Matrix:
        """A vector or number as it is; a matrix as its outline."""
        found = self.arrays.array(name)
        return _Outline(found) if len(found.shape) > 1 else found


@dataclass(frozen=True, slots=True)
class _Outline:
    """A matrix of zeros, one number stretched over its shape, of the kind of number that it holds."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        return self.whole()[np.asarray(rows, dtype=np.int64)]

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        return self.whole()[:, np.asarray(columns, dtype=np.int64)]

    def whole(self) -> NDArray[Any]:
        one = self.matrix.rows([0]) if 0 not in self.shape else np.zeros(1, np.float32)
        kind = np.float32 if one.dtype.kind == "f" else one.dtype
        return np.broadcast_to(np.zeros((), kind), self.shape)
