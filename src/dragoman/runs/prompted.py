"""Activations at tokens of a person's prompts, in a verbalizer's words, into a run folder.

In: ``Activations``, verbalizers, perhaps a crossing. Out: a ``Run`` whose rows tell prompt, token and position. Refuses
whatever reading, crossing and verbalizing refuses, routes and readings that are of features, and a washout.

An activation is a point, carried by the affine map with both means, and nothing is mixed in: see
``dragoman.maps.points``. It is of no dictionary, so there are no cards and no confidence; what tells how far to trust
the crossing is the map's report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dragoman.core import Background, Directions, Refusal, Site
from dragoman.maps import Crossing
from dragoman.maps.crossing import neighbouring
from dragoman.maps.diagnostics import usable
from dragoman.maps.linear import LinearMap
from dragoman.maps.points import carry_points, fit_points
from dragoman.models.algebra import algebra_of
from dragoman.models.prompts import Activations
from dragoman.models.sizes import check_read
from dragoman.runs.build import RunBuilder, together
from dragoman.runs.crossings import by_texts
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store import RunFolder, digest
from dragoman.verbalizers.protocol import AnyVerbalizer

CARRIED = "activation"  # the condition's name
_ROUTES = (None, "map", "as-is")


def refuse_of_features(options: Options, **given: object) -> None:
    """Refuse what only a dictionary's features have, before anything is opened.

    ``given``: what else was said, by the name of its option; None, or empty, where it was not.
    """
    for name, value in given.items():
        if value is not None and value != () and value is not False:
            why = "it is of a dictionary's features, and an activation is none"
            raise Refusal(f"{name} beside prompts", why, f"leave {name} out")
    if options.reading is not None or options.route not in _ROUTES:
        said = f"reading '{options.reading}'" if options.reading else f"route '{options.route}'"
        why = "nothing counts where an activation fires"
        raise Refusal(f"{said} of an activation", why, "leave it out: it crosses by the map, or as-is to a near block")
    if options.washout not in ("none", "on-shell"):  # the latter is what options say where nobody said anything
        why = "it holds its model's background already"
        raise Refusal(f"washout '{options.washout}' of an activation", why, "leave it out")


def refuse_early(site: Site, target: Site, options: Options, fitted: Crossing | None, texts: Texts) -> None:
    """Refuse, before the verbalizer is opened, what could not be carried later."""
    if options.route == "as-is" and fitted is not None:
        why = "as they are, activations cross by nothing"
        raise Refusal(f"route 'as-is' through {fitted.name}", why, "leave it out")
    if fitted is not None:
        fitted.refuse_others(None, target)
        if fitted.source != site:
            why = f"it carries from {fitted.source}"
            raise Refusal(f"activations at {site} through {fitted.name}", why, "read the prompts there")
        if fitted.map is None and site != target:
            raise Refusal(f"{fitted.name}", "it has no map, which is what carries activations", "fit one")
    elif site != target and options.route != "as-is":
        texts.refuse_few(site, target, map=options.map, route="map")
        check_read(target, what="what the verbalizer reads")


@dataclass(frozen=True, kw_only=True)
class _Carried:
    """Activations at the target; the ``map`` and ``background`` where there were two streams to read."""

    directions: Directions
    route: str
    map: LinearMap | None = None
    background: Background | None = None
    digests: Mapping[str, str]


def carried(what: Activations, readings: Readings, options: Options, fitted: Crossing | None) -> _Carried:
    """Carry activations to where the verbalizer reads."""
    site, target, talk = what.site, readings.target, readings.talk
    if options.route == "as-is" or site == target:
        moved = neighbouring(what.directions, target)
        return _Carried(directions=moved, route="identity" if site == target else "as-is", digests={})
    if fitted is not None and fitted.map is not None:
        made, background, digests = fitted.map, fitted.background, dict(fitted.digests)
    elif options.map == "post":
        crossing, _ = by_texts(readings, seed=options.seed)
        made, background, digests = crossing.map, crossing.background, dict(crossing.digests)
    else:
        aligned, key = readings.aligned(None, seed=options.seed)
        talk.say(f"fitting the map on {aligned.report['pairs']} pairs of tokens")
        made, background = fit_points(aligned, algebra_of(readings.device)), aligned.background
        digests = {"aligned": key}
    if made is None:
        raise Refusal(f"activations at {site}", "no map was fitted", "pass a crossing that has one")
    moved = carry_points(made, what.directions)
    return _Carried(directions=moved, route="map", map=made, background=background, digests=digests)


def written(
    what: Activations,
    readings: Readings,
    by: AnyVerbalizer,
    native: AnyVerbalizer | None,
    options: Options,
    fitted: Crossing | None,
    out: Path,
    settings: Mapping[str, Any],
) -> RunFolder:
    """Carry, say and keep."""
    one, talk = carried(what, readings, options, fitted), readings.talk
    if readings.once:
        readings.close()
    about = {}
    if one.map is not None:
        word, why = usable(one.map.report["held_out"])
        if word == "unusable":
            about = {"map": f"the map is unusable: {why}"}
            talk.say(f"{about['map']}; believe no text it carried, or fit it on more texts")
    verbalizers: dict[str, AnyVerbalizer] = {"by": by} if native is None else {"by": by, "native": native}
    backgrounds = {} if one.background is None else {"by": one.background}
    builder = RunBuilder(
        directions=what.directions, backgrounds=backgrounds, tokens=what.tokens, target=one.directions.site
    )
    if native is not None:
        builder.add("native", what.directions, route="identity", washout="none", by="native")
    add = partial(builder.add, CARRIED, one.directions, route=one.route, washout="none", keep_bare=True)
    add(map=options.map) if one.map is not None else add()
    prompts = {token.number: token.prompt for token in what.tokens}
    decided = {"temperature": options.drawn_at, "batch_size": together(options, verbalizers)}
    more = {
        "prompts": {"n": len(prompts), "digest": digest(*(prompts[number] for number in sorted(prompts)))},
        "settings": {**asdict(options), "washout": "none", **decided, **settings},
        "digests": dict(one.digests),
        "map_report": {one.map.method: one.map.report["held_out"]} if one.map is not None else {},
        **({"about": about} if about else {}),
    }
    return builder.write(out, verbalizers, options, talk, more)
