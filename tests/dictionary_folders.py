"""Small dictionaries in every published layout, made from one planted set of numbers.

`ARRAYS` is the truth in one orientation: W_dec (d_sae, d_in) with uneven lengths, W_enc (d_in, d_sae). Each maker
writes them as its project does and returns what a person would name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

D_SAE, D_IN = 24, 8
BLOCK = 20


def planted(seed: int = 0, d_sae: int = D_SAE, d_in: int = D_IN) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "W_dec": (rng.standard_normal((d_sae, d_in)) * rng.uniform(0.5, 2, (d_sae, 1))).astype(np.float32),
        "W_enc": rng.standard_normal((d_in, d_sae)).astype(np.float32),
        "b_enc": (0.3 * rng.standard_normal(d_sae)).astype(np.float32),
        "b_dec": (0.3 * rng.standard_normal(d_in)).astype(np.float32),
        "threshold": rng.uniform(0.1, 1.5, d_sae).astype(np.float32),
    }


ARRAYS = planted()


def turned(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T)


def written(folder: Path, name: str, config: dict[str, Any]) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    return folder


def saelens(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plain = config.get("architecture") in ("topk", "relu", "standard")
    own = {name: array for name, array in ARRAYS.items() if not (plain and name == "threshold")}
    save_file(own if arrays is None else arrays, folder / "sae_weights.safetensors")
    base = {
        "architecture": "jumprelu",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "metadata": {"model_name": "m", "hook_name": f"blocks.{BLOCK}.hook_resid_post"},
    }
    return written(folder, "cfg.json", {**base, **config})


def gemma_scope(root: Path, arrays: dict[str, np.ndarray] | None = None, *, packed: bool = False) -> Path:
    folder = root / "gemma-scope-2b-pt-res" / f"layer_{BLOCK}" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    save = np.savez_compressed if packed else np.savez
    save(folder / "params.npz", **(ARRAYS if arrays is None else arrays))  # type: ignore[arg-type]
    return folder


def gemma_scope_2(root: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder = root / "gemma-scope-2-12b-it" / "resid_post_all" / f"layer_{BLOCK}_width_16k_l0_small"
    folder.mkdir(parents=True)
    lower = {name.lower(): array for name, array in (arrays or ARRAYS).items()}
    save_file(lower, folder / "params.safetensors")
    base = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-12b-it",
        "hf_hook_point_in": f"model.layers.{BLOCK}.output",
    }
    return written(folder, "config.json", {**base, **config})


def llama_scope(root: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder = root / "Llama3_1-8B-Base-LXR-8x" / f"Llama3_1-8B-Base-L{BLOCK}R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    a = arrays or ARRAYS
    linear = {
        "encoder.weight": turned(a["W_enc"]),
        "encoder.bias": a["b_enc"],
        "decoder.weight": turned(a["W_dec"]),
        "decoder.bias": a["b_dec"],
    }
    save_file(linear, folder / "checkpoints" / "final.safetensors")
    hook = f"blocks.{BLOCK}.hook_resid_post"
    base = {
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.7,
        "d_model": D_IN,
        "d_sae": D_SAE,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 2.5, "out": 3.5},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
    }
    return written(folder, "hyperparams.json", {**base, **config})


def dictionary_learning(
    root: Path, dict_class: str = "BatchTopKSAE", *, more: dict[str, Any] | None = None, **trainer: Any
) -> Path:
    import torch

    folder = root / "resid_post_layer_20" / "trainer_1"
    folder.mkdir(parents=True)
    a = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    if dict_class in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        state = {name: a[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    else:
        state = {"encoder.weight": a["W_enc"].T.contiguous(), "encoder.bias": a["b_enc"]}
        state["decoder.weight"] = a["W_dec"].T.contiguous()
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
        state[bias.get(dict_class, "b_dec")] = a["b_dec"]
    if "TopK" in dict_class:
        state |= {"k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(0.8)}
        trainer.setdefault("k", 3)
    if dict_class == "JumpReluAutoEncoder":
        state["threshold"] = a["threshold"]
    torch.save(state | (more or {}), folder / "ae.pt")
    base = {
        "dict_class": dict_class,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": BLOCK,
        "lm_name": "Qwen/Qwen2.5-7B-Instruct",
        "submodule_name": f"resid_post_layer_{BLOCK}",
    }
    buffer = {"ctx_len": 1024, "io": trainer.pop("io", "out")}
    return written(folder, "config.json", {"trainer": {**base, **trainer}, "buffer": buffer})


def sparsify(root: Path, hookpoint: str = f"layers.{BLOCK}", **config: Any) -> Path:
    folder = root / "sae-llama-3-8b-32x" / hookpoint
    folder.mkdir(parents=True)
    arrays = {
        "encoder.weight": turned(ARRAYS["W_enc"]),
        "encoder.bias": ARRAYS["b_enc"],
        "W_dec": ARRAYS["W_dec"],
        "b_dec": ARRAYS["b_dec"],
    }
    save_file(arrays, folder / "sae.safetensors")
    base = {"d_in": D_IN, "expansion_factor": D_SAE // D_IN, "num_latents": 0, "k": 3, "normalize_decoder": True}
    return written(folder, "cfg.json", {**base, **config})


def qwen_scope(root: Path) -> Path:
    import torch

    folder = root / "SAE-Res-Qwen3-8B-Base-W64K-L0_3"
    folder.mkdir(parents=True)
    a = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    state = {"W_enc": a["W_enc"].T.contiguous(), "W_dec": a["W_dec"].T.contiguous()}
    torch.save(state | {"b_enc": a["b_enc"], "b_dec": a["b_dec"]}, folder / f"layer{BLOCK}.sae.pt")
    return folder / f"layer{BLOCK}.sae.pt"


def goodfire(root: Path) -> Path:
    import torch

    a = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    state = {
        "encoder_linear.weight": a["W_enc"].T.contiguous(),
        "encoder_linear.bias": a["b_enc"],
        "decoder_linear.weight": a["W_dec"].T.contiguous(),
        "decoder_linear.bias": a["b_dec"],
    }
    path = root / f"Llama-3.3-70B-Instruct-SAE-l{BLOCK}.pt"
    torch.save(state, path)
    return path
