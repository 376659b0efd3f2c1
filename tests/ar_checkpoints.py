"""Tiny random reconstructors of six families in every layout, and an independent reading of them.

The reading knows the untruncated base model, adds adapters to its weights by hand, runs one text at a time without
padding, hooks block K and multiplies with the head itself. It shares no code with the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from saved_once import saved_once
from tiny_checkpoints import tokenizer_of

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gemma3-multimodal")
TOKENS = {"qwen3": "qwen2", "mistral": "llama", "gemma3-multimodal": "gemma3"}
WIDTH, BLOCK, BLOCKS = 24, 1, 4
TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"
TEXTS = [
    "The people of the city vote.",
    "A careful researcher says what it means, in two or three short snippets about the new year and its election.",
    "concept",
    "The right to vote, given in the first election.\n\nThe final token ends the text.",
]
NAMES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def tokenizer_for(family: str) -> Any:
    """The family's tiny tokenizer, made anew: who adds a token to one or has it cut texts changes nobody else's."""
    return tokenizer_of(TOKENS.get(family, family))


def base_of(family: str, seed: int = 0) -> Any:
    """A random model of four blocks, weights large enough that texts differ, norms that are not ones."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_for(family)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        "tie_word_embeddings": family.startswith("gemma"),
    }
    if family.startswith("gemma"):
        shape |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16}
        shape |= {"query_pre_attn_scalar": 6}
    if family == "gemma3-multimodal":
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        vision |= {"image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"}
        config = Gemma3Config(text_config={**shape, "model_type": "gemma3_text"}, vision_config=vision)
        net: Any = Gemma3ForConditionalGeneration(config)
    else:
        kinds: dict[str, tuple[Any, Any]] = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
            "mistral": (MistralConfig, MistralForCausalLM),
            "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
        }
        config, model = kinds[family]
        if family == "qwen2":
            del shape["head_dim"]
        net = model(config(**shape))
    with torch.no_grad():
        text_of(net).norm.weight.copy_(torch.rand(WIDTH) + 0.5)
    return net.eval()


def text_of(net: Any) -> Any:
    """The module that owns the blocks, named family by family."""
    return net.model.language_model if hasattr(net.model, "language_model") else net.model


def head_of(seed: int = 7, *, bias: bool = True) -> dict[str, torch.Tensor]:
    """A random head near the identity."""
    generator = torch.Generator().manual_seed(seed)
    head = {"weight": torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH, generator=generator)}
    return head | ({"bias": torch.randn(WIDTH, generator=generator)} if bias else {})


@cache
def _suffix(family: str) -> tuple[int, ...]:
    """Ids of what stands behind an explanation, but for the first, which it may share."""
    return tuple(tokenizer_for(family).encode("</text> <summary>", add_special_tokens=False)[1:])


def sidecar_of(family: str, base: str, **more: Any) -> dict[str, Any]:
    """nla_meta.yaml of a reconstructor, schema version 2."""
    return {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "ar",
        "base_checkpoint": base,
        "d_model": WIDTH,
        "extraction_layer_index": BLOCK,
        "extraction": {"injection_scale": None, "mse_scale": WIDTH**0.5},
        "tokens": {"critic_suffix_ids": list(_suffix(family))},
        "prompt_templates": {"ar": TEMPLATE},
        **more,
    }


def dataset_sidecar_of(base: str) -> dict[str, Any]:
    """What EasyNLA copies into its checkpoints: the sidecar of the data."""
    return {
        "kind": "nla_dataset",
        "schema_version": 1,
        "stage": "ar_sft",
        "extraction": {"base_model": base, "d_model": WIDTH, "layer_index": BLOCK, "norm": "none"},
        "tokens": {"injection_char": "㈎", "injection_token_id": 5},
        "prompt_templates": {"actor": "<concept>{injection_char}</concept>", "critic": TEMPLATE},
    }


def write_sidecar(folder: Path, sidecar: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True), encoding="utf-8")
    return folder


def save_base(folder: Path, family: str) -> Path:
    """The whole base model with its tokenizer."""

    def save(to: Path) -> None:
        base_of(family).save_pretrained(to)
        tokenizer_for(family).save_pretrained(to)

    return saved_once(folder, ("base", family), save)


def save_full(folder: Path, family: str, *, dummy: bool = False, bare: bool = False, bias: bool = True) -> Path:
    """kitft, full: blocks 0 to K as a text-only model, no norm; or a dummy norm and head; or keys without prefix."""

    def save(to: Path) -> None:
        _write_full(to, family, dummy=dummy, bare=bare, bias=bias)

    return saved_once(folder, ("full", family, dummy, bare, bias), save)


