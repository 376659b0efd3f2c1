"""Plain files of vectors: probes, mean differences, steering vectors, decoders saved alone.

In: a ``.safetensors``, ``.npy``, ``.npz``, ``.pt``, ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` or ``.gguf`` file of a
`Folder`, holding (n, d_model) rows or (d_model,) vectors. Out: a `Weights` without an encoder. Refuses bare pickles,
arrays that are no rows of real numbers, several of different widths, rows that seem to lie across, and control vectors
of several blocks where nothing says which.

Names are kept. A vector that stands alone bears its array's name, rows of a table those of their column of names; of
several arrays all are read, ``probe`` as it is called and the rows of a matrix as ``probes[0]``, ``probes[1]``. The
rows of one matrix alone are numbered. A control vector is of one block, so of a file of them the one at the site is
read.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from dragoman.store import numpyfile
from dragoman.store.controlvectors import GGUF, ControlVectors
from dragoman.store.spans import Arrays, Matrix, Whole, listed, shown
from dragoman.store.tables import TABLES

SUFFIXES = {".safetensors", ".npy", ".npz", *TORCH, *TABLES, GGUF}
_NO_NAMES = (numpyfile.ALONE, "tensor")  # what readers call an array that its file gives no name
_LOOKED_AT = 8192  # rows: a file with more has more rows than any model is wide, so they are features


@dataclass(frozen=True, kw_only=True)
class _OneVector(Whole):
    """A single vector as one row."""

    vector: Matrix

    def whole(self) -> NDArray[Any]:
        return self.vector.whole()[None, :]


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """Rows of several matrices of one width, one after the other."""

    parts: tuple[Matrix, ...]
    shape: tuple[int, int]

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows; of each matrix only those asked for are read."""
        wanted, starts = np.asarray(rows, dtype=np.int64), np.cumsum([0, *(_length(p) for p in self.parts)])
        out = np.zeros((len(wanted), self.shape[1]), np.float64)
        for part, start, end in zip(self.parts, starts[:-1], starts[1:], strict=True):
            here = np.flatnonzero((wanted >= start) & (wanted < end))
            if len(here):
                out[here] = part.rows((wanted[here] - start).tolist())
        return out

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of all rows."""
        return self.whole()[:, list(columns)]

    def whole(self) -> NDArray[Any]:
        """All rows."""
        return np.concatenate([part.whole() for part in self.parts])


def _length(matrix: Matrix) -> int:
    """How many rows."""
    return matrix.shape[0]


def weights_of(
    folder: Folder,
    where: Path | DictionaryRef,
    key: str | None,
    d_model: int | None,
    orientation: Orientation | None,
    k: int | None,
    *,
    block: int | None = None,
) -> Weights:
    """The dictionary of a folder, or the vectors of a file: what lies beside a file tells which it is."""
    key = where.key if key is None and isinstance(where, DictionaryRef) else key
    if key is not None and folder.focus is None:
        why = "that is a folder, not a file of arrays"
        raise Refusal(f"array '{shown(key)}' of {folder.where}", why, "name the file")
    if folder.focus is not None and (key is not None or layout_of(folder) is None):
        return open_vectors(folder, key, d_model, orientation, block=block)
    return open_weights(folder, orientation, k)


def open_vectors(
    folder: Folder,
    key: str | None,
    d_model: int | None,
    orientation: Orientation | None,
    *,
    block: int | None = None,
) -> Weights:
    """The vectors of the file that the folder's ``focus`` names.

    Args:
        folder: where the file lies.
        key: which array, where there are several; all when None.
        d_model: width of the stream, where known: rows are then told from columns by it.
        orientation: which way the caller says they lie.
        block: whose output the caller says they live in: which of several control vectors.

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
    stated = Stated()
    if isinstance(arrays, ControlVectors):
        key = _of_block(what, arrays, key, block)
        stated = Stated(block=arrays.blocks[key], by=f"its name {key}")
    keys = _keys(what, arrays, key)
    if len(keys) > 1 and orientation is not None:
        why = f"it holds several arrays ({listed(keys)}), and --orientation is of one"
        raise Refusal(what, why, "name it: FILE#KEY, or --key KEY")
    parts = {one: _matrix(what, one, arrays.array(one), several=len(keys) > 1) for one in keys}
    turned = [orientation == "columns" if orientation else _across(what, one, d_model) for one, _ in parts.values()]
    names = tuple(name for _, some in parts.values() for name in some)
    matrix, across = next(iter(parts.values()))[0], turned[0]
    if len(parts) > 1:
        widths = {one: part.shape[1] for one, (part, _) in parts.items()}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{shown(one, 40)} {width}" for one, width in list(widths.items())[:6])
            why = f"its arrays are of different widths ({told}), so they are not vectors of one stream"
            raise Refusal(what, why, "name one of them: FILE#KEY, or --key KEY")
        whole = tuple(part for part, _ in parts.values())
        matrix = _Stack(parts=whole, shape=(sum(map(_length, whole)), whole[0].shape[1]))
    row_names = getattr(arrays, "row_names", ())
    names = row_names or names
    if len(set(names)) != len(names):
        raise Refusal(what, "two of its vectors have the same name", "name one array of it: FILE#KEY, or --key KEY")
    if row_names and across:
        raise Refusal(what, "its rows have names, so they are the vectors", "leave --orientation out")

    def no_encoder(_stored: Stored) -> Encoder:
        raise Refusal(what, "a file of vectors has no encoder", "name the dictionary's folder")

    stored = Stored(what=what, arrays=arrays, across=across)
    return Weights(
        label=name, layout=VECTORS, decoder=matrix, stored=stored, stated=stated, make=no_encoder, names=names
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


def _keys(what: str, arrays: Arrays, key: str | None) -> list[str]:
    """Which arrays of a file are meant."""
    names = arrays.names
    if key is None and names:
        return list(names)
    if key is None or key not in names:
        why = f"it has no array '{shown(key or '')}'" if names else "there is no array in it"
        raise Refusal(what, f"{why} ({listed(names) or 'none'})", "name one of them: FILE#KEY, or --key KEY")
    return [key]


def _matrix(what: str, key: str, found: Matrix, *, several: bool) -> tuple[Matrix, list[str]]:
    """An array as rows, and their names; none of the rows of one matrix alone, and of what no name was given."""
    called = f"array {shown(key, 40)} of {what}" if several else what
    matrix, alone = found, len(found.shape) == 1 and bool(found.shape[0])
    if alone:
        matrix = _OneVector(vector=found, shape=(1, *found.shape))
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        instead = "name one that is: FILE#KEY, or --key KEY" if several else "save it as (n, d_model)"
        raise Refusal(called, f"an array of shape {matrix.shape} is not rows of vectors", instead)
    refuse_whole(called, matrix.rows([0]))
    if alone:
        return matrix, [] if key in _NO_NAMES and not several else [key]
    return matrix, [f"{key}[{row}]" for row in range(matrix.shape[0])] if several else []


def _of_block(what: str, arrays: ControlVectors, key: str | None, block: int | None) -> str:
    """The control vector that is meant: the one named, else the one at the block, else the only one."""
    if key is not None:
        return _keys(what, arrays, key)[0]
    at = [name for name, one in arrays.blocks.items() if block in (None, one)]
    if len(at) == 1:
        return at[0]
    blocks = listed(arrays.blocks.values())
    if not at:
        raise Refusal(what, f"it has no direction at block {block} (but {blocks})", "name one of these with --source")
    why = f"it holds directions of several blocks ({blocks}), each a stream of its own"
    raise Refusal(what, why, "say which with --source MODEL:BLOCK, or FILE#direction.N")
