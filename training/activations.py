"""Both models' activations over the corpus, on the GPU, with the rows at which their tokens end together.

In: documents, models. Out: token rows per model as bfloat16 tensors and the aligned pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import settings as s
from corpus import Document
from dragoman.core import Site
from dragoman.models.harvest import Reader, TokenRows, shared_ends, token_rows


@dataclass(frozen=True, slots=True)
class Rows:
    """All token rows of one model: x (n, d) bfloat16 on the device, the rest (n,) numpy."""

    x: torch.Tensor
    where: TokenRows


def read_all(model: Any, tokenizer: Any, block: int, texts: Sequence[str], device: str, batch: int) -> Rows:
    """Every token of every text at one block."""
    reader = Reader(site=Site("training", block), model=model, tokenizer=tokenizer)
    parts, where = [], []
    for rows in token_rows(reader, texts, batch_size=batch, stay=True):
        parts.append(rows.x.to(device, torch.bfloat16))
        where.append(rows)
    cat = lambda name: np.concatenate([getattr(w, name) for w in where])  # noqa: E731
    index = TokenRows(
        x=np.zeros((0, 1), np.float32),
        document=cat("document"),
        end=cat("end"),
        position=cat("position"),
        dropped=sum(w.dropped for w in where),
    )
    return Rows(torch.cat(parts), index)


def aligned(source: Rows, target: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers in the two models that end at the same character of the same document."""
    return shared_ends(source.where, target.where)


def word_end_pairs(
    documents: list[Document], source: Rows, pairs: tuple[np.ndarray, np.ndarray], seed: int
) -> np.ndarray:
    """Which pairs an AV trains on: at word ends, past the first tokens, at most PAIRS_PER_DOCUMENT a document."""
    left, _ = pairs
    doc, end, position = (getattr(source.where, k)[left] for k in ("document", "end", "position"))
    ok = np.array(
        [
            p >= s.MIN_POSITION and (e == len(documents[d].text) or not documents[d].text[e].isalnum())
            for d, e, p in zip(doc, end, position, strict=True)
        ]
    )
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(ok))
    order = order[np.argsort(doc[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(doc[order], doc[order], side="left")
    return np.sort(order[rank < s.PAIRS_PER_DOCUMENT])
