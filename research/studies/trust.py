"""What a confidence is fitted and tested on: explanations of features with everything known of them, and of nulls.

In: a ground, a library. Out: conditions to be said, four times each (the first greedily), with cards. The nulls are
what an auditor would try: random directions; rows of features outside the study under the names of features in it; true
rows carried by a map that was fitted on shuffled pairs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dragoman.core import Directions, Refusal
from dragoman.maps import fit_pooled, make_cards
from studies.cast import Cast
from studies.controls import like_activations, shuffled_map
from studies.ground import Ground, stratified
from studies.library import Library

QUESTION = "May a confidence be believed: on other features, in the other direction, on nulls?"
FEATURES, CHECKS, NULLS, REAL, NOTHING = 600, 150, 300, 200, 100
SAMPLES = 4
UNUSED_SEED = 7


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """The default pipeline, the post's, three nulls, and what a verbalizer says of something and of nothing."""
    features = stratified(ground, n, seed=seed)
    share = n / FEATURES
    checks, nulls, real, nothing = (max(30, round(share * most)) for most in (CHECKS, NULLS, REAL, NOTHING))
    others = stratified(ground, checks, seed=seed + 1, without=features)
    crossing, rows = library.crossing(ground), library.pooled(ground, "map")
    ridge, moments = fit_pooled(rows.x, rows.y, ground.source, ground.target, seed=seed)
    cast = Cast.on(ground, crossing, (*features, *others), samples=SAMPLES)
    directions = ground.directions(features)
    for name, asked in (("auto", directions), ("auto, other features", ground.directions(others))):
        carried, cards = crossing.carry(asked, "auto")
        cast.add(name, carried, cards=cards, route="auto", kind="carried")
    carried, cards = crossing.carry(directions, "map")
    cast.add("map", carried, cards=cards, route="map", kind="carried")
    posts = make_cards(directions, ridge, moments, crossing.direct)
    cast.add("post", ridge.carry(directions), cards=posts, route="post", kind="carried")
    rng = np.random.default_rng(seed + 1)
    noise = like_activations(library.fitted(ground)[1], ground.source, nulls, np.random.default_rng(seed + 2))
    carried, cards = crossing.carry(noise, "map")
    cast.add("random", carried, cards=cards, route="map", kind="null", null="random directions")
    some = directions.pick(rng.permutation(features)[: min(nulls, n)])
    unused = dealt(ground, some, stratified(ground, 2 * len(some), seed=UNUSED_SEED, without=(*features, *others)))
    carried, cards = crossing.carry(unused, "map")
    cast.add("unused", carried, cards=cards, route="map", kind="null", null="unused rows")
    forward, _ = library.fitted(ground)
    pairs = library.held_out(ground)
    wrong = replace(crossing, map=shuffled_map(pairs, forward, seed))
    carried, cards = wrong.carry(some, "map")
    cast.add("shuffled", carried, cards=cards, route="map", kind="null", null="shuffled map")
    y = pairs.y
    picked = y[np.sort(np.random.default_rng(seed + 4).permutation(len(y))[:real])]
    seen = Directions.of(ground.target, picked, [f"real-{k}" for k in range(len(picked))], kind="custom")
    cast.add("real activations", seen, "none", kind="ordinary", route="none")
    drawn = np.random.default_rng(seed + 5).normal(size=(nothing, y.shape[1]))
    empty = Directions.of(ground.target, drawn, [f"nothing-{k}" for k in range(nothing)], kind="random")
    cast.add("nothing", empty, kind="nothing", route="none")
    return cast


def dealt(ground: Ground, features: Directions, unused: tuple[str, ...]) -> Directions:
    """Rows of unused features under the names of features of another category."""
    waiting = list(unused)
    taken = []
    for name in features.ids:
        own = ground.latents[name].category
        k = next((k for k, other in enumerate(waiting) if ground.latents[other].category != own), None)
        if k is None:
            raise Refusal(f"a row for feature {name}", f"all that are left are of {own} too", "offer more unused rows")
        taken.append(waiting.pop(k))
    rows = ground.rows.pick(taken)
    return replace(features, unit=rows.unit, norms=rows.norms, origin="rows of unused features")
