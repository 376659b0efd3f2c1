"""Open a model and its tokenizer, whatever family it is, and find its decoder blocks.

In: a reference or folder, of a whole model or of a LoRA adapter on one (`merge` adds it). Out: a transformers model in
eval mode, its tokenizer, its blocks. Refuses folders without safetensors (pickles are never loaded), weights that
would stay at random or lose a block, adapters on nothing, unknown dtypes and models without decoder blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as talk

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.lm.adapters import ADAPTER, read_settings
from dragoman.lm.convert import check_tokens
from dragoman.lm.resolve import folder_of
from dragoman.store import file_sha256

# Weights of decoder blocks. A vision tower has layers too; it is never called, so what becomes of it changes no word.
_OF_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.(?!.*rotary_emb\.)")
OF_VISION = re.compile(r"(?:^|\.)(?:vision_tower|vision_model|multi_modal_projector)\.")
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
    try:
        with judged_here():
            opened: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=kind, use_safetensors=True, output_loading_info=True
            )
    except RuntimeError as err:
        raise Refusal(
            f"{ref}",
            f"its weights do not fit its config.json ({' '.join(str(err).split())[:160]})",
            "get the published files again",
        ) from err
    net, report = opened
    _refuse_partial(report, f"{ref}")
    return net.to(device).eval().requires_grad_(False), load_tokenizer(ref)


@contextmanager
def judged_here() -> Iterator[None]:
    """Keep transformers from telling of missing weights as advice; here they are judged."""
    before = talk.get_verbosity()
    talk.set_verbosity_error()
    try:
        yield
    finally:
        talk.set_verbosity(before)


def _refuse_partial(report: Any, ref: str) -> None:
    """Refuse a load after which any weight is random, or a stored decoder block has no place."""
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        odd = [*missing, *(str(key) for key in report["mismatched_keys"])]
        raise Refusal(
            ref,
            f"{len(odd)} weights would stay at random (the first is {odd[0]}), "
            f"and {len(report['unexpected_keys'])} stored ones have no place",
            "use the config.json and weights of one checkpoint",
        )
    lost = sorted(k for k in report["unexpected_keys"] if _OF_BLOCK.search(k) and not OF_VISION.search(k))
    if lost:
        raise Refusal(
            ref,
            f"{len(lost)} weights of decoder blocks have no place in the model its config.json tells of "
            f"(the first is {lost[0]})",
            "use the config.json and weights of one checkpoint",
        )


def weight_digests(folder: Path) -> dict[str, str]:
    """Hex sha256 of each weight file of a folder, by its name; every byte is read."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a whole model."""
    return (folder / ADAPTER).is_file()


def sits_on(folder: Path) -> str | None:
    """The model an adapter says it was trained on."""
    stated = read_settings(folder).get("base_model_name_or_path")
    return str(stated) if stated else None


def stacked(folder: Path, base: str, what: str) -> tuple[list[Path], str]:
    """Adapters to merge, lowest first, and the whole model under them: an adapter may sit on an adapter.

    Args:
        folder: of an adapter, or of a whole model (then nothing is to be merged).
        base: what the adapter in ``folder`` sits on; those below it say so themselves.
        what: whose refusal it is.
    """
    stack: list[Path] = []
    while is_adapter(folder):
        if stack:
            base = sits_on(folder) or ""
        if folder in stack or not base:
            why = "sits on itself" if base else "does not say what it sits on"
            raise Refusal(what, f"the adapter in {folder} {why}", "correct base_model_name_or_path there")
        stack.insert(0, folder)
        folder = folder_of(base)
    return stack, base


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
