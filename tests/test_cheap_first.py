"""What can be told from headers, settings and names is refused before any model is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

import dragoman
from ar_checkpoints import WIDTH
from dragoman.core import Refusal, Site
from dragoman.models import sizes
from dragoman.models.sizes import Sizes, check_place, sizes_of
from report_fixture import build_run
from small_world import Said, World, command
from test_commands import explaining

Command = Callable[..., Said]


class OpenedError(BaseException):
    """A model was opened."""


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(*_args: Any, **_how: Any) -> None:
        raise OpenedError

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", opens)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def swapped(words: list[str], name: str, value: object) -> list[str]:
    """The same words with another value of an option."""
    at = words.index(name)
    return [*words[: at + 1], str(value), *words[at + 2 :]]


def test_sizes_are_read_from_a_config_or_from_the_registry(world: World, tmp_path: Path) -> None:
    config = json.loads((Path(world.source.model) / "config.json").read_text())
    assert sizes_of(world.source.model) == Sizes(config["num_hidden_layers"], WIDTH)
    assert sizes_of("tiny-smollm2") == Sizes(30, 576) and sizes_of("google/gemma-3-27b-it") == Sizes(62, 5376)
    assert sizes_of("no/such-model") == Sizes(None, None) == sizes_of(str(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"text_config": {"hidden_size": 8, "num_hidden_layers": 3}, "hidden_size": 9}'
    )
    assert sizes_of(str(tmp_path)) == Sizes(3, 8), "the language model's, of a wrapper around it"
    (tmp_path / "config.json").write_text('{"n_embd": 8, "n_layer": "three"}')
    assert sizes_of(str(tmp_path)) == Sizes(None, 8)


def test_a_block_or_width_that_a_model_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        Refusal, match="directions at tiny-smollm2:30: tiny-smollm2 has 30 blocks; name one from 0 to 29"
    ):
        check_place(Site("tiny-smollm2", 30))
    with pytest.raises(Refusal, match="they are 640 wide, and the stream of tiny-smollm2 is 576 wide"):
        check_place(Site("tiny-smollm2", 29), 640)
    check_place(Site("tiny-smollm2", 29), 576)
    monkeypatch.setattr(sizes, "sizes_of", lambda _model: Sizes(None, None))
    check_place(Site("anything", 5000), 7)


def test_explain_and_fit_refuse_them_before_any_model(shell: Command, world: World, tmp_path: Path) -> None:
    far = f"{world.source.model}:99"
    np.save(tmp_path / "wide.npy", np.eye(3, WIDTH + 1, dtype=np.float32))
    np.save(tmp_path / "right.npy", np.eye(3, WIDTH, dtype=np.float32))
    rest = ("--by", world.av, "-o", tmp_path / "out")
    for name in ("explain", "fit"):
        said = shell(name, tmp_path / "right.npy", "--source", far, *rest)
        assert said.code == 1 and "blocks; name one from 0 to" in said.err, said.err
        said = shell(name, tmp_path / "wide.npy", "--source", world.source, *rest)
        assert said.code == 1 and f"they are {WIDTH + 1} wide" in said.err, said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("--texts", "{}/none.txt", "none.txt: No such file"),
        ("--texts", "{}/odd.txt", "odd.txt"),
        ("--device", "foo", "device 'foo': it is no device"),
        ("--device", "cuda:77", "this machine has none such"),
        ("--confidence", "{}/none.json", "none.json"),
    ],
)
def test_files_and_devices_are_looked_at_first(
    shell: Command, world: World, tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    words, value = explaining(world, tmp_path / "run"), value.format(tmp_path)
    words = swapped(words, name, value) if name in words else [*words, name, value]
    said = shell(*words)
    assert said.code == 1 and not said.out and sentence in said.err, said.err


def test_an_embedder_that_is_not_installed_is_told_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dragoman.models import embedder

    def absent() -> None:
        raise Refusal("sentence embedder", "the package is not installed", "run: pip install it")

    monkeypatch.setattr(embedder, "packaged_folder", absent)
    monkeypatch.setattr("dragoman.runs.explain.check_confidence", lambda _path: None)
    with pytest.raises(Refusal, match="the package is not installed"):
        dragoman.explain(world.sae, by=world.av, out=tmp_path / "run", confidence="some.json")
    with pytest.raises(Refusal, match="the package is not installed"):
        dragoman.score(build_run(tmp_path / "finished").path)
