"""Judge a finished run: lift over other features, planted categories, paired differences.

In: a run folder with a ``native`` condition or planted categories, an embedder. Out: the scores, as they are kept in
``scores.json``. Refuses runs that have nothing to be judged by. Compares; never says a word itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dragoman.core import Estimate, Floats, Refusal
from dragoman.embed import Embedder
from dragoman.score import (
    accuracy_estimate,
    lift_estimate,
    lift_per_feature,
    names_category,
    paired_difference,
    similarity,
)
from dragoman.store import RunFolder

RULE = (
    "An explanation names its feature's planted category when the category's name or the name of one of its topics "
    "stands in the text as whole words, singular or plural, in any case."
)
PAIRS = (("plain", "washed"), ("procrustes_washed", "washed"), ("washed", "direct"))


def first_samples(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Condition -> feature -> text of the first sample, in file order."""
    texts: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["sample"] == 0:
            # An embedder refuses empty text; an empty explanation is a bad one, not a missing one.
            texts.setdefault(row["condition"], {})[row["feature"]] = row["text"] or "(empty)"
    return texts


def judge_run(run: RunFolder, embedder: Embedder, *, seed: int) -> dict[str, Any]:
    """Scores of every condition against the run's own natives and planted truth.

    Raises:
        Refusal: neither a native condition nor planted categories are in the run.
    """
    texts = first_samples(run.rows())
    info: Mapping[str, Mapping[str, Any]] = run.manifest.get("feature_info") or {}
    words: Mapping[str, Sequence[str]] = run.manifest.get("category_words") or {}
    if "native" not in texts and not info:
        raise Refusal(
            f"{run.path}",
            "it has no native explanations and no planted categories, so there is nothing to judge by",
            "run explain with --native AV, or read the page as it is",
        )
    rng = np.random.default_rng(seed)
    similar = _similarities(texts, embedder) if len(texts.get("native", {})) >= 3 else {}
    hits = {c: _hits(said, list(texts.get("native", said)), info, words) for c, said in texts.items()} if info else {}
    lifts = {c: lift_per_feature(s) for c, s in similar.items()}
    return {
        "embedder": embedder.name,
        "seed": seed,
        "rule": RULE if info else None,
        "table": [_condition(c, texts, similar, hits, info, rng) for c in run.manifest["conditions"] if c["name"] in texts],
        "paired": [
            {"what": f"{b} minus {a}", **_plain(paired_difference(lifts[a], lifts[b], rng))}
            for a, b in PAIRS
            if a in lifts and b in lifts
        ],
        "per_feature": _per_feature(texts, lifts, hits),
    }


def _similarities(texts: Mapping[str, Mapping[str, str]], embedder: Embedder) -> dict[str, Floats]:
    """S = C B' (N, N) of every condition with the natives, features (or random directions, in order) as rows."""
    native = embedder.encode(list(texts["native"].values()))
    found = {}
    for condition, said in texts.items():
        if condition == "native" or len(said) != len(native):
            continue
        found[condition] = similarity(embedder.encode(_in_order(said, list(texts["native"]))), native)
    return found


def _in_order(said: Mapping[str, str], features: Sequence[str]) -> list[str]:
    """Texts in the natives' order; random directions have ids of their own and are dealt to features as they come."""
    return [said[f] for f in features] if set(features) <= set(said) else list(said.values())


def _hits(
    said: Mapping[str, str],
    features: Sequence[str],
    info: Mapping[str, Mapping[str, Any]],
    words: Mapping[str, Sequence[str]],
) -> list[bool]:
    """Whether each text names the category planted in its feature (for random directions: in the one dealt to it)."""
    known = [f for f in features if f in info]
    return [
        names_category(text, words[info[f]["category"]])
        for f, text in zip(known, _in_order(said, known), strict=False)
    ]


def _condition(
    condition: Mapping[str, Any],
    texts: Mapping[str, Mapping[str, str]],
    similar: Mapping[str, Floats],
    hits: Mapping[str, list[bool]],
    info: Mapping[str, Mapping[str, Any]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """One line of the table: lift with interval, p and null; share naming the category beside random directions'."""
    name = condition["name"]
    out: dict[str, Any] = {k: condition.get(k) for k in ("route", "washout", "verbalizer")} | {"condition": name}
    if name in similar:
        features = list(texts["native"])
        # Features of one category succeed and fail together: where several share one, the interval is over categories.
        groups = [info[f]["category"] for f in features] if all(f in info for f in features) else None
        repeated = groups is not None and len(set(groups)) < len(groups)
        out["lift"] = _plain(lift_estimate(similar[name], groups if repeated else None, rng=rng))
    control = next((c for c in _controls(name) if c in hits), None)
    if name in hits and hits[name]:
        if control is not None:
            rate = _plain(accuracy_estimate(hits[name], hits[control]))
            out["category"] = rate | {"random": rate["extra"]["random_rate"]}
        else:
            out["category"] = {"value": float(np.mean(hits[name])), "n": len(hits[name]), "random": None}
    return out


def _controls(name: str) -> tuple[str, ...]:
    """Which random condition stands beside a condition: one that was washed as it was."""
    return ("random_plain", "random_washed") if name in ("plain", "random_plain") else ("random_washed", "random_plain")


def _plain(estimate: Estimate) -> dict[str, Any]:
    return asdict(estimate)


def _per_feature(
    texts: Mapping[str, Mapping[str, str]], lifts: Mapping[str, Any], hits: Mapping[str, list[bool]]
) -> dict[str, list[dict[str, Any]]]:
    out: dict[str, list[dict[str, Any]]] = {}
    for condition, said in texts.items():
        rows: list[dict[str, Any]] = [{"feature": f} for f in said]
        if set(texts.get("native", said)) == set(said):
            rows = [{"feature": f} for f in texts.get("native", said)]
        for name, values in (("lift", lifts.get(condition)), ("names_category", hits.get(condition))):
            if values is not None and len(values) == len(rows):
                for row, value in zip(rows, values, strict=True):
                    row[name] = bool(value) if name == "names_category" else float(value)
        out[condition] = rows
    return out
