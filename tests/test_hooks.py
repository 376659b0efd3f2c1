"""Every spelling of a place in a model that the field uses: the table, and what dictionaries make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import dictionary_folders as made
from dragoman.core import Hook, Refusal, Site
from dragoman.dictionaries.layout import residual_block
from reading import read_directions

OUTPUTS = (
    "blocks.7.hook_resid_post",  # TransformerLens, SAELens
    "blocks.7.hook_out",  # TransformerLens' bridge
    "blocks.7",
    "resid_post_layer_7",  # dictionary_learning
    "layers.7",  # sparsify
    "layers.7.output",
    "model.layers.7",  # Llama, Mistral, Qwen, Gemma
    "model.layers.7.output",  # Gemma Scope 2
    "model.layers[7].output[0]",  # nnsight
    "model.layers.7.output.0",
    "model.language_model.layers.7",  # multimodal ones
    "language_model.model.layers.7",
    "transformer.h.7",  # GPT-2, Falcon, Bloom
    "h.7",
    "transformer.h[7].output[0]",
    "gpt_neox.layers.7",  # Pythia
    "model.decoder.layers.7",  # OPT
    "transformer.blocks.7",  # MPT
)
INPUTS = (
    "blocks.7.hook_resid_pre",
    "blocks.7.hook_in",
    "resid_pre_layer_7",
    "model.layers.7.input",
    "model.layers[7].inputs[0]",
    "transformer.h.7.input",
)
WRITTEN = (
    "blocks.7.hook_mlp_out",
    "blocks.7.hook_attn_out",
    "layers.7.mlp",
    "h.7.mlp",
    "transformer.h.7.mlp",
    "model.layers.7.post_feedforward_layernorm.output",
    "gpt_neox.layers.7.mlp",
)
INSIDE = (
    "blocks.7.hook_resid_mid",
    "blocks.7.attn.hook_z",
    "blocks.7.mlp.hook_post",
    "blocks.7.ln2.hook_normalized",
    "h.7.attn",
    "transformer.h.7.ln_2",
    "model.layers.7.self_attn",
    "model.layers.7.self_attn.o_proj.input",
    "model.layers.7.mlp.down_proj",
)
NONE = (
    "hook_embed",
    "model.embed_tokens",
    "model.norm",
    "lm_head",
    "layers",
    "xlayers.7",
    "layers.-1",
    "layers.7.",
    "",
)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        *((name, Hook(7, "output")) for name in OUTPUTS),
        *((name, Hook(7, "input")) for name in INPUTS),
        *((name, Hook(7, "written")) for name in WRITTEN),
        *((name, Hook(7, "inside")) for name in INSIDE),
        *((name, None) for name in NONE),
    ],
)
def test_a_name_is_the_place_it_means(name: str, want: Hook | None) -> None:
    assert Hook.parse(name) == want


@pytest.mark.parametrize(("name", "block"), [*((n, 7) for n in OUTPUTS), *((n, 6) for n in INPUTS)])
def test_outputs_and_inputs_are_blocks_of_the_stream(name: str, block: int) -> None:
    assert residual_block("x", name, None) == block
    with pytest.raises(Refusal, match="but its hook_layer 5"):
        residual_block("x", name, 5)


@pytest.mark.parametrize("name", [*WRITTEN, *INSIDE, *NONE])
def test_other_places_are_no_blocks_output(name: str) -> None:
    with pytest.raises(Refusal, match="is not the output of a block"):
        residual_block("x", name, None)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_block_writes_is_where_a_transcoder_writes(name: str) -> None:
    assert residual_block("x", name, None, writes=True) == 7


@pytest.mark.parametrize("hook", ["blocks.20.hook_out", "transformer.h.20", "h.20"])
def test_saelens_and_dictionary_learning_and_sparsify_take_block_outputs(tmp_path: Path, hook: str) -> None:
    made.saelens(tmp_path / "s", metadata={"model_name": "m", "hook_name": hook})
    assert read_directions(tmp_path / "s").site == Site("m", 20)
    learnt = made.dictionary_learning(tmp_path, submodule_name=hook, layer=None)
    assert read_directions(learnt).site == Site("Qwen/Qwen2.5-7B-Instruct", 20)
    folder = made.sparsify(tmp_path, hook)
    with pytest.raises(Refusal, match="its folder's name says block 20"):
        read_directions(folder, site=Site("m", 19))
    assert len(read_directions(folder, site=Site("m", 20))) == made.D_SAE


@pytest.mark.parametrize("hook", ["h.20.mlp", "transformer.h.20.attn", "layers.20.mlp"])
def test_the_inside_of_a_block_is_refused_in_every_layout(tmp_path: Path, hook: str) -> None:
    folders = (
        made.saelens(tmp_path / "s", metadata={"model_name": "m", "hook_name": hook}),
        made.dictionary_learning(tmp_path, submodule_name=hook, layer=None),
        made.sparsify(tmp_path, hook),
    )
    for folder in folders:
        with pytest.raises(Refusal, match=f"its hook {hook} is not the output of a block"):
            read_directions(folder, site=Site("m", 20))
