"""Where a dictionary's files lie: a folder here, seen as names, JSON and arrays.

In: a path. Out: `LocalFolder`; ``hub.HubFolder`` shows a hub repository's folder the same way. Refuses links that lead
out of the folder, files that are not there, JSON that is not, and files of arrays it cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dragoman.core import Refusal
from dragoman.store import ArraysFile, refusing
from dragoman.store.numpyfile import NumpyFile
from dragoman.store.spans import Arrays, Bytes, LocalBytes, read_bytes

TORCH = {".pt", ".pth", ".bin", ".ckpt"}
PICKLES = {".pkl", ".pickle"}
_JSON_LIMIT = 32 << 20  # bytes; labels of a million features take that
_INSIDE = ("checkpoints",)  # folders whose files belong to a dictionary


class Folder(Protocol):
    """A dictionary's files.

    ``label``: its short name, ``where``: its long one, ``parts``: the names on the way to it, from which some layouts
    learn the model. ``focus``: the one file meant, when a file was named. ``extra``: what a registry says beside.
    """

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def parts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def focus(self) -> str | None: ...  # noqa: D102
    @property
    def extra(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def names(self) -> frozenset[str]:
        """Files, by their path inside."""
        ...

    def json(self, name: str) -> Any:
        """A JSON file."""
        ...

    def arrays(self, name: str) -> Arrays:
        """A file of arrays, opened."""
        ...

    def close(self) -> None:
        """Close connections; reading again opens new ones."""
        ...


class LocalFolder:
    """A folder of this machine, or the file ``focus`` in it."""

    def __init__(self, path: Path | str, focus: str | None = None) -> None:
        """Look at the names."""
        self.path = Path(path)
        self.label, self.where = self.path.resolve().name, str(self.path)
        self.focus = focus
        self.extra: Mapping[str, Any] = {}
        self.parts: tuple[str, ...] = (*self.path.resolve().parts, *([focus] if focus else []))
        with refusing("reading", self.path):
            entries = sorted(self.path.iterdir())
            inner = [p for entry in entries if entry.name in _INSIDE and entry.is_dir() for p in entry.iterdir()]
            self.names = frozenset(p.relative_to(self.path).as_posix() for p in (*entries, *inner) if p.is_file())
        self.entries: tuple[str, ...] = tuple(entry.name for entry in entries)

    def file(self, name: str) -> Path:
        """The path of a file that lies in the folder.

        Raises:
            Refusal: when it is not there, or is a link that leads out.
        """
        path = self.path / name
        with refusing("reading", path):
            if name not in self.names or not path.is_file():
                raise Refusal(f"{path}", "there is no such file", "fetch the dictionary again")
            if name != self.focus:
                _refuse_stray(path, self.path)
        return path

    def close(self) -> None:
        """Nothing is left open."""

    def json(self, name: str) -> Any:
        """A JSON file.

        Raises:
            Refusal: when it is not one.
        """
        return parsed(LocalBytes(self.file(name)))

    def arrays(self, name: str) -> Arrays:
        """A file of arrays, opened: headers only."""
        path = self.file(name)
        if path.suffix.lower() in TORCH:
            from dragoman.store.torchfile import TorchFile

            return TorchFile(path)
        return opened(LocalBytes(path), path.suffix)


def opened(source: Bytes, suffix: str) -> Arrays:
    """Arrays of bytes whose file's name ends so."""
    readers: dict[str, Callable[[Bytes], Arrays]] = {".safetensors": ArraysFile, ".npz": NumpyFile, ".npy": NumpyFile}
    if suffix.lower() not in readers:
        raise Refusal(source.name, f"arrays are not read from '{suffix}' files", f"use {', '.join(readers)} or .pt")
    return readers[suffix.lower()](source)


def parsed(source: Bytes) -> Any:
    """JSON of a small file.

    Raises:
        Refusal: when it is large, or not JSON.
    """
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
    raise Refusal(
        f"{path}",
        "it is a link that leads out of its folder",
        "put the file itself there, or name the file it leads to",
    )


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
