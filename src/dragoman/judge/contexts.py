"""Detection over a run: do its texts tell windows where their features fire from windows where they do not?

In: what a run says, its ``contexts.json``, an embedder. Out: the part "detection" of the scores. Features with fewer
than three windows of either kind are left out, and conditions with fewer than three features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dragoman.embed import Embedder
from dragoman.judge.said import FEWEST, Said
from dragoman.score import Contexts, detection_estimate, detection_per_feature, detection_table

Windows = Mapping[str, Mapping[str, Sequence[str]]]


def embedded(windows: Windows, embedder: Embedder) -> dict[str, Contexts]:
    """Contexts of each feature that has three windows of either kind; every different window is embedded once."""
    kept = {f: w for f, w in windows.items() if min(len(w["firing"]), len(w["silent"])) >= FEWEST}
    distinct = list(dict.fromkeys(text for w in kept.values() for kind in ("firing", "silent") for text in w[kind]))
    place = {text: k for k, text in enumerate(distinct)}
    rows = embedder.encode(distinct) if distinct else np.zeros((0, 0), np.float32)
    return {
        f: Contexts.of(*(rows[[place[text] for text in w[kind]]] for kind in ("firing", "silent")))
        for f, w in kept.items()
    }


def detected(said: Said, windows: Windows, embedder: Embedder, *, seed: int) -> dict[str, Any] | None:
    """Mean AUROC of every condition against explanations dealt to other features, and each feature's own.

    Returns:
        ``embedder``; ``table``: per condition ``n`` features and the Estimate; ``per_feature``: per condition of
        features rows of ``feature``, ``auroc``, ``low``, ``high``, ``firing``, ``silent``. None where no condition has
        enough features with contexts.
    """
    contexts = embedded(windows, embedder)
    table: list[dict[str, Any]] = []
    per_feature: dict[str, list[dict[str, Any]]] = {}
    for place, (condition, dealt) in enumerate(said.dealt.items()):
        features = [f for f in dealt if f in contexts]
        if condition not in said.told or len(features) < FEWEST:
            continue
        own = [contexts[f] for f in features]
        found = detection_table(embedder.encode([dealt[f] for f in features]), own)
        rng = np.random.default_rng([seed, 3, place])
        estimate = detection_estimate(found, said.groups(features), rng=rng)
        table.append({"condition": condition, "n": len(features), **_renamed(asdict(estimate))})
        if set(features) <= set(said.texts[condition]):
            told = zip(features, detection_per_feature(found, own), strict=True)
            per_feature[condition] = [{"feature": f, **one.to_dict()} for f, one in told]
    return {"embedder": embedder.name, "table": table, "per_feature": per_feature} if table else None


def _renamed(estimate: dict[str, Any]) -> dict[str, Any]:
    """The estimate's own n counts categories where features share them: it is kept as ``units``."""
    return {("units" if key == "n" else key): value for key, value in estimate.items()}
