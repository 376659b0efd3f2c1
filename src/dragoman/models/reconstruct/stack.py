"""Blocks 0 to K of a base model, with an adapter merged in where there is one; nothing left at random.

In: a model folder; LoRA tensors. Out: the module that owns the blocks, in eval mode. Refuses weights that are missing
or have no place, adapters that do not cover exactly the layers they name or compute something else once merged, and a
stored final norm that would change a reading which leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from dragoman.core import Refusal
from dragoman.models.load import open_weights, ready, text_stack
from dragoman.models.merge import WRAPPERS, Agreement, merged_alike, settle_names, trained_prefix
from dragoman.models.sizes import OF_VISION

NORMS = ("norm", "final_layernorm", "ln_f")
_FINAL_NORM = re.compile(rf"^(?:\w+\.)*(?:{'|'.join(NORMS)})\.weight$")
_OF_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.")
# What trainers wrap a text model in; other paths to a "layers" (a vision tower's) are not the text model's.
_ADAPTED = re.compile(
    rf"^{WRAPPERS}(?P<layer>layers\.\d+\..+|embed_tokens)\."
    r"(?P<part>lora_[AB](?=(?:\.default)?\.weight$)|lora_embedding_[AB](?=(?:\.default)?$))"
)
# What trainers of both layouts put before the names that PEFT knew; PEFT's own is of two words.
_OUTER = re.compile(r"^(?:backbone|base_model\.model)\.")
_TEXT = "model."


def open_stack(folder: Path, kind: torch.dtype, device: str, what: str, *, headless: bool) -> Any:
    """The text model in a folder, without output layer.

    ``headless``: it is a reconstructor's own checkpoint, which may lack its final norm and may carry a dummy output
    layer, and nothing else; else it is a base model and must be whole.
    """
    net, report = open_weights(AutoModel, folder, kind, what, device)
    stack: Any = text_stack(net)
    where = next(f"{name}." if name else "" for name, module in net.named_modules() if module is stack)
    missing = {str(k).removeprefix(where) for k in report["missing_keys"] if str(k).startswith(where)}
    extra = {str(k) for k in report["unexpected_keys"]}
    spared = {k for k in missing if headless and _FINAL_NORM.match(k) and not _OF_BLOCK.search(k)}
    if missing - spared:
        raise Refusal(
            what,
            f"{len(missing - spared)} weights are missing from {folder} (first {min(missing - spared)}) and would be "
            "left random",
            "get all published files of it",
        )
    if headless:
        _refuse_extra(extra, stack, spared, what)
    return ready(stack, folder, device)


def _refuse_extra(extra: set[str], stack: Any, spared: set[str], what: str) -> None:
    """Only a dummy output layer and a final norm of ones may stand in a reconstructor's checkpoint for nothing."""
    odd = {k for k in extra if not re.search(r"(?:^|\.)lm_head\.(?:weight|bias)$", k)}
    if odd:
        raise Refusal(
            what,
            f"{len(odd)} weights of its checkpoint have no place in the model its config.json describes "
            f"(first {min(odd)})",
            "use weights and config.json of one checkpoint",
        )
    norm = final_norm(stack)
    weight = None if spared or norm is None else getattr(norm, "weight", None)
    # Ones, or zeros where a family adds one: placeholders some trainers need.
    if weight is not None and not ((weight == 1).all() or (weight == 0).all()):
        why = "its checkpoint stores a final norm that is not all ones, and in this layout none stands before the head"
        raise Refusal(what, why, "ask its authors whether the norm was used, and delete the tensor if it was not")


def final_norm(stack: Any) -> nn.Module | None:
    """The norm after the last block, by the names families give it."""
    return next((m for m in (getattr(stack, n, None) for n in NORMS) if isinstance(m, nn.Module)), None)


