"""Activation oracles: norm-matched add at placeholders of a prompt that asks a question, and gets an answer.

"Layer: {block}", a new line, k times " ?", a space, a new line, the question, as one user turn with thinking off; the
vector is added to block 1's output at each placeholder. In: a LoRA adapter without any sidecar, and the settings
``block`` (whose output the vectors are from), ``question`` and ``positions`` (k, 1 unless said). Out: embeddings and
one hook. Refuses adapters that name no base, tokenizers that split the placeholder, and k below 1. Answers have no
tags.

Source: Karvonen et al. 2025, Activation Oracles (arXiv 2512.15674), and their demonstration.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dragoman.core import Refusal, Site
from dragoman.models.contracts.base import CheckpointRequest, Contract, Feed, Hook, Sampling
from dragoman.models.contracts.karvonen import BLOCK, norm_matched, refuse_block
from dragoman.models.load import is_adapter, sits_on
from dragoman.verbalizers.prompt import Prompt, Wording, encoded, refuse_damaged, render
from dragoman.verbalizers.sidecar import Sidecar, width_in

PLACEHOLDER = " ?"
UNKNOWN = -1  # the placeholder's id, before there is a tokenizer


class Oracle(Contract):
    """Norm-matched add at placeholders, and a free question."""

    name = "oracle"
    summary = "the vector is added at placeholders of a prompt that asks a question of it"
    sampling = Sampling(temperature=0.0, max_new_tokens=20, source="the authors' demonstration")
    settings = {"question": (str,), "positions": (int,)}
    scaled = False
    adds_inside = True

    def read(self, request: CheckpointRequest) -> Sidecar:
        """There is no file: all is given, but for the model, which the adapter names."""
        said = request.settings
        missing = [name for name in ("block", "question") if name not in said]
        if missing:
            raise Refusal(
                request.what,
                f"an activation oracle has no sidecar, and {' and '.join(missing)} is not given",
                "pass --setting block=K (whose output the vectors are) and --setting question=TEXT",
            )
        if said.get("positions", 1) < 1:
            raise Refusal(f"positions {said['positions']}", "the vector needs a place", "ask for at least 1")
        base = sits_on(request.folder) if is_adapter(request.folder) else None
        width = width_in(request.folder) or (request.width_of(base) if base else None)
        if not width:
            why = "neither its adapter nor a config.json tells the width of its model"
            raise Refusal(request.what, why, "write base_model_name_or_path into adapter_config.json")
        return Sidecar(
            d_model=width,
            block=said["block"],
            injection_scale=None,
            marker=PLACEHOLDER,
            marker_id=UNKNOWN,
            template=f"Layer: {said['block']}\n{PLACEHOLDER * said.get('positions', 1)} \n{said['question']}",
            base=base,
        )

    @property
    def tagged(self) -> bool:
        """An answer is all that is said."""
        return self.request.settings.get("tagged", False)

    def check(self, net: Any, site: Site) -> None:
        """Refuse a model without the block that is added to."""
        super().check(net, site)
        refuse_block(net, BLOCK)

    def wording(self, **slots: str) -> Wording:
        """Thinking is off."""
        return replace(super().wording(**slots), switches={"enable_thinking": False})

    def prompt(self, tokenizer: Any) -> Prompt:
        """The checked prompt; ``slot`` is the first placeholder."""
        refuse_damaged(tokenizer)
        found = list(encoded(PLACEHOLDER, tokenizer))
        if len(found) != 1:
            why = f"this tokenizer splits it into {len(found)} tokens, and it must be one"
            raise Refusal(f"placeholder '{PLACEHOLDER}'", why, "use the tokenizer the oracle was trained with")
        self.sidecar = replace(self.sidecar, marker_id=found[0])
        written, ids = render(self.sidecar.template, tokenizer, self.wording())
        wanted = found * self._count
        # The prefix stands before the question, so its placeholders are the first of the prompt.
        slot = next((k for k, i in enumerate(ids) if i == found[0]), 0)
        if not slot or list(ids[slot : slot + self._count]) != wanted or slot + self._count >= len(ids):
            raise Refusal(
                f"placeholder '{PLACEHOLDER}'",
                f"it does not stand {self._count} times in a row in the encoded prompt",
                "use the tokenizer and chat template the oracle was trained with",
            )
        left, right = ids[slot - 1], ids[slot + 1]
        return Prompt(ids=ids, slot=slot, left_id=left, right_id=right, text=written.text, day=written.day)

    @property
    def _count(self) -> int:
        return self.request.settings.get("positions", 1)

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """Each placeholder's output of block 1 is added to."""
        positions = tuple(range(prompt.slot, prompt.slot + self._count))
        hook = Hook(block=BLOCK, positions=positions, change=norm_matched(vectors, rows.device, self.request.what))
        return Feed(embeddings=rows.expand(len(vectors), -1, -1), hooks=(hook,), shared=prompt.slot)
