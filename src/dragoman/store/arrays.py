"""Arrays on disk or far away: safetensors, read without torch and only as far as asked; and files of a known kind.

In: numpy arrays and a JSON-like description, or a path or other bytes, and the `Contents` they should have. Out: a
safetensors file, or its arrays. bfloat16 and float8 are widened to float32, which is exact. Refuses files that are cut
short, are not safetensors, whose header promises what is not there, that hold numbers of a kind not known here; of a
known kind, files that hold something else, that lack an array or a word, or whose arrays do not fit together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Refusal, Site
from dragoman.store.files import plain, read_json, replacing, uncollected
from dragoman.store.spans import WIDENED, Bytes, LocalBytes, StoredArray, bounded, listed, read_bytes, shown

_META = "dragoman"
# The format allows 100 MB. A header of ten thousand arrays takes about one, and parsed JSON takes ten times its text.
_HEADER_LIMIT = 10_000_000
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    **{kind: stored for kind, (stored, _) in WIDENED.items()},
}
_WRITTEN = {  # what numpy calls those that are written, in the order in which the library ranks them
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<i2": "I16",
    "<u2": "U16",
    "<f2": "F16",
    "<i4": "I32",
    "<u4": "U32",
    "<f4": "F32",
    "<f8": "F64",
    "<i8": "I64",
    "<u8": "U64",
}


def write_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None) -> None:
    """Write named arrays and a JSON-like description as one safetensors file, whole or not at all.

    Byte for byte what the safetensors library makes, which would hold all arrays three times over.
    """
    odd = [name for name, array in arrays.items() if np.asarray(array).dtype.newbyteorder("<").str not in _WRITTEN]
    if odd:
        why = f"safetensors has no dtype {np.asarray(arrays[odd[0]]).dtype}"
        raise Refusal(f"array '{odd[0]}' for {path}", why, "pass an array of numbers")
    ready = {name: np.asarray(array) for name, array in arrays.items()}
    ready = {name: one.astype(one.dtype.newbyteorder("<"), copy=False) for name, one in ready.items()}
    order = sorted(ready, key=lambda name: (-list(_WRITTEN).index(ready[name].dtype.str), name))
    described = {_META: json.dumps(plain(dict(meta or {})), ensure_ascii=False, allow_nan=False)}
    header, end = dict[str, Any](__metadata__=described), 0
    for name in order:
        start, end = end, end + ready[name].nbytes
        one = ready[name]
        header[name] = {"dtype": _WRITTEN[one.dtype.str], "shape": list(one.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(ready[name]).reshape(-1).view(np.uint8).data)


def read_arrays(path: Path | str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All arrays of a safetensors file and its description; bfloat16 arrays come back as float32."""
    file = ArraysFile(path)
    return {name: file.whole(name) for name in file.names}, file.meta


