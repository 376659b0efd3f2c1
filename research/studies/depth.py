"""Which depth: features as they stand at blocks across the source, and a fixed verbalizer fed from blocks near its own.

In: a ground, a library. Out: conditions to be said and held-out numbers. A feature's direction at another block is the
direct route inside the model: that block's mean where the feature fires. From there a map fitted at that block carries
it to the verbalizer's site. At the target, directions of neighbouring blocks are read as they are, and carried home.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dragoman.core import Background, Directions, Site, frozen
from dragoman.maps import FiringSums, Moments
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.washout import on_shell
from studies.cast import Cast, standing
from studies.ground import Ground, stratified
from studies.library import Library
from studies.maps import Reference, aligned_map, identity
from studies.tokens import Tokens

QUESTION = "Does the source's depth matter, and may a verbalizer be fed from a neighbouring block?"
FEATURES = 225
STEPS = 10  # blocks of the source
NEAR = (-4, -2, -1, 0, 1, 2, 4)  # blocks around the verbalizer's
LAM = 0.1


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """One condition a source block, and two a neighbouring target block."""
    features = stratified(ground, n, seed=seed)
    source, target = ground.source, ground.target
    depth = {side.model: len_blocks(library, side) for side in (source, target)}
    across = tuple(sorted({*np.linspace(1, depth[source.model] - 1, STEPS).astype(int).tolist(), source.block}))
    near = tuple(b for step in NEAR if 0 <= (b := target.block + step) < depth[target.model])
    tokens = library.blocks(ground, across, near)
    crossing = library.crossing(ground)
    cast = Cast.on(ground, crossing, features)
    count = int(tokens.documents.max()) + 1
    fitted, judging = (tokens.of(part) for part in (slice(0, int(0.8 * count)), slice(int(0.8 * count), None)))
    reference = Reference.of(tokens, judging, target, seed)
    for block in across:
        found = firing_at(tokens, fitted, replace(source, block=block), features, "x")
        made = aligned_map(tokens, fitted, ground.rows, target, block)
        carried = made.carry(found)
        name = f"source block {block}"
        told = {"block": block, "relative_depth": (block + 1) / depth[source.model], "side": "source"}
        cast.add(name, carried, route="map", kind="carried", **told)
        cast.measured[name] = reference.judged(made) | told | {"lam_rel": made.settings["lam_rel"]}
        if crossing.direct is not None:  # far more documents than are read here
            cast.measured[name]["identity"] = identity(carried, crossing.direct)
    for block in near:
        there = background_at(tokens, fitted, replace(target, block=block))
        found = standing(firing_at(tokens, fitted, replace(target, block=block), features, "y"), there)
        told = {"block": block, "away": block - target.block, "side": "target", "kind": "carried"}
        here = replace(found, site=target)  # said to live where the verbalizer reads: the post's first observation
        cast.add(
            f"target block {block}, as it is",
            here,
            vectors=on_shell(here, replace(there, site=target)),
            route="as it is",
            **told,
        )
        if block != target.block:
            a, b = tokens.y[block][fitted], tokens.y[target.block][fitted]
            moments = Moments.of(a, b)
            home = fit_ridge(moments, found.site, target, relative_lambda(moments, LAM))
            cast.add(f"target block {block}, carried", home.carry(found), route="carried", **told)
    return cast


def len_blocks(library: Library, site: Site) -> int:
    """How many blocks a model has."""
    return int(library.reader(site).model.config.num_hidden_layers)


def firing_at(tokens: Tokens, rows: np.ndarray, site: Site, features: tuple[str, ...], side: str) -> Directions:
    """Where the stream at a block points when each feature fires; features that fire too rarely here are left out."""
    values = getattr(tokens, side)[site.block][rows]
    ids = [str(i) for i in range(tokens.fired.shape[1])]
    table = FiringSums(site, ids, values.shape[1]).add(tokens.fired[rows], values, tokens.documents[rows]).table()
    every = Directions.of(site, np.eye(1, values.shape[1]).repeat(len(features), 0), features)
    able = table.frequent(every).ids
    return table.rows(able)


def background_at(tokens: Tokens, rows: np.ndarray, site: Site) -> Background:
    """The mean unit activation of a target block."""
    y = tokens.y[site.block][rows].astype(np.float64)
    mean = (y / np.linalg.norm(y, axis=1, keepdims=True)).mean(axis=0)
    return Background(site, frozen(mean), len(rows))
