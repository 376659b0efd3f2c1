"""Plain files of vectors: probes, mean differences, steering vectors, decoders saved alone.

In: a ``.safetensors``, ``.npy``, ``.npz``, ``.pt``, ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` or ``.gguf`` file of a
`Folder`, holding (n, d_model) rows or (d_model,) vectors. Out: a `Weights` without an encoder. Refuses bare pickles,
arrays that are no rows of real numbers, files of several other arrays without a key, rows that seem to lie across, and
control vectors of several blocks where nothing says which.

Names are kept: single vectors, of which all are read, bear their arrays' names, rows of a table those of their column
of names. The rows of a matrix are numbered. A control vector is of one block, so of a file of them the one at the site
is read. Of a cross-layer transcoder's decoder (``W_dec_I``), which writes behind several blocks, a feature's row is the
sum of what it has written by the block that is asked for: what of it stands in the stream there.
"""

from __future__ import annotations

import re
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
from dragoman.store.spans import Arrays, Matrix, Whole, listed, meant, read_bytes, shown
from dragoman.store.tables import TABLES

SUFFIXES = {".safetensors", ".npy", ".npz", *TORCH, *TABLES, GGUF}
# circuit-tracer's files of a cross-layer transcoder (transcoder/cross_layer_transcoder.py): W_dec_I, one for each layer
# I, holds (features, layers from I on, d_model), and is added to what the MLP of each of these layers puts out.
_CLT, _CLT_CONFIG, _CONFIG_LIMIT = re.compile(r"W_dec_(?P<layer>\d{1,4})"), "config.yaml", 64 << 10
_NO_NAMES = (numpyfile.ALONE, "tensor")  # what readers call an array that its file gives no name
_LOOKED_AT = 8192  # rows: a file with more has more rows than any model is wide, so they are features


@dataclass(frozen=True, kw_only=True)
class _Vectors(Whole):
    """Single vectors as rows."""

    vectors: tuple[Matrix, ...]

    def whole(self) -> NDArray[Any]:
        return np.stack([vector.whole() for vector in self.vectors])


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What each feature of a cross-layer transcoder has written by a block: the sum of its rows up to there.

    ``rows_by_layer``: (features, layers, d_model); ``layers``: how many of them are summed.
    """

    rows_by_layer: Matrix
    layers: int
    shape: tuple[int, int]

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows; only they are read."""
        return self._summed(self.rows_by_layer.rows(rows))

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of all rows."""
        return self.whole()[:, list(columns)]

    def whole(self) -> NDArray[Any]:
        """All rows."""
        return self._summed(self.rows_by_layer.whole())

    def _summed(self, found: NDArray[Any]) -> NDArray[Any]:
        refuse_whole("a cross-layer transcoder", found)
        return found[:, : self.layers].astype(np.float64).sum(axis=1).astype(np.float32)


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
        key: which array, where there are several; of single vectors all when None.
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
    chosen = _chosen(what, arrays, key)
    matrix, names = arrays.array(chosen[0]), tuple[str, ...]()
    if (layer := _CLT.fullmatch(chosen[0])) is not None and len(matrix.shape) == 3 and 0 not in matrix.shape:
        matrix = _written(what, folder, matrix, int(layer["layer"]), block)
        stated, orientation = Stated(block=block, by="what was asked for"), "rows"
    if len(matrix.shape) == 1 and matrix.shape[0]:
        vectors = tuple(arrays.array(one) for one in chosen)
        matrix = _Vectors(vectors=vectors, shape=(len(vectors), *matrix.shape))
        names = () if chosen[0] in _NO_NAMES and len(chosen) == 1 else chosen
        for one, vector in zip(chosen, vectors, strict=True):
            refuse_whole(f"array {shown(one, 40)} of {what}", vector.rows([0]))
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise Refusal(what, f"an array of shape {matrix.shape} is not rows of vectors", "save it as (n, d_model)")
    refuse_whole(what, matrix.rows([0]))
    names = getattr(arrays, "row_names", ()) or names
    across = orientation == "columns" if orientation else _across(what, matrix, d_model)
    if names and across:
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


def _chosen(what: str, arrays: Arrays, key: str | None) -> tuple[str, ...]:
    """Which arrays of a file are meant: the one that is named or alone, else all, if all are vectors of one width.

    Several matrices may be an encoder beside its decoder, so of these one has to be named.
    """
    names = tuple(arrays.names)
    if key is None and len(names) == 1:
        return names
    if key is None and len({arrays.array(one).shape for one in names}) == 1:
        shape = arrays.array(names[0]).shape
        if len(shape) == 1 and shape[0]:
            return names
    if key is None or key not in names:
        why = "it holds several arrays" if key is None and names else f"it has no array '{shown(key or '')}'"
        instead = meant(key or "", names, "name one of them: FILE#KEY, or --key KEY")
        raise Refusal(what, f"{why} ({listed(names) or 'none'})", instead)
    return (key,)


def _written(what: str, folder: Folder, matrix: Matrix, layer: int, block: int | None) -> Matrix:
    """The decoder of a cross-layer transcoder at a block: what its features have added to the stream by then."""
    features, layers, width = matrix.shape
    what = f"cross-layer transcoder {what}"
    if block is None:
        why = f"its features write behind blocks {layer} to {layer + layers - 1}"
        raise Refusal(what, why, "say at which they are read with --source MODEL:BLOCK")
    if not layer <= block < layer + layers:
        why = f"its features write behind blocks {layer} to {layer + layers - 1}, not by block {block}"
        raise Refusal(what, why, "name one of these with --source")
    if _CLT_CONFIG in folder.names:
        source = folder.bytes_of(_CLT_CONFIG)
        from dragoman.store.plainyaml import parse_yaml  # loads yaml, which nothing else here needs

        text = read_bytes(source, 0, min(source.size, _CONFIG_LIMIT)).decode("utf-8", "replace")
        told = parse_yaml(text, source.name)
        hook = told.get("feature_output_hook") if isinstance(told, dict) else None
        if hook not in (None, "hook_mlp_out", "mlp.hook_out"):
            why = f"its {_CLT_CONFIG} says that it writes {shown(hook)}, and not what the MLP adds to the stream"
            raise Refusal(what, why, "use one that writes hook_mlp_out")
    return _Written(rows_by_layer=matrix, layers=block - layer + 1, shape=(features, width))


def _of_block(what: str, arrays: ControlVectors, key: str | None, block: int | None) -> str:
    """The control vector that is meant: the one named, else the one at the block, else the only one."""
    if key is not None:
        return _chosen(what, arrays, key)[0]
    at = [name for name, one in arrays.blocks.items() if block in (None, one)]
    if len(at) == 1:
        return at[0]
    blocks = listed(arrays.blocks.values())
    if not at:
        raise Refusal(what, f"it has no direction at block {block} (but {blocks})", "name one of these with --source")
    why = f"it holds directions of several blocks ({blocks}), each a stream of its own"
    raise Refusal(what, why, "say which with --source MODEL:BLOCK, or FILE#direction.N")
