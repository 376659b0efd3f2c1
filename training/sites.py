"""Several blocks of both models read at the same positions: what a reader of many sites is trained from.

In: documents, models. Out: positions (document, character end) that both tokenizers end a token at, and the activations
of every site there, bfloat16; of each site its statistics and its SAE. One pass of each model reads all its blocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import settings as s
from corpus import Document
from dragoman.models.batches import Batch
from dragoman.models.encode import Encoded
from dragoman.models.harvest import OUTLIER, encoded_whole, shortest_first
from dragoman.models.load import decoder_blocks, hidden_of, load_model, load_tokenizer, text_stack

NAMES = {"tiny-smollm2": "SmolLM2", "tiny-gemma": "Gemma"}
_SPAN = 1 << 20  # longer than any text: document and end in one number


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A block of a model."""

    model: str
    block: int

    @property
    def key(self) -> str:
        """In names of files."""
        return f"{of_model(self.model)}-{self.block}"

    @property
    def said(self) -> str:
        """In words, as a reader is told."""
        return f"block {self.block} of {NAMES.get(self.model, self.model)}"


def of_model(ref: str) -> str:
    """A model's reference in names of files."""
    return re.sub(r"[^\w.-]+", "--", ref.strip("/"))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a site's activations at unit length: mean (d,), ``spread`` 1 - |mean|^2; and their median norm before."""

    mean: torch.Tensor
    spread: float
    norm: float

    @classmethod
    def of(cls, x: torch.Tensor) -> Statistics:
        """From rows (n, d)."""
        norms = x.float().norm(dim=1)
        mean = (x.float() / norms[:, None]).mean(0)
        return cls(mean, float(1 - mean.pow(2).sum()), float(norms.median()))

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of any length as a reader is given them: at unit length, less the mean, by the spread."""
        unit = torch.nn.functional.normalize(x.float(), dim=1)
        return (unit - self.mean.to(unit.device)) / max(self.spread, 1e-6) ** 0.5

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """``normal``, undone: at unit length as activations lie, for a verbalizer trained on them so."""
        return x.float() * max(self.spread, 1e-6) ** 0.5 + self.mean.to(x.device)

    def on_shell(self, around: torch.Tensor, rows: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """``around`` (n, d) turned towards ``rows`` by ``times`` (n,) of the angle at which activations lie apart."""
        around = torch.nn.functional.normalize(around.float(), dim=1)
        rows = torch.nn.functional.normalize(rows.float(), dim=1)
        angle = times[:, None] * float(np.arccos(np.sqrt(np.clip(1 - self.spread, 0.0, 1.0))))
        return angle.cos() * around + angle.sin() * rows


def encoded(documents: Sequence[Document], models: Sequence[str]) -> dict[str, Encoded]:
    """The texts as each model's tokens: a second or two a thousand, so it is done once."""
    texts = [d.text for d in documents]
    return {ref: encoded_whole(load_tokenizer(ref), texts) for ref in models}


def positions(
    documents: Sequence[Document], tokens: dict[str, Encoded], per_document: int, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(document, end) of word ends that every tokenizer ends a token at, past the first tokens; sorted."""
    found = []
    for i, document in enumerate(documents):
        rng = np.random.default_rng([seed, i])
        shared: set[int] | None = None
        for own in tokens.values():
            late = {b for k, (a, b) in enumerate(own.spans[i]) if b > a and k >= s.MIN_POSITION}
            shared = late if shared is None else shared & late
        text = document.text
        fit = sorted(e for e in shared or () if e == len(text) or not text[e].isalnum())
        found += [(i, int(e)) for e in sorted(rng.permutation(fit)[:per_document])]
    if len(found) > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(found))[:most])
        found = [found[i] for i in chosen]
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@torch.inference_mode()
def read(
    ref: str, blocks: Sequence[int], encoded: Encoded, owner: np.ndarray, end: np.ndarray, device: str, batch: int
) -> dict[Place, torch.Tensor]:
    """Activations (n, d) bfloat16 of every block asked for at the positions; NaN where a text was cut before one."""
    model, tokenizer = load_model(ref, dtype="bfloat16", device=device, upto=max(blocks))
    keys = owner * _SPAN + end
    wanted = set(owner.tolist())
    caught: dict[int, torch.Tensor] = {}
    handles = [
        decoder_blocks(model)[b].register_forward_hook(lambda _m, _a, o, b=b: caught.__setitem__(b, hidden_of(o)))
        for b in blocks
    ]
    width = int(model.get_input_embeddings().weight.shape[1])
    out = {b: torch.full((len(keys), width), torch.nan, dtype=torch.bfloat16, device=device) for b in blocks}
    order = [i for i in shortest_first(encoded) if i in wanted]
    pad: Any = tokenizer.pad_token_id or 0
    for start in range(0, len(order), batch):
        piece = Batch.of(encoded, order[start : start + batch], pad)
        text_stack(model)(input_ids=piece.ids.to(device), attention_mask=piece.mask.to(device), use_cache=False)
        at = piece.document * _SPAN + piece.end
        where = np.searchsorted(keys, at)
        keep = np.flatnonzero((where < len(keys)) & (keys[np.minimum(where, len(keys) - 1)] == at))
        rows, columns = piece.row[keep].to(device), piece.position[keep].to(device)
        target = torch.as_tensor(where[keep], device=device)
        for b in out:
            out[b][target] = caught[b][rows, columns].to(torch.bfloat16)
    for handle in handles:
        handle.remove()
    return {Place(ref, b): x for b, x in out.items()}


def usable(x: torch.Tensor) -> np.ndarray:
    """(n,) bool: which rows (n, d) of a site are finite and no norm outliers."""
    norms = x.float().norm(dim=1)
    return (norms.isfinite() & (norms <= OUTLIER * norms[norms.isfinite()].median())).cpu().numpy()


def save_tokens(file: Path, encoded: Encoded) -> None:
    """Ids and spans of all texts one after another, and how many tokens each has."""
    np.savez(
        file,
        ids=np.array([i for ids in encoded.ids for i in ids], np.int32),
        spans=np.array([pair for spans in encoded.spans for pair in spans], np.int32).reshape(-1, 2),
        counts=np.array([len(ids) for ids in encoded.ids]),
    )


def load_tokens(file: Path) -> Encoded:
    """What ``save_tokens`` wrote."""
    with np.load(file) as told:
        ids, spans, ends = told["ids"].tolist(), told["spans"].tolist(), np.cumsum(told["counts"]).tolist()
    pieces = list(zip([0, *ends[:-1]], ends, strict=True))
    return Encoded(ids=[ids[a:b] for a, b in pieces], spans=[[(i, j) for i, j in spans[a:b]] for a, b in pieces])


def load_statistics(work: Path, place: Place) -> Statistics:
    """What the read stage saved."""
    told = json.loads((work / "statistics.json").read_text())[place.key]
    return Statistics(load_file(work / "means.safetensors")[place.key], told["spread"], told["norm"])


def save_statistics(work: Path, found: dict[Place, Statistics]) -> None:
    """Means in one file, numbers in another."""
    save_file({p.key: one.mean.float().cpu().contiguous() for p, one in found.items()}, work / "means.safetensors")
    told = {p.key: {"spread": round(one.spread, 5), "norm": round(one.norm, 3)} for p, one in found.items()}
    (work / "statistics.json").write_text(json.dumps(told, indent=1) + "\n")
