"""Open a model and its tokenizer, whatever family it is, and find its decoder blocks.

In: a reference or folder. Out: a transformers model in eval mode, its tokenizer, its blocks. Refuses folders without
safetensors (pickles are never loaded), unknown dtypes and models without decoder blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as talk

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.lm.convert import check_tokens
from dragoman.lm.resolve import folder_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

talk.disable_progress_bar()


def torch_dtype(name: str) -> torch.dtype:
    """A dtype by its word; refuse others."""
    if name not in DTYPES:
        raise Refusal(f"dtype '{name}'", f"known are {', '.join(DTYPES)}", "use one of these")
    return DTYPES[name]


def load_tokenizer(ref: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a folder; the embedded ones are checked against a known tokenisation."""
    folder = folder_of(ref)
    if not (folder / "tokenizer.json").is_file():
        raise Refusal(
            f"{ref}", "it holds no tokenizer.json, and offsets need a fast tokenizer", "save the fast tokenizer there"
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if str(ref) in tiny.MODELS:
        check_tokens(tiny.MODELS[str(ref)], tokenizer.tokenize(tiny.MODELS[str(ref)].sentence))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(
    ref: str | Path, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A causal language model in eval mode with its tokenizer."""
    folder = folder_of(ref)
    if not any(folder.glob("*.safetensors")):
        raise Refusal(
            f"{ref}",
            "the folder holds no *.safetensors weights, and pickled weights are never loaded",
            "convert them to safetensors",
        )
    kind = torch_dtype(dtype)
    net: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, use_safetensors=True)
    return net.to(device).eval().requires_grad_(False), load_tokenizer(ref)


def text_stack(model: nn.Module) -> nn.Module:
    """The module that owns ``layers``: through PEFT and multimodal wrappers."""
    seen = model
    for _ in range(6):
        if isinstance(getattr(seen, "layers", None), nn.ModuleList):
            return seen
        for name in ("language_model", "model", "base_model", "text_model"):
            inner = getattr(seen, name, None)
            if isinstance(inner, nn.Module) and inner is not seen:
                seen = inner
                break
    raise Refusal(f"a {type(model).__name__}", "no list of decoder blocks was found in it", "use a decoder-only model")


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, block 0 first."""
    blocks = text_stack(model).layers
    if not isinstance(blocks, nn.ModuleList):
        raise Refusal(f"a {type(model).__name__}", "its layers are no module list", "use a decoder-only model")
    return blocks


def check_site(site: Site, model: nn.Module) -> int:
    """Width of the stream at a site; refuse a block the model does not have."""
    count = len(decoder_blocks(model))
    if site.block >= count:
        raise Refusal(f"site {site}", f"the model has blocks 0 to {count - 1}", "name one of these")
    table: Any = model
    return int(table.get_input_embeddings().weight.shape[1])
