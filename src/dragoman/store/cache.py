"""What is dear to make is made once, and what keys count: the contents of files, without reading gigabytes twice.

In: a kind, a digest of everything that decides the result, and a function that makes it; or paths. Out: the path of a
file or folder that is whole: its bytes are those that were written, by checksums kept beside it (what is damaged is
made again, and that is said); or sha256 digests of contents. Refuses what `files` refuses.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial as given
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store.files import (
    FULL,
    digest,
    file_sha256,
    held,
    of_each,
    opened,
    read_json,
    refusing,
    stamp,
    sync_folder,
    write_json,
    write_text,
)

Say = Callable[[str], None]
# Entries checked by this process, with the stamps of their files: a model is opened several times in one command.
_checked: dict[Path, dict[str, object]] = {}
_log = logging.getLogger(__name__)
_SMALL = 4 << 20  # bytes: below, reading a file costs no more than looking its digest up


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
    """Files and folders by kind and digest under one root (`cache_root` when none is given).

    ``say``: told when an entry was damaged and is made again; the log when left out.
    """

    def __init__(self, root: Path | str | None = None, *, say: Say = _log.warning) -> None:
        """Remember the root; nothing is made until something is kept."""
        self.root = Path(root) if root is not None else cache_root()
        self.say = say

    def path(self, kind: str, digest: str) -> Path:
        """Where the thing is, or would be."""
        return self.root / kind / digest

    def get_or_make(self, kind: str, digest: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The path of the thing, and whether it was there already, whole.

        ``make`` is given a path that does not exist and writes a file or a folder there; it is renamed into place
        only when ``make`` has ended well, so a killed maker leaves nothing that looks whole. Of two processes that
        want the same thing, the second waits and reuses. Every byte of what is there is read and checked; something
        damaged goes only when what takes its place is ready.

        Raises:
            Refusal: when ``make`` wrote nothing, or the disk refused.
        """
        path = self.path(kind, digest)
        if _there(path) and not _damage(path):
            return path, True
        with held(_beside(path, "lock"), wait=True):
            if _there(path):
                damage = _damage(path)  # again: somebody else may have made it meanwhile
                if not damage:
                    return path, True
                self.say(f"cached {kind} {digest[:8]} is damaged ({damage}), so it is made again")
            self._made(path, f"{kind} {digest[:8]}", make)
        return path, False

    def _made(self, path: Path, what: str, make: Callable[[Path], None]) -> None:
        """Make the thing, and put it in the place of what was there. The lock is held."""
        partial, damaged = _beside(path, "partial"), _beside(path, "damaged")
        with refusing("writing", path):
            _remove(partial)  # left by a maker that was killed; nobody else holds the lock
            _remove(damaged)
        try:
            _all_on_disk(path, given(make, partial))
            if not _there(partial):
                raise Refusal(what, "its maker wrote nothing", "report this as a fault")
            with refusing("writing", path):
                _sync(partial)
                if path.exists() or path.is_symlink():
                    path.rename(damaged)
                write_json(_beside(path, "sums"), {"files": _sums(partial)})
                partial.rename(path)
                sync_folder(path.parent)
                _remove(damaged)
        except BaseException:
            _remove(partial)
            raise


def _all_on_disk(path: Path, make: Callable[[], None]) -> None:
    """Run a maker; whatever library found the disk full, it is said as everywhere."""
    try:
        make()
    except OSError as error:
        if error.errno not in FULL:
            raise
        with refusing("writing", path):
            raise


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _there(path: Path) -> bool:
    with refusing("reading", path):
        return path.exists()


def _damage(path: Path) -> str | None:
    """What is wrong with an entry, None where nothing is."""
    try:
        stamps = {name: stamp(inside) for name, inside in _inside(path).items()}
        if None not in stamps.values() and _checked.get(path) == stamps:
            return None
        beside = _beside(path, "sums")
        if not beside.exists():
            return "it has no checksums"
        sums = read_json(beside)
        wanted = sums.get("files") if isinstance(sums, dict) else None
        found = _sums(path)
    except (Refusal, OSError) as error:
        return f"it cannot be read: {error.why if isinstance(error, Refusal) else error.strerror}"
    if not isinstance(wanted, dict):
        return "its checksums are no list of files"
    odd = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if odd:
        return f"{'its bytes are' if odd == [''] else f'{odd[0]} is'} not what was written"
    _checked[path] = dict(stamps)
    return None


def _inside(path: Path) -> dict[str, Path]:
    """An entry's files by their names in it; a file alone has none. Those the system left there do not count."""
    if not path.is_dir():
        return {"": path}
    names = sorted(p for p in path.rglob("*") if not p.name.startswith(".") and not p.is_dir())
    return {p.relative_to(path).as_posix(): p for p in names}


def _sums(path: Path) -> dict[str, str]:
    """A checksum of each file: BLAKE2b, about a gigabyte a second, and no chance that damage passes."""
    sums = {}
    for name, inside in _inside(path).items():
        with opened(inside) as file:
            sums[name] = hashlib.file_digest(file, given(hashlib.blake2b, digest_size=16)).hexdigest()
    return sums


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


def fingerprint(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, of what a link leads to.

    A large file's is kept in the cache folder beside what the system says of the file (`files.stamp`), and made afresh
    when any of that has changed; a small file is always read.

    Raises:
        Refusal: no such file, no permission, or no regular file.
    """
    path = Path(path)
    with refusing("reading", path):
        real = Path(os.path.realpath(path, strict=True))
        small = real.stat().st_size < _SMALL
        before = None if small else stamp(real)
    if before is None:
        return file_sha256(path)
    note = cache_root() / "fingerprints" / f"{hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()}.json"
    known = {"path": str(real), "stamp": list(before)}
    kept = _kept(note)
    if {name: kept.get(name) for name in known} == known and isinstance(kept.get("sha256"), str):
        return str(kept["sha256"])
    made = file_sha256(path)
    with refusing("reading", path):
        after = stamp(real)
    if after == before:
        # A cache that cannot be written to costs time, not the answer.
        with suppress(Refusal, UnicodeEncodeError):
            write_text(note, json.dumps({**known, "sha256": made}))
    return made


def fingerprint_of(folder: Path, names: Iterable[str]) -> str:
    """Digest of some of a folder's files: their names and contents, in the order of the names."""
    every = sorted(names)
    made = of_each(fingerprint, [folder / name for name in every])
    return digest(*(part for pair in zip(every, made, strict=True) for part in pair))


def _kept(note: Path) -> dict[str, object]:
    """What was noted of a file; nothing where nothing was, or the note is damaged."""
    try:
        kept = read_json(note) if note.exists() else None
    except (Refusal, OSError):
        return {}
    return kept if isinstance(kept, dict) else {}
