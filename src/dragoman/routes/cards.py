"""What is known of each direction's crossing before a word is said about it.

In: directions at the source, the map, the moments it was fitted on and, where the SAE's encoder is at hand, the direct
route's statistics; more evidence if there is some. Out: one card per direction, with a verdict. Refuses directions,
moments and statistics of other sites.

The routes check each other. Coverage sees what the map lost to shrinkage; only the margin sees *drift*, when an image
has come to mean a more frequent relative, and the nearest other feature then names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, refuse_other_site, unit_rows
from dragoman.routes.coverage import kept, reliability, reliability_of_folds
from dragoman.routes.direct import FLOOR, DirectStatistics, DirectTable
from dragoman.routes.folds import FoldedMoments
from dragoman.routes.linear import LinearMap
from dragoman.routes.moments import Doubles, Moments
from dragoman.routes.purity import purity
from dragoman.routes.yardstick import Yardstick, below, cycle

Card = dict[str, Any]

COMFORT = 50.0  # effective documents at which the direct route may be used, not only asked
QUARTILE = 0.25
RELIABLE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a card can say more with; every part may be left out.

    ``reverse``: the map from target to source, for ``cycle``. ``folds``: moments by fold, for ``rel`` over documents.
    ``fired``: direct statistics taken with the source's own rows, for ``purity`` and the comparison at home.
    ``yardstick``: for ranks.
    """

    reverse: LinearMap | None = None
    folds: FoldedMoments | None = None
    fired: DirectStatistics | None = None
    yardstick: Yardstick | None = None


def make_cards(
    directions: Directions,
    bridge: LinearMap,
    moments: Moments,
    direct: DirectTable | None = None,
    *,
    floor: float = FLOOR,
    evidence: Evidence | None = None,
) -> list[Card]:
    """One card per direction d (a unit row at the source), with H = (Sxx + lam I)^-1 Sxx, so that E[dW] = dHW*.

    ``direct`` should rest on documents the map was not fitted on, or the two agree where they err together.

    Returns:
        Dicts with ``coverage`` d H d', the share of d the map explains, and ``kappa`` cos(d, dH), how true the
        explained part is to d, both in [0, 1]; ``norm`` |dW|; and from the direct route, with beta_k the target's mean
        where k fires: ``n_eff`` effective documents, ``agreement`` cos(dW, beta_k), ``nearest`` the other feature j
        whose beta_j lies nearest dW, and ``margin`` cos(dW, beta_k) - cos(dW, beta_j); at or below 0 the image has
        drifted to j. None where the direct route cannot answer: features it did not watch, or with fewer than
        ``floor`` effective documents; competitors are held to the same floor.

        ``home_agreement``, ``home_margin`` and ``home_nearest`` say the same of d itself against the source's mean
        where each feature fires: a row that was turned, swapped or mislabelled before it crossed shows there, whatever
        the map does.

        Further ``rel``, how near dW is to what more such rows would give (None but for ridge); ``cycle``
        cos(d, dW V) with the map back; ``purity``, the feature's own part of the mixture dW is; the shares of random
        (``coverage_over_random``) and of the dictionary's directions (``coverage_over_dictionary``,
        ``cycle_over_dictionary``) below it; ``verdict`` and ``why``, see ``verdict``. None where not known.

    Raises:
        Refusal: something belongs to another site or width.
    """
    evidence = evidence or Evidence()
    _refuse_mismatch(directions, bridge, moments, direct, evidence)
    unit = directions.unit / np.linalg.norm(directions.unit.astype(np.float64), axis=1, keepdims=True)
    image = unit @ bridge.weight
    cards = _measured(directions, unit, image, bridge, moments, evidence)
    # Only a feature can be one of those watched: a random direction may happen to bear the same id.
    names = directions.ids if directions.kind == "feature" else (None,) * len(directions)
    if direct is None:
        none = {"n_eff": None, "agreement": None, "margin": None, "nearest": None}
        checks = [none] * len(cards)
    else:
        checks = _compared(names, image, direct, floor)
    home = _at_home(names, unit, evidence.fired, floor)
    cards = [card | check | own for card, check, own in zip(cards, checks, home, strict=True)]
    lowest = float(np.quantile(evidence.yardstick.random_norm, 0.01)) if evidence.yardstick else None
    for card in cards:
        card["verdict"], card["why"] = verdict(card, floor=floor, lowest_norm=lowest)
    return cards


def verdict(card: Card, *, floor: float = FLOOR, lowest_norm: float | None = None) -> tuple[str, str]:
    """One word and the reason: ``drift``, ``unverified``, ``weak`` or ``ok``, the first that applies.

    ``drift``: enough firings, and the image is no nearer its own feature than another (margin <= 0). ``unverified``:
    fewer than ``floor`` effective documents, so nothing but weights was looked at. ``weak``: coverage or cycle in the
    dictionary's lowest quarter, rel below 0.7, an image shorter than 99 % of random directions', or fewer than 50
    effective documents. ``ok``: none of these. The two cut-offs are to be calibrated for each pair of models.
    """
    n_eff, margin = card["n_eff"], card["margin"]
    doubts = []
    for name, what in (("coverage_over_dictionary", "coverage"), ("cycle_over_dictionary", "cycle")):
        if card[name] is not None and card[name] < QUARTILE:
            doubts.append(f"its {what} is in the dictionary's lowest quarter")
    if card["rel"] is not None and card["rel"] < RELIABLE:
        doubts.append(f"other rows might turn its image (rel {card['rel']:.2f})")
    if lowest_norm is not None and card["norm"] < lowest_norm:
        doubts.append("its image is shorter than 99 % of random directions'")
    if n_eff is not None and n_eff >= floor and margin is not None and margin <= 0:
        return "drift", f"its image is nearer feature {card['nearest']} than its own (margin {margin:+.3f})"
    if n_eff is None or n_eff < floor or margin is None:
        seen = "it is not watched by the direct route" if n_eff is None else f"{n_eff:.0f} effective documents"
        return "unverified", "; ".join([f"the direct route cannot check it ({seen})", *doubts])
    if n_eff < COMFORT:
        doubts.append(f"it fires in {n_eff:.0f} effective documents of the {COMFORT:g} that are comfortable")
    if doubts:
        return "weak", "; ".join(doubts)
    return "ok", f"{n_eff:.0f} effective documents agree, margin {margin:+.3f}"


