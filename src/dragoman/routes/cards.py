"""What is known of each direction's crossing before a word is said about it.

In: directions at the source, the map, the moments it was fitted on and, where the SAE's encoder is at hand, the direct
route's statistics. Out: one card per direction. Refuses directions, moments and statistics of other sites.

The routes check each other. Coverage sees what the map lost to shrinkage; only the margin sees *drift*, when an image
has come to mean a more frequent relative, and the nearest other feature then names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dragoman.core import Directions, Refusal, refuse_other_site, unit_rows
from dragoman.routes.direct import FLOOR, DirectTable
from dragoman.routes.linear import LinearMap
from dragoman.routes.moments import Doubles, Moments
from dragoman.routes.ridge import solve_shifted

Card = dict[str, Any]


def make_cards(
    directions: Directions,
    bridge: LinearMap,
    moments: Moments,
    direct: DirectTable | None = None,
    *,
    floor: float = FLOOR,
) -> list[Card]:
    """One card per direction d (a unit row at the source), with H = (Sxx + lam I)^-1 Sxx, so that E[dW] = dHW*.

    Returns:
        Dicts with ``coverage`` d H d', the share of d the map explains, and ``kappa`` cos(d, dH), how true the
        explained part is to d, both in [0, 1]; ``norm`` |dW|; and from the direct route, with beta_k the target's mean
        where k fires: ``n_eff`` effective documents, ``agreement`` cos(dW, beta_k), ``nearest`` the other feature j
        whose beta_j lies nearest dW, and ``margin`` cos(dW, beta_k) - cos(dW, beta_j); at or below 0 the image has
        drifted to j. None where the direct route cannot answer: features it did not watch, or with fewer than
        ``floor`` effective documents; competitors are held to the same floor.

    Raises:
        Refusal: something belongs to another site or width.
    """
    refuse_other_site("directions", directions.site, bridge.source)
    if (moments.p, moments.q) != bridge.weight.shape or directions.d_model != moments.p:
        raise Refusal(
            f"directions of width {directions.d_model} and moments of widths {moments.p} and {moments.q}",
            f"the map has shape {bridge.weight.shape}",
            "pass the moments the map was fitted on",
        )
    unit = directions.unit / np.linalg.norm(directions.unit.astype(np.float64), axis=1, keepdims=True)
    image = unit @ bridge.weight
    cards: list[Card] = [
        {"coverage": coverage, "kappa": kappa, "norm": norm}
        for coverage, kappa, norm in zip(
            *_retained(unit, bridge, moments), np.linalg.norm(image, axis=1).tolist(), strict=True
        )
    ]
    if direct is None:
        none = {"n_eff": None, "agreement": None, "margin": None, "nearest": None}
        return [card | none for card in cards]
    refuse_other_site("direct statistics", direct.site, bridge.target)
    if direct.beta.shape[1] != moments.q:
        raise Refusal(
            f"direct statistics of width {direct.beta.shape[1]}",
            f"the map's images are {moments.q} wide",
            "make both from the same model",
        )
    # Only a feature can be one of those watched: a random direction may happen to bear the same id.
    names = directions.ids if directions.kind == "feature" else (None,) * len(directions)
    checks = _compared(names, image, direct, floor)
    return [card | check for card, check in zip(cards, checks, strict=True)]


def _retained(unit: Doubles, bridge: LinearMap, moments: Moments) -> tuple[list[float], list[float]]:
    """Coverage and kappa of unit rows (k, p)."""
    if bridge.method == "ridge":
        lam = bridge.settings["lam"]
        kept = unit - lam * solve_shifted(moments.sxx, lam, unit.T).T  # dH; I - H = lam (Sxx + lam I)^-1
    else:  # a truncated rotation keeps the projection on its informative source directions
        turn = bridge.weight / bridge.settings["scale"]
        kept = unit @ turn @ turn.T
    coverage = np.clip(np.sum(kept * unit, axis=1), 0.0, 1.0)
    length = np.linalg.norm(kept, axis=1)
    kappa = np.clip(coverage / np.where(length > 1e-9, length, 1.0), 0.0, 1.0)  # nothing kept: 0, not rounding noise
    return coverage.tolist(), kappa.tolist()


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
