"""Random checkpoints of the real shapes, as published ones lie: two models, verbalizers of them, a dictionary.

In: folders with room. Out: folders of weights, always the same, made once on the device; what lies there whole is taken
as it is. 15 GB Qwen2.5-7B's shape, 54 GB that of Gemma-3-27B's text model, 2 GB a dictionary of 65,536 features;
verbalizers are hard links to their models' weights. Used by ``real_size.py`` and ``two_gpus.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast, Qwen2Config

from decode import gemma, qwen
from dragoman import tiny
from dragoman.store import read_jsonl, write_json, write_text

SHARD = 4 * 10**9
WHOLE = "whole.json"  # written last: what lies beside it is whole
WORDS, SHARED_WORDS = 8000, 40_000  # that are trained; further ones of letters alone, which both vocabularies have
SPARE = 100  # rows without a word, as published tables have them
MARKER = "㈎"
TEMPLATE = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a language "
    "model. Your overall task is to describe the semantic content of that activation vector. We will pass the vector "
    "enclosed in <concept> tags into your context.\n<concept>{injection_char}</concept>\nPlease provide an explanation."
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<|im_end|>", "<|im_start|>"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """``block``: that is read; ``scale``: norm at which its verbalizer is fed."""

    name: str
    config: Callable[[], Any]
    block: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A source, a target, a dictionary of the source's stream."""

    source: Model
    target: Model
    features: int
    dtype: str


def small_source() -> Any:
    """A rehearsal of the source."""
    return Qwen2Config(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        vocab_size=12_000, tie_word_embeddings=False,
    )  # fmt: skip


def small_target() -> Any:
    """A rehearsal of the target."""
    return Gemma3TextConfig(
        hidden_size=48, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=12_500, sliding_window=32, query_pre_attn_scalar=16, tie_word_embeddings=True,
    )  # fmt: skip


