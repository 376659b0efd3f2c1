"""Activations made white before a dictionary was trained on them: z = (x - mean) matrix, and x = z inverse + mean.

In: a file with ``mean`` (d,), ``matrix`` (d, d) and ``inverse_matrix`` (d, d), as SAELens keeps it beside a checkpoint
that is not trained to its end. Out: a `Whitening` for an encoder, and decoder rows as they are in the stream. Refuses
files that lack one, other widths, and matrices that are not each other's inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal, frozen
from dragoman.store.spans import Arrays, listed

_AGAIN = "fetch the dictionary again"
_SAMPLE = 64  # rows of the product of both matrices that are looked at
_CLOSE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitening:
    """What is done to a row before the encoder, and undone after the decoder; ``width`` d."""

    mean: Floats
    matrix: Floats
    inverse: Floats

    @property
    def width(self) -> int:
        """Width of the stream."""
        return len(self.mean)

    @classmethod
    def read(cls, arrays: Arrays, width: int, what: str) -> Whitening:
        """All three arrays.

        Raises:
            Refusal: as the module says.
        """
        mean, matrix = _read(arrays, "mean", (width,), what), _read(arrays, "matrix", (width, width), what)
        inverse = _read(arrays, "inverse_matrix", (width, width), what)
        chosen = np.unique(np.linspace(0, width - 1, min(width, _SAMPLE)).astype(np.int64))
        left = inverse[chosen] @ matrix - np.eye(width)[chosen]
        if not np.abs(left).max() < _CLOSE:
            raise Refusal(what, "its whitening matrix and inverse_matrix are not each other's inverse", _AGAIN)
        return cls(mean=frozen(mean), matrix=frozen(matrix), inverse=frozen(inverse))

    def applied(self, x: Floats) -> Floats:
        """Rows (n, d) of the stream as the encoder was trained on them."""
        return np.asarray((x - self.mean) @ self.matrix, dtype=np.float32)

    def undone(self, z: Floats) -> Floats:
        """White rows (n, d) as they are in the stream."""
        return np.asarray(z @ self.inverse + self.mean, dtype=np.float32)


def unwhitened(rows: NDArray[Any], arrays: Arrays, what: str) -> NDArray[np.float64]:
    """Decoder rows (n, d) of white activations as directions of the stream: times the stored inverse.

    Raises:
        Refusal: it is not there, or of another width.
    """
    width = rows.shape[1]
    return rows.astype(np.float64) @ _read(arrays, "inverse_matrix", (width, width), what)


def _read(arrays: Arrays, name: str, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """One array in float64, in which they are kept."""
    if name not in arrays.names or arrays.array(name).shape != shape:
        held = listed(arrays.names) or "nothing"
        raise Refusal(what, f"its whitening holds {held}, and no {name} of shape {shape}", _AGAIN)
    found = arrays.array(name).whole()
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise Refusal(what, f"its whitening's {name} holds numbers that are not finite or not real", _AGAIN)
    return found.astype(np.float64)
