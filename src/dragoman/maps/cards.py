"""What is known of each direction's crossing before a word is said about it, and the route that speaks for it.

In: directions at the source, the map, the moments it was fitted on and, where the SAE's encoder is at hand, the direct
route's table; more if there is some. Out: one ``Card`` per direction; directions carried each by its own route. Refuses
directions, moments and sums of other sites, and cards that are not one per direction.

The routes answer two questions: the direct route when a feature fires, the map what its row writes. Coverage sees what
the map lost to shrinkage; only the margin sees where the two readings *differ*: what the row writes is nearer to where
another feature fires, which is then named. Route ``auto`` takes the direct route where a feature fires often enough;
the map needs no firing and answers for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, refuse_other_site, unit_rows
from dragoman.maps.diagnostics import Baselines, below, cycle, purity, reliability, reliability_of_folds, retained
from dragoman.maps.direct import FLOOR, DirectTable, FiringSums, blend
from dragoman.maps.linear import LinearMap
from dragoman.maps.moments import Doubles, FoldedMoments, Moments
from dragoman.records import Card, Status

Chosen = Literal["map", "direct", "blend"]
Names = Sequence[str | None]

COMFORT = 50.0  # effective documents at which the direct route may be used, not only asked
QUARTILE = 0.25
RELIABLE = 0.7


class _Compared(NamedTuple):
    """A row beside where features fire: see ``Card``."""

    n_eff: float | None = None
    agreement: float | None = None
    margin: float | None = None
    nearest: str | None = None


def make_cards(
    directions: Directions,
    map_: LinearMap,
    moments: Moments,
    direct: DirectTable | None = None,
    *,
    back: LinearMap | None = None,
    folds: FoldedMoments | None = None,
    fired: FiringSums | None = None,
    baselines: Baselines | None = None,
) -> list[Card]:
    """One card per direction d (a unit row at the source), with H = (Sxx + lam I)^-1 Sxx, so that E[dW] = dHW*.

    ``agreement`` is None where the direct route cannot answer: features it did not watch, or with fewer than ``FLOOR``
    effective documents; competitors are held to the same floor. ``home_*`` say the same of d itself against the
    source's mean where each feature fires: a row that was turned, swapped or mislabelled before it crossed shows there,
    whatever the map does.

    Args:
        directions: at the source.
        map_: from source to target.
        moments: that the map was fitted on.
        direct: should rest on documents the map was not fitted on, or the two agree where they err together.
        back: the map from target to source, for ``cycle``.
        folds: moments by fold, for ``rel`` over documents.
        fired: sums of firings taken with the source's own rows, for ``purity`` and the comparison at home.
        baselines: for ranks.

    Raises:
        Refusal: something belongs to another site or width.
    """
    _refuse_mismatch(directions, map_, moments, direct, back)
    unit = directions.unit / np.linalg.norm(directions.unit.astype(np.float64), axis=1, keepdims=True)
    image = unit @ map_.weight
    measured = _measured(directions, unit, image, map_, moments, back, folds, fired, baselines)
    lowest = float(np.quantile(baselines.random_norm, 0.01)) if baselines else None
    return _judged(measured, _compared(_names(directions), image, direct), _at_home(directions, unit, fired), lowest)


def cards_as_is(directions: Directions, direct: DirectTable | None, fired: FiringSums | None) -> list[Card]:
    """Cards of rows that are read at the target as they are: only the direct routes can check them."""
    unit = directions.unit / np.linalg.norm(directions.unit.astype(np.float64), axis=1, keepdims=True)
    measured = [{"norm": 1.0}] * len(unit)
    return _judged(measured, _compared(_names(directions), unit, direct), _at_home(directions, unit, fired), None)


def _judged(
    measured: Sequence[Mapping[str, float | None]],
    checks: Sequence[_Compared],
    home: Sequence[_Compared],
    lowest_norm: float | None,
) -> list[Card]:
    cards = []
    for numbers, there, here in zip(measured, checks, home, strict=True):
        of_home = {"home_agreement": here.agreement, "home_margin": here.margin, "home_nearest": here.nearest}
        card = Card.model_validate({**numbers, **there._asdict(), **of_home})
        status, why = status_of(card, lowest_norm=lowest_norm)
        cards.append(card.model_copy(update={"status": status, "why": why}))
    return cards


def _names(directions: Directions) -> Names:
    """Only a feature can be one of those watched: a random direction may happen to bear the same id."""
    return directions.ids if directions.kind == "feature" else (None,) * len(directions)


def status_of(card: Card, *, lowest_norm: float | None = None) -> tuple[Status, str]:
    """One word and the reason: ``differs``, ``unverified``, ``weak`` or ``ok``, the first that applies.

    ``differs``: enough firings, and the image is no nearer to where its own feature fires than another does (margin
    <= 0); what a row writes need not be what it fires on, so this is no fault. ``unverified``:
    fewer than ``FLOOR`` effective documents, so nothing but weights was looked at. ``weak``: coverage or cycle in the
    dictionary's lowest quarter, rel below 0.7, an image shorter than 99 % of random directions', or fewer than 50
    effective documents. ``ok``: none of these. The two cut-offs are to be calibrated for each pair of models.
    """
    n_eff, margin = card.n_eff, card.margin
    doubts = [
        f"its {what} is in the dictionary's lowest quarter"
        for rank, what in ((card.coverage_over_dictionary, "coverage"), (card.cycle_over_dictionary, "cycle"))
        if rank is not None and rank < QUARTILE
    ]
    if card.rel is not None and card.rel < RELIABLE:
        doubts.append(f"other rows might turn its image (rel {card.rel:.2f})")
    if lowest_norm is not None and card.norm is not None and card.norm < lowest_norm:
        doubts.append("its image is shorter than 99 % of random directions'")
    if n_eff is not None and n_eff >= FLOOR and margin is not None and margin <= 0:
        where = f"the row's image is nearer feature {card.nearest} than where it fires (margin {margin:+.3f})"
        return "differs", f"its two readings differ: {where}"
    if n_eff is None or n_eff < FLOOR or margin is None:
        seen = "it is not watched by the direct route" if n_eff is None else f"{n_eff:.0f} effective documents"
        return "unverified", "; ".join([f"the direct route cannot check it ({seen})", *doubts])
    if n_eff < COMFORT:
        doubts.append(f"it fires in {n_eff:.0f} effective documents of the {COMFORT:g} that are comfortable")
    if doubts:
        return "weak", "; ".join(doubts)
    return "ok", f"{n_eff:.0f} effective documents agree, margin {margin:+.3f}"


def choose(card: Card) -> tuple[Chosen, str]:
    """A feature's route and the reason, one clause.

    ``direct`` at ``COMFORT`` effective documents or more, and from ``FLOOR`` on where the two readings differ;
    ``blend`` between the two where the routes agree; ``map`` below, where a mean would be noise.
    """
    if card.n_eff is None:
        return "map", "the direct route does not watch it"
    fires = f"it fires in {card.n_eff:.0f} effective documents"
    if card.n_eff < FLOOR:
        return "map", f"{fires}, and a mean needs {FLOOR:g}"
    if card.n_eff >= COMFORT:
        return "direct", f"{fires}, {COMFORT:g} are enough"
    if card.margin is not None and card.margin <= 0:
        nearer = f"the map's image is nearer feature {card.nearest} (margin {card.margin:+.2f})"
        return "direct", f"{fires}, few, but {nearer}"
    return "blend", f"{fires}, between {FLOOR:g} and {COMFORT:g}, and the map does not contradict them"


def carry_by_choice(mapped: Directions, direct: DirectTable, cards: Sequence[Card]) -> tuple[Directions, list[Card]]:
    """Each direction by the route its card speaks for.

    Args:
        mapped: all of them by the map, at the target.
        direct: the direct route's table at the same site.
        cards: one per direction, in order.

    Returns:
        Directions at the target in the same order, and the cards with ``route`` and ``route_why``.

    Raises:
        Refusal: another site, or not one card per direction.
    """
    refuse_other_site("direct statistics", direct.site, mapped.site)
    if len(cards) != len(mapped):
        raise Refusal(f"{len(cards)} cards for {len(mapped)} directions", "each has one", "make cards of the same set")
    made = [choose(card) for card in cards]
    rows = np.array(mapped.unit)
    for route in ("direct", "blend"):
        picked = [k for k, (name, _) in enumerate(made) if name == route]
        if not picked:
            continue
        own = mapped.pick(mapped.ids[k] for k in picked)
        found = direct.rows(own.ids, labels=own.labels)
        rows[picked] = found.unit if route == "direct" else blend(own, found).unit
    carried = mapped.moved(mapped.site, rows, f"each by its own route: [{mapped.origin}] or the direct route")
    return carried, [by_route(card, route, why) for card, (route, why) in zip(cards, made, strict=True)]


def by_route(card: Card, route: str, why: str) -> Card:
    """A card that tells by which route its direction was carried."""
    return card.model_copy(update={"route": route, "route_why": why})


def _refuse_mismatch(
    directions: Directions, map_: LinearMap, moments: Moments, direct: DirectTable | None, back: LinearMap | None
) -> None:
    refuse_other_site("directions", directions.site, map_.source)
    if (moments.p, moments.q) != map_.weight.shape or directions.d_model != moments.p:
        raise Refusal(
            f"directions of width {directions.d_model} and moments of widths {moments.p} and {moments.q}",
            f"the map has shape {map_.weight.shape}",
            "pass the moments the map was fitted on",
        )
    if direct is not None:
        refuse_other_site("direct statistics", direct.site, map_.target)
        if direct.beta.shape[1] != moments.q:
            raise Refusal(
                f"direct statistics of width {direct.beta.shape[1]}",
                f"the map's images are {moments.q} wide",
                "make both from the same model",
            )
    if back is not None:
        refuse_other_site("the map back", back.source, map_.target)
        refuse_other_site("the map back's end", back.target, map_.source)


def _measured(
    directions: Directions,
    unit: Doubles,
    image: Doubles,
    map_: LinearMap,
    moments: Moments,
    back: LinearMap | None,
    folds: FoldedMoments | None,
    fired: FiringSums | None,
    baselines: Baselines | None,
) -> list[dict[str, float | None]]:
    """What weights and moments alone say, column by column."""
    through = retained(unit, map_, moments)
    columns: dict[str, NDArray[Any] | None] = {
        "coverage": through.coverage,
        "kappa": through.kappa,
        "norm": np.linalg.norm(image, axis=1),
        "rel": None,
        "cycle": None if back is None else cycle(unit, map_, back),
        "purity": None,
        "coverage_over_random": None,
        "coverage_over_dictionary": None,
        "cycle_over_dictionary": None,
    }
    if map_.method == "ridge":
        if folds is not None:
            columns["rel"] = reliability_of_folds(unit, map_, folds)
        elif through.spread is not None:
            columns["rel"] = reliability(image, through.spread, map_, moments)
    if fired is not None and "lam" in map_.settings and not map_.settings.get("standardised"):
        columns["purity"] = purity(directions, fired, moments, map_.settings["lam"])
    if baselines is not None:
        columns["coverage_over_random"] = below(baselines.random_coverage, through.coverage)
        columns["coverage_over_dictionary"] = below(baselines.dictionary_coverage, through.coverage)
        if baselines.dictionary_cycle is not None and columns["cycle"] is not None:
            columns["cycle_over_dictionary"] = below(baselines.dictionary_cycle, columns["cycle"])
    return [
        {name: None if values is None or np.isnan(values[k]) else float(values[k]) for name, values in columns.items()}
        for k in range(len(unit))
    ]


def _at_home(directions: Directions, unit: Doubles, fired: FiringSums | None) -> list[_Compared]:
    """The same comparison in the source itself: rows d (k, p) against the source's mean where each feature fires."""
    return _compared(_names(directions), unit, None if fired is None else fired.table())


