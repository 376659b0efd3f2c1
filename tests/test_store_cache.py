"""What was made once is reused, and what was half made is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dragoman import store
from dragoman.core import Refusal
from dragoman.store import Cache
from store_faults import ENV


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
    assert [p.wait(timeout=60) for p in both] == [0, 0]
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
