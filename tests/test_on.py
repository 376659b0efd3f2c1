"""Where words are said, before anything is opened: what is no place for workers is refused, with Ray or without it."""

from __future__ import annotations

from pathlib import Path

import pytest

import dragoman
from dragoman import Refusal, Site
from dragoman.models import asked
from dragoman.store import libraries
from small_world import World, command
from verbalizer_doubles import ScriptedVerbalizer

KNOWN = r"known are ray \(this machine\) and ray://HOST:PORT \(a cluster that runs\); use one of these"


@pytest.fixture(params=[True, False], ids=["with ray", "without"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(libraries, "find_spec", lambda name: name if request.param else None)
    return bool(request.param)


@pytest.mark.parametrize("word", ["Ray", "ray:4", "ray://", "ray://host", "ray://:10001", "http://host:10001", ""])
def test_words_that_name_no_place(there: bool, word: str) -> None:
    with pytest.raises(Refusal, match=f"^--on {word}: {KNOWN}"):
        asked.check_on(word, None, "cpu")


def test_workers_that_cannot_be(there: bool) -> None:
    asked.check_on(None, None, "cuda:1")
    with pytest.raises(Refusal, match="^--workers without --on: "):
        asked.check_on(None, 2, "cpu")
    with pytest.raises(Refusal, match="^0 workers: "):
        asked.check_on("ray", 0, "cpu")


@pytest.mark.parametrize("word", ["ray", "ray://head:10001", "ray://[::1]:10001", "ray://10.0.0.1:10001"])
def test_a_missing_ray_is_told_with_the_line_to_type(there: bool, word: str) -> None:
    if there:
        asked.check_on(word, 2, "cuda")
        with pytest.raises(Refusal, match="^--device cuda:1 with --on .*each worker has a GPU of its own"):
            asked.check_on(word, 2, "cuda:1")
        return
    with pytest.raises(Refusal) as told:
        asked.check_on(word, None, "cpu")
    absent = "ray is" if word == "ray" else "ray and grpc are"
    assert str(told.value) == f"--on {word}: {absent} not installed; run: pip install 'dragoman[ray]'."


def test_the_command_refuses_them_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "ray" else name)
    words = ["explain", world.sae, "--source", str(world.source), "--by", world.av, "-o", str(tmp_path / "run")]
    said = command(monkeypatch, capsys, *words, "--on", "ray")
    assert (said.code, said.out) == (1, "") and "ray is not installed; run: pip install 'dragoman[ray]'" in said.err
    said = command(monkeypatch, capsys, *words, "--on", "ray", "--dry-run")
    assert said.code == 1 and "--dry-run beside --on: it is reckoned for this process alone" in said.err
    assert not (tmp_path / "run").exists()


def test_a_verbalizer_that_is_open_here_is_not_dealt(world: World, tmp_path: Path, there: bool) -> None:
    if there:
        by = ScriptedVerbalizer(Site("m", 1), 4, str)
        with pytest.raises(Refusal, match="^verbalizer scripted on ray: it is open in this process; pass its refer"):
            dragoman.explain(world.sae, by=by, out=tmp_path / "run", on="ray")
