"""A model is opened whole or not at all; what transformers 5 and published tokenizers do differently is taken in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from dragoman.core import Refusal
from dragoman.models.contracts.base import Asked
from dragoman.models.decode import LocalVerbalizer
from dragoman.models.load import decoder_blocks, load_model, load_tokenizer, stacked
from tiny_checkpoints import (
    BOS,
    WIDTH,
    dataset_sidecar_of,
    model_of,
    save_adapter,
    save_checkpoint,
    sidecar_of,
    tokenizer_of,
)


def rewrite(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def renamed(folder: Path, old: str, new: str) -> Path:
    path = folder / "model.safetensors"
    tensors = {k.replace(old, new, 1) if k.startswith(old) else k: v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_multimodal_gemma_opens_with_nothing_at_random_under_either_naming(tmp_path: Path, prefix: str) -> None:
    net = model_of("gemma3_wrapped")
    folder = renamed(save_checkpoint(tmp_path / "av", "gemma3_wrapped", model=net), "language_model.model.", prefix)
    if prefix == "model.language_model.":
        renamed(renamed(folder, "vision_tower.", "model.vision_tower."), "language_model.lm_head", "lm_head")
        renamed(folder, "multi_modal_projector.", "model.multi_modal_projector.")
    opened, _ = load_model(folder)
    assert isinstance(opened, Gemma3ForConditionalGeneration)
    want = net.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in opened.state_dict().items())
    assert len(decoder_blocks(opened)) == 4
    assert decoder_blocks(opened)[0] is opened.model.language_model.layers[0]


def test_weights_saved_from_the_bare_text_model_would_load_at_random_and_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "gemma3")
    renamed(folder, "model.", "language_model.model.")
    with pytest.raises(Refusal, match=r"\d+ weights would stay at random \(the first is .*\), and \d+ stored ones"):
        load_model(folder)


@pytest.mark.parametrize("lost", ["model.norm.weight", "lm_head.weight", "model.layers.3.mlp.up_proj.weight"])
def test_a_single_missing_weight_is_refused(tmp_path: Path, lost: str) -> None:
    folder = save_checkpoint(tmp_path / "av", "qwen3")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refusal, match=rf"1 weights would stay at random \(the first is {lost}\)"):
        load_model(folder)


def test_a_configuration_with_fewer_blocks_than_the_weights_is_refused(tmp_path: Path) -> None:
    folder = rewrite(save_checkpoint(tmp_path / "av", "llama"), num_hidden_layers=3)
    with pytest.raises(Refusal, match="9 weights of decoder blocks have no place .*the first is model.layers.3"):
        load_model(folder)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    folder = rewrite(save_checkpoint(tmp_path / "av", "llama"), intermediate_size=32)
    with pytest.raises(Refusal, match="weights (would stay at random|do not fit its config.json)"):
        load_model(folder)


def test_a_weight_outside_the_blocks_that_nobody_reads_is_let_lie(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "llama")
    tensors = {**load_file(folder / "model.safetensors"), "value_head.weight": torch.eye(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load_model(folder)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
@pytest.mark.parametrize("key", ["extra_special_tokens", "additional_special_tokens"])
def test_a_list_of_extra_special_tokens_is_read(tmp_path: Path, family: str, key: str) -> None:
    folder = save_checkpoint(tmp_path / "av", family)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: [*filter(None, [BOS[family]]), "<custom>"]}))
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer.encode("<custom>", add_special_tokens=False)) == 1
    text = "the people of the city"
    assert tokenizer.encode(text) == tokenizer_of(family).encode(text)
    LocalVerbalizer(folder)


def test_an_adapters_own_tokenizer_is_used(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", "qwen2")
    adapter = save_adapter(tmp_path / "adapter", "qwen2", base)
    want = LocalVerbalizer(adapter).prompt
    tokenizer_of("qwen2").save_pretrained(adapter)
    (base / "chat_template.jinja").unlink()
    (adapter / "chat_template.jinja").write_text("[{{ messages[0]['content'] }}]")
    got = LocalVerbalizer(adapter).prompt
    assert got.text.startswith("[You are") and got.ids != want.ids


def test_adapters_in_a_circle_or_without_a_base_are_refused(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", "qwen2")
    adapter = save_adapter(tmp_path / "adapter", "qwen2", base)
    with pytest.raises(Refusal, match="the adapter in .*adapter sits on itself"):
        stacked(adapter, str(adapter), "x")
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    other = save_adapter(tmp_path / "other", "qwen2", base)
    path.write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(Refusal, match="the adapter in .*adapter does not say what it sits on"):
        stacked(other, str(adapter), "x")
    path.write_text("{")
    with pytest.raises(Refusal, match="adapter_config.json: it is not JSON"):
        LocalVerbalizer(adapter)


def test_a_damaged_config_is_refused_where_the_width_is_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "nla_meta.yaml").write_text("kind: nla_model\nextraction: {injection_scale: 2}\n")
    with pytest.raises(Refusal, match="config.json: it is not JSON"):
        LocalVerbalizer(tmp_path)
    assert Asked(ref="a/b", folder=tmp_path).name == "b"


def test_half_precision_opens_and_speaks_under_both_contracts(tmp_path: Path) -> None:
    vector = np.ones((1, WIDTH["gemma3_wrapped"]), np.float32)
    for contract, sidecar in (("kitft", sidecar_of), ("karvonen", dataset_sidecar_of)):
        folder = save_checkpoint(tmp_path / contract, "gemma3_wrapped", sidecar=sidecar("gemma3_wrapped"))
        half = LocalVerbalizer(folder, contract=contract, dtype="bfloat16").next_logits(vector)
        whole = LocalVerbalizer(folder, contract=contract).next_logits(vector)
        assert half.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(half.float(), whole) > 0.99
