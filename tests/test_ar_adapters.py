"""Adapters of reconstructors under the rules of verbalizers: merged as PEFT computes them unmerged, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ar_checkpoints import TEXTS, edit, edit_tensors, save_base, save_easy, save_peft
from dragoman.core import Refusal
from dragoman.models import merge
from dragoman.models.merge import LIMITS
from dragoman.models.reconstruct import LocalReconstructor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEXT, MULTI, OLD = "model.", "model.language_model.", "language_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base", "gemma3-multimodal")


def opened(folder: Path, **how: Any) -> LocalReconstructor:
    layout = "kitft" if (folder / CONFIG).is_file() else "easynla"
    return LocalReconstructor(folder, layout=layout, **how)


@pytest.mark.parametrize("save", [save_peft, save_easy])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_merged_agrees_with_peft_unmerged(base: Path, tmp_path: Path, save: Any, dtype: str) -> None:
    folder = save(tmp_path / "ar", "gemma3-multimodal", base)
    (found,) = opened(folder, dtype=dtype).merged
    limit, whole_limit = LIMITS[getattr(torch, dtype)]
    assert found.holds and 0 < found.error < limit / 2 and 0 < found.whole < whole_limit / 2
    assert found.layer.startswith("layers.")


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
