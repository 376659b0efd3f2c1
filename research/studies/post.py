"""The post, corrected: every route, every washout, every null, on stratified features.

In: a ground, a library. Out: conditions to be said. The post's own recipe (ridge 100 on 800 pooled texts) and its
ablation stand beside the map over aligned tokens, the direct route, dictionary ridge, their blend and the choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dragoman.core import Directions, Site
from dragoman.routes import LinearMap, Moments, fit_ridge, make_cards, the_posts_fit
from dragoman.routes.aligned import HeldOutPairs
from dragoman.routes.crossing import Bridge
from dragoman.routes.dictionary import WHOLE
from dragoman.routes.direct import FLOOR, DirectTable
from dragoman.washout import contrast
from studies.cast import Cast, standing
from studies.ground import Ground, stratified
from studies.library import Library

QUESTION = "Does the post hold on hundreds of features, in both directions, against every null?"
FEATURES = 600
WASHOUTS = ("none", "0.5", "on-shell", "projected")
NULLS = 300
UNUSED_SEED = 7


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """All routes x washouts, native, and the nulls of the post's map and of the aligned one."""
    features = stratified(ground, n, seed=seed)
    directions, bridge = ground.directions(features), library.bridge(ground)
    rows = library.pooled(ground, "map")
    ridge, moments = the_posts_fit(rows.x, rows.y, ground.source, ground.target, seed=seed)
    turned, _ = the_posts_fit(rows.x, rows.y, ground.source, ground.target, seed=seed, method="procrustes")
    cast = Cast.on(ground, bridge, features)
    cards = bridge.cards(directions)
    posts = make_cards(directions, ridge, moments, bridge.direct)
    by_feature = dict(zip(features, cards, strict=True))
    for washout in WASHOUTS:
        cast.add(f"native, {washout}", directions, washout, by="native", route="identity", kind="native")
    for washout in WASHOUTS:
        shown = washout == "on-shell"
        cast.add(
            f"post, {washout}",
            ridge.directions(directions),
            washout,
            route="post",
            kind="carried",
            cards=posts if shown else (),
        )
        cast.add(f"procrustes, {washout}", turned.directions(directions), washout, route="procrustes", kind="carried")
        for route, carried in carried_by(bridge, directions):
            told = [by_feature[i] for i in carried.ids] if shown else ()
            cast.add(f"{route}, {washout}", carried, washout, route=route, kind="carried", cards=told)
    for name, carried, how in nulls(ground, bridge, ridge, moments, features, n=min(NULLS, n), seed=seed):
        for washout in ("none", "on-shell"):
            cast.add(f"{name}, {washout}", carried, washout, route=how, kind="null", null=name.rpartition(" by ")[0])
    carried = standing(bridge.directions(directions, "auto"), cast.background)
    opposite = contrast(carried, cast.background)
    cast.add("opposite, on-shell", carried, vectors=opposite.minus, route="auto", kind="contrast")
    alone = Directions.of(ground.target, opposite.alone, ["background"], kind="custom")
    cast.add("background alone", alone, "none", vectors=opposite.alone, route="none", kind="null", null="background")
    cast.measured |= {
        "held_out": {
            "post": ridge.report["held_out"],
            "procrustes": turned.report["held_out"],
            "map": bridge.forward.report["held_out"],
        },
        "penalty": {k: v for k, v in (bridge.forward.report["penalty"] or {}).items() if k != "grid"},
        "texts": dict(bridge.aligned.report),
        "routes": counted(bridge, directions),
    }
    return cast


def carried_by(bridge: Bridge, directions: Directions) -> Iterator[tuple[str, Directions]]:
    """Each route's name and what it carries: the direct ones only features that fire often enough for them."""
    yield "map", bridge.directions(directions, "map")
    able = frequent(directions, bridge.direct)
    yield "direct", bridge.directions(able, "direct")
    yield "blend", bridge.directions(able, "blend")
    if bridge.aligned.partial is not None and len(bridge.aligned.partial.ids) <= WHOLE:
        yield "dictionary", bridge.directions(frequent(directions, bridge.aligned.partial), "dictionary")
    yield "auto", bridge.directions(directions, "auto")


def frequent(directions: Directions, table: DirectTable | None, floor: float = FLOOR) -> Directions:
    """Those a table can answer for."""
    if table is None:
        return directions
    n_eff = dict(zip(table.ids, table.n_eff, strict=True))
    return directions.pick(i for i in directions.ids if n_eff.get(i, 0.0) >= floor)


def counted(bridge: Bridge, directions: Directions) -> dict[str, int]:
    """How many features the choice sends by each route."""
    _, cards = bridge.carry(directions, "auto")
    return {route: sum(card["route"] == route for card in cards) for route in ("direct", "blend", "map")}


def nulls(
    ground: Ground,
    bridge: Bridge,
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
    for route, forward, own in (("post", ridge, moments), ("map", bridge.forward, bridge.moments)):
        noise = like_activations(own, ground.source, n, np.random.default_rng(seed + 2))
        yield f"random by {route}", forward.directions(noise), route
        yield f"unused by {route}", forward.directions(unused), route
        mixed = shuffled_map(bridge.aligned.held_out, forward, seed)
        yield f"shuffled by {route}", mixed.directions(some), route


def like_activations(moments: Moments, site: Site, n: int, rng: np.random.Generator) -> Directions:
    """Directions drawn with the source's own covariance: z Sxx^1/2."""
    values, vectors = np.linalg.eigh(moments.sxx)
    root = np.sqrt(np.clip(values, 0.0, None))
    rows = (rng.normal(size=(n, moments.p)) * root) @ vectors.T
    return Directions.of(site, rows, [f"random-{i}" for i in range(n)], kind="random", origin="random, as activations")


def shuffled_map(judges: HeldOutPairs, forward: LinearMap, seed: int) -> LinearMap:
    """A ridge over rows that do not belong together, at the map's own relative penalty: what no pairing leads to."""
    order = np.random.default_rng(seed + 3).permutation(len(judges.y))
    moments = Moments.of(judges.x, judges.y[order])
    lam = forward.settings["lam_rel"] * float(np.trace(moments.sxx)) / moments.p
    made = fit_ridge(moments, forward.source, forward.target, lam, allow_underdetermined=True)
    return replace(made, report=made.report | {"shuffled": True})
