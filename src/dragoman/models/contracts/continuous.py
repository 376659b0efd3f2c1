"""An explainer trained on rows of many blocks: the row replaces a reserved token's embedding as long as it is.

Nothing is rescaled, and the prompt says the block, in one of six wordings that training drew from. In: a folder with
the whole model, published without a sidecar; ``block``; ``model``, whose stream the rows are of; and ``norm``, which
nobody publishes: ``row`` feeds each row at the length it has in its dictionary, a number brings all to that norm. Out:
embeddings, no hooks. Refuses what is not said, checkpoints with maps from another width (``embed_projs``), and
tokenizers without the reserved tokens. An answer ends with its line.

``wording`` picks another of the six, ``template`` (slots ``layer`` and ``injection_char``) and ``marker`` say a prompt
of one's own, ``chat_template`` that it is a chat turn.

Source: Li et al. 2025 (arXiv 2511.08579), class ContinuousLlama: its forward pass, training settings and evaluation,
read in a public copy of their repository.
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
    Sampling,
    beside,
    replaced,
)
from dragoman.store import ArraysFile
from dragoman.store.spans import shown
from dragoman.verbalizers.prompt import Prompt, Wording, build_prompt, encoded, refuse_torn
from dragoman.verbalizers.sidecar import LOUDEST, SLOT, Sidecar, slots_of, width_in

MARKER = "<|reserved_special_token_12|>"
# The row between its two marks.
_FEATURE = f"<|reserved_special_token_10|>{{{SLOT}}}<|reserved_special_token_11|>"
WORDINGS = (
    f"At layer {{layer}}, {_FEATURE} encodes ",
    f"{_FEATURE} activates at layer {{layer}} for ",
    f"We can describe {_FEATURE} at layer {{layer}} as encoding ",
    f"Generate a description of this feature at layer {{layer}}: {_FEATURE}. ",
    f"What does {_FEATURE} encode at layer {{layer}}? ",
    f"{_FEATURE} activates at layer {{layer}} for inputs with the following features: ",
)
ROW = "row"
MAPS = "embed_projs."
UNKNOWN = -1  # the marker's id, before there is a tokenizer


class Continuous(Contract):
    """Embedding replacement at the row's own length, with the block in the prompt."""

    name = "continuous"
    summary = "a reserved token's embedding is replaced by the row at its own length; the prompt says its block"
    sampling = Sampling(temperature=0.0, max_new_tokens=20, source="the authors' evaluation")
    settings = {"model": (str,), "norm": (int, float, str), "wording": (int,), "template": (str,), "marker": (str,)}
    closing = (" [END]", "\n", ">>>.")
    scaled = False
    trained_on_rows = True

    def read(self, request: CheckpointRequest) -> Sidecar:
        """All is given, but for the width."""
        said = request.settings
        missing = [name for name in ("model", "norm") if name not in said]
        if missing:
            raise Refusal(
                request.what,
                f"it has no sidecar, {' and '.join(missing)} is not given, and how long the rows were that it was"
                " trained on is not published",
                "pass --setting model=ID (whose rows it reads) and --setting norm=row or norm=NUMBER",
            )
        base, block = beside(request)
        _refuse_maps(request)
        width = width_in(request.folder) or (request.width_of(base) if base else None)
        if not width:
            raise Refusal(request.what, "no config.json tells the width of its model", "get the published files again")
        return Sidecar(
            d_model=width,
            block=block,
            injection_scale=self._norm(said["norm"]),
            marker=said.get("marker", MARKER),
            marker_id=UNKNOWN,
            template=self._template(request),
            base=said["model"],
            chat_template=said.get("chat_template", False),
        )

    @staticmethod
    def _norm(said: Any) -> float | None:
        """The norm that rows are brought to; None where each keeps its own."""
        if said == ROW:
            return None
        if isinstance(said, str) or not 0 < said < LOUDEST:
            raise Refusal(f"norm {shown(said)}", "it is no length", f"pass norm={ROW}, or a positive number")
        return float(said)

    @staticmethod
    def _template(request: CheckpointRequest) -> str:
        """The wording that is asked for, else the first."""
        said = request.settings
        if "template" in said and "wording" in said:
            raise Refusal(request.what, "its prompt is said twice", "pass wording or template, not both")
        if not 1 <= said.get("wording", 1) <= len(WORDINGS):
            why = f"there are {len(WORDINGS)} of them, numbered from 1"
            raise Refusal(f"wording {said['wording']}", why, "name one of these")
        template = said.get("template", WORDINGS[said.get("wording", 1) - 1])
        lacking = {"layer", SLOT} - slots_of(template, request.what)
        if lacking:
            raise Refusal(request.what, f"its template lacks the slot {{{sorted(lacking)[0]}}}", "say where it stands")
        return template

    @property
    def reads_length(self) -> bool:
        """Where rows keep their own length."""
        return self.sidecar.injection_scale is None

    @property
    def tagged(self) -> bool:
        """An answer is all that is said."""
        return self.request.settings.get("tagged", False)

    def site(self, base: str) -> Site:
        """The stream of the model whose rows it was trained on; its own model may be another."""
        return Site(self.request.settings["model"], self.sidecar.block)

    def check(self, net: Any, site: Site) -> None:
        """The site is a block of the model whose rows they are, which is not at hand."""

    def answer(self, said: str) -> tuple[str, tuple[str, ...]]:
        """Up to what ends it."""
        return said[: min(at if (at := said.find(end)) >= 0 else len(said) for end in self.closing)], ()

    def wording(self, **slots: str) -> Wording:
        """The prompt says the block."""
        return super().wording(layer=str(self.sidecar.block), **slots)

    def prompt(self, tokenizer: Any) -> Prompt:
        """The checked prompt."""
        refuse_torn(self.sidecar.template + self.sidecar.marker, tokenizer)
        found = encoded(self.sidecar.marker, tokenizer)
        self.sidecar = replace(self.sidecar, marker_id=found[0] if found else UNKNOWN)
        return build_prompt(self.sidecar, tokenizer, wording=self.wording())

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """The row in place of the marker, cast to the model's dtype."""
        return Feed(embeddings=replaced(rows, prompt.slot, self.carried(vectors)), shared=prompt.slot)


def _refuse_maps(request: CheckpointRequest) -> None:
    """Refuse a checkpoint with maps from another model's width: whether they were used the files do not say."""
    for path in sorted(request.folder.glob("*.safetensors")):
        if any(MAPS in name for name in ArraysFile(path).names):
            why = f"it holds maps from another model's stream ({MAPS}N), which are not read here"
            raise Refusal(request.what, why, "use an explainer of its own model's width")
