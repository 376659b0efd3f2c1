"""Drift: rows turned towards a neighbour by a known angle, and rows that drift on their own; what the cards see of it.

In: a ground, a library. Out: conditions to be said (turned rows, by the map), and every flag of every row, turned and
not. A turned row keeps its feature's name and its encoder, as a mislabelled or damaged release would; the flags are
those of a card made from the texts that maps may be fitted on. Natural drift is judged on the other texts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions
from studies.cast import Cast
from studies.ground import Ground, stratified
from studies.library import Library
from studies.maps import Fitted, direct, identities, identity
from studies.tokens import Tokens

QUESTION = "Can drift be seen before a word is said?"
FEATURES = 225
PLANTED = 1500  # rows whose flags are measured; words are said of ``FEATURES`` of them
DEGREES = (0, 15, 30, 45, 60, 75, 90)
FLAGS = ("home_margin", "home_agreement", "margin", "agreement", "purity", "cycle", "coverage", "kappa", "rel")


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Flags of thousands of rows at every angle; words of a few hundred."""
    crossing = library.crossing(ground)
    features = stratified(ground, n, seed=seed)
    rest = [i for i in ground.latents if i not in set(features)]
    order = np.random.default_rng(seed).permutation(len(rest))
    many = (*features, *(rest[k] for k in order[: max(min(PLANTED, len(ground.latents)) - n, 0)]))
    rows = ground.rows.pick(many)
    neighbours = nearest_rows(ground.rows, rows)
    cast = Cast.on(ground, crossing, features)
    tokens = library.tokens(ground)
    fitted = Fitted.of(tokens, tokens.of(slice(0, library.fit)), ground.rows, ground.target)
    planted: dict[str, dict[str, list[float | None]]] = {}
    for degrees in DEGREES:
        bent = towards(rows, neighbours, degrees)
        cards = fitted.cards(bent)
        planted[str(degrees)] = {flag: [getattr(card, flag) for card in cards] for flag in FLAGS}
        planted[str(degrees)]["named"] = [
            float(card.home_nearest == other or card.nearest == other)
            for card, other in zip(cards, neighbours.ids, strict=True)
        ]
        some = bent.pick(features)
        told = {"degrees": degrees, "towards": list(neighbours.ids[:n]), "route": "map", "kind": "turned"}
        cast.add(f"turned by {degrees}", crossing.directions(some, "map"), cards=crossing.cards(some), **told)
    cast.measured |= {
        "rows": list(many),
        "neighbours": list(neighbours.ids),
        "neighbour_categories": [ground.latents[i].category if i in ground.latents else None for i in neighbours.ids],
        "planted": planted,
        "natural": natural(ground, tokens, fitted, rows, library.fit),
    }
    return cast


def natural(ground: Ground, tokens: Tokens, fitted: Fitted, rows: Directions, fit: int) -> dict[str, Any]:
    """Which rows lose their identity in crossing, by a direct table of the texts that nothing was fitted on."""
    table = direct(tokens, tokens.of(slice(fit, None)), ground.target)
    carried = fitted.forward.carry(rows)
    return {"kept": identities(carried, table), "summary": identity(carried, table)}


def nearest_rows(dictionary: Directions, rows: Directions) -> Directions:
    """The row of the dictionary nearest each by cosine, itself excepted."""
    cosines = rows.unit @ dictionary.unit.T
    where = {name: k for k, name in enumerate(dictionary.ids)}
    cosines[np.arange(len(rows)), [where[i] for i in rows.ids]] = -np.inf
    picked = [dictionary.ids[k] for k in np.argmax(cosines, axis=1)]
    at = [where[i] for i in picked]
    # Two rows may have the same nearest one, so ids are told beside and not picked.
    return replace(rows, ids=tuple(picked), unit=dictionary.unit[at], norms=dictionary.norms[at])


def towards(rows: Directions, neighbours: Directions, degrees: float) -> Directions:
    """Rows turned by an angle towards their neighbours; 0 leaves them, and so does their name."""
    if degrees == 0:
        return rows
    return rows.moved(
        rows.site, bend(rows.unit, neighbours.unit, degrees), f"{rows.origin}, turned by {degrees} degrees"
    )


def bend(rows: NDArray[Any], others: NDArray[Any], degrees: float) -> NDArray[np.float64]:
    """Cos t d + sin t e, e the part of the other row orthogonal to d, at unit length."""
    d = np.asarray(rows, dtype=np.float64)
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    across = np.asarray(others, dtype=np.float64) - np.sum(others * d, axis=1, keepdims=True) * d
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    t = np.radians(degrees)
    return np.cos(t) * d + np.sin(t) * across
