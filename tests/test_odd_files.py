"""Where a file is a pipe, a device or a link, may not be read, or the disk is full: one sentence each."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import explain
from dragoman.commands.boundary import translated
from dragoman.core import Refusal
from dragoman.models import packaged
from dragoman.neuronpedia import Explained, Export, parse, write_explanations
from dragoman.store import RunFolder
from dragoman.tiny import SMOLLM2
from report_fixture import build_run
from small_world import World, build, command
from store_faults import forbidden, full, one_sentence

READ, REPLACED = "only regular files are read", "only regular files are replaced"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pipe that is waited on ends the test rather than the suite."""

    def late(*_: object) -> None:
        raise AssertionError("it is still waiting")

    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def odd(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("option", ["texts.txt", "texts.jsonl.gz", "confidence.json", "labels", "dictionary.npy"])
def test_no_file_that_explain_is_given_may_be_a_pipe_or_device(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str,
    kind: str,
) -> None:  # fmt: skip
    path = odd(tmp_path / option, kind)
    words = {
        "texts.txt": ["--texts", str(path)],
        "texts.jsonl.gz": ["--texts", str(path)],
        "confidence.json": ["--confidence", str(path)],
        "labels": ["--labels", str(path)],
    }.get(option, [])
    dictionary = str(path) if option.startswith("dictionary") else world.sae
    where = ["--source", str(world.source), "--features", "3", "-o", str(tmp_path / "run")]
    said = command(monkeypatch, capsys, "explain", dictionary, "--by", world.av, *where, *words)
    assert said.code == 1 and not (tmp_path / "run").exists() and "Traceback" not in said.err
    expected = {"labels": "there is no such folder", "dictionary.npy": "there is no such file or folder"}
    assert expected.get(option, READ) in said.err


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("name", ["manifest.json", "rows.jsonl", "scores.json"])
@pytest.mark.parametrize("verb", ["report", "score"])
def test_no_part_of_a_run_may_be_a_pipe_or_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, name: str, kind: str
) -> None:
    run = build_run(tmp_path / "run")
    odd(run.path / name, kind)
    if (verb, name) == ("score", "scores.json"):
        with pytest.raises(Refusal, match="and (only regular files|links) are (not )?replaced"):
            run.write_scores({})
        return
    said = command(monkeypatch, capsys, verb, str(run.path))
    assert said.code == 1 and f"it is {kind}, and {READ}" in said.err


def test_a_page_is_not_written_over_a_link_pipe_or_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build_run(tmp_path / "run")
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "link.html").symlink_to("thesis")
    os.mkfifo(tmp_path / "pipe.html")
    for name, why in (("link.html", "it is a link, and links are not replaced"), ("pipe.html", REPLACED)):
        said = command(monkeypatch, capsys, "report", str(run.path), "-o", str(tmp_path / name))
        assert said.code == 1 and why in said.err and said.out == ""
    assert (tmp_path / "thesis").read_text() == "years of work" and (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "pipe.html").is_fifo()
    said = command(monkeypatch, capsys, "report", str(run.path), "-o", "/dev/null")
    assert said.code == 1 and "it is a device" in said.err and not Path("/dev/null").is_file()


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    explain(world.request(), folder)
    return folder


@pytest.mark.parametrize("name", ["manifest.json", "rows.jsonl", "vectors.safetensors", "contexts.json"])
def test_a_run_is_not_written_through_a_link(world: World, finished: Path, tmp_path: Path, name: str) -> None:
    """As a folder that somebody else may write to could hold one."""
    (tmp_path / "thesis").write_text("years of work")
    if name == "manifest.json":  # another run's folder, where only that is left
        (tmp_path / "run").mkdir()
    else:
        shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "thesis" if name != "manifest.json" else tmp_path / "nothing")
    with pytest.raises(Refusal, match="it is a link, and links are not replaced|it holds other files"):
        explain(world.request(), tmp_path / "run")
    assert (tmp_path / "thesis").read_text() == "years of work" and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("leads", ["nothing", "."])
def test_a_crossing_is_not_written_over_a_link(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], leads: str
) -> None:
    (tmp_path / "out").symlink_to(leads)
    words = [world.sae, "--by", world.av, "--source", str(world.source), "-o", str(tmp_path / "out")]
    said = command(monkeypatch, capsys, "fit", *words)
    assert said.code == 1 and ("it is there already" if leads == "." else "check the path") in said.err
    assert (tmp_path / "out").is_symlink() and not (tmp_path / "nothing").exists()


def test_labels_in_a_folder_that_may_not_be_entered_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbidden)
        with pytest.raises(Refusal, match=r"export: unreadable folder or file \(Permission denied\)") as error:
            Export.open(tmp_path / "export", parse("np:gemma-2-2b/20-res-16k"))
    assert one_sentence(error)


