"""What a merged verbalizer says is what PEFT says with the adapter carried along, or it is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_checkpoints import CONFIG, WEIGHTS, peft_logits, save_base, save_peft, told
from dragoman.core import Refusal
from dragoman.models import merge
from dragoman.models.decode import Verbalizer
from dragoman.models.merge import LIMITS, Agreement, merge_adapter
from tiny_checkpoints import WIDTH, save_adapter
from verbalizer_doubles import next_logits, prompt_embeddings

BASES = {"llama": ("llama", False), "gemma3": ("gemma3", True), "gemma3_wrapped": ("gemma3_wrapped", False)}
EMBED, HEAD = ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]
MERGED: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "input embeddings": {"target_modules": EMBED},
    "output layer": {"target_modules": HEAD},
    "both": {"target_modules": [*EMBED, "lm_head"]},
    "input embeddings, tying asked for": {"target_modules": EMBED, "ensure_weight_tying": True},
    "both, tying asked for": {"target_modules": [*EMBED, "lm_head"], "ensure_weight_tying": True},
    "dora": {"use_dora": True},
    "dora on embeddings": {"target_modules": EMBED, "use_dora": True},
    "rslora with patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*up": 5}},
    "trained output layer": {"modules_to_save": ["lm_head"]},
    "trained input embeddings": {"modules_to_save": ["embed_tokens"]},
    "trained embeddings, tying asked for": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "trained norm": {"modules_to_save": ["norm"]},
    "trained tokens": {"trainable_token_indices": [5, 30]},
    "trained tokens of both": {"trainable_token_indices": {"embed_tokens": [5, 30], "lm_head": [7]}},
    "parameters": {"target_modules": ["k_proj"], "target_parameters": ["q_proj.weight"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_base(root / name, family, tied=tied) for name, (family, tied) in BASES.items()}


def vectors(family: str, count: int = 3) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, WIDTH[family])).astype(np.float32)


def off(base: Path, adapter: Path, family: str, **how: Any) -> float:
    """Relative error of a verbalizer's first logits against PEFT unmerged."""
    ours = Verbalizer(adapter, base=str(base), **how)
    rows = vectors(family)
    at_slot = prompt_embeddings(ours, rows)[:, ours.prompt.slot].float()
    want = peft_logits(base, adapter, ours.prompt.ids, ours.prompt.slot, at_slot)
    got = next_logits(ours, rows).float()
    assert all(one.holds for one in ours.merged) and ours.merged
    return float((got - want).norm() / want.norm())


# What leaves the embeddings alone does not meet whether they are one matrix: one model each.
ALONE = ("dora", "rslora with patterns", "trained norm", "parameters", "gaussian", "orthogonal", "mica")
TWICE = [(base, what) for what in MERGED if what not in ALONE for base in ("llama", "gemma3")]


@pytest.mark.parametrize(
    ("base", "what"), [*TWICE, *((("llama", "gemma3")[k % 2], what) for k, what in enumerate(ALONE))]
)
def test_a_merged_adapter_says_what_peft_says_unmerged(
    bases: dict[str, Path], tmp_path: Path, base: str, what: str
) -> None:
    adapter = save_peft(tmp_path / "adapter", BASES[base][0], bases[base], **MERGED[what])
    assert off(bases[base], adapter, BASES[base][0]) < 1e-5


