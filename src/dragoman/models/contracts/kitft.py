"""The kitft contract: one prompt embedding is overwritten by the vector at a fixed norm.

In: a sidecar of kind ``nla_model`` with an injection scale (a number or "sqrt_d_model"; "raw" or none wants a ``norm``
in the settings). Out: embeddings, no hooks. Refuses sidecars without a norm and other injection modes. Published so:
kitft's own, dormantx, andyx10, anicka (no neighbours, an opening tag as ``prefill``, ``depth_pct`` among ``slots``),
Kameshr (raw activations, no tags), syvb's Matryoshkas.

Source: the inference notes and client beside kitft's release (natural language autoencoders, 2026).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dragoman.models.contracts.base import Contract, Feed, Sampling, at_norm, other_kind, replaced, section
from dragoman.store.spans import shown
from dragoman.verbalizers.prompt import Prompt
from dragoman.verbalizers.sidecar import REPLACING


class Kitft(Contract):
    """Embedding replacement at a fixed norm."""

    name = "kitft"
    summary = "one prompt embedding is replaced by the vector at a fixed norm"
    sampling = Sampling(temperature=0.7, max_new_tokens=200, source="kitft's command line; Neuronpedia")
    settings = {"norm": (int, float, str)}

    @classmethod
    def claims(cls, stated: Mapping[str, Any]) -> bool:
        """A model's own sidecar with an injection scale is written by kitft's trainer, and by those who follow it."""
        scale = section(stated, "extraction").get("injection_scale")
        mode = section(stated, "training").get("injection_mode")
        return stated.get("kind") == "nla_model" and _is_scale(scale) and mode in REPLACING

    @classmethod
    def contradiction(cls, stated: Mapping[str, Any]) -> str:
        """Another injection mode, or another kind of file."""
        mode = section(stated, "training").get("injection_mode")
        if mode not in REPLACING:
            return f"its sidecar states injection mode '{shown(mode)}'"
        return other_kind(stated)

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """The vector in float32 at the injection scale, cast to the model's dtype, in place of the marker."""
        norm = self.sidecar.injection_scale or math.nan
        scaled = at_norm(vectors, norm, self.request.what)
        return Feed(embeddings=replaced(rows, prompt.slot, scaled), shared=prompt.slot)


def _is_scale(value: Any) -> bool:
    """The root of the width, or a number, also one that YAML reads as text (8e4); whether it can be one is said later.

    Words of other kinds ("raw", another contract's) claim nothing.
    """
    if value == "sqrt_d_model":
        return True
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return isinstance(value, int)
    return True
