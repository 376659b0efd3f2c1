"""How strong a washout: multiples of the on-shell angle and the post's weights, at both sites.

In: a ground, a library. Out: conditions to be said. The prediction to be tested: words are best where real activations
lie, at one on-shell angle, whatever the site's spread (0.14 at Gemma's, 0.43 at SmolLM2's).
"""

from __future__ import annotations

import math

from dragoman.maps import fit_pooled
from dragoman.washout import on_shell_angle
from studies.cast import Cast, standing
from studies.ground import Ground, stratified
from studies.library import Library
from studies.strengths import on_shell_weight, sweep

QUESTION = "How strong should the washout be, and is it where real activations lie?"
FEATURES = 225
TIMES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
WEIGHTS = (0.15, 0.3, 0.5, 0.7, 0.85)


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """The same directions at every strength, carried by the default's choice and by the post's map."""
    features = stratified(ground, n, seed=seed)
    directions, crossing, rows = ground.directions(features), library.crossing(ground), library.pooled(ground, "map")
    ridge, _ = fit_pooled(rows.x, rows.y, ground.source, ground.target, seed=seed)
    cast = Cast.on(ground, crossing, features)
    both = {"auto": crossing.directions(directions, "auto"), "post": ridge.carry(directions)}
    routes = {route: standing(carried, cast.background) for route, carried in both.items()}
    for route, carried in routes.items():
        for point in sweep(carried, cast.background, times=TIMES, weights=WEIGHTS):
            told = {"degrees": math.degrees(point.angle), "times": point.times, "route": route, "kind": "carried"}
            cast.add(f"{route}, {point.name}", carried, point.name, vectors=point.vectors, **told)
    cast.measured["site"] = {
        "spread": cast.background.spread,
        "on_shell_degrees": math.degrees(on_shell_angle(cast.background)),
        "on_shell_weight": on_shell_weight(cast.background),
    }
    return cast
