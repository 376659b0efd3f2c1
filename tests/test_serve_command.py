"""``dragoman serve`` as a person ends it: a process of its own, asked over HTTP, ended by a signal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from asking import explain
from dragoman.maps import Crossing
from dragoman.runs.crossings import fit_crossing
from nursery import Nursery, wait_until
from small_world import World, command

pytest.importorskip("fastapi", reason="run: pip install 'dragoman[serve]'")


@pytest.fixture(scope="module")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "crossing"
    fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt").save(folder)
    return folder


class Served(NamedTuple):
    process: int
    address: str
    nursery: Nursery
    log: Path

    def end(self, signal: signal.Signals) -> tuple[int, str, str]:
        """End it so; its exit code, and what came on stdout and stderr."""
        os.kill(self.process, signal)
        return self.nursery.ended(), *(self.log.with_suffix(end).read_text() for end in (".out", ".err"))


@pytest.fixture
def served(world: World, fitted: Path, nursery: Nursery, tmp_path: Path) -> Iterator[Served]:
    """A process that serves."""
    words = ["serve", world.sae, "--source", str(world.source), "--by", world.av, "--through", str(fitted)]
    log = tmp_path / "log"
    process = nursery.start([*words, "--port", "0"], log=log, COLUMNS="80")
    out = log.with_suffix(".out")
    wait_until(lambda: out.exists() and out.read_text().endswith("\n"))
    address = out.read_text().strip()
    if not address.startswith("http://127.0.0.1:"):
        nursery.end()
        raise AssertionError(log.with_suffix(".err").read_text())
    yield Served(process, address, nursery, log)
    nursery.end()


def test_it_answers_with_the_texts_of_explain_and_ends_cleanly_on_a_signal(
    served: Served, world: World, fitted: Path, tmp_path: Path
) -> None:
    address = served.address
    body = {"features": ["7", "11"], "max_new_tokens": 6, "samples": 3}  # drawn ones tell features apart
    answer = httpx.post(address, json=body, timeout=300)
    asked = world.request(features=("7", "11"), through=Crossing.load(fitted), texts=None, batch_size=None, samples=3)
    run = explain(asked, tmp_path / "run")
    assert [one["text"] for one in answer.json()["explanations"]] == [row["text"] for row in run.rows()]
    assert len({row["text"] for row in run.rows()}) > 4
    folders = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("dragoman-answer-*"))
    start = time.monotonic()
    code, out, err = served.end(signal.SIGTERM)
    assert code == 0, err
    assert time.monotonic() - start < 150
    assert out == f"{address}\n" and "Traceback" not in err and "Ctrl-C ends" in err
    assert not [one for one in folders if one.exists()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address.replace("explain", "health"))


def test_control_c_ends_it_too(served: Served) -> None:
    assert httpx.get(served.address.replace("explain", "health"), timeout=300).json()["status"] == "ok"
    code, _, err = served.end(signal.SIGINT)
    assert code == 0 and "Traceback" not in err, err


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
