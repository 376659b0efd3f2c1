"""What a file's bytes are, in a word, without reading gigabytes twice: what a key of the cache counts.

In: paths. Out: sha256 digests of contents. A large file's digest is kept in the cache folder beside what the system
says of the file (`files.stamp`), and made afresh when any of that has changed; a small file is always read. Refuses
what `files` refuses.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store.cache import cache_root
from dragoman.store.files import digest, file_sha256, read_json, refusing, stamp, write_text

_SMALL = 4 << 20  # bytes: below, reading the file costs no more than looking its digest up


def fingerprint(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, of what a link leads to.

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
    told = {"path": str(real), "stamp": list(before)}
    kept = _kept(note)
    if {name: kept.get(name) for name in told} == told and isinstance(kept.get("sha256"), str):
        return str(kept["sha256"])
    made = file_sha256(path)
    with refusing("reading", path):
        after = stamp(real)
    if after == before:
        # A cache that cannot be written to costs time, not the answer.
        with suppress(Refusal, UnicodeEncodeError):
            write_text(note, json.dumps({**told, "sha256": made}))
    return made


def fingerprint_of(folder: Path, names: Iterable[str]) -> str:
    """Digest of some of a folder's files: their names and contents, in the order of the names."""
    return digest(*(part for name in sorted(names) for part in (name, fingerprint(folder / name))))


def _kept(note: Path) -> dict[str, object]:
    """What was noted of a file; nothing where nothing was, or the note is damaged."""
    try:
        kept = read_json(note) if note.exists() else None
    except (Refusal, OSError):
        return {}
    return kept if isinstance(kept, dict) else {}
