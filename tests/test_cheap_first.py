"""What can be told from headers, settings and names is refused before any model is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from huggingface_hub.errors import DryRunError, HfHubHTTPError, RepositoryNotFoundError
from transformers import PreTrainedModel

import dragoman
from ar_checkpoints import WIDTH
from dragoman.core import Refusal, Site
from dragoman.models import sizes
from dragoman.models.sizes import Sizes, check_place, check_read, sizes_of
from range_server import Served, serving
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A hub with one model, whose config.json tells of one block, and one that is an adapter."""
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        told = {"num_hidden_layers": 1, "hidden_size": WIDTH}
        served.files["/org/model/resolve/main/config.json"] = json.dumps(told).encode()
        served.files["/org/adapter/resolve/main/adapter_config.json"] = b"{}"
        yield served


NOWHERE = [
    ("org/modle:1", "'org/modle': the hub has no such repository, or it is gated; check the id"),
    ("Qwen/Qwen2.5-7B-Instuct:1", "did you mean 'Qwen/Qwen2.5-7B-Instruct', a known one?"),
    ("org/adapter:1", "'org/adapter': the repository holds no config.json"),
    ("org/model:1", "org/model has 1 blocks; name one from 0 to 0"),
    ("modle:1", "'modle': there is no such folder here, and it is no hub id"),
    ("gpt2-small:1", "it is no hub id; did you mean 'openai-community/gpt2'"),
]


@pytest.mark.parametrize(("source", "sentence"), NOWHERE)
def test_a_source_model_that_is_nowhere_is_refused_by_every_command_that_reads_it(
    shell: Command, world: World, hub: Served, tmp_path: Path, source: str, sentence: str
) -> None:
    hub.fault = lambda path, _: None if path.endswith("adapter/resolve/main/config.json") else _gone(hub, path)
    by, texts = ("--by", world.av), ("--texts", world.root / "texts.txt")
    for words in (
        ("explain", world.sae, "--source", source, *by, *texts, "-o", tmp_path / "out"),
        ("explain", "--prompt", "a text", "--source", source, *by, *texts, "-o", tmp_path / "out"),
        ("fit", world.sae, "--source", source, *by, *texts, "-o", tmp_path / "out"),
        ("calibrate", world.sae, "--source", source, *by, *texts, "-o", tmp_path / "out.json"),
        ("serve", world.sae, "--source", source, *by, *texts, "--port", "0"),
        ("doctor", "--sae", world.sae, "--source", source, *by),
    ):
        said = shell(*words)
        assert said.code == 1 and sentence in said.err and said.err.count("\n") <= 2, (words, said.err)
        assert not (tmp_path / "out").exists()
    assert hub.sent < 20_000, "config.json alone is asked for"


def test_a_repository_of_pickles_is_refused_by_its_listing(
    shell: Command, world: World, hub: Served, tmp_path: Path
) -> None:
    told = {"num_hidden_layers": 2, "hidden_size": WIDTH}
    hub.files["/org/pickled/resolve/main/config.json"] = json.dumps(told).encode()
    hub.files["/org/pickled/resolve/main/pytorch_model.bin"] = b"0" * 1_000_000
    why = "it holds no *.safetensors, and pickled weights (pytorch_model.bin) are never loaded; convert them"
    rest = ("--texts", world.root / "texts.txt", "-o", tmp_path / "out")
    for words in (
        ("explain", world.sae, "--source", "org/pickled:1", "--by", world.av),
        ("fit", world.sae, "--source", "org/pickled:1", "--by", world.av),
        ("explain", world.sae, "--source", world.source, "--by", world.av, "--native", "org/pickled"),
        ("rank", world.sae, "--source", world.source, "--by", world.av, "--by", "org/pickled"),
    ):
        said = shell(*words, *rest)
        assert said.code == 1 and f"'org/pickled': {why}" in said.err, said.err
    hub.files["/org/pickled/resolve/main/model-00001-of-00001.safetensors"] = b""
    check_read(Site("org/pickled", 1), WIDTH)
    assert hub.sent < 20_000