def _compared(names: Names, image: Doubles, direct: DirectTable | None) -> list[_Compared]:
    """Agreement, nearest other feature and margin of images (k, q) against every feature that fires often enough."""
    if direct is None:
        return [_Compared()] * len(names)
    n_eff, beta, where = direct.n_eff, direct.beta, {name: i for i, name in enumerate(direct.ids)}
    able = np.flatnonzero((n_eff >= FLOOR) & (np.linalg.norm(beta, axis=1) > 0))
    cosines = np.full((len(names), len(n_eff)), -np.inf)
    if able.size:
        # A zero image has no direction: leave its cosines at 0.
        length = np.linalg.norm(image, axis=1, keepdims=True)
        rivals, _ = unit_rows(beta[able], "direct route")
        cosines[:, able] = (image / np.where(length > 0, length, 1.0)) @ rivals.T
    checks = list[_Compared]()
    for name, row in zip(names, cosines, strict=True):
        own = where.get(name) if name is not None else None
        agreement = float(row[own]) if own is not None and np.isfinite(row[own]) else None
        if own is not None:
            row[own] = -np.inf
        rival = int(np.argmax(row))
        rivalled = bool(np.isfinite(row[rival]))
        checks.append(
            _Compared(
                n_eff=float(n_eff[own]) if own is not None else None,
                agreement=agreement,
                margin=agreement - float(row[rival]) if agreement is not None and rivalled else None,
                nearest=direct.ids[rival] if rivalled else None,
            )
        )
    return checks
