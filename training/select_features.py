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
from activations import Rows
from corpus import Document


def masses(tensors: dict[str, torch.Tensor], rows: Rows, n_documents: int) -> torch.Tensor:
    """Summed activation of each latent in each document, (d_sae, n_documents) float32."""
    total = torch.zeros(len(tensors["W_dec"]), n_documents, device=rows.x.device)
    document = torch.as_tensor(rows.where.document, device=rows.x.device)
    for start in range(0, len(rows.x), 65536):
        piece = slice(start, start + 65536)
        codes = sae.encode(tensors, rows.x[piece])
        values, index = codes.topk(s.TOPK, dim=1)
        flat = index * n_documents + document[piece, None]
        total.view(-1).index_add_(0, flat.reshape(-1), values.reshape(-1))
    return total


def ranked(mass: torch.Tensor, documents: list[Document]) -> list[dict[str, Any]]:
    """Every latent that fires in 20 effective documents: the category that holds most of its activation, and its rank.

    Counted in training and held-out-topic texts; what falls on human text, of which no topic is planted, counts in the
    total that a category has a share of. Rank 1 is the most selective of a category; latents with fewer than 60
    effective documents have none.
    """
    use = torch.tensor([d.split in ("train", "heldout") for d in documents], device=mass.device)
    mass = mass * use
    planted = [i for i, d in enumerate(documents) if d.category]
    categories = sorted({documents[i].category for i in planted})
    topics = sorted({(documents[i].category, documents[i].topic) for i in planted})
    by_topic = torch.zeros(len(mass), len(topics), device=mass.device)
    at = {t: i for i, t in enumerate(topics)}
    index = torch.tensor([at[documents[i].category, documents[i].topic] for i in planted], device=mass.device)
    by_topic.index_add_(1, index, mass[:, torch.tensor(planted, device=mass.device)])
    owner = torch.tensor([categories.index(c) for c, _ in topics], device=mass.device)
    by_category = torch.zeros(len(mass), len(categories), device=mass.device).index_add_(1, owner, by_topic)
    total = mass.sum(1).clamp_min(1e-9)
    share, best = by_category.max(1)
    topic_share, top = by_topic.max(1)
    n_eff = (total**2 / (mass**2).sum(1).clamp_min(1e-9)).cpu().numpy()
    selectivity, purity = (share / total).cpu().numpy(), (topic_share / total).cpu().numpy()
    best, top, fires = best.cpu().numpy(), top.cpu().numpy(), (mass > 0).float().mean(1).cpu().numpy()
    out = []
    for c, name in enumerate(categories):
        mine = [k for k in np.flatnonzero(best == c) if n_eff[k] >= 20]
        mine.sort(key=lambda k: -selectivity[k])
        rank = 0
        for k in mine:
            rank += int(n_eff[k] >= 60)
            out.append(
                {
                    "id": str(k), "category": name, "topic": topics[top[k]][1],
                    "rank": rank if n_eff[k] >= 60 else None,
                    "selectivity": round(float(selectivity[k]), 3), "topic_share": round(float(purity[k]), 3),
                    "n_eff": round(float(n_eff[k]), 1), "documents": round(float(fires[k]), 5),
                }
            )  # fmt: skip
    return out


def listed(latents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ranks 1-5 of each category are reported, ranks 6-10 are for development."""
    last = s.FEATURES_PER_CATEGORY
    keep = ("id", "category", "topic", "rank", "selectivity", "n_eff", "top_tokens")
    return [
        {k: row[k] for k in keep} | {"split": "report" if row["rank"] <= last else "develop"}
        for row in latents
        if row["rank"] is not None and row["rank"] <= 2 * last
    ]


def top_tokens(
    tensors: dict[str, torch.Tensor], rows: Rows, ids: list[int], documents: list[Document], count: int = 8
) -> dict[int, list[str]]:
    """The words at which each latent fires hardest (the word that ends at the token)."""
    best_v = torch.full((len(ids), 100), -1.0, device=rows.x.device)
    best_i = torch.zeros((len(ids), 100), dtype=torch.long, device=rows.x.device)
    pick = torch.tensor(ids, device=rows.x.device)
    for start in range(0, len(rows.x), 65536):
        codes = sae.encode(tensors, rows.x[start : start + 65536])[:, pick].T
        values, index = torch.cat([best_v, codes], 1).topk(100, dim=1)
        shift = torch.cat(
            [best_i, torch.arange(start, start + codes.shape[1], device=pick.device).expand(len(ids), -1)], 1
        )
        best_v, best_i = values, shift.gather(1, index)
    out = {}
    for k, found, strength in zip(ids, best_i.cpu().numpy(), best_v.cpu().numpy(), strict=True):
        words: Counter[str] = Counter()
        for row in found[strength > 0]:
            word = documents[rows.where.document[row]].text[: rows.where.end[row]].rsplit(None, 1)[-1:]
            words[word[0].strip(".,;:!?\"'()").lower() if word else ""] += 1
        out[k] = [w for w, _ in words.most_common(count + 1) if w][:count]
    return out