def test_of_several_verbalizers_every_one_is_looked_at_before_the_first_is_opened(
    shell: Command, world: World, hub: Served, tmp_path: Path
) -> None:
    def other(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(world.av, folder)
        told = yaml.safe_load((folder / "nla_meta.yaml").read_text())
        (folder / "nla_meta.yaml").write_text(yaml.safe_dump(told | changes))
        return folder

    (tmp_path / "empty").mkdir()
    for odd, sentence in (
        ("org/modle", "'org/modle': the hub has no such repository"),
        (tmp_path / "empty", "empty"),
        (other("contract", kind="unheard-of"), "contract"),
        (other("base", base_checkpoint="org/modle"), "'org/modle'"),
    ):
        words = ("rank", world.sae, "--source", world.source, "--features", "3,7", "--texts", world.root / "texts.txt")
        said = shell(*words, "--by", world.av, "--by", odd, "-o", tmp_path / "out")
        assert said.code == 1 and sentence in said.err and "explaining by" not in said.err, said.err
        assert not (tmp_path / "out").exists()


def _gone(hub: Served, path: str) -> int | None:
    """As the hub answers of a repository that is not there to who is not logged in."""
    return None if path in hub.files else 401


def test_a_dictionary_that_names_an_unknown_model_is_refused_before_any_model(
    shell: Command, world: World, hub: Served, tmp_path: Path
) -> None:
    hub.fault = lambda path, _: _gone(hub, path)
    sae = tmp_path / "saes" / "sae"
    shutil.copytree(world.sae, sae)
    told = json.loads((sae / "cfg.json").read_text())
    told["metadata"]["model_name"] = "org/modle"
    (sae / "cfg.json").write_text(json.dumps(told))
    rest = ("--by", world.av, "--texts", world.root / "texts.txt", "-o", tmp_path / "out")
    for sae_words in ((sae,), (sae, sae / "sae_weights.safetensors")):
        said = shell("explain", *sae_words, *rest)
        assert said.code == 1 and "'org/modle': the hub has no such repository" in said.err, said.err
    said = shell("explain", world.sae, "--source", world.source, *rest, "--native", "org/nla-av-20")
    assert said.code == 1 and "'org/nla-av-20': the hub has no such repository" in said.err, said.err


@pytest.mark.parametrize(
    ("cause", "code", "sentence"),
    [
        (RepositoryNotFoundError, 1, "'org/modle': there is no such folder here, and the hub has no such repository"),
        (HfHubHTTPError, 0, "the hub does not say how large org/modle is"),
    ],
)
def test_a_forecast_is_of_models_that_are_there(
    shell: Command, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Any, code: int, sentence: str
) -> None:
    def no_plan(*_: Any, **__: Any) -> Any:
        raise DryRunError("it cannot be accessed") from cause("404", response=Mock())

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_plan)
    rest = ("--by", world.av, "--texts", world.root / "texts.txt", "--dry-run", "-o", tmp_path / "out")
    said = shell("explain", world.sae, "--source", "org/modle:1", *rest)
    assert said.code == code and sentence in " ".join((said.out + said.err).split()), said.out + said.err


def test_a_verbalizer_that_is_nowhere_is_refused_before_prompts_are_read(
    shell: Command, world: World, tmp_path: Path
) -> None:
    said = shell("explain", "--prompt", "a text", "--source", world.source, "--by", "modle", "-o", tmp_path / "out")
    assert said.code == 1 and "'modle': there is no such folder here" in said.err


def test_out_of_reach_of_the_hub_the_way_to_fetch_it_is_told(
    shell: Command, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    for source, fetch in (
        ("org/model:1", "hf download org/model --local-dir FOLDER, and name FOLDER."),
        ("org/model@v2:1", "hf download org/model --revision v2 --local-dir FOLDER, and name FOLDER."),
        ("org/model@v2/sub:1", "hf download org/model --revision v2 --local-dir FOLDER, and name FOLDER/sub."),
        ("google/gemma-2-2b:1", "run: hf download google/gemma-2-2b --local-dir FOLDER, and name FOLDER."),
    ):
        said = shell("fit", world.sae, "--source", source, "--target", world.target, "-o", tmp_path / "out")
        assert said.code == 1 and "the hub cannot be reached and nothing of it is cached" in said.err
        assert said.err.rstrip().endswith(fetch) and "did you mean" not in said.err


@pytest.mark.parametrize("lacks", ["", "model.safetensors", "tokenizer.json", "config.json"])
def test_out_of_reach_of_the_hub_its_cache_has_to_hold_the_whole_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    held, sha = tmp_path / "models--org--model", "0" * 40
    shutil.copytree(world.source.model, held / "snapshots" / sha)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(sha)
    if lacks:
        (held / "snapshots" / sha / lacks).unlink()
        with pytest.raises(Refusal, match="org/model"):
            check_read(Site("org/model", 1))
    else:
        check_read(Site("org/model", 1), WIDTH)
        with pytest.raises(Refusal, match="org/model has 4 blocks"):
            check_read(Site("org/model", 4))


def test_a_folder_that_is_no_whole_model_is_refused_before_any_model(
    shell: Command, world: World, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        folder = tmp_path / name
        shutil.copytree(world.source.model, folder)
        (folder / name).unlink()
        said = shell("explain", world.sae, "--source", f"{folder}:1", "--by", world.av, "-o", tmp_path / "out")
        assert said.code == 1 and str(folder) in said.err, said.err


def test_an_embedder_that_is_not_installed_is_told_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dragoman.models import embedder

    def absent() -> None:
        raise Refusal("sentence embedder", "the package is not installed", "run: pip install it")

    monkeypatch.setattr(embedder, "packaged_folder", absent)
    monkeypatch.setattr("dragoman.runs.common.check_confidence", lambda _path: None)
    with pytest.raises(Refusal, match="the package is not installed"):
        dragoman.explain(world.sae, by=world.av, out=tmp_path / "run", confidence="some.json")
    with pytest.raises(Refusal, match="the package is not installed"):
        dragoman.score(build_run(tmp_path / "finished").path)
