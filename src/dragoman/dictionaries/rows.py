"""A decoder's rows: which way they lie, which are meant, which have no direction; random ones to compare with.

In: a decoder as it is stored, and everything its dictionary says of its shape; feature ids; rows. Out: whether features
lie across (never assumed: declared shapes decide, else unit lengths, else which way the decoder agrees with the
encoder); row numbers; rows with a direction, and the ids of those without; `Directions`. Refuses decoders that lie
otherwise than their layout, that contradict their configuration, and those that nothing decides; ids that are not
there; rows that are zero, not finite or beyond float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import NO_LENGTH, Directions, Refusal, Site, row_lengths
from dragoman.store.spans import Matrix, listed, meant, shown

_SAMPLE = 64  # rows and columns looked at
_EVEN = 2e-3  # relative spread of lengths that were made equal; those of random rows spread by 1/sqrt(2 width)
_AGREES = 0.1  # mean cosine of encoder and decoder that chance does not give


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a decoder called ``name``.

    ``expected``: how its layout has it. ``d_sae``, ``d_in``: what ``said_by`` declares, None where nothing does.
    ``asked``: what the caller says. ``encoder``: encoder rows (n, d_in) of given features, where there is an encoder.
    """

    what: str
    name: str
    expected: str
    d_sae: int | None = None
    d_in: int | None = None
    said_by: str = "its configuration"
    asked: str | None = None
    encoder: Callable[[Sequence[int]], NDArray[np.floating]] | None = None


def lies_across(matrix: Matrix, known: Evidence) -> bool:
    """Whether features are the columns of a decoder."""
    if known.asked not in (None, "rows", "columns"):
        raise Refusal(f"orientation '{known.asked}'", "a decoder has features as rows or as columns", "say one of them")
    shape = (matrix.shape[0], matrix.shape[1])
    fits = {"rows": _fits(*shape, known), "columns": _fits(shape[1], shape[0], known)}
    if not any(fits.values()) or (known.asked and not fits[known.asked]):
        why = f"{known.name} has shape {shape} but {known.said_by} says d_sae {known.d_sae} and d_in {known.d_in}"
        raise Refusal(known.what, why, "fetch configuration and weights of the same dictionary")
    if known.asked:
        return known.asked == "columns"
    found = next(way for way, good in fits.items() if good) if not all(fits.values()) else _looked_at(matrix, known)
    if found is None:
        why = f"{known.name} has shape {shape}, and nothing shows whether its rows or its columns are the features"
        raise Refusal(known.what, why, "say it with --orientation rows or --orientation columns")
    if found != known.expected:
        declared = f"{known.said_by} says d_sae {known.d_sae} and d_in {known.d_in}"
        why = declared if not all(fits.values()) else f"its {found} are the features"
        raise Refusal(
            known.what,
            f"{known.name} of shape {shape} is transposed: {why}",
            f"save it with one {'row' if known.expected == 'rows' else 'column'} per feature, or say "
            f"--orientation {found}",
        )
    return found == "columns"


def _fits(features: int, width: int, known: Evidence) -> bool:
    """Whether so many features of such a width contradict nothing that is declared."""
    return known.d_sae in (None, features) and known.d_in in (None, width)


def _looked_at(matrix: Matrix, known: Evidence) -> str | None:
    """What the numbers themselves show, or None."""
    rows = matrix.rows(_spread(matrix.shape[0])).astype(np.float64)
    columns = matrix.columns(_spread(matrix.shape[1])).astype(np.float64).T
    even = {"rows": _even(rows), "columns": _even(columns)}
    if even["rows"] != even["columns"]:
        return "rows" if even["rows"] else "columns"
    if known.encoder is None:
        return None
    # As many features as either way has, so that both ways can be compared with the same encoder rows.
    features = _spread(min(matrix.shape))
    encoded = known.encoder(features)
    ways = {"rows": matrix.rows(features), "columns": matrix.columns(features).T}
    agree = {way: _cosine(encoded, found) if found.shape == encoded.shape else 0.0 for way, found in ways.items()}
    best = max(agree, key=lambda way: agree[way])
    other = "columns" if best == "rows" else "rows"
    return best if agree[best] > _AGREES and agree[other] < agree[best] / 2 else None


