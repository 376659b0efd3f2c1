"""Detection over a run: do its texts tell windows where their features fire from windows where they do not?

In: a run with ``contexts.json``, an embedder. Out: the part "detection" of the scores. Features with fewer than three
windows of either kind are left out, and conditions with fewer than three features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from dragoman.core import Estimate, Floats
from dragoman.embed import Embedder
from dragoman.scores import Detection, DetectionRate, FeatureDetection
from dragoman.scoring.judged_run import FEWEST, JudgedRun
from dragoman.stats.detection import ContextEmbeddings, detection_estimate, detection_per_feature, detection_table
from dragoman.stats.lift import FEWEST_OTHERS, lift_over_others, similarity


def embedded_contexts(
    windows: Mapping[str, Mapping[str, Sequence[str]]], embedder: Embedder
) -> dict[str, ContextEmbeddings]:
    """Contexts of each feature that has three windows of either kind; every different window is embedded once."""
    kept = {f: w for f, w in windows.items() if min(len(w["firing"]), len(w["silent"])) >= FEWEST}
    distinct = list(dict.fromkeys(text for w in kept.values() for kind in ("firing", "silent") for text in w[kind]))
    place = {text: k for k, text in enumerate(distinct)}
    rows = embedder.encode(distinct) if distinct else np.zeros((0, 0), np.float32)
    return {
        f: ContextEmbeddings.of(*(rows[[place[text] for text in w[kind]]] for kind in ("firing", "silent")))
        for f, w in kept.items()
    }


def lift_by_windows(run: JudgedRun, embedder: Embedder, *, seed: int) -> dict[str, Estimate]:
    """Lift by condition where no native speaks: similarity with the windows a feature fires in, less that with others'.

    The others are features nobody asked for, whose windows the run keeps; claims of two watched features have a lift.
    """
    means: dict[str, Floats] = {}
    for feature, windows in run.contexts.items():
        if len(windows["firing"]) >= FEWEST:
            means[feature] = embedder.encode(list(windows["firing"])).mean(axis=0)
    asked = {feature for by_feature in run.texts.values() for feature in by_feature}
    others = [mean for feature, mean in means.items() if feature not in asked]
    lifts: dict[str, Estimate] = {}
    for place, condition in enumerate(run.claims):
        texts = {f: text for f, text in run.texts[condition].items() if f in means}
        if len(texts) < 2 or len(others) < FEWEST_OTHERS:
            continue
        rows = embedder.encode(list(texts.values()))
        own = np.sum(rows * np.stack([means[f] for f in texts]), axis=1)
        rng = np.random.default_rng([seed, 4, place])
        lifts[condition] = lift_over_others(own, similarity(rows, np.stack(others)), rng=rng)
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
            per_feature[condition] = tuple(FeatureDetection(feature=f, **asdict(one)) for f, one in each)
    return Detection(embedder=embedder.name, table=tuple(table), per_feature=per_feature) if table else None
