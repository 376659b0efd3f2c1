"""Where a dictionary's files lie: a folder here, seen as names, JSON and arrays.

In: a path. Out: `LocalFolder`; ``hub.HubFolder`` shows a hub repository's folder the same way. Refuses links that lead
out of the folder, files that are not there, JSON that is not, and files of arrays it cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store import ArraysFile, fingerprint_of, refusing
from dragoman.store.controlvectors import GGUF, ControlVectors
from dragoman.store.numpyfile import NumpyFile
from dragoman.store.spans import Arrays, Bytes, LocalBytes, Matrix, Whole, read_bytes
from dragoman.store.tables import TABLES, TableFile

TORCH = {".pt", ".pth", ".bin", ".ckpt"}
PICKLES = {".pkl", ".pickle"}
_SETTINGS_IN = {".json", ".yaml", ".yml"}  # files in which layouts, shapes and labels are told
_JSON_LIMIT = 32 << 20  # bytes; labels of a million features take that
_INSIDE = ("checkpoints",)  # folders whose files belong to a dictionary


class Folder:
    """A dictionary's files.

    ``label``: its short name, ``where``: its long one, ``parts``: the names on the way to it, from which some layouts
    learn the model. ``names``: files, by their path inside. ``focus``: the one file meant, when a file was named.
    ``extra``: what a registry says beside.
    """

    label: str
    where: str
    parts: tuple[str, ...]
    names: frozenset[str]
    focus: str | None
    extra: Mapping[str, Any]

    def bytes_of(self, name: str) -> Bytes:
        """A file of the folder."""
        raise NotImplementedError

    def json(self, name: str) -> Any:
        """A JSON file. Refused when it is not one."""
        return parsed(self.bytes_of(name))

    def arrays(self, name: str) -> Arrays:
        """A file of arrays, opened: headers only. Refused when its kind is not read here."""
        suffix = PurePath(name).suffix.lower()
        readers: dict[str, Callable[[Bytes], Arrays]] = {
            ".safetensors": ArraysFile, ".npz": NumpyFile, ".npy": NumpyFile, **dict.fromkeys(TABLES, TableFile)
        }  # fmt: skip
        source = self.bytes_of(name)
        if suffix not in readers:
            raise Refusal(source.name, f"arrays are not read from '{suffix}' files", f"use {', '.join(readers)} or .pt")
        return readers[suffix](source)

    def close(self) -> None:
        """Close connections, where there are any; reading again opens new ones."""


class LocalFolder(Folder):
    """A folder of this machine, or the file ``focus`` in it."""

    def __init__(self, path: Path | str, focus: str | None = None) -> None:
        """Look at the names."""
        self.path = Path(path)
        self.label, self.where = self.path.resolve().name, str(self.path)
        self.focus, self.extra = focus, {}
        self.parts = (*self.path.resolve().parts, *([focus] if focus else []))
        with refusing("reading", self.path):
            entries = sorted(self.path.iterdir())
            inner = [p for entry in entries if entry.name in _INSIDE and entry.is_dir() for p in entry.iterdir()]
            # A pipe, a device or a link to nothing bears its name here too, and is refused by it when it is read.
            self.names = frozenset(p.relative_to(self.path).as_posix() for p in (*entries, *inner) if not p.is_dir())
        self.entries: tuple[str, ...] = tuple(entry.name for entry in entries)

    def digest(self, *, without: str, alone: bool) -> list[str]:
        """The file that is named, which names lie beside it, and a digest of the files; notes are left out.

        Args:
            without: a name that is left out too.
            alone: whether the file that is named is all, with what tells of it.
        """
        own = {n for n in self.names - {without} if n == self.focus or not _is_note(n)}
        # What is no file is refused when it is read, and stands in the way of nothing else.
        names = {n for n in own if (self.path / n).is_file()}
        if self.focus is not None and alone:
            names = {n for n in names if n == self.focus or PurePath(n).suffix.lower() in _SETTINGS_IN}
        # Which names are there decides the layout.
        return [self.focus or "", "\n".join(sorted(own)), fingerprint_of(self.path, names)]

    def bytes_of(self, name: str) -> LocalBytes:
        """A file that lies in the folder. Refused when it is not there, or is a link that leads out."""
        path = self.path / name
        with refusing("reading", path):
            if name not in self.names or not path.exists():
                raise Refusal(f"{path}", "there is no such file", "fetch the dictionary again")
            if name != self.focus:
                _refuse_stray(path, self.path)
        return LocalBytes(path)

    def arrays(self, name: str) -> Arrays:
        """A file of arrays, torch's and llama.cpp's too."""
        if PurePath(name).suffix.lower() == GGUF:
            return ControlVectors(self.bytes_of(name).path)
        if PurePath(name).suffix.lower() in TORCH:
            from dragoman.store.torchfile import TorchFile

            return TorchFile(self.bytes_of(name).path)
        return super().arrays(name)


def parsed(source: Bytes) -> Any:
    """JSON of a small file. Refused when it is large, or not JSON."""
    if source.size > _JSON_LIMIT:
        raise Refusal(source.name, f"it takes {source.size} bytes, too many for settings", "name the right file")
    try:
        return json.loads(read_bytes(source, 0, source.size))
    except (ValueError, RecursionError) as error:
        raise Refusal(source.name, f"it is not JSON ({error})", "mend the file or make it again") from error


def _refuse_stray(path: Path, folder: Path) -> None:
    """A link inside a published folder must not reach what its publisher was not given."""
    real, root = path.resolve(), folder.resolve()
    if real.is_relative_to(root) or _in_hub_cache(real, root) or _packaged(root):
        return
    why = "it is a link that leads out of its folder"
    raise Refusal(f"{path}", why, "put the file itself there, or name the file it leads to")


def _in_hub_cache(real: Path, root: Path) -> bool:
    """The hub's cache keeps ``models--org--name/snapshots/REVISION`` as links into ``models--org--name/blobs``."""
    for parent in (root, *root.parents):
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return real.is_relative_to(parent.parent.parent / "blobs")
    return False


def _packaged(root: Path) -> bool:
    """What our own package carries may be links: some installers make all of its files so."""
    from importlib.util import find_spec

    spec = find_spec("dragoman_tiny")
    return spec is not None and spec.origin is not None and root.is_relative_to(Path(spec.origin).parent.resolve())


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
        return _Outline(matrix=found, shape=found.shape) if len(found.shape) > 1 else found


@dataclass(frozen=True, kw_only=True)
class _Outline(Whole):
    """A matrix of zeros, one number stretched over its shape, of the kind of number that it holds."""

    matrix: Matrix

    def whole(self) -> NDArray[Any]:
        one = self.matrix.rows([0]) if 0 not in self.shape else np.zeros(1, np.float32)
        kind = np.float32 if one.dtype.kind == "f" else one.dtype
        return np.broadcast_to(np.zeros((), kind), self.shape)


def _is_note(name: str) -> bool:
    """Whether no reader opens a file, which the system or a person leaves beside: hidden, or Markdown."""
    path = PurePath(name)
    return path.name.startswith(".") or path.suffix.lower() == ".md"
