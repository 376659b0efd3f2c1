"""A model opened up to one block: the same activations, bit for bit, and refused where the whole one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from dragoman.core import Refusal, Site
from dragoman.models import load
from dragoman.models.harvest import Reader
from dragoman.models.load import blocks_of, decoder_blocks, load_model
from dragoman.models.logits import logits_of
from dragoman.models.sizes import FAMILIES
from tiny_checkpoints import ALL_FAMILIES, model_of, save_checkpoint, tokenizer_of

pytestmark = pytest.mark.usefixtures("no_hub")
TEXTS = [
    "The people of the city were given the right to vote.",
    "You are a careful researcher. A vector of the residual stream stands between tags of the text, and so it goes on.",
    "Say what it means",
]
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.25, "pad_token_id": None,
    "bos_token_id": 0, "eos_token_id": 0, "vocab_size": len(tokenizer_of("qwen2")),
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "gemma": lambda tied: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=8, tie_word_embeddings=tied)),
    "gemma2": lambda tied: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, tie_word_embeddings=tied)
    ),
    "phi3": lambda tied: Phi3ForCausalLM(Phi3Config(**SHAPE, sliding_window=6, tie_word_embeddings=tied)),
    "olmo2": lambda tied: Olmo2ForCausalLM(Olmo2Config(**SHAPE, tie_word_embeddings=tied)),
}


def saved(folder: Path, family: str, *, tied: bool = False) -> Path:
    """A checkpoint of a family, with four blocks."""
    if family in ALL_FAMILIES and not tied:
        return save_checkpoint(folder, family)
    torch.manual_seed(0)
    if family in OTHERS:
        net = OTHERS[family](tied).eval()
    else:
        config = model_of(family).config
        config.tie_word_embeddings = True
        config.get_text_config().tie_word_embeddings = True
        net = type(model_of(family))(config).eval()
    net.save_pretrained(folder)
    tokenizer_of(family if family in ALL_FAMILIES else "qwen2").save_pretrained(folder)
    return folder


def read(reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    rows = reader.rows(TEXTS, typical=np.inf)
    return rows.x, rows.end


def alike(folder: Path, *blocks: int, dtype: str = "float32") -> None:
    """The same rows by the first blocks as by the whole model, at each of the blocks."""
    opened = Reader.open(Site(str(folder), blocks[0]), dtype=dtype, whole=True)
    for block in blocks:
        site = Site(str(folder), block)
        cut, whole = Reader.open(site, dtype=dtype), replace(opened, site=site)
        assert len(decoder_blocks(cut.model)) == block + 1 < len(decoder_blocks(whole.model)) == blocks_of(cut.model)
        for mine, theirs in zip(read(cut), read(whole), strict=True):
            assert mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes()
        assert sum(p.numel() for p in cut.model.parameters()) < sum(p.numel() for p in whole.model.parameters())


@pytest.mark.parametrize("family", [*ALL_FAMILIES, *OTHERS])
def test_activations_of_the_first_blocks_are_the_whole_models_bit_for_bit(tmp_path: Path, family: str):
    folder = saved(tmp_path / "m", family)
    alike(folder, 0, 2)
    alike(folder, 1, dtype="bfloat16")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma3_wrapped", "gemma2", "qwen2"])
def test_so_they_are_where_the_output_layer_is_the_table_of_embeddings(tmp_path: Path, family: str):
    alike(saved(tmp_path / "m", family, tied=True), 1)


def test_every_family_said_to_be_safe_is_held_here(tmp_path: Path):
    held = {model_of(family).config.get_text_config().model_type for family in ALL_FAMILIES} | set(OTHERS)
    assert held == set(FAMILIES)


@pytest.mark.usefixtures("pair_tokenizers")
@pytest.mark.parametrize("name,block", [("tiny-smollm2", 22), ("tiny-gemma", 12)])
def test_so_they_are_of_the_embedded_pair(name: str, block: int):
    site = Site(name, block)
    cut = read(Reader.open(site, dtype="bfloat16"))
    whole = read(Reader.open(site, dtype="bfloat16", whole=True))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(cut, whole, strict=True))


def test_one_model_at_two_blocks_is_opened_up_to_the_later(tmp_path: Path):
    folder = saved(tmp_path / "m", "qwen2")
    reader = Reader.open(Site(str(folder), 0), upto=2)
    assert len(decoder_blocks(reader.model)) == 3
    whole = Reader.open(Site(str(folder), 0), whole=True)
    assert read(reader)[0].tobytes() == read(whole)[0].tobytes()


def test_the_last_block_and_other_families_are_opened_whole(tmp_path: Path):
    folder = saved(tmp_path / "m", "qwen2")
    reader = Reader.open(Site(str(folder), 3))
    assert reader.model.get_output_embeddings() is not None and len(decoder_blocks(reader.model)) == 4
    # A family that is not listed; its blocks are not called layers.
    config = GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=64, vocab_size=SHAPE["vocab_size"])
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer_of("qwen2").save_pretrained(tmp_path / "gpt2")
    model, _ = load_model(tmp_path / "gpt2", upto=0)
    assert model.get_output_embeddings() is not None and not hasattr(model, "blocks_of_the_whole")


def test_a_block_is_refused_that_the_whole_model_has_not_and_one_that_was_not_opened(tmp_path: Path):
    folder = saved(tmp_path / "m", "llama")
    with pytest.raises(Refusal, match="the model has blocks 0 to 3; name one of these"):
        _ = Reader.open(Site(str(folder), 4)).width
    opened = Reader.open(Site(str(folder), 1))
    assert opened.width == 32
    beyond = Reader(site=Site(str(folder), 4), model=opened.model, tokenizer=opened.tokenizer)
    with pytest.raises(Refusal, match="the model has blocks 0 to 3; name one of these"):
        _ = beyond.width
    later = Reader(site=Site(str(folder), 2), model=opened.model, tokenizer=opened.tokenizer)
    with pytest.raises(Refusal, match="of the model blocks 0 to 1 were opened; open it at this site"):
        _ = later.width


def test_a_reader_without_output_layer_gives_no_logits(tmp_path: Path):
    reader = Reader.open(Site(str(saved(tmp_path / "m", "qwen2")), 1))
    with pytest.raises(Refusal, match="it was opened for reading, without its output layer; open it whole"):
        logits_of(reader.model)


def changed(folder: Path, change: Any) -> None:
    """The checkpoint's tensors, changed in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def config_says(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _cut_short(tensors: dict[str, Any]) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1].contiguous()


