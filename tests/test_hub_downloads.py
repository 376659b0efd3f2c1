"""What the hub sends, and what it refuses: which files are asked for, the room they need, one sentence for each no."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
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

from dragoman.core import Refusal
from dragoman.models.resolve import cached, folder_of

pytestmark = pytest.mark.usefixtures("no_hub")


def test_a_hub_id_asks_for_its_revision_and_leaves_pickles_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, ignore_patterns: list[str], **_: Any) -> str:
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


def test_pickles_are_refused_by_the_listing_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickles = [("config.json", 9, True), *((f"pytorch_model-{k}-of-3.bin", GB, True) for k in (1, 2, 3))]
    fetched = room(monkeypatch, tmp_path, GB, pickles)
    with pytest.raises(
        Refusal, match=r"^'org/name': it holds no \*.safetensors, and pickled weights \(pytorch_model-1"
    ):
        folder_of("org/name")
    assert not fetched
    for more in ("model.safetensors", "av/adapter_model.safetensors"):
        fetched = room(monkeypatch, tmp_path, GB, [*pickles, (more, GB // 2, True)])
        assert folder_of("org/name") == tmp_path and fetched, "pickles beside need no room"


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
    assert {"filename", "file_size", "will_download"} <= set(DryRunFileInfo.__dataclass_fields__)


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