def _write_full(folder: Path, family: str, *, dummy: bool, bare: bool, bias: bool) -> None:
    text = text_of(base_of(family))
    state = {f"model.{k}": v for k, v in text.state_dict().items() if k != "norm.weight"}
    state = {k: v.contiguous() for k, v in state.items() if not any(f".layers.{i}." in k for i in range(2, BLOCKS))}
    if dummy:
        state |= {"model.norm.weight": torch.ones(WIDTH), "lm_head.weight": torch.eye(WIDTH)}
    if bare:
        state = {k.removeprefix("model."): v for k, v in state.items()}
    write_sidecar(folder, sidecar_of(family, f"tiny-random-{family}"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = text.config.to_dict() | {"num_hidden_layers": BLOCK + 1}
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][: BLOCK + 1]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(head_of(bias=bias), folder / "value_head.safetensors")
    tokenizer_for(family).save_pretrained(folder)


@cache
def _shapes(family: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of the layers of blocks 0 to K that adapters change."""
    text = text_of(base_of(family))
    names = [f"layers.{block}.{name}" for block in range(BLOCK + 1) for name in NAMES]
    return {name: tuple(text.get_submodule(name).weight.shape) for name in names}


def lora_of(family: str, seed: int = 3, rank: int = 2) -> dict[str, torch.Tensor]:
    """Random A and B of some layers of blocks 0 to K, by ``layers.N.path.lora_A``."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, (rows, columns) in _shapes(family).items():
        out[f"{name}.lora_A"] = 0.4 * torch.randn(rank, columns, generator=generator)
        out[f"{name}.lora_B"] = 0.4 * torch.randn(rows, rank, generator=generator)
    return out


def save_peft(folder: Path, family: str, base: Path, **config: Any) -> Path:
    """kitft, adapter: PEFT files in float16, head and sidecar; the tokenizer is the base's."""
    write_sidecar(folder, sidecar_of(family, str(base)))
    tensors = {f"base_model.model.model.{k}.weight": v.half() for k, v in lora_of(family).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = [n.rsplit(".", 1)[-1] for n in NAMES]
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(known | {"task_type": "CAUSAL_LM"} | config))
    save_file(head_of(), folder / "value_head.safetensors")
    return folder


def save_easy(folder: Path, family: str, base: Path, **meta: Any) -> Path:
    """EasyNLA, adapter: named as its trainers name parameters, no bias, sidecar of the data, tokenizer beside it."""
    write_sidecar(folder, dataset_sidecar_of(str(base)))
    tensors = {f"backbone.model.{k}.default.weight": v for k, v in lora_of(family).items()}
    head = {"value_head.weight": head_of()["weight"]}
    save_file(tensors | head, folder / "ar_lora_value_head.safetensors")
    known = {"ar_num_layers": BLOCK + 1, "lora_r": 2, "lora_alpha": 4, "quant": "4bit", "final_norm_stripped": True}
    pattern = r".*\.self_attn\.(q_proj|o_proj)|.*\.mlp\.(down_proj)"
    (folder / "ar_meta.json").write_text(json.dumps(known | {"target_modules": pattern} | meta))
    tokenizer_for(family).save_pretrained(folder)
    return folder


@cache
def _reader(family: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_for(family).backend_tokenizer.to_str())


@dataclass(kw_only=True)
class Reading:
    """What the independent reading needs to be told: nothing is read from the checkpoint's own description."""

    family: str
    special: bool
    head: dict[str, torch.Tensor]
    lora: dict[str, torch.Tensor]
    factor: float = 1.0
    sphere: bool = False
    norm: bool = False

    def ids(self, text: str) -> list[int]:
        prompt = TEMPLATE.replace("{explanation}", text)
        return _reader(self.family).encode(prompt, add_special_tokens=self.special).ids

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        net = base_of(self.family)
        text = text_of(net)
        for key in [k for k in self.lora if k.endswith("lora_A")]:
            layer = text.get_submodule(key.removesuffix(".lora_A"))
            layer.weight += self.factor * self.lora[key.replace("lora_A", "lora_B")].float() @ self.lora[key].float()
        caught: list[torch.Tensor] = []
        text.layers[BLOCK].register_forward_hook(
            lambda _m, _a, out: caught.append((out[0] if isinstance(out, tuple) else out)[0, -1])
        )
        for one in texts:
            net(input_ids=torch.tensor([self.ids(one)]))
        assert len(caught) == len(texts)
        rows = torch.stack(caught)
        if self.norm:
            rows = text.norm(rows)
        if self.sphere:
            rows = rows / rows.norm(dim=1, keepdim=True) * WIDTH**0.5
        out = rows @ self.head["weight"].T
        return out + self.head["bias"] if "bias" in self.head else out


def edit(folder: Path, name: str, **changes: Any) -> Path:
    """Change (or with None remove) top-level fields of a JSON or YAML file of a checkpoint."""
    path = folder / name
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    content = {k: v for k, v in content.items() if v is not None}
    path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content), encoding="utf-8")
    return folder


def edit_tensors(folder: Path, name: str, change: Any) -> Path:
    """Rewrite a safetensors file by a function of its tensors."""
    save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})
    return folder