def _refuse_mismatch(
    directions: Directions, bridge: LinearMap, moments: Moments, direct: DirectTable | None, evidence: Evidence
) -> None:
    refuse_other_site("directions", directions.site, bridge.source)
    if (moments.p, moments.q) != bridge.weight.shape or directions.d_model != moments.p:
        raise Refusal(
            f"directions of width {directions.d_model} and moments of widths {moments.p} and {moments.q}",
            f"the map has shape {bridge.weight.shape}",
            "pass the moments the map was fitted on",
        )
    if direct is not None:
        refuse_other_site("direct statistics", direct.site, bridge.target)
        if direct.beta.shape[1] != moments.q:
            raise Refusal(
                f"direct statistics of width {direct.beta.shape[1]}",
                f"the map's images are {moments.q} wide",
                "make both from the same model",
            )
    if evidence.reverse is not None:
        refuse_other_site("the map back", evidence.reverse.source, bridge.target)
        refuse_other_site("the map back's end", evidence.reverse.target, bridge.source)


def _measured(
    directions: Directions,
    unit: Doubles,
    image: Doubles,
    bridge: LinearMap,
    moments: Moments,
    evidence: Evidence,
) -> list[Card]:
    """What weights and moments alone say, column by column."""
    through = kept(unit, bridge, moments)
    columns: dict[str, NDArray[Any] | None] = {
        "coverage": through.coverage,
        "kappa": through.kappa,
        "norm": np.linalg.norm(image, axis=1),
        "rel": None,
        "cycle": None if evidence.reverse is None else cycle(unit, bridge, evidence.reverse),
        "purity": None,
    }
    if bridge.method == "ridge":
        if evidence.folds is not None:
            columns["rel"] = reliability_of_folds(unit, bridge, evidence.folds)
        elif through.spread is not None:
            columns["rel"] = reliability(image, through.spread, bridge, moments)
    if evidence.fired is not None and "lam" in bridge.settings and not bridge.settings.get("standardised"):
        columns["purity"] = purity(directions, evidence.fired, moments, bridge.settings["lam"])
    yard, back = evidence.yardstick, columns["cycle"]
    columns["coverage_over_random"] = below(yard.random_coverage, through.coverage) if yard else None
    columns["coverage_over_dictionary"] = below(yard.dictionary_coverage, through.coverage) if yard else None
    measured = yard is not None and yard.dictionary_cycle is not None and back is not None
    columns["cycle_over_dictionary"] = below(yard.dictionary_cycle, back) if measured else None  # type: ignore[arg-type,union-attr]
    return [
        {name: None if values is None or np.isnan(values[k]) else float(values[k]) for name, values in columns.items()}
        for k in range(len(unit))
    ]


def _at_home(names: tuple[str | None, ...], unit: Doubles, fired: DirectStatistics | None, floor: float) -> list[Card]:
    """The same comparison in the source itself: rows d (k, p) against the source's mean where each feature fires."""
    keys = ("agreement", "margin", "nearest")
    if fired is None:
        return [{f"home_{key}": None for key in keys}] * len(names)
    return [{f"home_{key}": found[key] for key in keys} for found in _compared(names, unit, fired.table(), floor)]


def _compared(ids: tuple[str | None, ...], image: Doubles, direct: DirectTable, floor: float) -> list[Card]:
    """Agreement, nearest other feature and margin of images (k, q) against every feature that fires often enough."""
    n_eff, beta, where = direct.n_eff, direct.beta, {name: i for i, name in enumerate(direct.ids)}
    able = np.flatnonzero((n_eff >= floor) & (np.linalg.norm(beta, axis=1) > 0))
    cosines = np.full((len(ids), len(n_eff)), -np.inf)
    if able.size:
        # A zero image has no direction: leave its cosines at 0.
        length = np.linalg.norm(image, axis=1, keepdims=True)
        rivals, _ = unit_rows(beta[able], "direct route")
        cosines[:, able] = (image / np.where(length > 0, length, 1.0)) @ rivals.T
    checks: list[Card] = []
    for name, row in zip(ids, cosines, strict=True):
        own = where.get(name) if name is not None else None
        agreement = float(row[own]) if own is not None and np.isfinite(row[own]) else None
        if own is not None:
            row[own] = -np.inf
        rival = int(np.argmax(row))
        rivalled = bool(np.isfinite(row[rival]))
        checks.append(
            {
                "n_eff": float(n_eff[own]) if own is not None else None,
                "agreement": agreement,
                "margin": agreement - float(row[rival]) if agreement is not None and rivalled else None,
                "nearest": direct.ids[rival] if rivalled else None,
            }
        )
    return checks