def test_embeddings_that_were_one_matrix_are_two_after_merging(bases: dict[str, Path], tmp_path: Path) -> None:
    shared = Verbalizer(save_peft(tmp_path / "plain", "gemma3", bases["gemma3"])).model
    assert shared.lm_head.weight is shared.get_input_embeddings().weight  # no copy where nothing asks for one
    adapter = save_peft(tmp_path / "embed", "gemma3", bases["gemma3"], target_modules=EMBED)
    parted = Verbalizer(adapter).model
    stored = load_file(bases["gemma3"] / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(parted.lm_head.weight, stored)
    assert not torch.equal(parted.get_input_embeddings().weight, stored)


@pytest.mark.parametrize("what", ["plain", "input embeddings", "dora", "trained output layer"])
@pytest.mark.parametrize(("dtype", "base"), [("bfloat16", "gemma3"), ("float16", "llama")])
def test_half_precision_is_within_its_own_limit(
    bases: dict[str, Path], tmp_path: Path, base: str, dtype: str, what: str
) -> None:
    adapter = save_peft(tmp_path / "adapter", BASES[base][0], bases[base], size=0.2, **MERGED[what])
    (found,) = Verbalizer(adapter, dtype=dtype).merged
    limit, whole_limit = LIMITS[getattr(torch, dtype)]
    assert 0 < found.error < limit / 2 and 0 < found.whole < whole_limit / 2


def test_an_adapter_on_an_adapter_is_checked_at_each_step(bases: dict[str, Path], tmp_path: Path) -> None:
    lower = save_peft(tmp_path / "lower", "gemma3", bases["gemma3"], target_modules=EMBED)
    upper = save_peft(tmp_path / "upper", "gemma3", bases["gemma3"], target_modules=HEAD, use_rslora=True)
    told(upper, base_model_name_or_path=str(lower))
    ours = Verbalizer(upper, base=str(lower))
    assert len(ours.merged) == 2 and all(one.error < 1e-5 and one.whole < 1e-5 for one in ours.merged)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"init_lora_weights": "pissa_niter_4"}, "uses init_lora_weights=pissa_niter_4, which changes its base's weights"),
    ({"init_lora_weights": "pissa"}, "uses init_lora_weights=pissa, .*path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": "olora"}, "uses init_lora_weights=olora"),
    ({"init_lora_weights": "corda"}, "uses init_lora_weights=corda"),
    ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "uses init_lora_weights=loftq"),
    ({"init_lora_weights": "lora_ga"}, "uses init_lora_weights=lora_ga"),
    ({"init_lora_weights": ["pissa"]}, "uses init_lora_weights="),
    ({"layer_replication": [[0, 3], [1, 4]]}, "uses layer_replication, which is not merged here"),
    ({"alora_invocation_tokens": [5, 6]}, "uses alora_invocation_tokens"),
    ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "uses megatron_config"),
    ({"kasa_config": {"a": 1}}, "uses kasa_config"),
    ({"use_qalora": True}, "uses use_qalora"),
    ({"a_setting_of_next_year": 0.5}, "uses a_setting_of_next_year, which is not merged here"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_settings_that_cannot_be_merged_are_refused_by_name(
    bases: dict[str, Path], tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    adapter = told(save_peft(tmp_path / "adapter", "llama", bases["llama"]), **changes)
    with pytest.raises(Refusal, match=f"^verbalizer .*: its adapter {sentence}"):
        Verbalizer(adapter)


def test_an_adapter_that_peft_cannot_merge_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_peft(tmp_path / "adapter", "llama", bases["llama"], lora_bias=True)
    with pytest.raises(Refusal, match="PEFT cannot merge its adapter .*the base layer has no bias"):
        Verbalizer(adapter)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {"format": "pack-quantized"}}, "by its config.json"),
        ({"quantization": {"bits": 4}}, "by its config.json"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
    ],
)
def test_a_quantised_base_is_refused_before_it_is_loaded(
    bases: dict[str, Path], tmp_path: Path, config: dict[str, Any], method: str
) -> None:
    base = Path(shutil.copytree(bases["llama"], tmp_path / "base"))
    adapter = save_peft(tmp_path / "adapter", "llama", base)
    (base / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()) | config))
    (base / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(Refusal, match=rf"its base base is quantised \({method}\).*; name the model it was"):
        Verbalizer(adapter)


@pytest.mark.parametrize("tied", [True, False])
def test_a_sum_that_computes_something_else_is_refused_whatever_made_it(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    # Left tied, or one layer's weights changed while merging: nothing but the answers tells.
    adapter = save_peft(tmp_path / "adapter", "gemma3", bases["gemma3"], target_modules=EMBED if tied else ["q_proj"])

    def spoilt(net: Any) -> None:
        if not tied:
            net.model.layers[2].self_attn.q_proj.base_layer.weight.data *= 1.001

    monkeypatch.setattr(merge, "_part_shared", spoilt)
    layer = "lm_head" if tied else r"model\.layers\.2\.self_attn\.q_proj"
    sentence = rf"does not compute what PEFT computes unmerged \(largest relative error of a layer [\d.e-]+ in {layer}"
    with pytest.raises(Refusal, match=sentence):
        Verbalizer(adapter)


def test_what_is_no_number_agrees_with_nothing() -> None:
    fine: dict[str, Any] = {"layer": "x", "error": 0.0, "limit": 0.1, "whole": 0.0, "whole_limit": 0.1}
    assert Agreement(**fine).holds
    assert not any(Agreement(**fine | {name: float("nan")}).holds for name in ("error", "whole"))


def test_outputs_beyond_half_precision_are_refused_as_such(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_peft(tmp_path / "adapter", "llama", bases["llama"], modules_to_save=["lm_head"], size=1e6)
    with pytest.raises(Refusal, match="with its adapter the model's outputs in float16 are not finite numbers"):
        Verbalizer(adapter, dtype="float16")


def test_pickled_weights_of_a_lower_adapter_are_not_read(bases: dict[str, Path], tmp_path: Path) -> None:
    lower = save_peft(tmp_path / "lower", "llama", bases["llama"])
    upper = save_peft(tmp_path / "upper", "llama", bases["llama"])
    torch.save(load_file(lower / WEIGHTS), lower / "adapter_model.bin")
    (lower / WEIGHTS).unlink()
    with pytest.raises(Refusal, match="holds no adapter_model.safetensors"):
        Verbalizer(upper, base=str(lower))


MULTI, OLD = "model.language_model.", "language_model.model."


def named(folder: Path, adapter: Path, was: str, new: str, **changes: Any) -> Path:
    """A copy of an adapter as training on a model with other names before its blocks would have saved it."""
    shutil.copytree(adapter, folder)
    held = load_file(folder / WEIGHTS)
    moved = {k.replace(f"base_model.model.{was}", f"base_model.model.{new}"): v for k, v in held.items()}
    assert set(moved) != set(held) or was == new
    save_file(moved, folder / WEIGHTS)
    settings = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(settings.replace(was.replace(".", r"\\."), new.replace(".", r"\\.")))
    return told(folder, **changes)


# Any two of the three choices meet in one of the four.
@pytest.mark.parametrize(
    ("text", "old", "pattern"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, True)],
    ids=["text, old names, pattern", "text, list", "multimodal, old names, list", "multimodal, pattern"],
)
def test_an_adapter_fits_its_text_model_alone_and_inside_the_multimodal_one(
    tmp_path: Path, text: bool, old: bool, pattern: bool
) -> None:
    here, there = ("gemma3", "gemma3_wrapped") if text else ("gemma3_wrapped", "gemma3")
    own = "model." if text else MULTI
    base, other = save_base(tmp_path / "here", here), save_base(tmp_path / "there", there)
    same_words(base, other)
    place = own.replace(".", r"\.")
    modules: Any = rf"{place}layers\.[012]\.self_attn\.(q_proj|v_proj)" if pattern else ["q_proj", "v_proj"]
    more: dict[str, Any] = {"alpha_pattern": {rf"^{place}layers\.1\.self_attn\.q_proj": 32.0}}
    more |= {"rank_pattern": {rf"{place}layers\.2.*v_proj": 2}, "modules_to_save": ["norm", "lm_head"]}
    adapter = save_peft(tmp_path / "adapter", here, base, target_modules=modules, **more)
    want = Verbalizer(adapter)
    tried = named(tmp_path / "named", adapter, own, OLD) if old else adapter
    for target in (base, other):
        got = Verbalizer(tried, base=str(target))
        assert np.allclose(next_logits(got, vectors(here)), next_logits(want, vectors(here)), rtol=1e-4, atol=1e-4)


def same_words(one: Path, other: Path) -> None:
    """Write the text weights of one checkpoint into another that names them otherwise."""
    held, place = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")

    def short(name: str) -> str:
        return name.replace("language_model.", "").replace("model.", "")

    text = {short(name): value for name, value in held.items() if not re.search("vision|multi_modal", name)}
    assert set(text) <= {short(name) for name in place}
    save_file(
        {name: text.get(short(name), value) for name, value in place.items()},
        other / "model.safetensors",
        metadata={"format": "pt"},
    )


def test_an_adapter_of_other_blocks_is_refused_on_the_multimodal_model(bases: dict[str, Path], tmp_path: Path) -> None:
    base = save_base(tmp_path / "text", "gemma3")
    adapter = save_peft(tmp_path / "adapter", "gemma3", base)
    held = load_file(adapter / WEIGHTS)
    save_file({k.replace("layers.3.", "layers.9."): v for k, v in held.items()}, adapter / WEIGHTS)
    with pytest.raises(Refusal, match="4 of its adapter's tensors are missing and 4 have no place in the base"):
        Verbalizer(adapter, base=str(bases["gemma3_wrapped"]))


def test_merging_tells_the_layer_that_is_farthest_off(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "llama", bases["llama"], rslora=True)
    net: Any = Verbalizer(bases["llama"]).model
    merged, found = merge_adapter(net, adapter, "x", "cpu")
    assert merged is net and found.layer.startswith("model.layers.") and 0 < found.error < 1e-5 and found.whole > 0
