"""Only regular files are read, and only they are replaced: pipes, devices, sockets and links are one sentence each."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman import store
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal
from dragoman.maps import LinearMap
from dragoman.store import ArraysFile, RunFolder
from dragoman.store.plainyaml import read_yaml
from dragoman.store.spans import LocalBytes
from store_faults import forbidden, one_sentence

READERS: dict[str, Callable[[Path], Any]] = {
    "JSON": store.read_json,
    "text": store.read_text,
    "digest": store.file_sha256,
    "fingerprint": store.fingerprint,
    "texts": lambda path: store.read_texts(path),
    "rows of texts": store.read_jsonl,
    "arrays": ArraysFile,
    "bytes": LocalBytes,
    "YAML": lambda path: read_yaml(path, "sidecar"),
    "map": LinearMap.load,
    "confidences": ConfidenceSet.load,
}
WRITERS: dict[str, Callable[[Path], Any]] = {
    "JSON": lambda path: store.write_json(path, {}),
    "text": lambda path: store.write_text(path, "x"),
    "arrays": lambda path: store.write_arrays(path, {"a": np.eye(2)}),
    "rows": lambda path: store.Rows(path),
    "lock": lambda path: store.held(path).__enter__(),
}


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A pipe that is waited on ends the test rather than the suite."""

    def late(*_: object) -> None:
        raise AssertionError("it is still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # an address of a socket has room for a hundred letters
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


ODD = {"a pipe": pipe, "a device": endless, "a socket": bound}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "texts.txt" if reader == "texts" else tmp_path / "odd"
    ODD[kind](path)
    with pytest.raises(Refusal, match=f"{path.name}: it is {kind}, and only regular files are read") as error:
        READERS[reader](path)
    assert one_sentence(error)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "b.json").symlink_to("a.json")
    assert store.read_json(tmp_path / "b.json") == {"a": 1}
    assert store.fingerprint(tmp_path / "b.json") == store.file_sha256(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["manifest.json", "rows.jsonl", "scores.json", "contexts.json", "vectors.safetensors"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_no_part_of_a_run_is_read_from_a_pipe_or_device(tmp_path: Path, name: str, kind: str) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    (run.path / name).unlink(missing_ok=True)
    ODD[kind](run.path / name)
    with pytest.raises(Refusal, match=rf"{name}: it is {kind}, and only regular files are read") as error:
        opened = RunFolder.open(run.path)
        _ = opened.rows(), opened.scores, opened.contexts, opened.vectors()
    assert one_sentence(error)


def to_a_file(path: Path) -> None:
    path.with_name("owned").write_text("somebody's")
    path.symlink_to("owned")


def to_nothing(path: Path) -> None:
    path.symlink_to("not-there")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (pipe, "it is a pipe, and only regular files are replaced"),
        (bound, "it is a socket, and only regular files are replaced"),
        (to_a_file, "it is a link, and links are not replaced"),
        (to_nothing, "it is a link, and links are not replaced"),
        (endless, "it is a link, and links are not replaced"),
    ],
)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_regular_file_is_not_replaced(
    tmp_path: Path, writer: str, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / "odd")
    before = {p.name: os.lstat(p) for p in tmp_path.iterdir()}
    with pytest.raises(Refusal, match=f"writing .*odd: {why}") as error:
        WRITERS[writer](tmp_path / "odd")
    assert one_sentence(error)
    assert {p.name: os.lstat(p) for p in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root")
def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    for write in WRITERS.values():
        with pytest.raises(Refusal, match="null: it is a device, and only regular files are replaced"):
            write(tmp_path / "null")
    with pytest.raises(Refusal, match="null: it is a device, and only regular files are read"):
        store.read_json(tmp_path / "null")
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


def test_bounded_reads_go_by_what_comes_and_not_by_the_size_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert store.files.read_bounded(tmp_path / "a", 11, "a test") == b"x" * 11
    with pytest.raises(Refusal, match="it takes 11 bytes, too many for a test"):
        store.files.read_bounded(tmp_path / "a", 10, "a test")
    with pytest.raises(Refusal, match="too many for a test"):
        store.files.read_bounded("/proc/self/maps", 10, "a test")  # told to be empty


def test_names_too_long_and_links_in_a_circle_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    for path in (tmp_path / ("n" * 300), tmp_path / "round"):
        for act in (store.read_json, store.fingerprint, lambda p: store.write_json(p, {})):
            with pytest.raises(Refusal) as error:
                act(path)
            assert one_sentence(error)


def test_folders_that_may_not_be_entered_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    monkeypatch.setattr(os, "stat", forbidden)
    for act in (lambda: RunFolder.open(run.path), run.rows, lambda: run.scores, lambda: store.read_json(tmp_path / "a"),
                lambda: store.fingerprint(tmp_path), lambda: store.Cache(tmp_path).get_or_make("a", "b", Path.touch),
                lambda: store.Rows(tmp_path / "rows")):  # fmt: skip
        with pytest.raises(Refusal, match="un(read|writ)able folder or file") as error:
            act()
        assert one_sentence(error)
