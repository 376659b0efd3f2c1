"""What a run carries under which names: a feature's two readings, or everything by the one route that was named.

In: directions, a crossing, options. Out: a ``Carried`` per condition, and what the manifest tells of features that have
no reading "fires". Refuses what carrying refuses, and that reading where no feature asked for has it.

The direct route tells when a feature fires, the map what its row writes: two questions, so neither answer stands for
the other, and where they differ that says something of the feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from dragoman.core import Background, Directions
from dragoman.maps import Crossing
from dragoman.maps.cards import by_route
from dragoman.maps.crossing import Route
from dragoman.maps.diagnostics import usable
from dragoman.maps.direct import FLOOR
from dragoman.records import READINGS, Card, Reading
from dragoman.report.words import too_rare
from dragoman.runs.options import READING_OF, Options
from dragoman.washout import nothing_else, wash

TOLD = 5  # features named in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Directions at the target under the name of a condition; ``cards``: one each, or none."""

    name: str
    directions: Directions
    route: str
    cards: Sequence[Card]
    reading: Reading | None


class TooRare(TypedDict):
    """Effective documents (None where nobody counted) of features without the reading "fires", and the least."""

    least: float
    documents: dict[str, float | None]


class About(TypedDict, total=False):
    """Of a manifest's ``about``, what is told of carried conditions.

    ``map``: what is wrong with the map, where a text crossed by it. ``background``: by condition, the features that are
    set aside there because what was carried of them is nothing else.
    """

    map: str
    too_rare: TooRare
    background: dict[str, list[str]]


def conditions_of(
    directions: Directions, crossing: Crossing, options: Options, say: Callable[[str], None]
) -> tuple[list[Carried], About]:
    """The conditions asked for, and entries of the manifest's ``about``.

    Raises:
        Refusal: as ``Crossing.carry``; "fires" alone was asked for, and no feature has it; every row is background.
    """
    about = About()
    if options.route is not None or crossing.source == crossing.target:
        made = [_by_one_route(directions, crossing, options)]
        if options.route is None and options.reading is not None:
            say("the verbalizer reads the dictionary's own stream, so each feature has one reading: its row itself")
    else:
        made, rare = _by_readings(directions, crossing, options, say)
        if rare:
            about["too_rare"] = {"least": FLOOR, "documents": rare}
    doubt = next(filter(None, (unusable(crossing, one.route) for one in made)), "")
    if doubt:
        say(f"{doubt}; believe no text it carried, or fit it on more texts")
        about["map"] = doubt
    kept, lost = list[Carried](), dict[str, list[str]]()
    for one in made:
        left, aside = washable(one, crossing.background, options.washout, say)
        kept += [left] if left is not None else []
        lost |= {one.name: aside} if aside else {}
    if not kept:
        wash(made[-1].directions, crossing.background, options.washout)  # refuses, with the reason
    if lost:
        about["background"] = lost
    return kept, about


def washable(
    one: Carried, background: Background, washout: str, say: Callable[[str], None]
) -> tuple[Carried | None, list[str]]:
    """Without rows that are nothing but background, and their ids: washing would leave nothing of them.

    None where no row is left.
    """
    lost, ids = nothing_else(one.directions, background, washout), one.directions.ids
    aside = [ids[k] for k in np.flatnonzero(lost)]
    if not aside:
        return one, []
    first, more = ", ".join(aside[:TOLD]), ", ..." if len(aside) > TOLD else ""
    say(f"set aside {len(aside)} of {len(ids)} rows of {one.name}: nothing but background ({first}{more})")
    return without(one, set(aside)), aside


def without(one: Carried, ids: AbstractSet[str]) -> Carried | None:
    """The rows of other features; None where there are none."""
    kept = [k for k, name in enumerate(one.directions.ids) if name not in ids]
    if not kept:
        return None
    cards = [one.cards[k] for k in kept] if one.cards else ()
    return replace(one, directions=one.directions.pick([one.directions.ids[k] for k in kept]), cards=cards)


def _by_one_route(directions: Directions, crossing: Crossing, options: Options) -> Carried:
    here, asked = crossing.source == crossing.target, options.route or "map"
    carried, cards = crossing.carry(directions, asked)
    route = "identity" if here else asked
    bare = "plain" if options.washout == "none" else "washed"
    name = bare if route in ("map", "identity", "as-is") else route
    return Carried(name=name, directions=carried, route=route, cards=cards, reading=READING_OF.get(route))


def _by_readings(
    directions: Directions, crossing: Crossing, options: Options, say: Callable[[str], None]
) -> tuple[list[Carried], dict[str, float | None]]:
    """The readings asked for, and the effective documents of features that lack "fires" though it was asked for."""
    wanted = READINGS if options.reading in (None, "both") else (options.reading,)
    firing, rare = _firing(directions, crossing)
    if "fires" not in wanted:
        rare = {}
    elif options.reading == "fires" and not firing:
        crossing.directions(directions, "direct")  # refuses, with the reason
    elif crossing.direct is None:
        say("nothing was counted where the features fire, so each has one reading: what its row writes")
        rare = {}
    elif rare:
        say(_told(rare, len(directions)))
    routes: Mapping[Reading, tuple[Route, Sequence[str], str]] = {
        "fires": ("direct", firing, "it is read where it fires"),
        "writes": ("map", directions.ids, "its row is read as the map carries it"),
    }
    cards, made = dict(zip(directions.ids, crossing.cards(directions), strict=False)), []
    for reading in wanted:
        route, ids, why = routes[reading]
        if ids:
            own = [by_route(cards[name], route, why) for name in ids] if cards else []
            carried = crossing.directions(directions.pick(ids), route)
            made.append(Carried(name=reading, directions=carried, route=route, cards=own, reading=reading))
    return made, rare


def _firing(directions: Directions, crossing: Crossing) -> tuple[list[str], dict[str, float | None]]:
    """Features that fire often enough for the direct route, and the effective documents of the others."""
    table = crossing.direct
    counted: dict[str, float] = {} if table is None else dict(zip(table.ids, table.n_eff.tolist(), strict=True))
    firing = [name for name in directions.ids if counted.get(name, 0.0) >= FLOOR]
    often = set(firing)
    return firing, {name: counted.get(name) for name in directions.ids if name not in often}


def _told(rare: Mapping[str, float | None], n: int) -> str:
    """One sentence on features that fire too rarely."""
    first = [f"feature {name} {too_rare(documents, FLOOR)}" for name, documents in list(rare.items())[:TOLD]]
    more = "; ..." if len(rare) > TOLD else ""
    whose = f"{len(rare)} of {n} features {'has' if len(rare) == 1 else 'have'} no reading of what they fire on"
    return f"{whose}: {'; '.join(first)}{more}"


def unusable(crossing: Crossing, route: str) -> str:
    """What is wrong with the map that directions cross by, on texts it was not fitted on; "" where nothing is."""
    if crossing.map is None or crossing.source == crossing.target or route not in ("map", "blend", "auto"):
        return ""
    word, why = usable(crossing.map.report["held_out"])
    return f"the map is unusable: {why}" if word == "unusable" else ""
