"""One number is no conclusion: lifts against each null and by each embedder, all of them adjusted, and their power.

In: what a run says, embedders, lifts. Out: the parts "nulls", "embedders", "adjusted" and "power" of the scores.
Refuses what the tests refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.judge.said import Said
from dragoman.score import Against, adjust, against_each, against_others, detectable, plan, similarity

Doubles = NDArray[np.float64]
_STATISTICS = ("lift", "centred", "top1", "mrr")
_FINE = 9999  # deals of a p that is adjusted over many tests: the smallest must stay small after that


def against_nulls(
    said: Said, similar: Mapping[str, Doubles], embedder: Embedder, *, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Condition -> null -> lift, centred, top1 and mrr, for every condition that is no null itself."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for place, condition in enumerate(c for c in said.features if c in similar):
        features = list(said.dealt[condition])
        native = embedder.encode([said.dealt["native"][f] for f in features])
        nulls = {n: similarity(embedder.encode(texts), native) for n, texts in said.nulls_for(condition).items()}
        rng = np.random.default_rng([seed, 1, place])
        each = against_each(similar[condition], nulls, topics=said.groups(features), rng=rng)
        found[condition] = {null: _told(one) for null, one in each.items()}
    return found


def by_embedders(
    said: Said,
    first: str,
    similar: Mapping[str, Doubles],
    also: Sequence[Embedder],
    lifts: Mapping[str, float],
    *,
    seed: int,
) -> dict[str, Any]:
    """Lift of each condition by each further embedder, and whether its sign is the first embedder's.

    Args:
        said: the run's texts.
        first: name of the embedder that made ``similar``.
        similar: its similarities, for which conditions have some.
        also: the further ones.
        lifts: mean lift by condition by the first embedder.
        seed: of the deals.

    Returns:
        ``names``; ``lifts``: embedder -> condition -> ``lift`` (the post's) and ``centred``; ``agree``: condition ->
        yes or no, nulls left out; ``verdict``: that in a sentence.
    """
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for number, embedder in enumerate(also):
        rng = np.random.default_rng([seed, 2, number])
        told[embedder.name] = {}
        for condition, s in said.similarities(embedder).items():
            topics = said.groups(list(said.dealt[condition]))
            one = against_others(s, topics=topics, rng=rng, permutations=_FINE)
            told[embedder.name][condition] = {"lift": asdict(one.lift), "centred": asdict(one.centred)}
    agree = {
        c: all(np.sign(by[c]["centred"]["value"]) == np.sign(lifts[c]) for by in told.values())
        for c in said.features
        if c in similar
    }
    return {
        "names": [first, *told],
        "lifts": told,
        "agree": agree,
        "verdict": _verdict(agree, first, lifts, told),
    }


def adjusted(conditions: Sequence[str], p: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """Holm's p of every condition by every embedder, as one family; ``p``: embedder -> condition -> p."""
    pairs = [(c, e) for e, by in p.items() for c in conditions if c in by]
    if not pairs:
        return None
    found = adjust({f"{c}, {e}": p[e][c] for c, e in pairs}, method="holm")
    columns = zip(pairs, found.p, found.adjusted, found.holds, strict=True)
    return {
        "method": found.method,
        "level": found.level,
        "tests": [
            {"condition": c, "embedder": e, "p": raw, "adjusted": mended, "holds": holds}
            for (c, e), raw, mended, holds in columns
        ],
    }


def power_of_pairs(
    pairs: Sequence[tuple[str, str]], lifts: Mapping[str, Mapping[str, float]], said: Said
) -> list[dict[str, Any]]:
    """Features the next study needs to find each paired difference, and the difference that this one could find."""
    found: list[dict[str, Any]] = []
    for first, second in pairs:
        both = [f for f in lifts[first] if f in lifts[second]]
        gap = np.array([lifts[second][f] - lifts[first][f] for f in both])
        try:
            needed = plan(gap, clusters=said.groups(both))
        except Refusal:
            continue  # too few features, or no difference or spread to plan by
        independent = max(3, int(len(both) / needed.design_effect))
        told = {"what": f"{second} minus {first}", **needed.to_dict()}
        found.append(told | {"detectable": detectable(independent, sd=needed.sd)})
    return found


def _told(one: Against) -> dict[str, Any]:
    return {name: asdict(getattr(one, name)) for name in _STATISTICS}


def _verdict(
    agree: Mapping[str, bool],
    first: str,
    lifts: Mapping[str, float],
    told: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str:
    """Whether the embedders agree in sign, and where they do not."""
    if not (agree and told):
        return ""
    apart = [c for c, same in agree.items() if not same]
    if not apart:
        return f"the embedders agree in sign on {', '.join(agree)}"
    values = {first: lifts} | {e: {c: one["centred"]["value"] for c, one in by.items()} for e, by in told.items()}
    where = [f"{c} ({', '.join(f'{e} {by[c]:+.3f}' for e, by in values.items())})" for c in apart]
    return f"the embedders disagree in sign on {'; '.join(where)}"
