"""Which latents are reported, and which are kept for development: the most category-selective ones.

In: SAE tensors, source token rows, documents. Out: ``features.json`` rows: id, category, topic, selectivity, effective
documents, top tokens, and the split (``report``: ranks 1-5 of a category, ``develop``: ranks 6-10).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

import sae
import settings as s
from corpus import Document
from reading import Rows


def masses(tensors: dict[str, torch.Tensor], rows: Rows, n_documents: int) -> torch.Tensor:
    """Summed activation of each latent in each document, (d_sae, n_documents) float32."""
    total = torch.zeros(s.D_SAE, n_documents, device=rows.x.device)
    document = torch.as_tensor(rows.where.document, device=rows.x.device)
    for start in range(0, len(rows.x), 65536):
        piece = slice(start, start + 65536)
        codes = sae.encode(tensors, rows.x[piece])
        values, index = codes.topk(s.TOPK, dim=1)
        flat = index * n_documents + document[piece, None]
        total.view(-1).index_add_(0, flat.reshape(-1), values.reshape(-1))
    return total


def choose(mass: torch.Tensor, documents: list[Document]) -> list[dict[str, Any]]:
    """Rank latents inside the category that holds most of their activation in training and held-out-topic texts."""
    use = torch.tensor([d.split in ("train", "heldout") for d in documents], device=mass.device)
    mass = mass * use
    categories = sorted({d.category for d in documents})
    topics = sorted({(d.category, d.topic) for d in documents})
    by_topic = torch.zeros(len(mass), len(topics), device=mass.device)
    at = {t: i for i, t in enumerate(topics)}
    by_topic.index_add_(1, torch.tensor([at[d.category, d.topic] for d in documents], device=mass.device), mass)
    owner = torch.tensor([categories.index(c) for c, _ in topics], device=mass.device)
    by_category = torch.zeros(len(mass), len(categories), device=mass.device).index_add_(1, owner, by_topic)
    total = by_category.sum(1).clamp_min(1e-9)
    share, best = by_category.max(1)
    n_eff = (mass.sum(1) ** 2 / (mass**2).sum(1).clamp_min(1e-9)).cpu().numpy()
    selectivity = (share / total).cpu().numpy()
    best, top = best.cpu().numpy(), by_topic.argmax(1).cpu().numpy()
    out = []
    for c, name in enumerate(categories):
        mine = [k for k in np.flatnonzero(best == c) if n_eff[k] >= 60]
        mine.sort(key=lambda k: -selectivity[k])
        for rank, k in enumerate(mine[: 2 * s.FEATURES_PER_CATEGORY]):
            out.append(
                {
                    "id": str(k), "category": name, "topic": topics[top[k]][1], "rank": rank + 1,
                    "split": "report" if rank < s.FEATURES_PER_CATEGORY else "develop",
                    "selectivity": round(float(selectivity[k]), 3), "n_eff": round(float(n_eff[k]), 1),
                }
            )  # fmt: skip
    return out


def top_tokens(
    tensors: dict[str, torch.Tensor], rows: Rows, ids: list[int], documents: list[Document], count: int = 8
) -> dict[int, list[str]]:
    """The words at which each latent fires hardest (the word that ends at the token)."""
    best_v = torch.full((len(ids), 200), -1.0, device=rows.x.device)
    best_i = torch.zeros((len(ids), 200), dtype=torch.long, device=rows.x.device)
    pick = torch.tensor(ids, device=rows.x.device)
    for start in range(0, len(rows.x), 65536):
        codes = sae.encode(tensors, rows.x[start : start + 65536])[:, pick].T
        values, index = torch.cat([best_v, codes], 1).topk(200, dim=1)
        shift = torch.cat(
            [best_i, torch.arange(start, start + codes.shape[1], device=pick.device).expand(len(ids), -1)], 1
        )
        best_v, best_i = values, shift.gather(1, index)
    out = {}
    for k, found, strength in zip(ids, best_i.cpu().numpy(), best_v.cpu().numpy(), strict=True):
        words: Counter[str] = Counter()
        for row in found[strength > 0]:
            text = documents[rows.where.document[row]].text[: rows.where.end[row]]
            words[text.split()[-1].strip(".,;:!?\"'()").lower() if text.split() else ""] += 1
        out[k] = [w for w, _ in words.most_common(count + 1) if w][:count]
    return out
