"""The post, corrected: every route, every washout, every null, on stratified features.

In: a ground, a library. Out: conditions to be said. The post's own recipe (ridge 100 on 800 pooled texts) and its
ablation stand beside the map over aligned tokens, the direct route, dictionary ridge, their blend and the choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dragoman.core import Directions, Site
from dragoman.maps import Crossing, LinearMap, Moments, fit_pooled, make_cards
from dragoman.maps.aligned import HeldOutPairs
from dragoman.maps.linear import fit_ridge
from studies.cast import Cast, standing
from studies.ground import Ground, stratified
from studies.library import Library
from studies.strengths import contrast

QUESTION = "Does the post hold on hundreds of features, in both directions, against every null?"
FEATURES = 600
WASHOUTS = ("none", "0.5", "on-shell", "projected")
NULLS = 300
UNUSED_SEED = 7


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """All routes x washouts, native, and the nulls of the post's map and of the aligned one."""
    features = stratified(ground, n, seed=seed)
    directions, crossing = ground.directions(features), library.crossing(ground)
    rows = library.pooled(ground, "map")
    ridge, moments = fit_pooled(rows.x, rows.y, ground.source, ground.target, seed=seed)
    turned, _ = fit_pooled(rows.x, rows.y, ground.source, ground.target, seed=seed, method="procrustes")
    forward, _ = library.fitted(ground)
    cast = Cast.on(ground, crossing, features)
    cards = crossing.cards(directions)
    posts = make_cards(directions, ridge, moments, crossing.direct)
    by_feature = dict(zip(features, cards, strict=True))
    for washout in WASHOUTS:
        cast.add(f"native, {washout}", directions, washout, by="native", route="identity", kind="native")
    for washout in WASHOUTS:
        shown = washout == "on-shell"
        cast.add(
            f"post, {washout}",
            ridge.carry(directions),
            washout,
            route="post",
            kind="carried",
            cards=posts if shown else (),
        )
        cast.add(f"procrustes, {washout}", turned.carry(directions), washout, route="procrustes", kind="carried")
        for route, carried in carried_by(crossing, directions):
            told = [by_feature[i] for i in carried.ids] if shown else ()
            cast.add(f"{route}, {washout}", carried, washout, route=route, kind="carried", cards=told)
    for name, carried, how in nulls(ground, library, ridge, moments, features, n=min(NULLS, n), seed=seed):
        for washout in ("none", "on-shell"):
            cast.add(f"{name}, {washout}", carried, washout, route=how, kind="null", null=name.rpartition(" by ")[0])
    carried = standing(crossing.directions(directions, "auto"), cast.background)
    opposite = contrast(carried, cast.background)
    cast.add("opposite, on-shell", carried, vectors=opposite.minus, route="auto", kind="contrast")
    alone = Directions.of(ground.target, opposite.alone, ["background"], kind="custom")
    cast.add("background alone", alone, "none", vectors=opposite.alone, route="none", kind="null", null="background")
    cast.measured |= {
        "held_out": {
            "post": ridge.report["held_out"],
            "procrustes": turned.report["held_out"],
            "map": forward.report["held_out"],
        },
        "penalty": {k: v for k, v in (forward.report["penalty"] or {}).items() if k != "grid"},
        "texts": dict(forward.report["harvest"]),
        "routes": counted(crossing, directions),
    }
    return cast


def carried_by(crossing: Crossing, directions: Directions) -> Iterator[tuple[str, Directions]]:
    """Each route's name and what it carries: the direct ones only features that fire often enough for them."""
    yield "map", crossing.directions(directions, "map")
    able = directions if crossing.direct is None else crossing.direct.frequent(directions)
    yield "direct", crossing.directions(able, "direct")
    yield "blend", crossing.directions(able, "blend")
    if crossing.partial is not None:
        yield "dictionary", crossing.directions(crossing.partial.frequent(directions), "dictionary")
    yield "auto", crossing.directions(directions, "auto")


def counted(crossing: Crossing, directions: Directions) -> dict[str, int]:
    """How many features the choice sends by each route."""
    _, cards = crossing.carry(directions, "auto")
    return {route: sum(card.route == route for card in cards) for route in ("direct", "blend", "map")}


def nulls(
    ground: Ground,
    library: Library,
    ridge: LinearMap,
    moments: Moments,
    features: tuple[str, ...],
    *,
    n: int,
    seed: int,
) -> Iterator[tuple[str, Directions, str]]:
    """Random directions of the source's covariance, unused rows, and a map fitted on shuffled pairs; for both maps."""
    rng = np.random.default_rng(seed + 1)
    unused = ground.directions(stratified(ground, n, seed=UNUSED_SEED, without=features))
    some = ground.directions(features).pick(rng.permutation(features)[:n])
    for route, forward, own in (("post", ridge, moments), ("map", *library.fitted(ground))):
        noise = like_activations(own, ground.source, n, np.random.default_rng(seed + 2))
        yield f"random by {route}", forward.carry(noise), route
        yield f"unused by {route}", forward.carry(unused), route
        mixed = shuffled_map(library.held_out(ground), forward, seed)
        yield f"shuffled by {route}", mixed.carry(some), route


def like_activations(moments: Moments, site: Site, n: int, rng: np.random.Generator) -> Directions:
    """Directions drawn with the source's own covariance: z Sxx^1/2."""
    values, vectors = np.linalg.eigh(moments.sxx)
    root = np.sqrt(np.clip(values, 0.0, None))
    rows = (rng.normal(size=(n, moments.p)) * root) @ vectors.T
    return Directions.of(site, rows, [f"random-{i}" for i in range(n)], kind="random", origin="random, as activations")


def shuffled_map(pairs: HeldOutPairs, forward: LinearMap, seed: int) -> LinearMap:
    """A ridge over rows that do not belong together, at the map's own relative penalty: what no pairing leads to."""
    order = np.random.default_rng(seed + 3).permutation(len(pairs.y))
    moments = Moments.of(pairs.x, pairs.y[order])
    lam = forward.settings["lam_rel"] * float(np.trace(moments.sxx)) / moments.p
    made = fit_ridge(moments, forward.source, forward.target, lam, allow_underdetermined=True)
    return replace(made, report=made.report | {"shuffled": True})
