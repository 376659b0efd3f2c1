"""Train an Activation Reconstructor: the base model up to the site's block reads an explanation and gives the vector.

In: descriptions and the activations (n, d) they describe. Out: a PEFT adapter folder in the kitft reconstructor's
contract: adapter, ``value_head.safetensors``, ``nla_meta.yaml`` of role ``ar``. Read at the last token of the
template, block K's raw output (no final norm), through a linear head; loss 2 (1 - cosine) to the activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.nn import functional as f

import av
import settings as s
from dragoman.models.load import load_model, load_tokenizer, text_stack

TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"


class Trainer:
    """One AR in training: truncated model with LoRA, linear head, tokenizer."""

    def __init__(self, folder: Path, base: str, block: int, scale: float, device: str) -> None:
        """Load blocks 0 to ``block``; ``scale`` is the site's median norm, which keeps the head near the identity."""
        torch.manual_seed(s.SEED)
        model, _ = load_model(base, dtype="bfloat16", device=device)
        stack = text_stack(model)
        stack.layers = stack.layers[: block + 1]
        stack.norm = torch.nn.Identity()
        config = LoraConfig(r=s.AR_RANK, lora_alpha=s.AR_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        av.fuse(self.model)
        self.tokenizer = load_tokenizer(base)
        width = int(model.get_input_embeddings().weight.shape[1])
        self.unit = scale / width**0.5
        self.weight = torch.nn.Parameter(torch.eye(width, device=device))
        self.bias = torch.nn.Parameter(torch.zeros(width, device=device))
        self.folder, self.base, self.block, self.device = folder, base, block, device

    def predict(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Vectors (b, d) for right-padded token ids (b, t)."""
        hidden = text_stack(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1].float() / self.unit
        return f.linear(last, self.weight, self.bias)

    def save(self, figures: dict[str, Any]) -> None:
        """Adapter and head in float16 beside the sidecar; the head takes raw activations."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.to(torch.float16)
        self.model.peft_config["default"].base_model_name_or_path = self.base
        self.model.save_pretrained(self.folder)
        (self.folder / "README.md").unlink(missing_ok=True)
        head = {"weight": (self.weight / self.unit), "bias": self.bias}
        save_file({k: v.detach().half().cpu() for k, v in head.items()}, self.folder / "value_head.safetensors")
        width = len(self.bias)
        suffix = self.tokenizer.encode("</text> <summary>", add_special_tokens=False)
        meta = {
            "kind": "nla_model",
            "schema_version": 2,
            "role": "ar",
            "stage": "sft",
            "base_checkpoint": self.base,
            "d_model": width,
            "extraction_layer_index": self.block,
            "extraction": {"injection_scale": None, "mse_scale": float(np.sqrt(width))},
            # The first suffix token merges with the explanation's last character, so it is left out.
            "tokens": {"critic_suffix_ids": suffix[1:]},
            "prompt_templates": {"ar": TEMPLATE},
            "created_by": "dragoman training/ar.py",
        }
        (self.folder / "nla_meta.yaml").write_text(yaml.safe_dump(meta, sort_keys=False))
        (self.folder / "training.yaml").write_text(yaml.safe_dump(figures))


def read_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The template around each text, with the tokenizer's own special tokens (BOS on Gemma)."""
    return tokenizer([TEMPLATE.format(explanation=t) for t in texts], add_special_tokens=True)["input_ids"]


def train(
    trainer: Trainer,
    x: torch.Tensor,
    texts: Sequence[str],
    *,
    steps: int | None,
    seconds: float,
    batch: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train on rows of x (n, d) and their descriptions' texts; returns figures for the record."""
    ids = read_ids(trainer.tokenizer, texts)
    table = av.Table(ids, [[1.0] * len(i) for i in ids], trainer.device)
    lengths = torch.as_tensor(table.lengths, device=trainer.device)
    plan = av.endless(table.lengths, batch, s.SEED)

    def losses_of(_step: int) -> Iterator[torch.Tensor]:
        rows = next(plan)
        at = torch.as_tensor(rows, device=trainer.device)
        tokens, _ = table.rows(at, int(table.lengths[rows].max()))
        said = trainer.predict(tokens.clamp_min(0), lengths[at])
        yield 2 * (1 - f.cosine_similarity(said, x[at].float(), dim=1)).mean()

    params = [p for p in trainer.model.parameters() if p.requires_grad] + [trainer.weight, trainer.bias]
    figures = av.descend(params, losses_of, rate=s.AR_RATE, steps=steps, seconds=seconds, say=say)
    return figures | {"batch": batch, "rows": len(texts)}


@torch.no_grad()
def check(trainer: Trainer, x: torch.Tensor, texts: Sequence[str], batch: int = 512) -> dict[str, float]:
    """Held-out cosine beside the constant predictor's, FVE about the mean, top-1 retrieval, shuffled texts' FVE."""
    ids = read_ids(trainer.tokenizer, texts)
    table = av.Table(ids, [[1.0] * len(i) for i in ids], trainer.device)
    lengths, said = torch.as_tensor(table.lengths, device=trainer.device), []
    for start in range(0, len(ids), batch):
        at = torch.arange(start, min(start + batch, len(ids)), device=trainer.device)
        tokens, _ = table.rows(at, int(table.lengths[start : start + batch].max()))
        said.append(f.normalize(trainer.predict(tokens.clamp_min(0), lengths[at]), dim=1))
    out, truth = torch.cat(said), f.normalize(x.float().to(trainer.device), dim=1)
    mean = truth.mean(0)
    spread = (truth - mean).pow(2).sum(1).mean()

    def fve(rows: torch.Tensor) -> float:
        return float(1 - (rows - truth).pow(2).sum(1).mean() / spread)

    near = f.normalize(out - out.mean(0), dim=1) @ f.normalize(truth - mean, dim=1).T
    hit = near.argmax(1) == torch.arange(len(truth), device=near.device)
    figures = {
        "cosine": float((out * truth).sum(1).mean()),
        "constant_cosine": float(mean.norm()),
        "fve": fve(out),
        "fve_shuffled": fve(out.roll(1, 0)),
        "top1": float(hit.float().mean()),
        "n": float(len(truth)),
    }
    return {k: round(v, 4) for k, v in figures.items()}
