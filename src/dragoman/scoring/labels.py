"""Labels from contexts and a run's texts, judged by windows of text that no label was made from.

In: a run with labels from contexts, an embedder. Out: the part ``context_labels`` of the scores. Refuses what reading
the run and embedding refuse. Detection is that of ``stats.roc``; a feature with fewer than three firing windows held
back, or three silent ones, is left out, and nothing is said of fewer than three features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.measures.excerpts import dealt_windows
from dragoman.scores import FORMAT, DetectionRate, FeatureDetection, LabelScores, PairedDifference, Scores
from dragoman.scoring.by_windows import embedded_contexts, own_detection
from dragoman.scoring.judged_run import FEWEST, CachedEmbedder, JudgedRun
from dragoman.stats.intervals import mean_estimate
from dragoman.stats.lift import doubly_centred_lift
from dragoman.stats.roc import detection_estimate, detection_per_feature, detection_table
from dragoman.store import RunFolder
from dragoman.store.labels import ContextLabels, read_labels
from dragoman.store.scored import scores_of

LABEL = "label from contexts"


def label_scores(run: JudgedRun, labels: ContextLabels, embedder: Embedder, *, seed: int) -> LabelScores | None:
    """Mean AUROC of the labels and of each condition's texts, on the same windows, each beside others' on them.

    Conditions that are there only to be compared with are left out. Means are of the features that
    ``JudgedRun.compared`` draws, where there are more. ``seed``: of the deals behind p.
    """
    few, bare, embedder = run.compared(seed), embedder, CachedEmbedder(embedder)
    held = {name: _held_back(run.contexts[name]) for name in labels.by_feature if name in run.contexts}
    contexts = embedded_contexts({name: one for name, one in held.items() if name in few.contexts}, embedder)
    said: dict[str, Mapping[str, str]] = {LABEL: {name: one.label for name, one in labels.by_feature.items()}}
    said |= {c: run.texts[c] for c, entry in few.entries.items() if not entry.is_null}
    table, over = list[DetectionRate](), list[PairedDifference]()
    each: dict[str, dict[str, FeatureDetection]] = {}
    lifts: dict[str, dict[str, float]] = {}  # over dealt ones: longer texts have more in common with any window
    for place, (condition, texts) in enumerate(said.items()):
        features = [name for name in contexts if name in texts]
        if len(features) < FEWEST:
            continue
        own, rng = [contexts[name] for name in features], np.random.default_rng([seed, 5, place])
        found = detection_table(embedder.encode([texts[name] for name in features]), own)
        mean = detection_estimate(found, run.groups(features), rng=rng)
        table.append(DetectionRate(**asdict(mean), condition=condition, features=len(features)))
        each[condition] = {
            name: FeatureDetection.of({"feature": name, **one}, f"detection of feature {name}")
            for name, one in zip(features, detection_per_feature(found, own), strict=True)
        }
        lifts[condition] = dict(zip(features, doubly_centred_lift(found).tolist(), strict=True))
        if condition != LABEL and LABEL in each:
            more = np.array([lifts[condition][name] - lifts[LABEL][name] for name in features])
            how = {
                "statistic": "mean paired difference of AUROC over dealt ones",
                "null": "text and label exchangeable",
            }
            over.append(PairedDifference(**asdict(mean_estimate(more, rng, **how)), what=f"{condition} minus {LABEL}"))
    if LABEL not in each:
        return None
    per_feature = {condition: tuple(by.values()) for condition, by in each.items()}
    if few is not run:
        texts = {c: {name: said[c][name] for name in held if name in said[c]} for c in each}
        per_feature = own_detection(texts, held, bare)
    return LabelScores(
        embedder=embedder.name,
        model=labels.head.model,
        label=LABEL,
        table=tuple(table),
        over=tuple(over),
        per_feature=per_feature,
    )


def _held_back(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """A feature's windows that no label is made from."""
    firing = entry["firing"]
    return {
        "firing": [firing[k] for k in dealt_windows(firing)[1]],
        "silent": [w for w in entry["silent"] if w.strip()],
    }


def with_labels(scores: Scores, run: JudgedRun, embedder: Embedder, *, seed: int) -> Scores:
    """The scores with the run's labels from contexts judged, where it has some."""
    labels = read_labels(run.folder)
    found = label_scores(run, labels, embedder, seed=seed) if labels is not None else None
    return scores if found is None else scores.model_copy(update={"context_labels": found})


def add_labels(folder: RunFolder, say: Callable[[str], None], *, seed: int = 0, device: str = "cpu") -> Scores | None:
    """Judge the run's labels, and put that into its scores beside what was scored before; None where nothing judges.

    Raises:
        Refusal: what was scored before is of another version, or reading and embedding refuse.
    """
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    try:
        packaged_folder()
    except Refusal:
        say("the labels are not judged: the sentence embedder is not installed")
        return None
    scores = scores_of(folder) or Scores(format=FORMAT)
    say("judging labels and texts by windows that no label was made from")
    found = with_labels(scores, JudgedRun.of(folder), SentenceEmbedder(device=device), seed=seed)
    folder.write_scores(found)
    return found
