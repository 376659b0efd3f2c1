"""The sidecar says how a vector must be fed, or dragoman says what is missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragoman.core import Refusal
from dragoman.verbalizers.sidecar import read_sidecar


def full() -> dict[str, Any]:
    return {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "av",
        "base_checkpoint": "Qwen/Qwen2.5-7B-Instruct",
        "d_model": 3584,
        "extraction_layer_index": 20,
        "extraction": {"injection_scale": 150.0, "mse_scale": None},
        "tokens": {
            "injection_char": "㈎",
            "injection_token_id": 149705,
            "injection_left_neighbor_id": 29,
            "injection_right_neighbor_id": 522,
            "critic_suffix_ids": [1318, 29],
        },
        "prompt_templates": {"av": "Say <concept>{injection_char}</concept>.", "ar": "Summary: {explanation}"},
        "created_at": "2026-05-07",
        "training": {"lr": 1e-5},
    }


def write(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
    (folder / "nla_meta.yaml").write_text(text, encoding="utf-8")
    return folder


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k not in keys}


def test_a_published_sidecar_is_read_whole(tmp_path: Path) -> None:
    got = read_sidecar(write(tmp_path, full()))
    assert (got.d_model, got.block, got.injection_scale) == (3584, 20, 150.0)
    assert (got.marker, got.marker_id, got.left_id, got.right_id) == ("㈎", 149705, 29, 522)
    assert got.template == "Say <concept>{injection_char}</concept>."
    assert got.base == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [
        ({"actor": "a {injection_char}"}, "a {injection_char}"),
        ({"actor": "a {injection_char}", "av": "b {injection_char}"}, "b {injection_char}"),
        ({"av": "b {injection_char}", "verbalizer": "c {injection_char}"}, "c {injection_char}"),
        ({"av": "literal ㈎ marker"}, "literal ㈎ marker"),
    ],
)
def test_newest_template_name_wins(tmp_path: Path, templates: dict[str, str], chosen: str) -> None:
    assert read_sidecar(write(tmp_path, full() | {"prompt_templates": templates})).template == chosen


def test_width_and_layer_and_base_are_also_found_under_extraction(tmp_path: Path) -> None:
    content = without(full(), "d_model", "extraction_layer_index", "base_checkpoint")
    content["extraction"] = {"injection_scale": 30, "d_model": 64, "layer_index": 7, "base_model": "org/base"}
    got = read_sidecar(write(tmp_path, content))
    assert (got.d_model, got.block, got.base) == (64, 7, "org/base")


@pytest.mark.parametrize(
    ("extra", "name", "block"),
    [
        ({"critic": {"extraction_layer_index": 32}}, "x", 32),
        ({"ar": {"num_hidden_layers": 20}}, "x", 20),
        ({"critic": None}, "nla-gemma3-27b-L41-av", 41),
        ({"critic": {"extraction_layer_index": 0}}, "x", 0),
    ],
)
def test_layer_falls_back_to_reader_block_then_name(tmp_path: Path, extra: Any, name: str, block: int) -> None:
    content = without(full(), "extraction_layer_index") | extra
    assert read_sidecar(write(tmp_path, content), name=name).block == block


@pytest.mark.parametrize(("stated", "scale"), [("sqrt_d_model", math.sqrt(3584)), ("8e4", 8e4), (30, 30.0)])
def test_scale_may_be_a_number_or_the_root_of_the_width(tmp_path: Path, stated: Any, scale: float) -> None:
    # YAML reads 8e4 as text.
    assert read_sidecar(write(tmp_path, full() | {"extraction": {"injection_scale": stated}})).injection_scale == scale


@pytest.mark.parametrize("scale", [None, "raw", 0, -1, float("nan"), float("inf")])
def test_refuses_a_sidecar_without_scale(tmp_path: Path, scale: Any) -> None:
    with pytest.raises(Refusal, match=r"injection_scale is .* not a positive number"):
        read_sidecar(write(tmp_path, full() | {"extraction": {"injection_scale": scale}}))


def test_refuses_a_sidecar_whose_extraction_is_empty(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="injection_scale is None, not a positive number"):
        read_sidecar(write(tmp_path, full() | {"extraction": None}))


def test_refuses_a_folder_without_sidecar(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"it holds no nla_meta\.yaml"):
        read_sidecar(tmp_path)


def test_refuses_the_sidecar_of_a_dataset(tmp_path: Path) -> None:
    dataset = {
        "kind": "nla_dataset",
        "extraction": {"d_model": 4096, "layer_index": 24, "norm": "none"},
        "tokens": full()["tokens"],
        "prompt_templates": {"actor": "x {injection_char}"},
    }
    with pytest.raises(Refusal, match="describes a dataset .* stores no injection scale"):
        read_sidecar(write(tmp_path, dataset))


@pytest.mark.parametrize("role", ["ar", "critic", "reconstructor"])
def test_refuses_a_reconstructor(tmp_path: Path, role: str) -> None:
    with pytest.raises(Refusal, match=f"its role is '{role}', not a verbalizer's"):
        read_sidecar(write(tmp_path, full() | {"role": role}))


def test_refuses_another_kind(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="its kind is 'sae', not nla_model"):
        read_sidecar(write(tmp_path, full() | {"kind": "sae"}))


def test_refuses_another_injection_mode(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="trained with injection mode 'multiply'"):
        read_sidecar(write(tmp_path, full() | {"training": {"injection_mode": "multiply"}}))
    assert read_sidecar(write(tmp_path, full() | {"training": {"injection_mode": "normalize"}})).block == 20


def test_refuses_a_template_without_a_place_for_the_vector(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="its template has no place for the vector"):
        read_sidecar(write(tmp_path, full() | {"prompt_templates": {"av": "Say <concept></concept>."}}))


@pytest.mark.parametrize("template", ["a {injection_char} {", "a {injection_char} }"])
def test_refuses_a_template_with_unbalanced_braces(tmp_path: Path, template: str) -> None:
    with pytest.raises(Refusal, match="unbalanced braces"):
        read_sidecar(write(tmp_path, full() | {"prompt_templates": {"av": template}}))


def test_refuses_a_template_slot_that_reaches_into_objects(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="has a slot '{injection_char.__class__}' that is no name"):
        read_sidecar(write(tmp_path, full() | {"prompt_templates": {"av": "{injection_char.__class__}"}}))


def test_refuses_fields_that_disagree_about_the_block(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"disagree about the block \(19, 20\)"):
        read_sidecar(write(tmp_path, full() | {"critic": {"extraction_layer_index": 19}}))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("extraction_layer_index", "does not say which block's output it reads"),
        ("d_model", "it states no d_model"),
        ("tokens", "it names no marker token"),
        ("prompt_templates", "it holds no verbalizer template"),
    ],
)
def test_refuses_a_sidecar_that_leaves_out_what_decides_the_injection(tmp_path: Path, key: str, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        read_sidecar(write(tmp_path, without(full(), key)), name="unnamed")


def test_python_tags_are_refused_and_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    write(tmp_path, f"kind: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{trace}]]\n")
    with pytest.raises(Refusal, match="cannot be read as plain YAML"):
        read_sidecar(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("kind: [unclosed", "cannot be read as plain YAML"),
        ("just a line", "not a mapping of names to values"),
        ("kind: nla_model\nd_model: wide\n", r"field d_model is wrong"),
        ("kind: nla_model\ntokens: [1, 2]\n", r"field tokens is wrong"),
    ],
)
def test_refuses_a_damaged_sidecar(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        read_sidecar(write(tmp_path, content))


def test_refuses_a_sidecar_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "nla_meta.yaml").write_bytes(b"\xff\xfe\x00kind")
    with pytest.raises(Refusal, match="cannot be read as plain YAML"):
        read_sidecar(tmp_path)