SHAPES = {
    "real": Shape(
        source=Model(name="qwen", config=qwen, block=20, scale=150.0),
        target=Model(name="gemma", config=gemma, block=41, scale=700.0),
        features=65_536,
        dtype="bfloat16",
    ),
    "tiny": Shape(
        source=Model(name="small-source", config=small_source, block=2, scale=15.0),
        target=Model(name="small-target", config=small_target, block=3, scale=30.0),
        features=256,
        dtype="float32",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """Folders: of both models, of a verbalizer each, of the dictionary."""

    shape: Shape
    source: Path
    target: Path | None
    by: Path | None
    native: Path
    dictionary: Path


def made(shape: Shape, scratch: list[Path], device: str, *, whole: bool = True) -> Made:
    """What the parts read; what lies whole in a scratch folder is taken as it is. Not ``whole``: without the target."""
    source = model_of(shape.source, shape.dtype, scratch, device)
    target = model_of(shape.target, shape.dtype, scratch, device) if whole else None
    return Made(
        shape=shape,
        source=source,
        target=target,
        by=None if target is None else verbalizer_of(shape.target, target),
        native=verbalizer_of(shape.source, source),
        dictionary=dictionary_of(shape, scratch, device),
    )


@contextmanager
def making(name: str, size: int, scratch: list[Path]) -> Iterator[tuple[Path, bool]]:
    """A folder in the first scratch folder that has it whole, or else room for it; and whether it is to be made."""
    for one in scratch:
        one.mkdir(parents=True, exist_ok=True)
        if (one / name / WHOLE).is_file():
            yield one / name, False
            return
        shutil.rmtree(one / name, ignore_errors=True)
    roomy = [one for one in scratch if shutil.disk_usage(one).free > size * 1.02]
    if not roomy:
        raise SystemExit(f"no --scratch has {size / 1e9:.0f} GB for {name}")
    folder, start = roomy[0] / name, time.perf_counter()
    folder.mkdir(parents=True)
    yield folder, True
    write_json(folder / WHOLE, {"bytes": size})
    print(f"made {folder}, {size / 1e9:.1f} GB, in {time.perf_counter() - start:.0f} s", flush=True)


def model_of(model: Model, dtype: str, scratch: list[Path], device: str) -> Path:
    """A model of random weights, always the same: config, shards with their index, tokenizer."""
    config, kind = model.config(), getattr(torch, dtype)
    config.dtype = dtype
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config, dtype=kind)
    config.architectures = [type(net).__name__]
    parameters = dict(net.named_parameters())  # a tied output layer is named once
    size = sum(one.numel() for one in parameters.values()) * kind.itemsize
    with making(model.name, size, scratch) as (folder, new):
        if new:
            config.save_pretrained(folder)
            tokenizer_of(model.name, config.vocab_size).save_pretrained(folder)
            write_shards(folder, parameters, kind, device, ones="Gemma" not in type(net).__name__)
    return folder


def write_shards(folder: Path, parameters: dict[str, Any], kind: torch.dtype, device: str, *, ones: bool) -> None:
    """Weights drawn on the device and written shard by shard; ``ones``: norms multiply by w, else by 1 + w."""
    generator = torch.Generator(device).manual_seed(0)
    shards: list[list[str]] = [[]]
    held = 0
    for name, one in parameters.items():
        if held and held + one.numel() * kind.itemsize > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += one.numel() * kind.itemsize
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            shape = parameters[name].shape
            # Random blocks that write as much as they read make noise of the last digit, and no two orders of sums
            # agree: what blocks write is a fiftieth of the stream, by what they end with.
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            if len(shape) == 1:
                after = not ones and "post_" in name
                tensors[name] = torch.full(shape, 1.0 if ones and "bias" not in name else -0.98 * after, dtype=kind)
            else:
                scale = 1.0 if "embed_tokens" in name and ones else (0.02 if last else 1.73) / shape[1] ** 0.5
                drawn = torch.randn(shape, generator=generator, device=device, dtype=kind)
                tensors[name] = drawn.mul_(scale).cpu()
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def tokenizer_of(name: str, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the packaged sentences, another for each model, filled up nearly to ``size``."""
    rows = [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "map"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    some = rows if name.endswith(("qwen", "source")) else rows[: len(rows) // 2]
    trainer = trainers.BpeTrainer(
        vocab_size=min(WORDS, size // 2), special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([*some, *[f"concept{MARKER}concept x</x y>\ny " * 8] * 8], trainer)
    bos = inner.token_to_id("<bos>")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    content = json.loads(inner.to_str())
    words = content["model"]["vocab"]
    for number in range(len(words), size - SPARE):
        words[f"\u0120z{letters(number) if number < SHARED_WORDS else number}"] = number
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<bos>", eos_token="<|im_end|>",
        pad_token="<pad>", chat_template=CHAT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def letters(number: int) -> str:
    """A number written in letters."""
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:06}")


def verbalizer_of(model: Model, base: Path) -> Path:
    """A verbalizer of a model as published ones lie: the same weights by hard links, tokenizer, sidecar."""
    folder = base.with_name(f"{base.name}-av")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix == ".safetensors":
            os.link(path, folder / path.name)
        elif path.name != WHOLE:
            shutil.copy2(path, folder / path.name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    message = [{"role": "user", "content": TEMPLATE.format(injection_char=MARKER)}]
    text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    ids = tokenizer.encode(text, add_special_tokens=False)
    (marker,) = tokenizer.encode(MARKER, add_special_tokens=False)
    at = ids.index(marker)
    sidecar = {
        "kind": "nla_model", "schema_version": 2, "role": "av", "stage": "sft", "base_checkpoint": f"{base}",
        "d_model": model.config().hidden_size, "extraction_layer_index": model.block,
        "extraction": {"injection_scale": model.scale, "mse_scale": None},
        "tokens": {
            "injection_char": MARKER, "injection_token_id": marker,
            "injection_left_neighbor_id": ids[at - 1], "injection_right_neighbor_id": ids[at + 1],
        },
        "prompt_templates": {"av": TEMPLATE},
    }  # fmt: skip
    write_text(folder / "nla_meta.yaml", yaml.safe_dump(sidecar, allow_unicode=True))
    return folder


def dictionary_of(shape: Shape, scratch: list[Path], device: str) -> Path:
    """A dictionary of random unit rows in the SAELens layout, float32."""
    width, block = shape.source.config().hidden_size, shape.source.block
    size = 2 * 4 * shape.features * width
    with making(f"sae-{shape.features}-{width}", size, scratch) as (folder, new):
        if new:
            rows = torch.randn((shape.features, width), generator=torch.Generator(device).manual_seed(1), device=device)
            rows = torch.nn.functional.normalize(rows).cpu()
            arrays = {
                "W_dec": rows, "W_enc": rows.T.contiguous(), "b_enc": torch.zeros(shape.features),
                "b_dec": torch.zeros(width),
            }  # fmt: skip
            save_file(arrays, folder / "sae_weights.safetensors")
            told = {
                "architecture": "topk", "k": 50, "d_in": width, "d_sae": shape.features,
                "metadata": {"hook_name": f"blocks.{block}.hook_resid_post", "model_name": shape.source.name},
            }  # fmt: skip
            write_json(folder / "cfg.json", told)
    return folder
