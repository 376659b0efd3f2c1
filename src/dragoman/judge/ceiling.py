"""How good a carried text could be: two drawn samples of the native verbalizer against each other.

In: a run's rows, an embedder. Out: the ceiling and each condition's share of it; nothing where natives were not sampled
three times or more (the first is greedy, and says the same twice). Refuses nothing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.judge.said import FEWEST, NOTHING
from dragoman.score import ceiling_estimate, share_of_ceiling, similarity
from dragoman.score.lift import doubly_centred_lift

FIRST, SECOND = 1, 2  # the drawn ones


def ceiling(
    rows: Sequence[Mapping[str, Any]], conditions: Sequence[str], embedder: Embedder, *, seed: int
) -> dict[str, Any] | None:
    """``ceiling``: mean doubly-centred lift of one native sample over another; ``share``: each condition's part of it.

    A condition's share takes its own first drawn sample against the same native one, so that both were drawn alike;
    conditions without drawn samples of all these features have none, and nothing is a share of a ceiling near 0.
    """
    drawn: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        if row["sample"] in (FIRST, SECOND):
            text = row["text"] if row["text"].strip() else NOTHING
            drawn.setdefault((row["condition"], row["sample"]), {})[row["feature"]] = text
    one, other = drawn.get(("native", FIRST), {}), drawn.get(("native", SECOND), {})
    features = [name for name in one if name in other]
    if len(features) < FEWEST:
        return None
    place = {
        key: embedder.encode([said[f] for f in features]) for key, said in drawn.items() if set(features) <= set(said)
    }
    native = place["native", SECOND]
    own = similarity(place["native", FIRST], native)
    found: dict[str, Any] = {"ceiling": asdict(ceiling_estimate(own, rng=np.random.default_rng(seed))), "share": {}}
    ceilings = doubly_centred_lift((own + own.T) / 2)
    for name in conditions:
        if name != "native" and (name, FIRST) in place:
            lifts = doubly_centred_lift(similarity(place[name, FIRST], native))
            try:
                found["share"][name] = asdict(share_of_ceiling(lifts, ceilings))
            except Refusal:
                continue  # the ceiling cannot be told from 0
    return found
