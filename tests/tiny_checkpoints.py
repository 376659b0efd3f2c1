"""Tiny random verbalizer checkpoints of six families, built in code and laid out as hub snapshots.

Each has config.json, model.safetensors, tokenizer files, a chat template and nla_meta.yaml, and fewer than a million
parameters. The Qwens have no BOS, the others have one; Gemma multiplies its table by sqrt(d) and slides its window,
once as a text model and once inside its multimodal wrapper (with a vision tower nobody calls); Mistral slides too.
"""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)

from saved_once import adapter_saved_once, opened_once, saved_once

FAMILIES = ("qwen2", "llama", "gemma3")
ALL_FAMILIES = (*FAMILIES, "qwen3", "gemma3_wrapped", "mistral")
BLOCK = 1
TEMPLATE = (
    "You are a careful researcher. A vector of the residual stream stands between the <concept> tags.\n"
    "<concept>{injection_char}</concept>\n"
    "Say what it means, in two or three short snippets between <explanation> tags."
)
MARKER = {"qwen2": "㈎", "llama": "㎡", "gemma3": "㈜", "qwen3": "㈎", "gemma3_wrapped": "㈜", "mistral": "㈀"}
SCALE = {"qwen2": 1.5, "llama": 0.75, "gemma3": 12.0, "qwen3": 2.0, "gemma3_wrapped": 9.0, "mistral": 1.0}
WIDTH = {"qwen2": 48, "llama": 32, "gemma3": 40, "qwen3": 36, "gemma3_wrapped": 40, "mistral": 32}
BOS = {
    "qwen2": None,
    "llama": "<|begin_of_text|>",
    "gemma3": "<bos>",
    "qwen3": None,
    "gemma3_wrapped": "<bos>",
    "mistral": "<s>",
}
EOS = {
    "qwen2": "<|im_end|>",
    "llama": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "qwen3": "<|im_end|>",
    "gemma3_wrapped": "<end_of_turn>",
    "mistral": "</s>",
}
SPECIAL = {
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma3": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
    "mistral": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
}
SPECIAL["gemma3_wrapped"] = SPECIAL["gemma3"]
CHAT = {
    "qwen2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma3": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "qwen3": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "mistral": "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}",
}
CHAT["gemma3_wrapped"] = CHAT["gemma3"]
CORPUS = [
    "The people of the city were given the right to vote in the first election of the new year.",
    "You are a careful researcher. A vector of the residual stream stands between tags of the text.",
    "Say what it means, in two or three short snippets about the concept and its explanation.",
    "system user assistant model helpful You are a helpful assistant. concept explanation concept explanation",
]


@cache
def tokenizer_file(family: str) -> str:
    """tokenizer.json of a family: byte-level BPE, or BPE over characters with byte fallback for Gemma."""
    marker = MARKER[family]
    # The marker stands between letters, so that it becomes a token but never part of a longer one.
    corpus = CORPUS * 4 + [f"concept{marker}concept x</x y>\ny " * 8]
    # 256 bytes, special tokens and a few hundred words: far below a million parameters at these widths.
    if family.startswith("gemma3"):
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = [chr(c) for c in range(33, 127)] + ["\n", "▁", marker]
        special = SPECIAL[family] + [f"<0x{b:02X}>" for b in range(256)]
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = SPECIAL[family]
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    bos = BOS[family]
    if bos:
        # As the published ones: encoding with special tokens would put a second BOS before the template's own.
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    content = json.loads(tokenizer.to_str())
    # Byte tokens are ordinary vocabulary: only the trainer needed them as special ones.
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(content, ensure_ascii=False)


def tokenizer_of(family: str, *, merges: bool = True) -> PreTrainedTokenizerFast:
    """The family's tokenizer with its chat template; ``merges=False`` damages it to one token per character."""
    named: dict[str, Any] = {"bos_token": BOS[family]} if BOS[family] else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=_inner(family, merges),  # which is copied there
        eos_token=EOS[family],
        chat_template=CHAT[family],
        clean_up_tokenization_spaces=False,
        **named,
    )


@cache
def _inner(family: str, merges: bool) -> Tokenizer:
    content = json.loads(tokenizer_file(family))
    if not merges:
        content["model"]["merges"] = []
    return Tokenizer.from_str(json.dumps(content))


