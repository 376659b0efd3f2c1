"""Adapters of reconstructors under the rules of verbalizers: merged as PEFT computes them unmerged, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ar_checkpoints import TEXTS, WIDTH, edit, edit_tensors, save_base, save_easy, save_peft
from dragoman.core import Refusal
from dragoman.models import merge
from dragoman.models.merge import LIMITS
from dragoman.models.reconstruct import Reconstructor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEXT, MULTI, OLD = "model.", "model.language_model.", "language_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base", "gemma3-multimodal")


def opened(folder: Path, **how: Any) -> Reconstructor:
    layout = "kitft" if (folder / CONFIG).is_file() else "easynla"
    return Reconstructor(folder, layout=layout, **how)


@pytest.mark.parametrize("save", [save_peft, save_easy])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_merged_agrees_with_peft_unmerged(base: Path, tmp_path: Path, save: Any, dtype: str) -> None:
    folder = save(tmp_path / "ar", "gemma3-multimodal", base)
    (found,) = opened(folder, dtype=dtype).merged
    limit, whole_limit = LIMITS[getattr(torch, dtype)]
    assert found.holds and 0 < found.error < limit / 2 and 0 < found.whole < whole_limit / 2
    assert found.layer.startswith("layers.")


@pytest.mark.parametrize("save", [save_peft, save_easy])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma3-multimodal"])
def test_an_adapter_on_the_input_embeddings_is_merged_as_a_verbalizers_is(
    tmp_path: Path, save: Any, family: str
) -> None:
    plain = save_base(tmp_path / "base", family)
    stored = load_file(plain / "model.safetensors")
    (name,) = [key for key in stored if key.endswith("embed_tokens.weight")]
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(0.1 * rng.standard_normal(n).astype("f4")) for n in ((2, len(stored[name])), (WIDTH, 2)))
    factor = 4 / 2**0.5 if save is save_easy else 4 / 2  # EasyNLA scales by the root of the rank
    moved = Path(shutil.copytree(plain, tmp_path / "moved"))
    edit_tensors(moved, "model.safetensors", lambda t: t | {name: t[name] + factor * (b @ a).T})
    wanted = opened(save(tmp_path / "wanted", family, moved)).reconstruct(TEXTS)
    without = opened(save(tmp_path / "without", family, plain)).reconstruct(TEXTS)

    folder = save(tmp_path / "ar", family, plain)
    easy = save is save_easy
    ends = {"A": a, "B": b}
    outer = "backbone.model.embed_tokens" if easy else "base_model.model.model.embed_tokens"
    more = {f"{outer}.lora_embedding_{part}{'.default' if easy else ''}": t for part, t in ends.items()}
    edit_tensors(folder, "ar_lora_value_head.safetensors" if easy else WEIGHTS, lambda t: t | more)
    told = folder / ("ar_meta.json" if easy else CONFIG)
    settings = json.loads(told.read_text())
    where = settings["target_modules"]
    settings["target_modules"] = rf"{where}|.*\.embed_tokens" if easy else [*where, "embed_tokens"]
    told.write_text(json.dumps(settings))
    reader = opened(folder)
    (found,) = reader.merged
    assert found.holds
    np.testing.assert_allclose(reader.reconstruct(TEXTS), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted - without).max() > 0.01


@pytest.mark.parametrize("save", [save_peft, save_easy])
def test_a_sum_that_computes_something_else_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    def spoilt(net: Any) -> None:
        net.layers[1].self_attn.q_proj.base_layer.weight.data *= 1.001

    monkeypatch.setattr(merge, "_part_shared", spoilt)
    folder = save(tmp_path / "ar", "gemma3-multimodal", base)
    with pytest.raises(Refusal, match=r"^reconstructor .* computes unmerged .* in layers\.1\.self_attn\.q_proj"):
        opened(folder)


@pytest.mark.parametrize("save", [save_peft, save_easy])
def test_a_quantised_base_is_refused_before_it_is_loaded(base: Path, tmp_path: Path, save: Any) -> None:
    packed = Path(shutil.copytree(base, tmp_path / "packed"))
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    (packed / "model.safetensors").write_bytes(b"not read")
    folder = save(tmp_path / "ar", "gemma3-multimodal", packed)
    with pytest.raises(Refusal, match=r"^reconstructor .*: its base packed is quantised \(gptq\)"):
        opened(folder)
    assert opened(folder, base=str(base)).merged


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"init_lora_weights": "lora_ga"}, "uses init_lora_weights=lora_ga, which changes its base's weights"),
        ({"trainable_token_indices": [3]}, "uses trainable_token_indices, which is not merged here"),
        ({"kasa_config": {"a": 1}}, "uses kasa_config"),
        ({"use_bdlora": {"nblocks": 2}}, "uses use_bdlora"),
        ({"a_setting_of_next_year": 0.5}, "uses a_setting_of_next_year"),
    ],
)
def test_settings_are_held_to_the_verbalizers_table(
    base: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    folder = edit(save_peft(tmp_path / "ar", "gemma3-multimodal", base), CONFIG, **changes)
    with pytest.raises(Refusal, match=f"its adapter {sentence}"):
        opened(folder)


def told(folder: Path, place: str) -> Path:
    """Settings whose patterns hold the names that stood before the blocks in training."""
    words = place.replace(".", r"\.")
    return edit(
        folder,
        CONFIG,
        target_modules=rf"{words}layers\.\d+\.(self_attn\.(q|o)_proj|mlp\.down_proj)",
        alpha_pattern={rf"^{words}layers\.1\.mlp\.down_proj": 16.0},
    )


@pytest.mark.parametrize("place", [MULTI, OLD, ""])
def test_patterns_mean_the_names_of_training(base: Path, tmp_path: Path, place: str) -> None:
    plain = save_peft(tmp_path / "plain", "gemma3-multimodal", base)
    without = opened(plain).reconstruct(TEXTS)
    want = opened(told(plain, TEXT)).reconstruct(TEXTS)
    assert not np.allclose(want, without, rtol=0.01)
    moved = told(save_peft(tmp_path / "moved", "gemma3-multimodal", base), place)
    edit_tensors(moved, WEIGHTS, lambda held: {k.replace("model.model.model.", f"model.model.{place}"): v for k, v in
                                               held.items()})  # fmt: skip
    assert np.array_equal(opened(moved).reconstruct(TEXTS), want)