def truncate(stack: Any, block: int, what: str) -> None:
    """Keep blocks 0 to ``block``; refuse a model that has fewer."""
    count = len(stack.layers)
    if block >= count:
        why = f"it reads block {block}, and its base has blocks 0 to {count - 1}"
        raise Refusal(what, why, "use the base it was trained on")
    stack.layers = nn.ModuleList(stack.layers[: block + 1])


def merge_lora(stack: Any, lora: Mapping[str, Any], tensors: Mapping[str, Any], what: str) -> Agreement:
    """Add a LoRA adapter to the weights of a truncated stack (blocks 0 to K); how the sum agrees with PEFT unmerged.

    ``lora``: rank, alpha, target modules and what else PEFT's LoraConfig is told. ``tensors``: arrays by the trainer's
    names; the part before ``layers.`` differs between trainers and is dropped.

    Raises:
        Refusal: it is no plain LoRA, its tensors are not exactly those its configuration asks for, or the merged stack
            does not compute what PEFT computes unmerged.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    # Not `merge.merge_adapter`, which has PEFT read a folder: here the stack is cut off at block K and has no output
    # layer, EasyNLA keeps its matrices in one file with the head and under other names and has no adapter_config.json,
    # and every matrix must have its place. PEFT makes the places and merges; only the matrices are put there by hand.
    given = _by_layer(tensors, what)
    holder = nn.Module()
    holder.model = stack  # module names as text models have them, which target patterns are written for
    if lora["target_modules"] == "all-linear":
        linear = {n.rsplit(".", 1)[-1] for n, m in stack.named_modules() if isinstance(m, nn.Linear)}
        lora = {**lora, "target_modules": linear}
    trained = trained_prefix((_OUTER.sub("", name) for name in tensors), _TEXT)
    try:
        config = LoraConfig(**lora, inference_mode=True)
        if trained != _TEXT:
            settle_names(config, holder, _TEXT, trained)
        tuner = LoraModel(holder, {"default": config}, "default")
    except (ValueError, TypeError, KeyError) as err:
        detail = " ".join(str(err).split())[:160]
        raise Refusal(what, f"its adapter does not fit its base ({detail})", "use the base it was trained on") from err
    places = {n: p for n, p in tuner.named_parameters() if ".lora_" in n}
    asked = _by_layer(places, what)
    missing, extra = sorted(set(asked) - set(given)), sorted(set(given) - set(asked))
    if missing or extra:
        first = (missing + extra)[0]
        raise Refusal(
            what,
            f"{len(missing)} tensors of its adapter are missing and {len(extra)} have no place in blocks 0 to "
            f"{len(stack.layers) - 1} (first {first})",
            "use all of its files and the base it was trained on",
        )
    for name, place in asked.items():
        tensor = torch.as_tensor(given[name])
        if tensor.shape != place.shape or not torch.isfinite(tensor).all():
            raise Refusal(
                what,
                f"{name} of its adapter has shape {tuple(tensor.shape)} where {tuple(place.shape)} is needed"
                if tensor.shape != place.shape
                else f"{name} of its adapter holds NaN or infinite numbers",
                "use the base it was trained on, and the published adapter",
            )
        # Their product in float32, whatever the model's dtype; the sum is rounded once.
        place.data = tensor.to(place.device, torch.float32)
    _, agreement = merged_alike(tuner.eval(), stack, what)
    stack.requires_grad_(False)
    return agreement


def _by_layer(tensors: Mapping[str, Any], what: str) -> dict[str, torch.Tensor]:
    """Tensors under ``layers.N.path.lora_A`` or ``embed_tokens.lora_embedding_A``; refuse what is no such matrix.

    A vision tower's are left out: trainers adapt it by accident, and no text passes through it.
    """
    out = dict[str, torch.Tensor]()
    for name, tensor in tensors.items():
        if OF_VISION.search(name):
            continue
        found = _ADAPTED.match(name)
        if not found:
            why = f"'{name}' of its adapter is no LoRA matrix of a text block or of the input embeddings"
            raise Refusal(what, why, "merge the adapter into its base")
        out[f"{found['layer']}.{found['part']}"] = tensor
    return out
