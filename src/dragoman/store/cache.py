"""What is dear to make is made once.

In: a kind, a digest of everything that decides the result, and a function that makes it. Out: the path of a file or
folder that is whole. Refuses what `files` refuses.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store.files import held, refusing, sync_folder


def cache_root() -> Path:
    """``$DRAGOMAN_CACHE``, or ``dragoman`` in the platform's cache folder (``~/.cache`` on Linux)."""
    named = os.environ.get("DRAGOMAN_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dragoman"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "dragoman"


class Cache:
    """Files and folders by kind and digest under one root (`cache_root` when none is given)."""

    def __init__(self, root: Path | str | None = None) -> None:
        """Remember the root; nothing is made until something is kept."""
        self.root = Path(root) if root is not None else cache_root()

    def path(self, kind: str, digest: str) -> Path:
        """Where the thing is, or would be."""
        return self.root / kind / digest

    def get_or_make(self, kind: str, digest: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The path of the thing, and whether it was there already.

        ``make`` is given a path that does not exist and writes a file or a folder there; it is renamed into place
        only when ``make`` has ended well, so a killed maker leaves nothing that looks whole. Of two processes that
        want the same thing, the second waits and reuses.

        Raises:
            Refusal: when ``make`` wrote nothing, or the disk refused.
        """
        path = self.path(kind, digest)
        if path.exists():
            return path, True
        partial = path.with_name(f".{path.name}.partial")
        with held(path.with_name(f".{path.name}.lock"), wait=True):
            if path.exists():
                return path, True
            _remove(partial)  # left by a maker that was killed; nobody else holds the lock
            try:
                make(partial)
                if not partial.exists():
                    raise Refusal(
                        f"{kind} {digest[:8]}",
                        "its maker wrote nothing",
                        "report this as a fault",
                    )
                with refusing("writing", path):
                    _sync(partial)
                    partial.rename(path)
                    sync_folder(path.parent)
            except BaseException:
                _remove(partial)
                raise
        return path, False


def _sync(path: Path) -> None:
    """Force a file, or every file and folder below a folder, to the disk."""
    for inside in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if not inside.is_symlink():
            sync_folder(inside)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
