"""Texts judged by windows of text in which their feature fires or is silent: detection, and lift without a native.

In: a run with contexts, an embedder. Out: estimates by condition, and each feature's own. Features with fewer than
three windows of either kind are left out, and conditions with fewer than three features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from dragoman.core import Estimate, Floats
from dragoman.embed import Embedder
from dragoman.scores import (
    Detection,
    DetectionRate,
    FeatureDetection,
)
from dragoman.scoring.judged_run import BLOCK, FEWEST, CachedEmbedder, JudgedRun, blocks_of
from dragoman.stats.lift import (
    FEWEST_OTHERS,
    lift_over_others,
    similarity,
)
from dragoman.stats.roc import ContextEmbeddings, detection_estimate, detection_per_feature, detection_table, own_area


def embedded_contexts(
    windows: Mapping[str, Mapping[str, Sequence[str]]], embedder: Embedder
) -> dict[str, ContextEmbeddings]:
    """Contexts of each feature that has three windows of either kind; every different window is embedded once."""
    kept = {f: w for f, w in windows.items() if _enough(w)}
    distinct = list(dict.fromkeys(text for w in kept.values() for kind in ("firing", "silent") for text in w[kind]))
    place = {text: k for k, text in enumerate(distinct)}
    rows = embedder.encode(distinct) if distinct else np.zeros((0, 0), np.float32)
    return {
        f: ContextEmbeddings.of(*(rows[[place[text] for text in w[kind]]] for kind in ("firing", "silent")))
        for f, w in kept.items()
    }


def _enough(windows: Mapping[str, Sequence[str]]) -> bool:
    """Whether there are windows enough of either kind to tell them apart."""
    return min(len(windows["firing"]), len(windows["silent"])) >= FEWEST


def own_detection(
    texts: Mapping[str, Mapping[str, str]], windows: Mapping[str, Mapping[str, Sequence[str]]], embedder: Embedder
) -> dict[str, tuple[FeatureDetection, ...]]:
    """By condition, of every feature with windows enough, how well its own text tells them apart.

    Windows are placed a block of features at a time, once for all conditions.
    """
    watched = {
        c: {f: text for f, text in by.items() if f in windows and _enough(windows[f])} for c, by in texts.items()
    }
    found: dict[str, dict[str, FeatureDetection]] = {condition: {} for condition in watched}
    for block in blocks_of(list(dict.fromkeys(f for by in watched.values() for f in by)), BLOCK):
        contexts = embedded_contexts({f: windows[f] for f in block}, CachedEmbedder(embedder))
        for condition, by in watched.items():
            there = [f for f in block if f in by]
            rows = CachedEmbedder(embedder).encode([by[f] for f in there])
            for feature, row in zip(there, rows, strict=True):
                own = contexts[feature]
                told = own_area(detection_table(row[None], [own])[0, 0], own)
                found[condition][feature] = FeatureDetection(feature=feature, **told)
    return {condition: tuple(found[condition][f] for f in by) for condition, by in watched.items()}


def own_window_lift(run: JudgedRun, condition: str, embedder: Embedder) -> dict[str, float]:
    """The lift of `lift_by_windows` of every single feature, a block of features at a time."""
    asked = {feature for by_feature in run.texts.values() for feature in by_feature}
    often = {f: one["firing"] for f, one in run.contexts.items() if len(one["firing"]) >= FEWEST}
    unasked = [some for f, some in often.items() if f not in asked]
    others = np.stack([CachedEmbedder(embedder).encode(list(some)).mean(axis=0) for some in unasked])
    elsewhere, texts = others.mean(axis=0, dtype=np.float64), run.texts[condition]
    found: dict[str, float] = {}
    for block in blocks_of([f for f in texts if f in often], BLOCK):
        read = CachedEmbedder(embedder)
        read.encode([window for f in block for window in often[f]])
        own = np.stack([read.encode(list(often[f])).mean(axis=0) for f in block])
        rows = read.encode([texts[f] for f in block]).astype(np.float64)
        found |= zip(block, np.einsum("ke,ke->k", rows, own - elsewhere).tolist(), strict=True)
    return found


def lift_by_windows(run: JudgedRun, embedder: Embedder, *, seed: int) -> dict[str, tuple[Estimate, dict[str, float]]]:
    """Lift by condition where no native speaks: similarity with the windows a feature fires in, less that with others'.

    Each with its features' own. The others are features nobody asked for, whose windows the run keeps; claims of two
    watched features have a lift.
    """
    means: dict[str, Floats] = {}
    for feature, windows in run.contexts.items():
        if len(windows["firing"]) >= FEWEST:
            means[feature] = embedder.encode(list(windows["firing"])).mean(axis=0)
    asked = {feature for by_feature in run.texts.values() for feature in by_feature}
    others = [mean for feature, mean in means.items() if feature not in asked]
    lifts: dict[str, tuple[Estimate, dict[str, float]]] = {}
    for place, condition in enumerate(run.claims):
        texts = {f: text for f, text in run.texts[condition].items() if f in means}
        if len(texts) < 2 or len(others) < FEWEST_OTHERS:
            continue
        rows = embedder.encode(list(texts.values()))
        own, rng = np.stack([means[f] for f in texts]), np.random.default_rng([seed, 4, place])
        near, far = similarity(rows, own), similarity(rows, np.stack(others))
        each = (np.diag(near) - far.mean(axis=1)).tolist()
        lifts[condition] = lift_over_others(near, far, rng=rng), dict(zip(texts, each, strict=True))
    return lifts


def detection_scores(run: JudgedRun, embedder: Embedder, *, seed: int) -> Detection | None:
    """Mean AUROC of every condition against explanations dealt to other features, and each feature's own.

    None where no condition has enough features with contexts; conditions of other ids than the features' have no
    numbers of their own features.
    """
    contexts = embedded_contexts(run.contexts, embedder)
    table: list[DetectionRate] = []
    per_feature: dict[str, tuple[FeatureDetection, ...]] = {}
    for place, (condition, dealt) in enumerate(run.dealt.items()):
        features = [f for f in dealt if f in contexts]
        if condition not in run.entries or len(features) < FEWEST:
            continue
        own = [contexts[f] for f in features]
        found = detection_table(embedder.encode([dealt[f] for f in features]), own)
        mean = detection_estimate(found, run.groups(features), rng=np.random.default_rng([seed, 3, place]))
        table.append(DetectionRate(**asdict(mean), condition=condition, features=len(features)))
        if set(features) <= set(run.texts[condition]):
            each = zip(features, detection_per_feature(found, own), strict=True)
            per_feature[condition] = tuple(
                FeatureDetection.of({"feature": f, **one}, f"detection of feature {f}") for f, one in each
            )
    return Detection(embedder=embedder.name, table=tuple(table), per_feature=per_feature) if table else None
