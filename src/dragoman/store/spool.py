"""What was read of a long reading so far, batch by batch on disk, so that a reading cut short goes on where it stopped.

In: a folder, a batch's name, arrays and counts. Out: the same, read back. Refuses nothing: what is damaged, or has no
room, is made again from what it was read from, which gives the same.

The folder is its reader's alone while it is held by whoever uses it. It takes two gigabytes at most; what comes after
is not kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store.arrays import read_arrays, write_arrays
from dragoman.store.files import digest, stable_json

MOST = 2 << 30  # bytes
_HOLDS = "part of a reading"
Counts = Mapping[str, Mapping[str, int]]
Kept = tuple[dict[str, NDArray[Any]], Counts]


class Spool:
    """Batches of one reading. ``folder``: made when something is kept; ``most``: bytes it may take."""

    def __init__(self, folder: Path, *, most: int = MOST) -> None:
        """Look what is there."""
        self.folder, self._most = folder, most
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        self.there = len(files)
        self._bytes = sum(path.stat().st_size for path in files)

    def get(self, name: str) -> Kept | None:
        """A batch that was kept under this name, None where there is none or it is damaged."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            arrays, told = read_arrays(path)
        except Refusal:
            return None
        whole = (
            told.get("holds") == _HOLDS
            and told.get("name") == name
            and told.get("sum") == _sum(arrays, told.get("counts"))
        )
        return (arrays, told["counts"]) if whole else None

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]], counts: Counts) -> None:
        """Keep a batch, if there is room for it here and on the disk."""
        size = sum(array.nbytes for array in arrays.values())
        if self._bytes + size > self._most:
            return
        told = {"holds": _HOLDS, "name": name, "counts": dict(counts)}
        told["sum"] = _sum(arrays, told["counts"])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_arrays(self._path(name), arrays, told)
        except (Refusal, OSError):
            self._most = 0  # the reading goes on; only going on after it does not
            return
        self._bytes += size

    @property
    def room(self) -> bool:
        """Whether there is any left."""
        return self._bytes < self._most

    def remove(self) -> None:
        """Take it away, once what was read is kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{digest(name)[:32]}.safetensors"


def _sum(arrays: Mapping[str, NDArray[Any]], counts: object) -> str:
    parts: list[str | NDArray[Any]] = [stable_json(counts)]
    for name in sorted(arrays):
        parts += [name, arrays[name]]
    return digest(*parts)
