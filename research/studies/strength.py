"""How strong a washout: multiples of the on-shell angle and the post's weights, at both sites.

In: a ground, a library. Out: conditions to be said. The prediction to be tested: words are best where real activations
lie, at one on-shell angle, whatever the site's spread (0.14 at Gemma's, 0.43 at SmolLM2's). Every strength is compared
with it on the same latents, and the best is chosen on one half of them and reported on the other.
"""

from __future__ import annotations

import math
from typing import Any

from dragoman.core import Directions
from dragoman.maps.crossing import Route
from dragoman.washout import on_shell_angle
from studies.cast import Cast, standing
from studies.choice import choose
from studies.ground import Ground
from studies.library import Library
from studies.lines import Lines
from studies.strengths import on_shell_weight, sweep

QUESTION = "How strong should the washout be, and is it where real activations lie?"
FEATURES = 150  # latents of one word: there are only texts to judge
TIMES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
WEIGHTS = (0.3, 0.5, 0.7)
ON_SHELL = "on-shell x 1"


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """The same directions at every strength, by the direct route and by the map."""
    crossing, judge = library.crossing(ground), library.split(ground, "judge")
    if crossing.direct is None:
        raise RuntimeError("a crossing over tokens has a direct table")
    chosen = choose(ground, judge, library.words(ground), drawn=0, one_words=n, seed=seed)
    cast = Cast.on(ground, crossing, chosen.every)
    lines = Lines(cast=cast, judge=None, fakes=None, one_word=chosen.one_word)
    directions = ground.directions(chosen.every)
    able = crossing.direct.frequent(directions)
    both: tuple[tuple[Route, Directions], ...] = (("direct", able), ("map", directions))
    for route, rows in both:
        carried = standing(crossing.directions(rows, route), cast.background)
        names = []
        for point in sweep(carried, cast.background, times=TIMES, weights=WEIGHTS):
            told: dict[str, Any] = {"degrees": math.degrees(point.angle), "times": point.times, "strength": point.name}
            names.append(f"{route}, {point.name}")
            lines.text(names[-1], carried, point.name, vectors=point.vectors, route=route, **told)
        home = f"{route}, {ON_SHELL}"
        lines.compare(*((name, home) for name in names if name != home))
        cast.measured["choose"].append({"among": names, "against": home})
    cast.measured["notes"] = {
        "spread": cast.background.spread,
        "on_shell_degrees": math.degrees(on_shell_angle(cast.background)),
        "on_shell_weight": on_shell_weight(cast.background),
        "chosen from": dict(chosen.notes),
    }
    return cast