def _spread(count: int) -> list[int]:
    """Up to so many indices, evenly over all."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, _SAMPLE))})


def _even(vectors: NDArray[np.float64]) -> bool:
    """Whether vectors have one length, as a trainer makes them; dead features (zero) do not count."""
    lengths = np.linalg.norm(vectors, axis=1)
    lengths = lengths[np.isfinite(lengths) & (lengths > 0)]
    return len(lengths) > 2 and bool(lengths.std() < _EVEN * lengths.mean())


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Mean cosine of corresponding rows."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1)
    good = np.isfinite(lengths) & (lengths > 0)
    if not good.any():
        return 0.0
    return float(np.mean(np.sum(wide_a[good] * wide_b[good], axis=1) / lengths[good]))


def looks_across(matrix: Matrix) -> bool:
    """Whether columns were made of one length and rows were not: the mark of a matrix stored the other way."""
    if min(matrix.shape) < 4:
        return False
    rows = matrix.rows(_spread(matrix.shape[0])).astype(np.float64)
    columns = matrix.columns(range(min(matrix.shape[1], _SAMPLE))).astype(np.float64).T
    return _even(columns) and not _even(rows)


def ids_of(given: object) -> list[int | str]:
    """Feature ids as a caller gives them: a list, an array, or one id alone.

    Raises:
        Refusal: what has no order, or is no collection of ids.
    """
    given = given.tolist() if isinstance(given, np.ndarray | np.generic) else given
    if isinstance(given, int | str):
        return [given]
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
        why = "ids are read in the order they are asked for"
        raise Refusal(f"features of type {type(given).__name__}", why, "pass a list of ids, such as [982, 1748]")
    return list(given)


def wanted(features: Sequence[int | str], d_sae: int, name: str, names: Sequence[str] = ()) -> list[int]:
    """Feature ids as row numbers that are there, of a dictionary called ``name``; ``names``: of its rows, if any."""
    ids = f"name one of {listed(names)}" if names else f"name ids from 0 to {d_sae - 1}"
    if not features:
        raise Refusal(f"no features of {name}", "there is nothing to read", ids)
    number = {one: k for k, one in enumerate(names)}
    rows: dict[int, None] = {}
    for feature in features:
        known = str(feature).isdecimal() and len(str(feature)) < 19 and not names
        row = int(feature) if known else number.get(str(feature), -1)
        if not 0 <= row < d_sae:
            why = f"it holds {d_sae} named vectors" if names else f"it has {d_sae} features (d_sae {d_sae})"
            raise Refusal(f"feature {shown(feature)} of {name}", why, meant(str(feature), names, ids))
        if row in rows:
            raise Refusal(f"feature {feature} of {name}", "it is asked for twice", "name every feature once")
        rows[row] = None
    return list(rows)


def living(rows: NDArray[Any], ids: list[str], name: str) -> tuple[NDArray[Any], list[str], tuple[str, ...]]:
    """Rows that have a direction and their ids; ids of those whose length is zero. Refused when none has one."""
    dead = _zero(rows)
    if not dead.any():
        return rows, ids, ()
    if dead.all():
        raise Refusal(f"{name}", "all its rows are zero, so none has a direction", "fetch or save it again")
    kept = [i for i, out in zip(ids, dead, strict=True) if not out]
    return rows[~dead], kept, tuple(i for i, out in zip(ids, dead, strict=True) if out)


def _zero(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows too short to have a direction."""
    return row_lengths(rows) < NO_LENGTH


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
    return row_lengths(rows) > np.finfo(np.float32).max


def random_directions(site: Site, d_model: int, n: int, rng: np.random.Generator) -> Directions:
    """Directions uniform on the sphere: what a verbalizer says of nothing in particular.

    Returns:
        n Directions of kind "random", ids ``random-0`` and so on; the same ``rng`` state gives the same bytes.
    """
    rows = rng.standard_normal((n, d_model))
    return Directions.of(site, rows, [f"random-{i}" for i in range(n)], kind="random", origin="random directions")
