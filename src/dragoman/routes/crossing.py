"""Carry directions across a pair that was read token by token: map, direct route, dictionary ridge, or each its own.

In: ``Aligned`` and the dictionary. Out: a ``Bridge`` (the map, the map back, what is usual for them), and from it
directions at the target with a card each. Refuses routes that were not counted, and features that fire too rarely for
the route asked.

The map's penalty is chosen on left-out documents; its ``held_out`` report is of the same map fitted without the fold
the judges come from. Cards compare the map with the direct route: over the same documents, so that what little the two
err together is in ``agreement`` and ``margin``, unless a direct table of other documents is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from dragoman.core import Directions, Refusal, refuse_other_site
from dragoman.routes.aligned import Aligned
from dragoman.routes.cards import Card, Evidence, make_cards
from dragoman.routes.choice import carry_by_choice
from dragoman.routes.direct import DirectTable, blend
from dragoman.routes.evaluate import held_out, usable
from dragoman.routes.fit import fit_map
from dragoman.routes.folds import FoldedMoments
from dragoman.routes.linear import LinearMap
from dragoman.routes.moments import Moments
from dragoman.routes.penalty import Calibration
from dragoman.routes.yardstick import Yardstick

Route = Literal["map", "direct", "dictionary", "blend", "auto"]
ROUTES: tuple[Route, ...] = get_args(Route)
ASKED = "it was asked for"
ALONE = "no feature was watched in these texts, so there is no other"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bridge:
    """What carries directions from ``aligned.source`` to ``aligned.target``.

    ``forward``: the map, with ``held_out`` and ``usable`` on its report; ``back``: the map from target to source, for
    ``cycle``; ``moments``: of all pairs, which both were fitted on; ``yardstick``: for ranks; ``direct``: the direct
    route's table.
    """

    aligned: Aligned
    forward: LinearMap
    back: LinearMap
    moments: Moments
    yardstick: Yardstick
    direct: DirectTable | None

    def cards(self, directions: Directions) -> list[Card]:
        """A card per direction with all the evidence there is."""
        evidence = Evidence(
            reverse=self.back, folds=self.aligned.folded, fired=self.aligned.fired, yardstick=self.yardstick
        )
        return make_cards(directions, self.forward, self.moments, self.direct, evidence=evidence)

    def carry(self, directions: Directions, route: Route = "map") -> tuple[Directions, list[Card]]:
        """Directions at the target, and their cards with ``route`` and ``route_why``.

        ``map``: by the map. ``direct``: the target's mean where the feature fires. ``dictionary``: the same with all
        other features held fixed. ``blend``: half map, half direct. ``auto``: each by the route its card speaks for,
        which is the map for all where no feature was watched.

        Raises:
            Refusal: an unknown route, one that needs the SAE where there was none, or, but for ``map`` and ``auto``, a
                feature that was not watched or fires too rarely.
        """
        cards = self.cards(directions) if route in ROUTES else []
        if route == "auto":
            mapped = self.forward.directions(directions)
            if self.direct is None:
                return mapped, [card | {"route": "map", "route_why": ALONE} for card in cards]
            return carry_by_choice(mapped, self.direct, cards)
        return self.directions(directions, route), [card | {"route": route, "route_why": ASKED} for card in cards]

    def directions(self, directions: Directions, route: Route = "map") -> Directions:
        """As ``carry``, without cards: they cost a few solves, and only ``auto`` needs them."""
        if route not in ROUTES:
            raise Refusal(f"route '{route}'", f"known are {', '.join(ROUTES)}", "use one of these")
        if route == "auto":
            return self.carry(directions, route)[0]
        refuse_other_site("directions", directions.site, self.aligned.source)
        if route == "map":
            return self.forward.directions(directions)
        found = self._table(route).directions(directions.ids, labels=directions.labels)
        return blend(self.forward.directions(directions), found) if route == "blend" else found

    def _table(self, route: Route) -> DirectTable:
        """What a route reads off firings, or a refusal."""
        found = self.aligned.partial if route == "dictionary" else self.direct
        if found is not None:
            return found
        if self.aligned.sums is None:
            why, instead = (
                "no feature was watched in these texts",
                "say --route map, or name a dictionary that has an encoder",
            )
        else:
            why = f"{len(self.aligned.sums.ids)} features were watched, too many to hold one another fixed"
            instead = "say --route direct, or name the features that matter with --features"
        raise Refusal(f"route '{route}'", why, instead)


def build_bridge(
    aligned: Aligned,
    dictionary: Directions,
    *,
    direct: DirectTable | None = None,
    penalty: float | None = None,
    gamma: float = 1.0,
    seed: int = 0,
    allow_underdetermined: bool = False,
) -> Bridge:
    """Fit the map and all that judges it; it depends on no feature that is asked for later.

    Takes two eigendecompositions a fold (source and target width) and some solves: seconds below width 1000, minutes
    at 3584 and 5376.

    Args:
        aligned: what was read.
        dictionary: the SAE's decoder rows at the source, or those of them that are at hand: the penalty is chosen on
            the calibration features among them, and ranks are among them.
        direct: a table from other documents in the place of that of ``aligned``.
        penalty: a relative penalty, to leave the choosing out.
        gamma: 1 for ridge; see ``fit_gamma``.
        seed: of the yardstick's random directions.
        allow_underdetermined: fit no more pairs than the source is wide.

    Raises:
        Refusal: too few pairs, or a dictionary or table of another site.
    """
    refuse_other_site("dictionary directions", dictionary.site, aligned.source)
    if direct is not None:
        refuse_other_site("direct statistics", direct.site, aligned.target)
    calibration = None
    if aligned.calibration is not None and penalty is None:
        calibration = Calibration(directions=dictionary, direct=aligned.calibration)
    forward = fit_map(
        aligned.folded,
        aligned.source,
        aligned.target,
        calibration=calibration,
        penalty=penalty,
        gamma=gamma,
        allow_underdetermined=allow_underdetermined,
    )
    turned = FoldedMoments(
        folds=tuple(fold.reversed() for fold in aligned.folded.folds), documents=aligned.folded.documents
    )
    # Only a check: too few rows for the target's width make it a weak one, not a wrong one.
    back = fit_map(turned, aligned.target, aligned.source, penalty=penalty, allow_underdetermined=True)
    del turned
    forward = _judged(aligned, forward, gamma)
    moments = aligned.folded.total
    yardstick = Yardstick.of(forward, moments, dictionary, back, rng=np.random.default_rng(seed))
    table = aligned.direct if direct is None else direct
    return Bridge(aligned=aligned, forward=forward, back=back, moments=moments, yardstick=yardstick, direct=table)


def cross(
    aligned: Aligned,
    directions: Directions,
    route: Route = "auto",
    *,
    dictionary: Directions | None = None,
    **how: Any,
) -> tuple[Directions, list[Card], Bridge]:
    """``build_bridge`` (which ``how`` is for) and ``Bridge.carry`` in one.

    The directions are their own dictionary where none is given: enough for a few hundred, not for one.
    """
    bridge = build_bridge(aligned, directions if dictionary is None else dictionary, **how)
    return *bridge.carry(directions, route), bridge


def to_watch(
    dictionary: Directions, asked: Iterable[str | int], *, near: int = 50, others: int = 2000, seed: int = 0
) -> tuple[str, ...]:
    """Which features of a large dictionary to count: those asked for, their rivals, and some thousand others.

    A card's margin is against the features that are counted, so the likeliest to be mistaken for those asked for are
    among them: the ``near`` nearest by decoder cosine of each.

    Raises:
        Refusal: a feature the dictionary does not have.
    """
    own = dictionary.pick(asked)
    chosen = set(own.ids)
    count = min(near + 1, len(dictionary))
    for row in own.unit:
        nearest = np.argpartition(-(dictionary.unit @ row), count - 1)[:count]
        chosen |= {dictionary.ids[i] for i in nearest}
    drawn = np.random.default_rng(seed).permutation(len(dictionary))[:others]
    chosen |= {dictionary.ids[i] for i in drawn}
    return tuple(name for name in dictionary.ids if name in chosen)


def _judged(aligned: Aligned, forward: LinearMap, gamma: float) -> LinearMap:
    """The map with ``held_out`` on its report: of the map that the other folds give at the same penalty."""
    pairs = aligned.held_out
    rest = tuple(m for k, m in enumerate(aligned.folded.folds) if k != pairs.fold)
    trial = fit_map(
        FoldedMoments(folds=rest, documents=aligned.folded.documents),
        aligned.source,
        aligned.target,
        penalty=forward.settings["lam_rel"],
        gamma=gamma,
        standardise=bool(forward.settings.get("standardised")),
        allow_underdetermined=True,
    )
    found = held_out(trial, pairs.x, pairs.y, documents=pairs.documents)
    word, why = usable(found)
    told = {"held_out": found, "usable": word, "usable_why": why, "pairing": "aligned tokens"}
    return replace(forward, report=forward.report | told | {"harvest": dict(aligned.report)})
