"""Arrays on disk: safetensors, read without torch and only as far as asked.

In: numpy arrays and a JSON-like description, or a path. Out: a safetensors file, or its arrays. bfloat16 is read by
widening its bits to float32, which is exact. Refuses files that are cut short, are not safetensors, or hold numbers
of a kind numpy has no word for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dragoman.core import Refusal
from dragoman.store.files import plain, refusing, write_bytes

_META = "dragoman"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # widened to float32 when read
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def write_arrays(
    path: Path | str,
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write named arrays and a JSON-like description as one safetensors file, whole or not at all."""
    ready = {name: np.array(array, order="C") for name, array in arrays.items()}
    odd = [name for name, array in ready.items() if array.dtype.kind not in "fiub"]
    if odd:
        raise Refusal(
            f"array '{odd[0]}' for {path}",
            f"safetensors has no dtype {ready[odd[0]].dtype}",
            "pass an array of numbers",
        )
    described = {_META: json.dumps(plain(dict(meta or {})), ensure_ascii=False, allow_nan=False)}
    write_bytes(path, save(ready, metadata=described))


def read_arrays(path: Path | str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All arrays of a safetensors file and its description; bfloat16 arrays come back as float32."""
    file = ArraysFile(path)
    return {name: file.whole(name) for name in file.names}, file.meta


class ArraysFile:
    """A safetensors file, opened: names, shapes and description are known, numbers are read when asked for.

    ``names``: the arrays, sorted. ``shapes``: name to shape. ``meta``: what `write_arrays` was given, or another
    writer's own string metadata.

    Raises:
        Refusal: when the file is missing, cut short or not safetensors.
    """

    def __init__(self, path: Path | str) -> None:
        """Check the file and read its header."""
        self.path = Path(path)
        with refusing("reading", self.path), self.path.open("rb") as file:
            try:
                # The library checks what a hostile header could get wrong: lengths, overlaps, shapes against bytes.
                with safe_open(self.path, framework="numpy") as checked:
                    metadata = checked.metadata() or {}
            except SafetensorError as error:
                size = self.path.stat().st_size
                raise Refusal(
                    f"{self.path}",
                    f"it is not a whole safetensors file ({size} bytes: {error})",
                    "fetch or write the file again",
                ) from error
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._start = 8 + length
        self._entries = header
        self.names: tuple[str, ...] = tuple(sorted(header))
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(header[name]["shape"]) for name in self.names}
        self.meta: dict[str, Any] = self._described(metadata)

    def _described(self, metadata: dict[str, str]) -> dict[str, Any]:
        if _META not in metadata:
            return dict(metadata)
        try:
            return dict(json.loads(metadata[_META]))
        except (TypeError, ValueError) as error:
            raise Refusal(
                f"{self.path}",
                "its description is not a JSON object",
                "make the file again",
            ) from error

    def whole(self, name: str) -> NDArray[Any]:
        """One array, in memory."""
        return self._widened(name, np.array(self._mapped(name)))

    def rows(self, name: str, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows of one array, ``(len(rows), ...)``; only their pages of the file are touched."""
        return self._widened(name, np.array(self._mapped(name)[np.asarray(rows, dtype=np.int64)]))

    def _mapped(self, name: str) -> NDArray[Any]:
        """The array as a view of the file, bfloat16 still as 16-bit integers."""
        if name not in self._entries:
            raise Refusal(
                f"array '{name}' of {self.path}",
                f"the file holds {', '.join(self.names)}",
                "name one of these",
            )
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise Refusal(
                f"array '{name}' of {self.path}",
                f"dtype {entry['dtype']} is not read here",
                "save it as float32, float16 or bfloat16",
            )
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), self.shapes[name]
        if 0 in shape:
            return np.zeros(shape, dtype)
        start = self._start + entry["data_offsets"][0]
        with refusing("reading", self.path):
            return np.memmap(self.path, dtype=dtype, mode="r", offset=start, shape=shape)

    def _widened(self, name: str, read: NDArray[Any]) -> NDArray[Any]:
        """bfloat16 is the upper half of a float32: shift it into place."""
        if self._entries[name]["dtype"] != "BF16":
            return read
        return (read.astype(np.uint32) << 16).view(np.float32)
