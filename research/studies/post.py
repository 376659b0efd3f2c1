"""The post beside every other route and every control, by measures that see features.

In: a ground, a library. Out: conditions to be said, rows judged. Latents are drawn by how often they fire and by
nothing else. The post's recipe (ridge on 800 pooled texts) stands at its literal penalty of 100, at the relative one
that 100 is by the project's reckoning of its rows (simulated), and tuned as every other map is; its ablation
(Procrustes) beside.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragoman.core import Directions
from dragoman.maps import Crossing
from studies.cast import Cast
from studies.ground import Ground
from studies.library import Library
from studies.tuning import POST_REL
from studies.yardstick import PairReading, sizes_of

QUESTION = "What does each route carry, and what does a text say of when a feature fires, against every control?"
FEATURES, ONE_WORD = 600, 150
CONTROLS = (
    "silent", "before the first firing", "dealt rows", "random directions", "shuffled map", "fake fires", "fake writes",
)  # fmt: skip
ROWS_ALONE = ("dealt rows", "fake fires", "fake writes")  # texts of dealt rows are the dealt texts that every line has
BARE = ("map", "direct", "post")  # said bare too
NAMES = {"writes": "map", "fires": "direct"}
PAIRS = (
    ("direct", "map"), ("auto", "direct"), ("blend", "map"), ("map", "post, tuned"), ("map", "post"),
    ("post, its relative penalty", "post"), ("post, tuned", "post"), ("procrustes", "post, tuned"),
    ("direct", "silent"), ("direct", "before the first firing"), ("map", "shuffled map"), ("map", "random directions"),
    ("direct", "fake fires"), ("map", "fake writes"), ("direct", "direct, none"), ("map", "map, none"),
    ("post", "post, none"),
)  # fmt: skip


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Every route and control; bare and washed on shell where the post spoke of it."""
    pair = PairReading.read(ground, library, sizes_of(n, one_word=ONE_WORD * n // FEATURES), seed=seed)
    lines = pair.lines()
    for name, rows in routes(pair):
        texts = () if name in ROWS_ALONE else ("on-shell", "none") if name in BARE else ("on-shell",)
        lines.add(name, rows, kind="control" if name in CONTROLS else "route", texts=texts)
    lines.compare(*PAIRS)
    crossing = pair.crossing
    forward, _ = library.fitted(ground)
    penalties = {name: value for name, value in pair.notes.items() if name.endswith("lam_rel")}
    lines.cast.measured["notes"] = {
        "relative penalties": penalties | {"map lam_rel": forward.settings["lam_rel"]},
        f"penalty {POST_REL:g}": "simulated: the post's 100 in units of its own rows, which were not measured",
        "sent by auto": counted(crossing, ground.directions(pair.chosen.drawn)),
        "chosen from": dict(pair.chosen.notes),
    }
    return lines.cast


def routes(pair: PairReading) -> Iterator[tuple[str, Directions]]:
    """Each line's name and rows, routes before controls."""
    rows, found = pair.ground.directions(pair.chosen.every), pair.routes()
    crossing = pair.crossing
    told = {NAMES.get(name, name): one for name, one in found.items()}
    if crossing.partial is not None:
        told["dictionary"] = crossing.directions(crossing.partial.frequent(rows), "dictionary")
    told["auto"] = crossing.directions(rows, "auto")
    yield from ((name, one) for name, one in told.items() if name not in CONTROLS)
    yield from ((name, told[name]) for name in CONTROLS if name in told)


def counted(crossing: Crossing, directions: Directions) -> dict[str, int]:
    """How many features the choice sends by each route."""
    _, cards = crossing.carry(directions, "auto")
    return {route: sum(card.route == route for card in cards) for route in ("direct", "blend", "map")}
