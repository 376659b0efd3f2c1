"""``dragoman serve`` as a person starts and ends it: a process of its own, asked over HTTP, ended by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from asking import explain
from dragoman.maps import Crossing
from dragoman.runs.crossings import fit_crossing
from small_world import World, command

pytest.importorskip("fastapi", reason="run: pip install 'dragoman[serve]'")


@pytest.fixture(scope="module")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "crossing"
    fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt").save(folder)
    return folder


@pytest.fixture
def served(world: World, fitted: Path) -> Iterator[tuple[Any, str]]:
    """The process and its address."""
    words = ["serve", world.sae, "--source", str(world.source), "--by", world.av, "--through", str(fitted)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dragoman", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address.startswith("http://127.0.0.1:"):
        process.kill()
        raise AssertionError(process.communicate()[1])
    yield process, address
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_it_answers_with_the_texts_of_explain_and_ends_cleanly_on_a_signal(
    served: tuple[Any, str], world: World, fitted: Path, tmp_path: Path
) -> None:
    process, address = served
    body = {"features": ["7", "11"], "max_new_tokens": 6, "samples": 3}  # drawn ones tell features apart
    answer = httpx.post(address, json=body, timeout=300)
    asked = world.request(features=("7", "11"), through=Crossing.load(fitted), texts=None, batch_size=None, samples=3)
    run = explain(asked, tmp_path / "run")
    assert [one["text"] for one in answer.json()["explanations"]] == [row["text"] for row in run.rows()]
    assert len({row["text"] for row in run.rows()}) > 4
    folders = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("dragoman-answer-*"))
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert time.monotonic() - start < 150
    assert out == "" and "Traceback" not in err and "Ctrl-C ends" in err
    assert not [one for one in folders if one.exists()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address.replace("explain", "health"))


def test_control_c_ends_it_too(served: tuple[Any, str]) -> None:
    process, address = served
    assert httpx.get(address.replace("explain", "health"), timeout=300).json()["status"] == "ok"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err, err


def test_words_that_cannot_be_served_are_refused_early(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = command(monkeypatch, capsys, "serve")
    assert nothing.code == 2 and "Name an SAE, or a site with --source" in nothing.err
    alone = command(monkeypatch, capsys, "serve", "--source", str(world.source), "--by", world.av, "--port", "0")
    assert alone.code == 1 and "name a crossing with --through" in alone.err and alone.out == ""
    route = command(monkeypatch, capsys, "serve", world.sae, "--route", "dirct")
    assert route.code == 1 and "did you mean 'direct'" in route.err
    monkeypatch.setattr("dragoman.store.libraries.find_spec", lambda name: None)
    absent = command(monkeypatch, capsys, "serve", world.sae)
    assert absent.code == 1 and "pip install 'dragoman[serve]'" in absent.err