def test_an_export_is_not_written_over_a_link_or_taken_for_written_where_a_pipe_stands(tmp_path: Path) -> None:
    said = [Explained(index="3", text="rivers", confidence=None, notes={})]
    told: dict[str, Any] = {"type_name": "t", "model_name": "m", "author": "someone"}
    source = parse("np:gemma-2-2b/20-res-16k")
    for kind, why in (("a pipe", REPLACED), ("a link", "No such file|links are not replaced")):
        out = tmp_path / kind
        batch = out / "v1" / "gemma-2-2b" / "20-res-16k" / "explanations" / "batch-0.jsonl.gz"
        batch.parent.mkdir(parents=True)
        os.mkfifo(batch) if kind == "a pipe" else batch.symlink_to("nothing")
        with pytest.raises(Refusal, match=why):
            write_explanations(out, source, said, **told)
        assert [p.name for p in batch.parent.iterdir()] == ["batch-0.jsonl.gz"]


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["joining", "weights", "config"])
def test_a_disk_that_fills_up_while_a_packaged_model_is_converted_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from safetensors import SafetensorError

    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    if where == "joining":
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda p, *a, **k: NoRoom() if p.name == "model.gguf" else real(p, *a, **k))
    else:
        monkeypatch.setattr(packaged, "join_verified", lambda *_: None)
        monkeypatch.setattr(packaged, "check_tokens", lambda *_: None)
        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_a, **_k: Tokenizer())
        monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_a, **_k: Net())

        def no_room(*_: object, **__: object) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        if where == "weights":
            monkeypatch.setattr("safetensors.torch.save_file", no_room)
        else:
            monkeypatch.setattr(packaged, "write_text", full)
    with pytest.raises(Refusal, match=r"^writing .*: full disk") as error:
        packaged.converted(SMOLLM2)
    assert one_sentence(error)
    assert [p.suffix for p in (tmp_path / "cache" / "model").iterdir()] == [".lock"], "something half made was left"


class NoRoom(io.BytesIO):
    """A file on a full disk."""

    def write(self, content: Any) -> int:
        full()
        return len(content)


class Tokenizer:
    """As much of one as is saved."""

    special_tokens_map = {"eos_token": "</s>"}
    chat_template = None
    backend_tokenizer = type("Backend", (), {"to_str": lambda self: "{}"})()

    def tokenize(self, text: str) -> list[str]:
        return text.split()


class Net:
    """As much of a model as is saved."""

    config = type("Config", (), {"tie_word_embeddings": False, "to_dict": lambda self: {}})()

    def state_dict(self) -> dict[str, Any]:
        import torch

        return {"a": torch.zeros(2)}


def test_a_file_that_may_not_be_read_or_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system says no to one file after another; root is let in everywhere, so it is said in its place."""
    run = build_run(tmp_path / "run")
    real = os.open
    for name, verb, kind in (
        ("manifest.json", "report", "unreadable"),
        ("rows.jsonl", "report", "unreadable"),
        ("scores.json", "report", "unreadable"),
    ):

        def closed(path: Any, flags: int, mode: int = 0o777, *, name: str = name, **named: Any) -> int:
            if Path(str(path)).name == name:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, flags, mode, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", closed)
            said = command(monkeypatch, capsys, verb, str(run.path))
        assert said.code == 1 and f"{name}: {kind} folder or file (Permission denied)" in said.err
        assert said.err.count("\n") == 1
    assert isinstance(RunFolder.open(run.path).rows(), list)


@pytest.mark.parametrize(
    "name", ["labels.json", "cfg.json", "sae_weights.safetensors", "truth.json", "confidence.json"]
)
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_nothing_beside_a_dictionary_s_rows_may_be_a_pipe_or_device(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str,
    kind: str,
) -> None:  # fmt: skip
    dictionary = Path(shutil.copytree(world.sae, tmp_path / "sae"))
    odd(dictionary / name, kind)
    words = ["--by", world.av, "--source", str(world.source), "--features", "3", "-o", str(tmp_path / "run")]
    said = command(monkeypatch, capsys, "explain", str(dictionary), *words)
    assert said.code == 1 and not (tmp_path / "run").exists() and "Traceback" not in said.err
    led_out = kind == "a device" and name not in ("truth.json", "confidence.json")
    assert ("it is a link that leads out of its folder" if led_out else f"it is {kind}, and {READ}") in said.err
    assert name in said.err


def test_what_may_not_be_entered_is_not_said_to_be_unwritable() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/closed/adapter_config.json")
    told = str(translated(error))
    assert told.startswith("using /closed/adapter_config.json: closed folder or file (Permission denied)")
