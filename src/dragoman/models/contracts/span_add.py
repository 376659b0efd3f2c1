"""Span add: the direction is added to a block's output at the last tokens of the prompt, at a share of their norm.

h <- h + share m x/|x| at the last ``span`` positions, where m is the mean of the norms there; while the prompt is
read, chat template and all. In: a folder with the whole model, published without a sidecar; ``block`` and ``model``,
whose rows it reads; ``hook_block``, ``share`` and ``span`` where they are others than the published 16, 0.2 and 4.
Out: embeddings and one hook. Refuses what is not said, blocks the model does not have, and spans longer than the
prompt. Answers are short labels, without tags.

The last position of a prompt is among those changed, so the plain loop alone feeds it.

Source: Meng et al. 2026 (arXiv 2608.13538), SAEVerbalizer: their script of inference and its table of settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dragoman.core import Refusal, Site
from dragoman.models.contracts.base import (
    CheckpointRequest,
    Contract,
    Feed,
    Hook,
    Sampling,
    at_norm,
    beside,
)
from dragoman.models.contracts.karvonen import refuse_block
from dragoman.store.spans import shown
from dragoman.verbalizers.prompt import Prompt, Wording, refuse_damaged, render
from dragoman.verbalizers.sidecar import Sidecar, width_in

BLOCK, SHARE, SPAN = 16, 0.2, 4
# What the checkpoint was trained to be told, trailing blanks and all; its chat template strips the user's.
SYSTEM = (
    "You are an expert in concept interpretation.\n"
    "I will inject an internal intervention into your hidden states.\n"
    "Please complete the final sentence based on the intervention you experience.\n"
)
USER = "The target concept is: "
NO_MARKER = -1


class SpanAdd(Contract):
    """Add at a share of the mean norm, at the last tokens of the prompt."""

    name = "span-add"
    summary = "the vector is added to a block's output at the last tokens of the prompt, at a share of their mean norm"
    sampling = Sampling(temperature=0.0, max_new_tokens=15, source="the authors' script of inference")
    settings = {"model": (str,), "hook_block": (int,), "share": (int, float), "span": (int,)}
    common = {"block": (int,), "date": (str,)}
    loop_only = "its vector is added at the last position of the prompt, which the captured engine reads by its step"
    scaled = False
    trained_on_rows = True

    def read(self, request: CheckpointRequest) -> Sidecar:
        """All is given, but for the width."""
        base, block = beside(request)
        model = request.settings.get("model", base)
        if not model:
            why = "it has no sidecar, and whose rows it reads is not given"
            raise Refusal(request.what, why, "pass --setting model=ID")
        if not 0 < self._share < float("inf"):
            raise Refusal(
                f"share {shown(self._share)}", "it is a positive number", "leave it out for the published one"
            )
        width = width_in(request.folder) or (request.width_of(base) if base else None)
        if not width:
            raise Refusal(request.what, "no config.json tells the width of its model", "get the published files again")
        return Sidecar(
            d_model=width,
            block=block,
            injection_scale=None,
            marker="",
            marker_id=NO_MARKER,
            template=USER,
            base=model,
        )

    @property
    def _share(self) -> float:
        return float(self.request.settings.get("share", SHARE))

    @property
    def _span(self) -> int:
        return self.request.settings.get("span", SPAN)

    @property
    def hook_block(self) -> int:
        """Block whose output is added to."""
        return self.request.settings.get("hook_block", BLOCK)

    @property
    def tagged(self) -> bool:
        """An answer is all that is said."""
        return False

    @property
    def identity(self) -> dict[str, object]:
        """With where, how much and how far is added."""
        return {**super().identity, "hook_block": self.hook_block, "share": self._share, "span": self._span}

    def site(self, base: str) -> Site:
        """The stream whose rows it was trained on."""
        return Site(self.sidecar.base or base, self.sidecar.block)

    def check(self, net: Any, site: Site) -> None:
        """Refuse a model without the block that is added to."""
        super().check(net, site)
        refuse_block(net, self.hook_block)

    def wording(self, **slots: str) -> Wording:
        """A system turn stands before the message."""
        return replace(super().wording(**slots), system=SYSTEM)

    def prompt(self, tokenizer: Any) -> Prompt:
        """The checked prompt; ``slot`` is the first of the last positions."""
        refuse_damaged(tokenizer)
        written, ids = render(self.sidecar.template, tokenizer, self.wording())
        slot = len(ids) - self._span
        if not 1 <= self._span < len(ids):
            why = f"its prompt has {len(ids)} tokens, and some must stand before those that are added to"
            raise Refusal(f"span {self._span}", why, "leave it out for the published one")
        right = ids[slot + 1] if self._span > 1 else NO_MARKER
        return Prompt(ids=ids, slot=slot, left_id=ids[slot - 1], right_id=right, text=written.text, day=written.day)

    def places(self, prompt: Prompt) -> tuple[int, ...]:
        """The last positions."""
        return tuple(range(prompt.slot, len(prompt.ids)))

    def added(self, stream: torch.Tensor) -> torch.Tensor:
        """One norm for all: a share of their mean."""
        norms = torch.linalg.vector_norm(stream, dim=-1)
        return self._share * norms.mean(dim=-1, keepdim=True).expand_as(norms)

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """Every token keeps its own embedding; the last ones' output of the hooked block is added to."""
        unit = at_norm(vectors, 1.0, self.request.what)[:, None].to(rows.device)

        def change(hidden: torch.Tensor) -> torch.Tensor:
            wide = hidden.float()
            return (wide + self.added(wide)[..., None] * unit).to(hidden.dtype)

        hook = Hook(block=self.hook_block, positions=self.places(prompt), change=change)
        return Feed(embeddings=rows.expand(len(vectors), -1, -1), hooks=(hook,), shared=prompt.slot)
