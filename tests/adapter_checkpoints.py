"""Adapters of every kind PEFT can save, on tiny verbalizers whose embeddings are tied or not; PEFT's own answers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from saved_once import adapter_saved_once, opened_once
from tiny_checkpoints import model_of, save_checkpoint, sidecar_of, write_sidecar

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LEARNED = ("lora_", "modules_to_save", "trainable_tokens")


def save_base(folder: Path, family: str, *, tied: bool = False) -> Path:
    """A whole checkpoint; ``tied``: input and output embeddings are one matrix, stored once."""
    net = model_of(family)
    if tied:
        net.config.tie_word_embeddings = True
        net.set_output_embeddings(torch.nn.Linear(1, 1, bias=False))
        net.lm_head.weight = net.get_input_embeddings().weight
    save_checkpoint(folder, family, model=net)
    again: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied
    return folder


def save_peft(folder: Path, family: str, base: Path, *, size: float = 0.05, **told: Any) -> Path:
    """An adapter as PEFT trains and saves it, with random numbers for what would be trained."""
    from peft import LoraConfig, get_peft_model

    told = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"} | told

    def save(to: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tied embeddings: that is what is tried here
            adapted: Any = get_peft_model(opened_once(base), LoraConfig(**told))
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, weight in adapted.named_parameters():
                    if any(word in name for word in LEARNED) or (told.get("bias") == "all" and name.endswith(".bias")):
                        weight += torch.randn(weight.shape, generator=generator) * size
            adapted.save_pretrained(to)

    adapter_saved_once(folder, ("peft", size, repr(sorted(told.items()))), base, save)
    return write_sidecar(folder, {**sidecar_of(family), "base_checkpoint": str(base)})


def told(folder: Path, **changes: Any) -> Path:
    """Change settings of a saved adapter."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@torch.no_grad()
def peft_logits(base: Path, adapter: Path, ids: Any, slot: int, at_slot: torch.Tensor) -> torch.Tensor:
    """What PEFT says after a prompt with a vector in its slot, the adapter carried along: logits (n, vocabulary)."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: Any = PeftModel.from_pretrained(opened_once(base), str(adapter)).eval()
    rows = net.get_base_model().get_input_embeddings()(torch.tensor([list(ids)])).repeat(len(at_slot), 1, 1)
    rows[:, slot] = at_slot
    return net(inputs_embeds=rows).logits[:, -1]
