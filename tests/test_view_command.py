"""``dragoman view``: an address, files to share, and refusals before anything is made."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dragoman.cli import app
from dragoman.commands import view as command
from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.store.runsets import RunSet, SetEntry
from dragoman.view.bundle import Bundle
from viewed_run import make_run, words_alone

RUNNER = CliRunner()


def refused(*words: str) -> str:
    done = RUNNER.invoke(app, ["view", *words])
    assert isinstance(done.exception, Refusal), done.output
    return str(done.exception)


def test_without_its_libraries_it_names_the_line_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SERVER", ("no_such_library", "uvicorn_of_nobody"))
    said = refused(str(make_run(tmp_path / "run", 8).path))
    assert "no_such_library and uvicorn_of_nobody are not installed; run: pip install 'dragoman[view]'" in said
    assert not (tmp_path / "run" / "index.sqlite").exists()


def test_files_need_no_server_and_tell_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SERVER", ("no_such_library",))
    monkeypatch.setattr(command, "_embedder", words_alone)
    runs = [str(make_run(tmp_path / place / "run", count).path) for place, count in (("a", 8), ("b", 9))]
    done = RUNNER.invoke(app, ["view", *runs, "--bundle", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told.pop("schema") == "dragoman.bundle/1"
    made = Bundle.of(told, "stdout")
    assert Path(made.page).is_file() and Path(made.runs[1].page).with_name("feature-8.html").is_file()
    counted = [(one.name, one.features, one.controls, one.no_meaning) for one in made.runs]
    assert counted == [("run", 8, 4, ""), ("run-2", 9, 4, "")]
    assert "--json without --bundle: a server has no end to tell of" in refused(*runs, "--json")
    assert "--port beside --bundle: files have no server" in refused(
        *runs, "--port", "1", "--bundle", str(tmp_path / "o")
    )


def test_runs_of_a_folder_that_hold_nothing_yet_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_embedder", words_alone)
    make_run(tmp_path / "set" / "a", 8)
    entries = [SetEntry(name=name, dictionary=name, source="m:1") for name in ("a", "b", "c")]
    RunSet(runs=tuple(entries)).write(tmp_path / "set")
    done = RUNNER.invoke(app, ["view", str(tmp_path / "set"), "--bundle", str(tmp_path / "out")])
    assert done.exit_code == 0 and f"{tmp_path / 'set'}: left out b, c, which hold no explanation yet" in done.stderr
    assert f"{tmp_path / 'no'}: there is no such folder" in refused(str(tmp_path / "no"))


def test_without_an_embedder_files_say_what_they_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Embedder:
        raise Refusal("sentence embedder", "it is not installed", "run: pip install it")

    monkeypatch.setattr(command, "_embedder", none)
    run = make_run(tmp_path / "run", 8)
    done = RUNNER.invoke(app, ["view", str(run.path), "--bundle", str(tmp_path / "out")])
    assert done.exit_code == 0 and done.stdout == f"page: {tmp_path / 'out' / 'index.html'}\n"
    why = "features are not compared by what is said of them: it is not installed; run: pip install it"
    assert why in " ".join(done.stderr.split())


def test_what_is_no_run_and_a_folder_that_is_there_are_refused(tmp_path: Path) -> None:
    assert "it is not a run folder" in refused(str(tmp_path), "--bundle", str(tmp_path / "out"))
    (tmp_path / "there").mkdir()
    run = make_run(tmp_path / "run", 8)
    assert "it is there already" in refused(str(run.path), "--bundle", str(tmp_path / "there"))


def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="run: pip install 'dragoman[view]'")
    runs = [str(make_run(tmp_path / place / "run", 8).path) for place in ("a", "b")]
    words = [sys.executable, "-m", "dragoman", "view", *runs, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert found
            with urllib.request.urlopen(found[0], timeout=20) as answer:
                html = answer.read().decode()
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert 'href="/run/"' in html
    assert 'href="/run-2/"' in html
