"""Norm-matched add: at the marker, the vector is added to a block's output at that output's own norm.

h <- h + |h| v / |v| at the output of block 1 (the second one), while the prompt is read. In: a sidecar of marker and
template, of the model or copied from the training data (kind ``nla_dataset``); no scale. Out: the prompt's embeddings
and one hook. Refuses sidecars that state an injection scale or mode, which are fed otherwise, and blocks the model
does not have. Published so: nanoNLA and EasyNLA, mostly as LoRA; nothing in their files says it.

Source: Karvonen et al. 2025, Activation Oracles (arXiv 2512.15674), equation 1; EasyNLA's hook.
"""

from __future__ import annotations

from typing import Any

import torch

from dragoman.core import Refusal, Site
from dragoman.models.contracts.base import Change, Contract, Feed, Hook, Sampling, at_norm
from dragoman.models.load import decoder_blocks
from dragoman.verbalizers.prompt import Prompt

BLOCK = 1


class Karvonen(Contract):
    """Norm-matched add to the residual stream."""

    name = "karvonen"
    summary = "the vector is added to an early block's output at the marker, at that output's norm"
    sampling = Sampling(temperature=0.0, max_new_tokens=200, source="EasyNLA's script that shows generations")
    settings = {"hook_block": (int,)}
    scaled = False

    @property
    def hook_block(self) -> int:
        """Block whose output is added to."""
        return self.request.settings.get("hook_block", BLOCK)

    @property
    def identity(self) -> dict[str, object]:
        """With the block added to."""
        return {**super().identity, "hook_block": self.hook_block}

    def check(self, net: Any, site: Site) -> None:
        """Refuse a model without the block that is added to."""
        super().check(net, site)
        refuse_block(net, self.hook_block)

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """The marker keeps its own embedding; its output of the hooked block is added to."""
        change = norm_matched(vectors, rows.device, self.request.what)
        hook = Hook(block=self.hook_block, positions=(prompt.slot,), change=change)
        return Feed(embeddings=rows.expand(len(vectors), -1, -1), hooks=(hook,), shared=prompt.slot)


def norm_matched(vectors: torch.Tensor, device: torch.device, what: str) -> Change:
    """The change h + |h| v / |v| of hidden states (n, k, d) by vectors (n, d), in float32."""
    unit = at_norm(vectors, 1.0, what)[:, None].to(device)

    def change(hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.float()
        return (wide + torch.linalg.vector_norm(wide, dim=-1, keepdim=True) * unit).to(hidden.dtype)

    return change


def refuse_block(net: Any, block: int) -> None:
    """Refuse a model without block ``block``."""
    count = len(decoder_blocks(net))
    if not 0 <= block < count:
        raise Refusal(f"a hook at block {block}", f"the model has blocks 0 to {count - 1}", "name one of these")
