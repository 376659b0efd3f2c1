"""Fixtures of more than one test file: no hub, a small world in folders, and two readers of planted rows.

What they are made of loads torch, so it is imported when one is asked for.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from dragoman.maps.aligned import Aligned
    from dragoman.models.harvest import Reader
    from nursery import Nursery
    from planted_readers import PlantedPair
    from small_world import World

# A busy machine is no fault of what is tested: no example of a property has a clock.
settings.register_profile("dragoman", deadline=None)
settings.load_profile("dragoman")

# Cycles are few and a worker has gigabytes: looked for at every 700th object, they take a twentieth of its time.
gc.set_threshold(50_000, 10, 10)


MEMORY, ROOM = Path("/dev/shm"), 8 << 30  # noqa: S108  (a file system in memory, and bytes that are to be free there)


def pytest_configure() -> None:
    """Folders of tests lie in memory where there is room: what is written is synced thousands of times."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection() -> None:
    """What is imported and collected is there to the end: garbage is looked for in what tests make, not in that."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    gc.freeze()
    worker = getattr(session.config, "workerinput", {}).get("workerid")
    if worker:  # for the test that compares them
        ids = "\n".join(sorted(item.nodeid for item in session.items))
        (session.config._tmp_path_factory.getbasetemp().parent / f"ids-{worker}").write_text(ids)  # type: ignore[attr-defined]


@pytest.fixture(scope="module", autouse=True)
def _others_are_no_garbage() -> None:
    """Nor in what the files before have imported or hold: whoever closes a model looks for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _temporary_folders_are_there_too(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Those that the code under test makes, a browser's and all other children's: their files are synced alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setattr(tempfile, "tempdir", None)  # found again when it is asked for
        yield


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach the hub fails instead, quickly."""

    def refused(*_: Any, **__: Any) -> str:
        raise RuntimeError("a test asked the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)


@pytest.fixture(scope="session", autouse=True)
def _printed_as_the_schemas_say() -> Iterator[None]:
    """Whatever a test has a command print as JSON is held against its published schema."""
    from dragoman.commands import checkpoints, printing

    plain = printing.with_schema

    def checked(kind: str, value: Any) -> Any:
        from schemas import validator

        told = plain(kind, value)
        validator(kind).validate(json.loads(json.dumps(told)))
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printing, "with_schema", checked)
        patch.setattr(checkpoints, "with_schema", checked)
        yield


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where processes are forked that a test kills, interrupts or waits for."""
    from nursery import Nursery

    own = tmp_path_factory.getbasetemp()
    one = Nursery(own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own)
    yield one
    one.close()


@pytest.fixture(scope="session")
def pair_tokenizers() -> list[Any]:
    """Held for as long as tests run, those of the embedded models are read once a worker: Gemma's takes 4 seconds."""
    from dragoman import tiny
    from dragoman.models.load import load_tokenizer

    return [load_tokenizer(name) for name in tiny.MODELS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Models, checkpoints, a dictionary and texts in folders, with a cache of their own."""
    from embedded_once import shared
    from small_world import build

    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(root / "cache"))
        shared(patch)
        yield build(root)


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    """Two planted readers and the dictionary their rows were made with."""
    from planted_readers import planted_pair

    return planted_pair()


@pytest.fixture(scope="module")
def found(pair: PlantedPair) -> Aligned:
    """What reading ``pair`` token by token gives, from the second word on."""
    from dragoman.models.aligned import read_aligned
    from planted_readers import FIRST

    return read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)


@pytest.fixture(scope="module")
def readers() -> tuple[Reader, Reader]:
    """Readers of two tiny random models, Llama and Gemma 3."""
    from planted_readers import opened

    return opened("llama"), opened("gemma3")
