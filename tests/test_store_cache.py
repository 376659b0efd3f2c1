"""What was made once is reused, and what was half made is not."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from dragoman import store
from dragoman.core import Refusal
from dragoman.store import Cache, files
from records_of_logs import logged
from store_faults import ENV, one_sentence

room = import_module("dragoman.store.cache")


def test_what_is_cached_is_made_once_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        store.write_text(path / "model.txt", "weights")

    first, reused = cache.get_or_make("map", "3f2a", make)
    assert not reused and first == cache.path("map", "3f2a") and (first / "model.txt").read_text() == "weights"
    second, reused = cache.get_or_make("map", "3f2a", make)
    assert reused and second == first and len(made) == 1 and not made[0].exists()


def test_a_maker_that_fails_or_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def breaks(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("map", "d", breaks)
    assert not cache.path("map", "d").exists()
    with pytest.raises(Refusal, match="its maker wrote nothing"):
        cache.get_or_make("map", "d", lambda path: None)

    code = (
        "import os, sys; from dragoman.store import Cache\n"
        "def make(path): path.mkdir(); (path / 'half').write_text('half'); os._exit(9)\n"
        "Cache(sys.argv[1]).get_or_make('map', 'd', make)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=ENV, check=False)
    assert not cache.path("map", "d").exists() and any(
        p.name.endswith(".partial") for p in (tmp_path / "map").iterdir()
    )

    def whole(path: Path) -> None:
        path.mkdir()
        (path / "whole").write_text("whole")

    path, reused = cache.get_or_make("map", "d", whole)
    assert not reused and [p.name for p in path.iterdir()] == ["whole"]


def folder_of_two(path: Path) -> None:
    path.mkdir()
    (path / "rows").write_bytes(bytes(range(256)) * 40)
    (path / "inner").mkdir()
    (path / "inner" / "index.json").write_text("{}")


def file_alone(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def flip(path: Path, at: int = 5000) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


DAMAGE = {
    "flipped": lambda e: flip(e / "rows"),
    "first byte": lambda e: flip(e / "rows", 0),
    "torn": lambda e: os.truncate(e / "rows", 4096),
    "grown": lambda e: os.truncate(e / "rows", 1 << 20),
    "emptied": lambda e: os.truncate(e / "rows", 0),
    "missing": lambda e: (e / "inner" / "index.json").unlink(),
    "more": lambda e: (e / "inner" / "firings").write_text("of another"),
    "a pipe": lambda e: ((e / "rows").unlink(), os.mkfifo(e / "rows")),
    "a file": lambda e: (shutil.rmtree(e), e.write_text("x")),
    "without checksums": lambda e: e.with_name(".d.sums").unlink(),
    "checksums torn": lambda e: os.truncate(e.with_name(".d.sums"), 9),
    "checksums no list": lambda e: e.with_name(".d.sums").write_text("{}"),
    "checksums of another": lambda e: flip(e.with_name(".d.sums"), 40),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again_and_said(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    cache = Cache(tmp_path, say=said.append)
    entry, _ = cache.get_or_make("aligned", "d", folder_of_two)
    assert cache.get_or_make("aligned", "d", folder_of_two) == (entry, True) and said == []
    DAMAGE[damage](entry)
    assert cache.get_or_make("aligned", "d", folder_of_two) == (entry, False)
    assert len(said) == 1 and re.fullmatch(r"cached aligned d is damaged \(.+\), so it is made again", said[0])
    assert (entry / "rows").read_bytes() == bytes(range(256)) * 40 and (entry / "inner" / "index.json").exists()
    assert cache.get_or_make("aligned", "d", folder_of_two) == (entry, True) and len(said) == 1
    assert {p.name for p in entry.parent.iterdir()} == {"d", ".d.lock", ".d.sums"}


@pytest.mark.parametrize("at", [0, 1, 63, 5000, 10239])
@pytest.mark.parametrize("bit", [0, 6, 7])
def test_every_flipped_bit_of_a_file_is_noticed(tmp_path: Path, at: int, bit: int) -> None:
    said: list[str] = []
    cache = Cache(tmp_path, say=said.append)
    entry, _ = cache.get_or_make("harvest", "d", file_alone)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    assert cache.get_or_make("harvest", "d", file_alone) == (entry, False) and entry.read_bytes() == whole
    assert said == ["cached harvest d is damaged (its bytes are not what was written), so it is made again"]


def test_an_entry_checked_a_moment_ago_is_checked_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of a gigabyte is opened several times in a command, and read for its checksum once."""
    monkeypatch.setattr(files, "_SETTLED", 0)
    monkeypatch.setattr(files, "_WHOLE", 10**30)
    said: list[str] = []
    cache = Cache(tmp_path, say=said.append)
    entry, _ = cache.get_or_make("model", "d", file_alone)
    read: list[Path] = []
    real = room.opened
    monkeypatch.setattr(room, "opened", lambda path: (read.append(path), real(path))[1])
    assert all(cache.get_or_make("model", "d", file_alone)[1] for _ in range(3)) and read == [entry]
    time.sleep(0.05)
    flip(entry)
    assert not cache.get_or_make("model", "d", file_alone)[1] and len(said) == 1


