"""What a person writes for a model, a checkpoint or a dictionary, turned into a place, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.dictionaries.beside import located
from dragoman.models.resolve import called, folder_of, hub_place
from dragoman.store.hub import commit_at
from dragoman.tiny import DATA

pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.mark.parametrize("name", ["tiny-sae", "tiny-smollm2-av", "tiny-gemma-av"])
def test_a_packaged_folder_is_found_by_its_name(name: str) -> None:
    folder = folder_of(name)
    assert folder.is_dir() and folder.name == DATA[name]
    assert any(folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["tiny-documents", "tiny-truth", "tiny-probes"])
def test_a_packaged_file_is_found_by_its_name(name: str) -> None:
    assert folder_of(name).is_file()


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert folder_of(tmp_path) == tmp_path
    assert folder_of(str(tmp_path)) == tmp_path


def test_a_folder_that_looks_like_a_hub_id_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("org/name") == Path("org/name")


def test_a_local_sub_folder_that_looks_like_one_of_the_hub_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name" / "av").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("org/name/av") == Path("org/name/av")
    assert called("org/name/av") == "av"


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
    path = ref.startswith((".", "/"))
    told = r"check the path\.$" if path else r"and it is no hub id; .*tiny-smollm2, tiny-gemma"
    with pytest.raises(Refusal, match=f"there is no such folder here[,;] {told}"):
        folder_of(ref)


def test_nearly_a_known_name_is_answered_with_it() -> None:
    with pytest.raises(Refusal, match=r"'tiny-gema-av': .*; did you mean 'tiny-gemma-av'\.$"):
        folder_of("tiny-gema-av")
    with pytest.raises(Refusal, match=r"'tiny-sea': .*no packaged dictionary; did you mean 'tiny-sae'\.$"):
        located("tiny-sea")
    with pytest.raises(Refusal, match=r"'nofile.safetensors': there is no such folder or file here; check the path"):
        located("nofile.safetensors")
    with pytest.raises(Refusal, match=r"did you mean 'kitft/nla-qwen2.5-7b-L20-av', a known one\? If not, "):
        folder_of("kitft/nla-qwen2.5-7b-L20-a")


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


def test_the_commit_of_a_fetched_folder_is_its_snapshots(tmp_path: Path) -> None:
    sha = "0123456789" * 4
    folder = tmp_path / "models--org--name" / "snapshots" / sha / "av"
    assert commit_at(folder) == commit_at(folder.parent) == sha
    assert commit_at(tmp_path) is None and commit_at(tmp_path / "snapshots" / sha) is None


def test_a_dictionary_may_be_a_file_here_with_key_and_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probes.npz").touch()
    monkeypatch.chdir(tmp_path)
    assert str(located("probes.npz#truth[3]")) == "file:probes.npz#truth[3]"
    assert located("tiny-sae") == tiny.data("tiny-sae")
    with pytest.raises(Refusal, match="there is no such folder or file here; check the path"):
        located("prober.npz#truth[3]")
    with pytest.raises(Refusal, match="there is no such folder or file here, .* or one of tiny-sae, tiny-gemma-sae"):
        located("probers")
