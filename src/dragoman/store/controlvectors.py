"""Control vectors of llama.cpp: a GGUF file with one direction for each block.

In: a path. Out: `ControlVectors`: the arrays ``direction.N``, and the block of each. Refuses files that are no control
vectors (models and adapters are GGUF too), layers below 1 or there twice, directions that are not 1-D float32 of one
width, and torn files. The library gguf reads them, asked for when one is opened.

Layer N is block N, counted from 0: llama.cpp adds ``direction.N`` to what block N puts out, behind its last residual
sum (``build_cvec`` in src/models/*.cpp, ``llama_adapter_cvec`` in src/llama-adapter.cpp, which has none for block 0;
``common_control_vector_load_one`` in common/common.cpp refuses N = 0). Its own generator names what it measured behind
block N - 1 ``direction.N`` (tools/cvector-generator/mean.hpp, pca.hpp); what counts here is where it is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.store.files import opened
from dragoman.store.spans import Matrix, Whole, listed, shown, words_of

GGUF = ".gguf"
_DIRECTION = re.compile(r"direction\.(?P<layer>\d{1,4})")
_LIMIT = 256 << 20  # bytes: 200 blocks of width 16,384 take 13 MB
_AGAIN = "get the file from where it was published"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Direction(Whole):
    held: NDArray[Any]

    def whole(self) -> NDArray[Any]:
        return self.held


class ControlVectors:
    """A file of control vectors, read. ``names``: ``direction.N``, by N; ``blocks``: name to block."""

    def __init__(self, path: Path | str) -> None:
        """Read it whole: it is small."""
        self.path = Path(path)
        with opened(self.path):
            size = self.path.stat().st_size
        if size > _LIMIT:
            raise Refusal(f"{self.path}", f"it takes {size} bytes, too many for control vectors", "name the right file")
        found = _read(self.path)
        order = sorted(found, key=_layer)
        self.names: tuple[str, ...] = tuple(order)
        self.blocks: dict[str, int] = {name: _layer(name) for name in order}
        self._held = found

    def array(self, name: str) -> Matrix:
        """One direction (d_model,). Refused when there is none of that name."""
        if name not in self._held:
            why = f"the file holds {listed(self.names)}"
            raise Refusal(f"array '{shown(name)}' of {self.path}", why, "name one")
        return _Direction(held=self._held[name], shape=self._held[name].shape)


def _layer(name: str) -> int:
    return int(name.rpartition(".")[2])


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Name to direction."""
    try:
        import gguf
    except ImportError as error:
        raise Refusal(
            f"{path}", "GGUF needs the library gguf, which is not installed", "run: pip install 'dragoman[gguf]'"
        ) from error
    try:
        reader = gguf.GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = None if field is None else field.contents()
        tensors = [(str(t.name), t.tensor_type.name, tuple(map(int, t.shape)), t.data) for t in reader.tensors]
    # The library fails in as many ways as a file can be odd; each means the same to the reader.
    except Exception as error:
        raise Refusal(f"{path}", f"it is not a whole GGUF file ({words_of(error)})", _AGAIN) from error
    if architecture != "controlvector":
        held = f"a {shown(architecture)}" if architecture else "no architecture"
        raise Refusal(f"{path}", f"it holds {held}, not control vectors", "name a file of control vectors")
    found: dict[str, NDArray[Any]] = {}
    for name, kind, shape, data in tensors:
        layer = _DIRECTION.fullmatch(name)
        if layer is None or int(layer["layer"]) < 1:
            raise Refusal(f"array '{shown(name)}' of {path}", "a direction is named by its layer, from 1 on", _AGAIN)
        if kind != "F32" or len(shape) != 1 or not shape[0]:
            why = f"it is {shown(kind)} of shape {shown(shape)}, and a direction is 1-D float32"
            raise Refusal(f"array '{shown(name)}' of {path}", why, _AGAIN)
        if f"direction.{int(layer['layer'])}" in found:
            raise Refusal(f"array '{shown(name)}' of {path}", "its layer is there twice", _AGAIN)
        found[f"direction.{int(layer['layer'])}"] = frozen(np.asarray(data).reshape(-1))
    if not found:
        raise Refusal(f"{path}", "there is no direction in it", _AGAIN)
    if len({array.shape for array in found.values()}) > 1:
        raise Refusal(f"{path}", "its directions are of different widths", _AGAIN)
    return found
