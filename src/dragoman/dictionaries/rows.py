"""Which rows of a dictionary are meant, and which have no direction; random directions to compare with.

In: feature ids, decoder rows. Out: row numbers; rows with a direction and the ids of those without; `Directions`.
Refuses ids that are not there, and rows that are zero, not finite or beyond float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import NO_LENGTH, Directions, Refusal, Site
from dragoman.dictionaries.layout import Weights
from dragoman.store.spans import shown


def wanted(features: Sequence[int | str], source: Weights) -> list[int]:
    """Feature ids as row numbers that are there."""
    if not features:
        raise Refusal(
            f"no features of {source.name}",
            "there is nothing to read",
            f"name ids from 0 to {source.d_sae - 1}",
        )
    rows: dict[int, None] = {}
    for feature in features:
        row = int(feature) if str(feature).isdecimal() and len(str(feature)) < 19 else -1
        if not 0 <= row < source.d_sae:
            raise Refusal(
                f"feature {shown(feature)} of {source.name}",
                f"it has {source.d_sae} features (d_sae {source.d_sae})",
                f"name ids from 0 to {source.d_sae - 1}",
            )
        if row in rows:
            raise Refusal(
                f"feature {feature} of {source.name}",
                "it is asked for twice",
                "name every feature once",
            )
        rows[row] = None
    return list(rows)


def living(rows: NDArray[Any], ids: list[str], name: str) -> tuple[NDArray[Any], list[str], tuple[str, ...]]:
    """Rows that have a direction and their ids; ids of those whose length is zero.

    Raises:
        Refusal: none has one.
    """
    dead = _zero(rows)
    if not dead.any():
        return rows, ids, ()
    if dead.all():
        raise Refusal(f"{name}", "all its rows are zero, so none has a direction", "fetch or save it again")
    kept = [i for i, out in zip(ids, dead, strict=True) if not out]
    return rows[~dead], kept, tuple(i for i, out in zip(ids, dead, strict=True) if out)


def _zero(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows too short to have a direction."""
    return np.linalg.norm(rows.astype(np.float64), axis=1) < NO_LENGTH


def refuse_undirected(rows: NDArray[Any], ids: Sequence[str], name: str) -> None:
    """Say which feature has no direction; the types check again, but know rows only."""
    again = "fetch the file again, or save it without that row"
    for bad, why, instead in (
        (~np.isfinite(rows).all(axis=1), "its row is not finite (NaN or infinite numbers)", again),
        (_immense(rows), "its length is beyond float32", again),
        (_zero(rows), "its row is zero, so it has no direction (a dead feature)", "leave it out of --features"),
    ):
        if bad.any():
            raise Refusal(f"feature {ids[int(np.argmax(bad))]} of {name}", why, instead)


def _immense(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows whose length float32 cannot hold; float64 and whole numbers can be that long."""
    return np.linalg.norm(rows.astype(np.float64), axis=1) > np.finfo(np.float32).max


def random_directions(site: Site, d_model: int, n: int, rng: np.random.Generator) -> Directions:
    """Directions uniform on the sphere: what a verbalizer says of nothing in particular.

    Returns:
        n Directions of kind "random", ids ``random-0`` and so on; the same ``rng`` state gives the same bytes.
    """
    rows = rng.standard_normal((n, d_model))
    return Directions.of(
        site,
        rows,
        [f"random-{i}" for i in range(n)],
        kind="random",
        origin="random directions",
    )
