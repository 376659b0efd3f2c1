"""A file's digest is of its bytes now, and costs one reading for as long as the system vouches for the file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from importlib import import_module
from pathlib import Path

import pytest

from dragoman.store import cache_root, files, fingerprint, fingerprint_of
from store_faults import forbidden

room = import_module("dragoman.store.cache")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files read whole; every file counts as large, and as old enough."""
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return files.file_sha256(path)

    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "file_sha256", counted)
    monkeypatch.setattr(room, "_SMALL", 0)
    monkeypatch.setattr(files, "_SETTLED", 0)
    monkeypatch.setattr(files, "_WHOLE", 10**30)  # a clock may well stand at a whole second
    return read


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))  # as rsync -a, tar and SOURCE_DATE_EPOCH leave it
    return path


def test_a_large_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = put(tmp_path / "weights", b"one")
    assert [fingerprint(path) for _ in range(3)] == [sha(b"one")] * 3 and reads == [path]
    (tmp_path / "link").symlink_to(path)
    assert fingerprint(tmp_path / "link") == sha(b"one") and len(reads) == 1


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    path = put(tmp_path / "weights", b"one")
    fingerprint(path)
    put(tmp_path / "other", b"two").rename(path)
    assert fingerprint(path) == sha(b"two")
    time.sleep(0.05)  # the kernel's clock moves in steps, which is why young files are not vouched for
    put(path, b"six")  # in place: the same inode too
    assert fingerprint(path) == sha(b"six") and len(reads) == 3


def test_a_link_that_leads_elsewhere_is_another_file(tmp_path: Path, reads: list[Path]) -> None:
    put(tmp_path / "one", b"one"), put(tmp_path / "two", b"two")
    link = tmp_path / "link"
    for name in ("one", "two"):
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        assert fingerprint(link) == sha(name.encode())


def test_what_the_system_does_not_vouch_for_is_always_read(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file changed just now, and one on a disk that keeps whole seconds, where a maker of images writes all times."""
    path = put(tmp_path / "weights", b"one")
    monkeypatch.setattr(files, "_SETTLED", 10**18)
    assert [fingerprint(path) for _ in range(2)] == [sha(b"one")] * 2 and len(reads) == 2
    monkeypatch.setattr(files, "_SETTLED", 0)
    real = Path.stat

    def whole_seconds(self: Path, **named: bool) -> os.stat_result:
        found = real(self, **named)
        names = ("st_mode", "st_size", "st_ino", "st_mtime_ns")
        return type("Stat", (), {n: getattr(found, n) for n in names} | {"st_ctime_ns": 7 * 10**9})()

    monkeypatch.setattr(files, "_WHOLE", 10**9)
    monkeypatch.setattr(Path, "stat", whole_seconds)
    assert [fingerprint(path) for _ in range(2)] == [sha(b"one")] * 2 and len(reads) == 4


def test_a_small_file_is_always_read(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SMALL", 4)
    path = put(tmp_path / "config.json", b"one")
    assert [fingerprint(path) for _ in range(2)] == [sha(b"one")] * 2 and len(reads) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["torn", "of another file", "of another time", "no digest", "a list"])
def test_a_damaged_note_costs_a_reading_and_nothing_else(tmp_path: Path, reads: list[Path], damage: str) -> None:
    path = put(tmp_path / "weights", b"one")
    fingerprint(path)
    (note,) = (cache_root() / "fingerprints").iterdir()
    told = json.loads(note.read_text())
    odd = {
        "torn": note.read_text()[:-9],
        "of another file": json.dumps(told | {"path": "/elsewhere", "sha256": "0" * 64}),
        "of another time": json.dumps(told | {"stamp": [3, 1, 1, 1], "sha256": "0" * 64}),
        "no digest": json.dumps(told | {"sha256": 7}),
        "a list": "[]",
    }
    note.write_text(odd[damage])
    assert fingerprint(path) == sha(b"one") and len(reads) == 2
    assert fingerprint(path) == sha(b"one") and len(reads) == 2, "the note was not mended"


def test_a_cache_that_cannot_be_written_costs_a_reading_and_nothing_else(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "weights", b"one")
    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert [fingerprint(path) for _ in range(2)] == [sha(b"one")] * 2


def test_some_of_a_folder_s_files_count_by_name_and_contents(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    found = fingerprint_of(tmp_path, ["a", "b"])
    assert found == fingerprint_of(tmp_path, ["b", "a"]) != fingerprint_of(tmp_path, ["a"])
    (tmp_path / "c").write_text("other")
    assert found == fingerprint_of(tmp_path, ["a", "b"])
    (tmp_path / "b").write_text("other")
    assert found != fingerprint_of(tmp_path, ["a", "b"])
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").rename(tmp_path / "d")
    assert found != fingerprint_of(tmp_path, ["d", "b"])
