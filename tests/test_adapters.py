"""What an adapter's settings say is looked at before PEFT acts on it; which block a checkpoint's name tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ar_checkpoints import save_base, save_peft
from dragoman.core import Refusal
from dragoman.doctor import Subject, examine
from dragoman.doctor.checkpoint import config, meta, role
from dragoman.models.adapters import check_places, read_settings
from dragoman.models.load import base_of, sits_on
from dragoman.models.merge import merge_adapter
from dragoman.models.reconstruct import Reconstructor
from dragoman.models.reconstruct.contract import read_contract
from dragoman.verbalizers.sidecar import block_in_name, read_sidecar
from tiny_checkpoints import model_of, save_adapter, save_checkpoint

NESTED = "[" * 100_000
DEEP = '{"a":' * 100_000
CONFIG, META = "adapter_config.json", "nla_meta.yaml"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", "qwen2", save_checkpoint(tmp_path / "base", "qwen2"))


def changed(adapter: Path, **changes: Any) -> Path:
    path = adapter / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return adapter


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(NESTED, "it is not JSON"), (DEEP, "it is not JSON"), ("[]", "it is not a mapping of names to values")],
)
def test_settings_nested_deep_or_no_mapping_are_refused_wherever_they_are_read(
    adapter: Path, content: str, sentence: str
) -> None:
    (adapter / CONFIG).write_text(content)
    with pytest.raises(Refusal, match=f"adapter_config.json: {sentence}"):
        sits_on(adapter)
    with pytest.raises(Refusal, match=f"adapter_config.json: {sentence}"):
        merge_adapter(model_of("qwen2"), adapter, "verbalizer x", "cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r": 10**9}, r"adapter_config.json: it states rank 1000000000, adapter_model.safetensors has rank \d"),
        ({"rank_pattern": {"q_proj": 4096}}, "it states rank 4096, adapter_model.safetensors has rank"),
        ({"r": "many"}, "its field r is wrong"),
        ({"rank_pattern": ["q_proj"]}, "its field rank_pattern is wrong"),
        ({"target_modules": "(.*)*x"}, r"its pattern '\(\.\*\)\*x' is no plain pattern of module names"),
        ({"exclude_modules": "(a+)+$"}, "is no plain pattern of module names"),
        ({"rank_pattern": {"(a+)+$": 1}}, "is no plain pattern of module names"),
        ({"alpha_pattern": {"(": 1.0}}, "is no plain pattern of module names"),
        ({"target_modules": [f"m{n}" for n in range(20_001)]}, "its target_modules has 20001 entries, and no model"),
        ({"alpha_pattern": {f"m{n}": 1.0 for n in range(20_001)}}, "its alpha_pattern has 20001 entries"),
        ({"peft_type": None}, "verbalizer x: its adapter is of type None, not LoRA"),
        ({"lora_alpha": "much"}, "verbalizer x: its adapter does not fit the base model"),
    ],
)
def test_a_verbalizers_adapter_is_looked_at_as_a_reconstructors_is(
    adapter: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence):
        merge_adapter(model_of("qwen2"), changed(adapter, **changes), "verbalizer x", "cpu")


def test_what_peft_can_do_and_a_reconstructor_cannot_passes_for_a_verbalizer(adapter: Path) -> None:
    patterns = "^(?!.*vision)(?:.*?(?:q_proj|v_proj))|(?:model\\.layers\\.[\\d]{1,}\\.mlp)"
    for changes in ({"use_dora": True}, {"target_modules": patterns}, {"modules_to_save": ["lm_head"]}, {"r": None}):
        check_places(read_settings(changed(adapter, **changes)), adapter)


@pytest.mark.parametrize(
    ("name", "block"), [("nla-x-L20-av", 20), ("L7", 7), ("a/L20_b.L20", 20), ("XL20", None), ("L20x", None)]
)
def test_a_name_tells_a_block_or_none(name: str, block: int | None) -> None:
    assert block_in_name(name, "x") == block


def test_a_name_that_tells_of_two_blocks_is_refused_for_both_kinds(tmp_path: Path) -> None:
    sentence = r"its files state no block, and its name tells of several \(20, 41\); add extraction_layer_index"
    folder = save_checkpoint(tmp_path / "av", "qwen2")
    stated = yaml.safe_load((folder / META).read_text())
    stated = {k: v for k, v in stated.items() if k not in ("extraction_layer_index", "ar", "critic", "reconstructor")}
    stated["extraction"].pop("layer_index", None)
    (folder / META).write_text(yaml.safe_dump(stated))
    assert read_sidecar(folder, name="org/nla-L20-av").block == 20
    with pytest.raises(Refusal, match=sentence):
        read_sidecar(folder, name="org/nla-L41-L20-av")
    reader = save_peft(tmp_path / "ar", "llama", tmp_path)
    stated = yaml.safe_load((reader / META).read_text())
    stated = {k: v for k, v in stated.items() if k not in ("extraction_layer_index", "ar", "critic", "reconstructor")}
    stated.get("extraction", {}).pop("layer_index", None)
    (reader / META).write_text(yaml.safe_dump(stated))
    assert read_contract(reader, "kitft", name="org/nla-L20-ar").block == 20
    with pytest.raises(Refusal, match=sentence):
        read_contract(reader, "kitft", name="org/nla-L41-L20-ar")


@pytest.mark.parametrize("content", ["[" * 30_000, "a: " + "{b: " * 10_000, "a: !!python/object:os.system x"])
@pytest.mark.parametrize("wanted", ["verbalizer", "reconstructor"])
def test_the_doctor_finds_a_sidecar_that_is_no_plain_yaml(tmp_path: Path, wanted: str, content: str) -> None:
    (tmp_path / META).write_text(content)
    found = role("x", tmp_path, wanted)
    assert found.status == "fault" and "cannot be read as plain YAML" in str(found.measured)


def test_the_doctor_goes_on_where_settings_are_nested_deep(adapter: Path) -> None:
    assert config(adapter, CONFIG)["r"] == 4 and meta(adapter)["kind"] == "nla_model"
    for content in (NESTED, DEEP, "[]", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        (adapter / CONFIG).write_text(content)
        assert config(adapter, CONFIG) == {}
    (adapter / META).write_text("extraction: x\nrole: [av]\n")
    assert role("x", adapter, "reconstructor").measured == "role ['av']"


@pytest.mark.parametrize(("name", "content"), [(CONFIG, NESTED), (META, "[" * 30_000)])
def test_an_examination_ends_with_a_fault_where_a_file_is_nested_deep(adapter: Path, name: str, content: str) -> None:
    (adapter / name).write_text(content)
    found = examine(Subject(by=str(adapter), ar=str(adapter)))
    assert any(f.status == "fault" and name in f"{f.subject} {f.measured}" for f in found)


# --- the model it sits on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "revision", "named"),
    [
        ("org/base", "v2", "org/base@v2"),
        ("org/base/sub/folder", "v2", "org/base@v2/sub/folder"),
        ("org/base@v1", "v2", "org/base@v1"),
        ("org/base", "main", "org/base"),
        ("org/base", None, "org/base"),
        ("org/base", "", "org/base"),
        ("./base", "v2", "./base"),  # a folder here is what it is
        (None, "v2", None),
    ],
)
def test_an_adapter_sits_on_the_revision_that_it_was_trained_on(
    adapter: Path, base: str | None, revision: str | None, named: str | None
) -> None:
    changed(adapter, base_model_name_or_path=base, revision=revision)
    assert sits_on(adapter) == named


@pytest.mark.parametrize("revision", ["a b", "../x", 7.5, ["v2"], {"a": 1}])
def test_a_revision_that_is_none_is_refused(adapter: Path, revision: Any) -> None:
    changed(adapter, base_model_name_or_path="org/base", revision=revision)
    with pytest.raises(Refusal, match="adapter_config.json: its revision '.*' is none"):
        sits_on(adapter)


def test_a_sidecar_that_names_another_revision_of_the_base_than_the_adapter_is_refused(adapter: Path) -> None:
    changed(adapter, base_model_name_or_path="org/base", revision="v2")
    with pytest.raises(Refusal, match="trained on org/base@v2, its sidecar names org/base, .*pass --base"):
        base_of(adapter, "org/base", None, "verbalizer x")
    for sidecar, base in (("org/base@v2", None), (None, None), ("org/base", "org/base@v2")):
        assert base_of(adapter, sidecar, base, "verbalizer x") == "org/base@v2"


def test_a_reconstructors_adapter_and_sidecar_that_name_two_models_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama")
    reader = save_peft(tmp_path / "ar", "llama", base, base_model_name_or_path="org/another")
    with pytest.raises(Refusal, match=r"reconstructor .*trained on org/another, its sidecar names .*base.*pass --base"):
        Reconstructor(reader, layout="kitft")
    assert Reconstructor(reader, layout="kitft", base=str(base)).merged
