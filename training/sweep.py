"""Which block to settle on: linear probes of category and topic at every block of both models.

In: models and documents. Out: ``sweep.json``: accuracy per block on held-out documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probe
from corpus import Document
from dragoman.models.load import decoder_blocks, load_model, text_stack


@torch.no_grad()
def sampled(
    ref: str, documents: list[Document], device: str, per_document: int, batch: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Activations at a few word ends of each document, all blocks: (blocks, n, d) bfloat16; document numbers (n,)."""
    model, tokenizer = load_model(ref, dtype="bfloat16", device=device)
    count = len(decoder_blocks(model))
    caught: dict[int, torch.Tensor] = {}
    handles = [
        b.register_forward_hook(lambda _m, _a, o, k=k: caught.__setitem__(k, o[0] if isinstance(o, tuple) else o))
        for k, b in enumerate(decoder_blocks(model))
    ]
    rng = np.random.default_rng(0)
    out, owner = [], []
    for start in range(0, len(documents), batch):
        texts = [d.text for d in documents[start : start + batch]]
        encoded: Any = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=200).to(device)
        text_stack(model)(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], use_cache=False)
        lengths = encoded["attention_mask"].sum(1).cpu().numpy()
        rows = np.repeat(np.arange(len(texts)), per_document)
        at = np.concatenate([rng.integers(10, max(11, n), per_document) for n in lengths])
        at = np.minimum(at, lengths[rows] - 1)
        out.append(torch.stack([caught[k][torch.as_tensor(rows), torch.as_tensor(at)] for k in range(count)]))
        owner.append(rows + start)
    for handle in handles:
        handle.remove()
    return torch.cat(out, 1), np.concatenate(owner)


def sweep(
    refs: list[str],
    documents: list[Document],
    device: str,
    out: Path,
    *,
    per_document: int = 6,
    batch: int = 512,
    epochs: int = 12,
) -> None:
    """Probe every block of each model; write and return nothing."""
    found: dict[str, list[dict[str, float]]] = {}
    names = {k: sorted({getattr(d, k) for d in documents}) for k in ("category", "topic")}
    for ref in refs:
        x, owner = sampled(ref, documents, device, per_document, batch)
        split = np.array([d.split for d in documents])[owner]
        train, dev = (
            torch.as_tensor(np.flatnonzero(np.isin(split, k)), device=device)
            for k in (("train", "heldout"), ("dev", "test"))
        )
        found[ref] = []
        for block in range(len(x)):
            row: dict[str, float] = {"block": block}
            for kind, classes in names.items():
                y = torch.tensor([classes.index(getattr(documents[i], kind)) for i in owner], device=device)
                fitted = probe.fit(x[block][train], y[train], len(classes), epochs=epochs)
                row[kind] = round(probe.accuracy(fitted, x[block][dev], y[dev]), 4)
            unit = torch.nn.functional.normalize(x[block].float(), dim=1)
            row["spread"] = round(1 - float(unit.mean(0).pow(2).sum()), 4)
            found[ref].append(row)
        del x
    out.write_text(json.dumps({"n_documents": len(documents), "per_document": per_document, "blocks": found}, indent=1))