def model_of(family: str, *, seed: int = 0, head_dim: int = 12) -> Any:
    """A random model whose words depend on its input: larger weights than usual, so that greedy texts differ."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(family)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH[family],
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    if family == "qwen2":
        del shape["head_dim"]
        return Qwen2ForCausalLM(Qwen2Config(**shape)).eval()
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    if family == "mistral":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=16)).eval()
    # A window shorter than the prompt and shorter than what follows the slot: both parts slide.
    kinds = ["sliding_attention", "full_attention"] * 2
    text = Gemma3TextConfig(**shape, layer_types=kinds, sliding_window=16, query_pre_attn_scalar=12)
    return Gemma3ForCausalLM(text).eval() if family == "gemma3" else _wrapped(text)


def _wrapped(text: Gemma3TextConfig) -> Any:
    """The published shape of the larger Gemma 3: text model, vision tower and projector in one."""
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=False)
    # Published checkpoints name image tokens of their vocabulary; these lie past ours and are never used.
    config.image_token_index = config.boi_token_index = config.eoi_token_index = text.vocab_size - 1
    return Gemma3ForConditionalGeneration(config).eval()


def sidecar_of(family: str) -> dict[str, Any]:
    """nla_meta.yaml of a tiny checkpoint, as kitft's schema version 2 writes it: the caller's own."""
    return deepcopy(_sidecar(family))


@cache
def _sidecar(family: str) -> dict[str, Any]:
    tokenizer = tokenizer_of(family)
    marker = MARKER[family]
    (marker_id,) = tokenizer.encode(marker, add_special_tokens=False)
    message = [{"role": "user", "content": TEMPLATE.format(injection_char=marker)}]
    text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    ids = tokenizer.encode(text, add_special_tokens=False)
    slot = ids.index(marker_id)
    return {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "av",
        "stage": "sft",
        "base_checkpoint": f"tiny-random-{family}",
        "d_model": WIDTH[family],
        "extraction_layer_index": BLOCK,
        "extraction": {"injection_scale": SCALE[family], "mse_scale": None},
        "tokens": {
            "injection_char": marker,
            "injection_token_id": marker_id,
            "injection_left_neighbor_id": ids[slot - 1],
            "injection_right_neighbor_id": ids[slot + 1],
        },
        "prompt_templates": {"av": TEMPLATE},
    }


def dataset_sidecar_of(family: str) -> dict[str, Any]:
    """nla_meta.yaml as it lies in adapters of the norm-matched add: the training data's own, without any scale."""
    model = sidecar_of(family)
    return {
        "kind": "nla_dataset",
        "schema_version": 1,
        "stage": "av_sft",
        "dataset_id": "tiny",
        "row_count": 10,
        "extraction": {
            "base_model": f"tiny-random-{family}",
            "d_model": WIDTH[family],
            "layer_index": BLOCK,
            "norm": "none",
        },
        "tokens": model["tokens"],
        "prompt_templates": {"actor": TEMPLATE, "critic": "Summary of <text>{explanation}</text> <summary>"},
    }


def write_sidecar(folder: Path, sidecar: dict[str, Any]) -> Path:
    """Write nla_meta.yaml into a folder."""
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True), encoding="utf-8")
    return folder


def save_checkpoint(folder: Path, family: str, *, model: Any = None, sidecar: dict[str, Any] | None = None) -> Path:
    """A whole checkpoint in ``folder``."""

    def save(to: Path) -> None:
        (model_of(family) if model is None else model).save_pretrained(to)
        tokenizer_of(family).save_pretrained(to)

    if model is None:
        saved_once(folder, ("verbalizer", family), save)
    else:
        save(folder)
    return write_sidecar(folder, sidecar or sidecar_of(family))


def save_adapter(
    folder: Path,
    family: str,
    base: Path,
    *,
    rank: int = 4,
    seed: int = 1,
    rslora: bool = False,
    sidecar: dict[str, Any] | None = None,
) -> Path:
    """A PEFT LoRA adapter on the checkpoint in ``base``: random non-zero weights, sidecar, chat template of its own.

    ``rslora``: the update counts alpha / sqrt(r) instead of alpha / r. ``sidecar``: instead of kitft's.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=rslora
    )

    def save(to: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers by an older name
            adapted: Any = get_peft_model(opened_once(base), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        adapted.save_pretrained(to)

    adapter_saved_once(folder, ("adapter", rank, seed, rslora), base, save)
    (folder / "chat_template.jinja").write_text(CHAT[family], encoding="utf-8")
    return write_sidecar(folder, sidecar or {**sidecar_of(family), "base_checkpoint": str(base)})