FAULTS: dict[str, Any] = {
    "a later block lacks a weight": lambda f: changed(f, lambda t: t.pop("model.layers.3.mlp.up_proj.weight")),
    "a read block lacks a weight": lambda f: changed(f, lambda t: t.pop("model.layers.0.mlp.up_proj.weight")),
    "a later block's weight has another shape": lambda f: changed(f, _cut_short),
    "a later block is lost": lambda f: changed(
        f, lambda t: t.update({k.replace(".3.", ".4."): v.clone() for k, v in t.items() if ".layers.3." in k})
    ),
    "a later block has a tensor too much": lambda f: changed(
        f, lambda t: t.update({"model.layers.2.extra.weight": torch.ones(2)})
    ),
    "the config tells of fewer blocks": lambda f: config_says(f, num_hidden_layers=3, layer_types=None),
    "the config tells of more blocks": lambda f: config_says(f, num_hidden_layers=5, layer_types=None),
    "the output layer is missing": lambda f: changed(f, lambda t: t.pop("lm_head.weight")),
    "the embeddings are missing": lambda f: changed(f, lambda t: t.pop("model.embed_tokens.weight")),
    "the file is cut short": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-64]
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_refused_of_the_whole_model_is_refused_of_its_first_blocks_in_the_same_words(
    tmp_path: Path, fault: str
):
    folder = saved(tmp_path / "m", "qwen2")
    FAULTS[fault](folder)
    said = []
    for upto in (None, 1):
        with pytest.raises(Refusal) as refused:
            load_model(folder, upto=upto)
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_on_a_gpu_weights_are_put_there_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Here the way a GPU's weights take is gone on a CPU: the same numbers, and no hook that moves anything."""
    folder = saved(tmp_path / "m", "gemma3")
    plain, _ = load_model(folder)
    assert load.straight_to("cuda:0") and not load.straight_to("cpu")
    told: dict[str, Any] = {}
    real = load.AutoModelForCausalLM.from_pretrained

    def watched(*args: Any, **how: Any) -> Any:
        told.update(how)
        return real(*args, **how)

    monkeypatch.setattr(load, "straight_to", lambda device: True)
    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", watched)
    net, _ = load_model(folder)
    assert told["device_map"] == "cpu"
    own, theirs = net.state_dict(), plain.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert not any(hasattr(module, "_hf_hook") for module in net.modules())
    ids = torch.arange(20)[None]
    assert torch.equal(net(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_a_gpu_without_room_is_refused_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "m", "qwen2")

    def full(*args: Any, **how: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(Refusal, match="it cannot be put on device cpu .*use another device, or a smaller model"):
        load_model(folder)
