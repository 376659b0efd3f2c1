"""Plain files of vectors: probes, mean differences, steering vectors, decoders saved alone.

In: a ``.safetensors``, ``.npy``, ``.npz`` or ``.pt`` file of a `Folder`, holding (n, d_model) rows, one (d_model,)
vector, or several vectors of one width, each under its name. Out: a `Weights` without a site or an encoder; single
vectors keep their names as their ids. Refuses bare pickles, files of several other arrays without a key, arrays that
are no rows of real numbers, and rows that seem to lie across.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.dictionaries.beside import DictionaryRef
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import PICKLES, TORCH, Folder
from dragoman.dictionaries.layout import VECTORS, Orientation, Stated, Stored, Weights, refuse_whole
from dragoman.dictionaries.layouts import KNOWN, layout_of, open_weights
from dragoman.dictionaries.rows import looks_across
from dragoman.store.spans import Arrays, Matrix, Whole, listed, meant, shown

SUFFIXES = {".safetensors", ".npy", ".npz", *TORCH}
_LOOKED_AT = 8192  # rows: a file with more has more rows than any model is wide, so they are features


@dataclass(frozen=True, kw_only=True)
class _Vectors(Whole):
    """Single vectors as rows."""

    vectors: tuple[Matrix, ...]

    def whole(self) -> NDArray[Any]:
        return np.stack([vector.whole() for vector in self.vectors])


def weights_of(
    folder: Folder,
    where: Path | DictionaryRef,
    key: str | None,
    d_model: int | None,
    orientation: Orientation | None,
    k: int | None,
) -> Weights:
    """The dictionary of a folder, or the vectors of a file: what lies beside a file tells which it is."""
    key = where.key if key is None and isinstance(where, DictionaryRef) else key
    if key is not None and folder.focus is None:
        why = "that is a folder, not a file of arrays"
        raise Refusal(f"array '{shown(key)}' of {folder.where}", why, "name the file")
    if folder.focus is not None and (key is not None or layout_of(folder) is None):
        return open_vectors(folder, key, d_model, orientation)
    return open_weights(folder, orientation, k)


def open_vectors(folder: Folder, key: str | None, d_model: int | None, orientation: Orientation | None) -> Weights:
    """The vectors of the file that the folder's ``focus`` names.

    Args:
        folder: where the file lies.
        key: which array, where there are several.
        d_model: width of the stream, where known: rows are then told from columns by it.
        orientation: which way the caller says they lie.

    Raises:
        Refusal: as the module says.
    """
    name = folder.focus or ""
    what, suffix = f"vectors {name}", PurePath(name).suffix.lower()
    if suffix in PICKLES:
        why = f"{suffix} files are pickles, which can run code when read"
        raise Refusal(what, why, "convert the file to safetensors")
    if suffix not in SUFFIXES:
        raise Refusal(what, f"unknown dictionary layout ('{suffix}' file)", f"name {KNOWN}")
    arrays = folder.arrays(name)
    chosen = _chosen(what, arrays, key)
    matrix, names = arrays.array(chosen[0]), ()
    if len(matrix.shape) == 1 and matrix.shape[0]:
        vectors = tuple(arrays.array(one) for one in chosen)
        matrix = _Vectors(vectors=vectors, shape=(len(vectors), *matrix.shape))
        alone = suffix == ".npy" or (suffix in TORCH and chosen == ("tensor",))
        names = () if alone else chosen  # an array saved alone has no name
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise Refusal(what, f"an array of shape {matrix.shape} is not rows of vectors", "save it as (n, d_model)")
    refuse_whole(what, matrix.rows([0]))
    across = orientation == "columns" if orientation else _across(what, matrix, d_model)

    def no_encoder(_stored: Stored) -> Encoder:
        raise Refusal(what, "a file of vectors has no encoder", "name the dictionary's folder")

    stored = Stored(what=what, arrays=arrays, across=across)
    return Weights(
        label=name, layout=VECTORS, decoder=matrix, stored=stored, stated=Stated(), make=no_encoder, names=names
    )


def _across(what: str, matrix: Matrix, d_model: int | None) -> bool:
    """Rows are vectors by the format's definition; a file that shows the opposite is refused, not turned."""
    n, width = matrix.shape
    turned = d_model is not None and n == d_model != width
    if not turned and (d_model is None or n == width) and n <= _LOOKED_AT:
        turned = looks_across(matrix)
    if turned:
        raise Refusal(
            what,
            f"its array of shape {(n, width)} seems to hold one vector a column",
            "save it as (n, d_model), or say which are the vectors with --orientation columns or --orientation rows",
        )
    return False


def _chosen(what: str, arrays: Arrays, key: str | None) -> tuple[str, ...]:
    """Which arrays of a file are meant: the one that is named or alone, else all, if all are vectors of one width."""
    names = arrays.names
    if key is None and len(names) == 1:
        return names
    if key is None and len({arrays.array(one).shape for one in names}) == 1:
        shape = arrays.array(names[0]).shape
        if len(shape) == 1 and shape[0]:
            return names
    if key is None or key not in names:
        why = "it holds several arrays" if key is None and names else f"it has no array '{shown(key or '')}'"
        raise Refusal(
            what,
            f"{why} ({listed(names) or 'none'})",
            meant(key or "", names, "name one of them: FILE#KEY, or --key KEY"),
        )
    return (key,)
