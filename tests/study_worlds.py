"""Small worlds for the studies: a ground whose latents are planted, tokens without models, runs written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Directions
from dragoman.store import RunFolder
from planted_worlds import SOURCE, TARGET, SparseWorld, at_source
from studies.ground import Ground, Latent
from studies.tokens import Tokens

WORDS = {"birds": ["birds", "owl"], "boats": ["boats", "harbour"], "bread": ["bread", "oven"]}


def latent(name: str, category: str = "birds", *, selectivity: float = 0.5, documents: float = 0.1) -> Latent:
    return Latent(
        id=name, category=category, topic=f"{category} at dawn", selectivity=selectivity, topic_share=0.4,
        documents=documents, n_eff=60.0, top_tokens=("one", "two"),
    )  # fmt: skip


def ground_with(
    latents: Iterable[Latent], rows: Directions | None = None, *, words: Mapping[str, list[str]] = WORDS
) -> Ground:
    """A ground nobody has to read from disk; its ``dictionary`` only names one that nothing was reported of."""
    made = Ground(
        name="planted", source=SOURCE, target=TARGET, dictionary="tiny-gemma-sae", latents_in="", by="", native="",
        reads_target="", reads_source="",
    )  # fmt: skip
    found = {one.id: one for one in latents}
    drawn = np.random.default_rng(0).normal(size=(len(found), 12))
    made.__dict__.update({"latents": found, "words": words, "rows": rows or at_source(drawn, list(found))})
    return made


def tokens_of(
    world: SparseWorld, *, x: Mapping[int, np.ndarray] | None = None, y: Mapping[int, np.ndarray] | None = None
) -> Tokens:
    """A sparse world as tokens at the usual blocks, and at others where they are given."""
    return Tokens(
        documents=world.documents.astype(np.int64),
        ends=np.arange(len(world.documents)),
        x={block: rows.astype(np.float32) for block, rows in {SOURCE.block: world.x, **(x or {})}.items()},
        y={block: rows.astype(np.float32) for block, rows in {TARGET.block: world.y, **(y or {})}.items()},
        fired=world.fired,
        left_out=0,
    )


def row(feature: str, condition: str, text: str, sample: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "feature": feature, "label": "", "kind": "feature", "condition": condition, "sample": sample, "text": text,
        "raw": text, "problems": [], "tokens": 7, "card": None,
    } | more  # fmt: skip


def run_of(path: Path, latents: Sequence[Latent], rows: Sequence[Mapping[str, Any]], **manifest: Any) -> RunFolder:
    """A run folder of these rows, its conditions in the order they come in."""
    told = [{"name": name, "kind": "carried"} for name in dict.fromkeys(r["condition"] for r in rows)]
    run = RunFolder.create(
        path,
        {
            "plan_digest": "by hand", "conditions": told, "features": [one.id for one in latents], "measured": {},
            "feature_info": {one.id: asdict(one) for one in latents}, "category_words": WORDS, "dragoman": "0",
            "versions": {}, "seeds": {"seed": 0}, "background": {}, **manifest,
        },
    )  # fmt: skip
    run.append(rows)
    return run
