"""Reconstructors of every layout and family give what an independent reading of the contract gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ar_checkpoints import (
    BLOCK,
    FAMILIES,
    TEXTS,
    WIDTH,
    Reading,
    edit,
    edit_tensors,
    head_of,
    lora_of,
    save_base,
    save_easy,
    save_full,
    save_peft,
    sidecar_of,
    write_sidecar,
)
from dragoman.core import Site
from dragoman.models.reconstruct import Reconstructor


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {f: save_base(tmp_path_factory.mktemp(f) / "base", f) for f in FAMILIES}


def close(got: np.ndarray, want: torch.Tensor) -> bool:
    assert got.dtype == np.float32 and got.shape == tuple(want.shape)
    return np.allclose(got, want.numpy(), rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_kitft_full_equals_the_untruncated_model_hooked_at_its_block(family: str, tmp_path: Path) -> None:
    ar = Reconstructor(save_full(tmp_path / "ar", family), layout="kitft")
    want = Reading(family=family, special=True, head=head_of(), lora={})(TEXTS)
    assert close(ar.reconstruct(TEXTS), want)
    assert ar.site == Site(f"tiny-random-{family}", BLOCK)


@pytest.mark.parametrize("family", FAMILIES)
def test_kitft_adapter_equals_the_base_with_its_weights_changed_by_hand(
    family: str, tmp_path: Path, bases: dict[str, Path]
) -> None:
    ar = Reconstructor(save_peft(tmp_path / "ar", family, bases[family]), layout="kitft")
    half = {k: v.half() for k, v in lora_of(family).items()}
    want = Reading(family=family, special=True, head=head_of(), lora=half, factor=4 / 2)(TEXTS)
    assert close(ar.reconstruct(TEXTS), want)


@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_easynla_equals_its_description_with_the_norm_and_without(
    family: str, stripped: bool, tmp_path: Path, bases: dict[str, Path]
) -> None:
    folder = save_easy(tmp_path / "ar", family, bases[family], final_norm_stripped=stripped)
    ar = Reconstructor(folder, layout="easynla")
    head = {"weight": head_of()["weight"]}
    reading = Reading(family=family, special=False, head=head, lora=lora_of(family), factor=4 / 2**0.5)
    reading.sphere, reading.norm = True, not stripped
    assert close(ar.reconstruct(TEXTS), reading(TEXTS))
    assert ar.site == Site(str(bases[family]), BLOCK)


def test_the_rule_about_bos_decides_the_vector(tmp_path: Path) -> None:
    # One folder, two layouts: nothing in the files says which, so the name must.
    folder = save_full(tmp_path / "ar", "llama", bias=False)
    kitft, easy = (Reconstructor(folder, layout=layout) for layout in ("kitft", "easynla"))
    bos = kitft._tokenizer.bos_token_id
    assert kitft.token_ids(TEXTS)[0] == [bos, *easy.token_ids(TEXTS)[0]]
    reading = Reading(family="llama", special=False, head={"weight": head_of()["weight"]}, lora={}, sphere=True)
    assert close(easy.reconstruct(TEXTS), reading(TEXTS))
    assert not np.allclose(kitft.reconstruct(TEXTS), easy.reconstruct(TEXTS), rtol=0.05)


@pytest.mark.parametrize("shape", [{"dummy": True}, {"bare": True}, {"dummy": True, "bare": True}])
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_dummy_heads_norms_of_ones_and_bare_keys_change_nothing(
    family: str, shape: dict[str, bool], tmp_path: Path
) -> None:
    plain = Reconstructor(save_full(tmp_path / "plain", family), layout="kitft")
    other = Reconstructor(save_full(tmp_path / "other", family, **shape), layout="kitft")
    assert np.array_equal(plain.reconstruct(TEXTS), other.reconstruct(TEXTS))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_batch_equals_one_at_a_time_in_any_order(family: str, tmp_path: Path) -> None:
    ar = Reconstructor(save_full(tmp_path / "ar", family), layout="kitft")
    whole = ar.reconstruct(TEXTS)
    singly = np.concatenate([ar.reconstruct([t]) for t in TEXTS])
    assert np.allclose(whole, singly, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    assert np.allclose(ar.reconstruct(TEXTS[::-1], batch_size=3), whole[::-1], rtol=1e-4, atol=1e-4)
    assert ar.reconstruct([]).shape == (0, WIDTH)


def test_tags_are_taken_off_and_braces_are_text(tmp_path: Path) -> None:
    ar = Reconstructor(save_full(tmp_path / "ar", "qwen2"), layout="kitft")
    tagged = f"<explanation>\n{TEXTS[0]}\n</explanation>"
    assert ar.token_ids([tagged]) == ar.token_ids([TEXTS[0]])
    assert ar._tokenizer.decode(ar.token_ids(["a {0} {explanation}"])[0]).count("{explanation}") == 1


def test_the_text_decides_the_vector_up_to_its_last_token(tmp_path: Path) -> None:
    ar = Reconstructor(save_full(tmp_path / "ar", "mistral"), layout="kitft")
    rows = ar.reconstruct(TEXTS)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (unit @ unit.T - np.eye(len(TEXTS))).max() < 0.9999


def test_rslora_is_honoured_and_may_be_denied(tmp_path: Path, bases: dict[str, Path]) -> None:
    folder = save_easy(tmp_path / "ar", "qwen2", bases["qwen2"], use_rslora=False)
    head = {"weight": head_of()["weight"]}
    reading = Reading(family="qwen2", special=False, head=head, lora=lora_of("qwen2"), factor=4 / 2, sphere=True)
    assert close(Reconstructor(folder, layout="easynla").reconstruct(TEXTS), reading(TEXTS))
    peft = save_peft(tmp_path / "peft", "qwen2", bases["qwen2"], use_rslora=True)
    half = {k: v.half() for k, v in lora_of("qwen2").items()}
    reading = Reading(family="qwen2", special=True, head=head_of(), lora=half, factor=4 / 2**0.5)
    assert close(Reconstructor(peft, layout="kitft").reconstruct(TEXTS), reading(TEXTS))


def test_the_path_before_the_blocks_and_a_vision_tower_do_not_matter(tmp_path: Path, bases: dict[str, Path]) -> None:
    family = "gemma3-multimodal"
    folder = save_peft(tmp_path / "ar", family, bases[family])
    want = Reconstructor(folder, layout="kitft").reconstruct(TEXTS)

    def wrapped(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = {k.replace("model.model.layers", "model.model.language_model.layers"): v for k, v in held.items()}
        return moved | {"base_model.model.model.vision_tower.encoder.layers.0.fc1.lora_A.weight": torch.ones(2, 8)}

    edit_tensors(folder, "adapter_model.safetensors", wrapped)
    assert np.array_equal(Reconstructor(folder, layout="kitft").reconstruct(TEXTS), want)


def test_an_easynla_head_without_a_bias_only_feels_direction(tmp_path: Path, bases: dict[str, Path]) -> None:
    folder = save_easy(tmp_path / "ar", "qwen3", bases["qwen3"])
    rows = Reconstructor(folder, layout="easynla").reconstruct(TEXTS)
    sidecar = write_sidecar(folder, sidecar_of("qwen3", str(bases["qwen3"]), extraction={"mse_scale": 3.0}))
    shorter = Reconstructor(sidecar, layout="easynla").reconstruct(TEXTS)
    assert np.allclose(shorter, rows * 3.0 / WIDTH**0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", ["reconstructor", "ar", "critic"])
def test_every_name_of_the_role_and_of_its_sections_is_read(role: str, tmp_path: Path) -> None:
    folder = save_full(tmp_path / "ar", "qwen2")
    want = Reconstructor(folder, layout="kitft").reconstruct(TEXTS)
    sidecar: dict[str, Any] = sidecar_of("qwen2", "x", role=role)
    sidecar["prompt_templates"] = {"actor": "{injection_char}", role: sidecar["prompt_templates"]["ar"]}
    del sidecar["extraction_layer_index"]
    sidecar[role] = {"num_hidden_layers": BLOCK}
    del sidecar["tokens"]
    ar = Reconstructor(write_sidecar(folder, sidecar), layout="kitft")
    assert ar.site == Site("x", BLOCK) and np.array_equal(ar.reconstruct(TEXTS), want)


def test_the_block_comes_from_config_or_name_when_the_sidecar_is_silent(tmp_path: Path, bases: dict[str, Path]) -> None:
    full = edit(save_full(tmp_path / "full", "qwen2"), "nla_meta.yaml", extraction_layer_index=None)
    assert Reconstructor(full, layout="kitft").site.block == BLOCK
    named = edit(save_peft(tmp_path / f"some-L{BLOCK}-ar", "qwen2", bases["qwen2"]), "nla_meta.yaml",
                 extraction_layer_index=None)  # fmt: skip
    assert Reconstructor(named, layout="kitft").site.block == BLOCK


def test_identity_changes_with_what_decides_the_vectors_and_with_nothing_else(
    tmp_path: Path, bases: dict[str, Path]
) -> None:
    folder = save_peft(tmp_path / "ar", "qwen2", bases["qwen2"])
    ar = Reconstructor(folder, layout="kitft")
    assert ar.name == str(folder)
    first = ar.identity
    assert first == Reconstructor(folder, layout="kitft").identity
    assert first["contract"] == "kitft reconstructor" and first["head_bias"] and "base_weights" in first
    edit_tensors(folder, "value_head.safetensors", lambda t: {k: v * 2 for k, v in t.items()})
    assert Reconstructor(folder, layout="kitft").identity["weights"] != first["weights"]
    easy = Reconstructor(save_easy(tmp_path / "easy", "qwen2", bases["qwen2"]), layout="easynla").identity
    assert easy["trained_on_quant"] == "4bit" and not easy["special_tokens"] and easy["head_input_norm"]


def test_bfloat16_is_near_float32_and_a_named_base_may_lie_elsewhere(tmp_path: Path, bases: dict[str, Path]) -> None:
    folder = edit(save_peft(tmp_path / "ar", "qwen2", bases["qwen2"]), "nla_meta.yaml", base_checkpoint="org/base")
    moved = Path(shutil.copytree(bases["qwen2"], tmp_path / "elsewhere"))
    exact = Reconstructor(folder, layout="kitft", base=str(moved))
    rough = Reconstructor(folder, layout="kitft", base=str(moved), dtype="bfloat16")
    assert exact.site == rough.site == Site("org/base", BLOCK)
    a, b = exact.reconstruct(TEXTS), rough.reconstruct(TEXTS)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.995 and not np.array_equal(a, b)