def test_a_damaged_entry_stays_until_another_is_ready(tmp_path: Path) -> None:
    cache = Cache(tmp_path, say=lambda _: None)
    entry, _ = cache.get_or_make("map", "d", folder_of_two)
    flip(entry / "rows")

    def breaks(path: Path) -> None:
        path.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("map", "d", breaks)
    assert (entry / "rows").exists() and not cache.get_or_make("map", "d", folder_of_two)[1]


def test_without_somebody_to_tell_damage_is_logged(tmp_path: Path) -> None:
    entry, _ = Cache(tmp_path).get_or_make("map", "d", file_alone)
    flip(entry)
    with logged() as records:
        Cache(tmp_path).get_or_make("map", "d", file_alone)
    assert any("cached map d is damaged" in record.getMessage() for record in records)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_something_is_made_is_one_sentence(tmp_path: Path, number: int) -> None:
    """Whatever library meets it, and wherever that library writes."""

    def make(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(Refusal, match=r"writing .*map/d: full disk") as error:
        Cache(tmp_path).get_or_make("map", "d", make)
    assert one_sentence(error) and [p.name for p in (tmp_path / "map").iterdir()] == [".d.lock"]


def test_two_processes_that_find_damage_make_it_again_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dragoman.store import Cache\n"
        "def make(path):\n"
        "    with Path(sys.argv[2]).open('a') as log: log.write('made ')\n"
        "    time.sleep(0.2); path.write_text('x')\n"
        "Cache(sys.argv[1]).get_or_make('map', 'd', make)"
    )
    entry, _ = Cache(tmp_path / "cache").get_or_make("map", "d", lambda path: path.write_text("x"))
    entry.write_text("y")
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [p.wait(timeout=600) for p in both] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made " and entry.read_text() == "x"


def test_a_second_process_waits_and_reuses(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dragoman.store import Cache\n"
        "def make(path):\n"
        "    with Path(sys.argv[2]).open('a') as log: log.write('made ')\n"
        "    time.sleep(0.2); path.write_text('x')\n"
        "Cache(sys.argv[1]).get_or_make('map', 'd', make)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, env=ENV) for _ in range(2)]
    assert [p.wait(timeout=600) for p in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made "


def test_cache_root_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", "/somewhere")
    assert store.cache_root() == Path("/somewhere") == Cache().root
    monkeypatch.delenv("DRAGOMAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setattr(sys, "platform", "linux")
    assert store.cache_root() == Path("/xdg/dragoman")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_root() == Path.home() / ".cache" / "dragoman"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert store.cache_root() == Path.home() / "Library" / "Caches" / "dragoman"
