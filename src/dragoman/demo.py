"""The post's whole experiment on the embedded pair: native, plain, washed, direct, random; Procrustes as its ablation.

In: features of the embedded SAE. Out: a run folder with rows. The map is fitted live on the sentences that
ship with the pair; the direct route's statistics ship too, unless asked for from scratch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.core import Directions
from dragoman.dictionaries import random_directions
from dragoman.dictionaries.beside import read_truth
from dragoman.doctor import quick
from dragoman.explain import (
    Crossing,
    Request,
    Talk,
    carry_out,
    crossing,
    fitted,
    open_for,
    open_verbalizer,
)
from dragoman.maps import LinearMap
from dragoman.store import RunFolder
from dragoman.store.outputs import check_run
from dragoman.study import Condition
from dragoman.verbalizers.protocol import AnyVerbalizer
from dragoman.washout import wash

WASHOUT = "on-shell"


def listed(split: str = "report", ranks: int = 1) -> tuple[str, ...]:
    """Ids of the embedded SAE's listed features: the ``ranks`` most category-selective of each category in a split."""
    rows = [f for f in read_truth(tiny.data("tiny-truth")).features.values() if f["split"] == split]
    lowest = min(f["rank"] for f in rows)
    return tuple(f["id"] for f in rows if f["rank"] < lowest + ranks)


def request_for(
    features: tuple[str, ...], *, seed: int = 0, dtype: str = "bfloat16", device: str = "cpu", batch_size: int = 144
) -> Request:
    """The demo's settings in the main job's words: the post's map."""
    return Request(
        dictionary="tiny-sae",
        features=features,
        by="tiny-gemma-av",
        native="tiny-smollm2-av",
        map="post",
        route="map",
        washout=WASHOUT,
        seed=seed,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
    )


def experiment(request: Request, out: Path, talk: Talk, *, from_scratch: bool = False) -> RunFolder:
    """All conditions over the features; resumable."""
    check_run(out)
    dictionary = open_for(request)
    directions = dictionary.features(request.features).directions
    cross, rows = crossing(
        dictionary, request, tiny.SOURCE, tiny.TARGET, ("map", "direct"), talk, from_scratch=from_scratch
    )
    if rows is None or cross.map is None:
        raise RuntimeError("a crossing by map has a harvest and a map")
    turned, _ = fitted(rows, request, "procrustes")
    talk.say("opening the verbalizers of both models, and checking them")
    verbalizers: dict[str, AnyVerbalizer] = {
        "by": open_verbalizer(request.by, request),
        "native": open_verbalizer(request.native or "tiny-smollm2-av", request, native=True),
    }
    quick(verbalizers.values())
    conditions, told = conditions_of(request, directions, cross, turned)
    bare = {
        "washed": cross.directions(directions, "map"),
        "direct": cross.directions(often(directions, cross), "direct"),
    }
    report = {m.method: m.report["held_out"] for m in (cross.map, turned)}
    more = {"map_report": report}
    return carry_out(dictionary, request, directions, cross, conditions, told, verbalizers, out, talk, more, bare=bare)


def conditions_of(
    request: Request, directions: Directions, cross: Crossing, turned: LinearMap
) -> tuple[list[Condition], list[dict[str, Any]]]:
    """The post's conditions, the direct route, its ablation and random directions, with what is told of each."""
    rng = np.random.default_rng(request.seed)
    noise = random_directions(tiny.SOURCE, directions.d_model, len(directions), rng)
    cards = dict(zip(directions.ids, cross.cards(directions), strict=True))
    conditions: list[Condition] = []
    told: list[dict[str, Any]] = []

    def add(
        name: str, carried: Directions, route: str, washout: str, by: str = "by", with_cards: bool = False, **more: str
    ) -> None:
        vectors = wash(carried, cross.source_background if by == "native" else cross.background, washout)
        shown = [cards[i] for i in carried.ids] if with_cards else ()
        conditions.append(Condition.of(name, carried, by, vectors=vectors, cards=shown))
        who = request.native if by == "native" else request.by
        told.append({"name": name, "route": route, "washout": washout, "verbalizer": who, **more})

    mapped, lost = cross.directions(directions, "map"), cross.directions(noise, "map")
    add("native", directions, "identity", request.washout, by="native")
    add("native_plain", directions, "identity", "none", by="native")
    add("plain", mapped, "map (ridge)", "none", with_cards=True)
    add("washed", mapped, "map (ridge)", request.washout, with_cards=True)
    add("random_plain", lost, "map (ridge)", "none", null="random directions")
    add("random_washed", lost, "map (ridge)", request.washout, null="random directions")
    add("procrustes_washed", turned.carry(directions), "map (procrustes)", request.washout)
    add("direct", cross.directions(often(directions, cross), "direct"), "direct", request.washout, with_cards=True)
    return conditions, told


def often(directions: Directions, cross: Crossing) -> Directions:
    """Those that fire in enough documents for the direct route; the table's n says how many."""
    return directions if cross.direct is None else cross.direct.frequent(directions)