class ArraysFile:
    """A safetensors file, opened: names, shapes and description are known, numbers are read when asked for.

    ``names``: the arrays, sorted. ``shapes``: name to shape. ``meta``: what `write_arrays` was given, or another
    writer's own string metadata. The header is checked as the safetensors library checks it (lengths, no overlaps, no
    gaps, shapes against bytes), once, also where the bytes are far away.

    Raises:
        Refusal: when the file is missing, cut short or not safetensors.
    """

    def __init__(self, path: Path | str | Bytes) -> None:
        """Check the file and read its header."""
        self._source: Bytes = LocalBytes(path) if isinstance(path, Path | str) else path
        self.path = Path(path) if isinstance(path, Path | str) else self._source.name
        header, self._start = self._header()
        metadata = header.pop("__metadata__", None)
        self._entries = header
        self._checked(metadata)
        self.names: tuple[str, ...] = tuple(sorted(header))
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(header[name]["shape"]) for name in self.names}
        self.meta: dict[str, Any] = self._described(metadata or {})

    def _refusal(self, why: str) -> Refusal:
        """The file is not what it should be."""
        return Refusal(
            f"{self.path}",
            f"it is not a whole safetensors file ({self._source.size} bytes: {why})",
            "fetch or write the file again",
        )

    def _header(self) -> tuple[dict[str, Any], int]:
        """The header's JSON, and where the numbers start."""
        size = self._source.size
        if size < 8:
            raise self._refusal("no header")
        length = int.from_bytes(read_bytes(self._source, 0, 8), "little")
        if length > size - 8:
            raise self._refusal(f"its header would take {length} bytes")
        if length > _HEADER_LIMIT:
            raise self._refusal(f"its header takes {length} bytes, more than {_HEADER_LIMIT}")
        try:
            with uncollected():
                header = json.loads(read_bytes(self._source, 8, length).decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise self._refusal("its header is not JSON") from error
        if not isinstance(header, dict):
            raise self._refusal("its header is not a JSON object")
        return header, 8 + length

    def _checked(self, metadata: Any) -> None:
        """Every array where it is said to be, and nothing else in the file."""
        if metadata is not None and not (
            isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        ):
            raise self._refusal("its metadata is not an object of strings")
        places = []
        for name, entry in self._entries.items():
            shape, offsets = _entry(entry)
            if shape is None or offsets is None:
                raise self._refusal(f"array '{shown(name)}' is badly described")
            places.append((*offsets, name))
            item = _DTYPES.get(entry["dtype"])
            need = None if item is None else math.prod(shape) * np.dtype(item).itemsize
            if need is not None and need != offsets[1] - offsets[0]:
                raise self._refusal(
                    f"array '{shown(name)}' of shape {shown(shape)} has {shown(offsets[1] - offsets[0])} bytes"
                )
        end = 0
        for start, stop, name in sorted(places):
            if start != end:
                raise self._refusal(f"array '{shown(name)}' starts at {shown(start)} where {shown(end)} was due")
            end = stop
        if self._start + end != self._source.size:
            raise self._refusal(f"its arrays need {shown(self._start + end)}")

    def _described(self, metadata: dict[str, str]) -> dict[str, Any]:
        if _META not in metadata:
            return dict(metadata)
        try:
            described = json.loads(metadata[_META])
        except (ValueError, RecursionError):
            described = None
        if not isinstance(described, dict):
            raise Refusal(f"{self.path}", "its description is not a JSON object", "make the file again")
        return described

    def array(self, name: str) -> StoredArray:
        """One array, not read yet. Refused when there is none of that name, or its dtype is not known."""
        if name not in self._entries:
            why = f"the file holds {listed(self.names) or 'none'}"
            raise Refusal(f"array '{shown(name)}' of {self.path}", why, "name one of these")
        entry = self._entries[name]
        kind = entry["dtype"]
        if kind not in _DTYPES:
            why = f"dtype {shown(kind)} is not read here"
            raise Refusal(f"array '{shown(name)}' of {self.path}", why, "save it as float32, float16 or bfloat16")
        return StoredArray(
            source=self._source,
            offset=self._start + entry["data_offsets"][0],
            dtype=np.dtype(_DTYPES[kind]),
            shape=self.shapes[name],
            name=name,
            kind=kind if kind in WIDENED else "",
        )

    def whole(self, name: str) -> NDArray[Any]:
        """One array, in memory."""
        return self.array(name).whole()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is there twice")
    return out


def _entry(entry: Any) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """Shape and place of one array, None where the header does not say them properly."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return None, None
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or not bounded(shape) or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        return None, None
    return shape, (offsets[0], offsets[1])


def _naturals(value: Any) -> tuple[int, ...] | None:
    """A list of integers that are not negative, else None."""
    good = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if good else None


_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number from 0 up",
    dict: "an object",
    list: "a list of texts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a kind of file holds.

    ``called``: with its article, "a map". ``holds``: the word it is marked by, None for a file that only a folder's
    index tells of. ``origin``: what wrote it, "dragoman fit". ``arrays``: a letter for each axis; one letter is one
    length in all of them ("pq", "p", "q"). ``words``: the type of each, of str, int (not negative), dict and list (of
    texts).
    """

    called: str
    holds: str | None
    origin: str = "dragoman"
    arrays: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, type] = field(default_factory=dict)

    def read(self, path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The arrays and words of an arrays file. Refused as the module says, or the file is no arrays file."""
        file = ArraysFile(path)
        if self.holds is not None and file.meta.get("holds") != self.holds:
            raise self._another(path, "file")
        words = self._words(path, file.meta)
        absent = next((name for name in self.arrays if name not in file.names), None)
        if absent is not None:
            raise self._damaged(path, f"it has no array '{absent}'")
        self._refuse_shapes(path, file.shapes)
        arrays = {name: file.whole(name) for name in self.arrays}
        odd = next((name for name, array in arrays.items() if array.dtype.kind not in "fiu"), None)
        if odd is not None:
            raise self._damaged(path, f"its array '{odd}' holds no numbers")
        return arrays, words

    def read_index(self, path: Path) -> dict[str, Any]:
        """The words of a folder's index, which is JSON and is written last.

        Raises:
            Refusal: as the module says, or the index is no JSON.
        """
        stated = read_json(path) if path.is_file() else {}
        if not isinstance(stated, dict) or stated.get("holds") != self.holds:
            raise self._another(path.parent, "folder")
        return self._words(path, stated)

    def _words(self, path: Path, stated: Mapping[str, Any]) -> dict[str, Any]:
        for name, kind in self.words.items():
            if name not in stated:
                raise self._damaged(path, f"it does not say its {name}")
            if not _is(stated[name], kind):
                raise self._damaged(path, f"its {name} is {shown(repr(stated[name]))}, not {_KINDS[kind]}")
        return {name: stated[name] for name in self.words}

    def _refuse_shapes(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse arrays with other axes than they should have, or with one axis of two lengths."""
        lengths: dict[str, tuple[int, str]] = {}
        for name, axes in self.arrays.items():
            if len(shapes[name]) != len(axes):
                raise self._damaged(path, f"its array '{name}' has shape {shapes[name]}, not {len(axes)} axes")
            for axis, length in zip(axes, shapes[name], strict=True):
                known, by = lengths.setdefault(axis, (length, name))
                if known != length:
                    raise self._damaged(
                        path, f"its arrays '{by}' {shapes[by]} and '{name}' {shapes[name]} do not fit together"
                    )

    def _another(self, path: Path, place: str) -> Refusal:
        return Refusal(f"{path}", f"it does not hold {self.called}", f"name a {place} that {self.origin} wrote")

    def _damaged(self, path: Path, why: str) -> Refusal:
        return Refusal(f"{path}", f"it holds {self.called}, but {why}", f"make it again with {self.origin}")


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and value >= 0
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)


_BACKGROUND = Contents(
    called="a background", holds="background", arrays={"mean": "d"}, words={"site": str, "n": int, "texts": str}
)


def save_background(background: Background, path: Path) -> None:
    """Write a background to one file."""
    words = {"holds": "background", "site": str(background.site), "n": background.n, "texts": background.texts}
    write_arrays(path, {"mean": background.mean}, words)


def load_background(path: Path) -> Background:
    """Read what ``save_background`` wrote."""
    arrays, meta = _BACKGROUND.read(path)
    return Background(Site.parse(meta["site"]), arrays["mean"], meta["n"], meta["texts"])
