"""Maps fitted on parts of the same rows, and whether a feature's image is still the feature's.

In: ``Tokens``, which rows, how. Out: ``LinearMap``s and the share of features whose image lies nearest their own direct
row of *other* documents. Refuses what the fits refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Site
from dragoman.maps import DirectTable, FiringSums, LinearMap, Moments, make_cards
from dragoman.maps.direct import FLOOR, add_by_fold
from dragoman.maps.moments import FOLDS, FoldedMoments, MomentStream
from dragoman.maps.penalty import Calibration, fit_map
from dragoman.records import Card
from studies.tokens import Tokens

Doubles = NDArray[np.float64]
CALIBRATORS = 512  # most frequent features, among which the penalty's criterion chooses


def identity(carried: Directions, table: DirectTable) -> dict[str, float]:
    """Of directions at the target: the share that lies nearest its own row among all rows that fire often enough.

    ``cosine`` is the mean with the own row, ``others`` with all rows, ``n`` how many have a row, ``among`` how many
    rows there are: chance is 1 / among.
    """
    mine, own, cosines = _looked_up(carried, table)
    told: dict[str, float] = {"n": len(mine), "among": cosines.shape[1]}
    if not mine:
        return told
    found = {"top1": np.mean(own >= cosines.max(axis=1)), "cosine": own.mean(), "others": cosines.mean()}
    return told | {name: float(value) for name, value in found.items()}


def identities(carried: Directions, table: DirectTable) -> list[float | None]:
    """One by one: 1 where the own row is nearest, 0 where another is, None where it fires too rarely to have one."""
    mine, own, cosines = _looked_up(carried, table)
    kept = dict(zip(mine, (own >= cosines.max(axis=1)).astype(float).tolist(), strict=True)) if mine else {}
    return [kept.get(k) for k in range(len(carried))]


def _looked_up(carried: Directions, table: DirectTable) -> tuple[list[int], Doubles, Doubles]:
    """Which directions have a row of their own, their cosine with it, and with all rows that fire often enough."""
    able = np.flatnonzero(table.n_eff >= FLOOR)
    where = {table.ids[column]: place for place, column in enumerate(able.tolist())}
    mine = [k for k, name in enumerate(carried.ids) if name in where]
    beta = table.beta[able].astype(np.float64)
    beta /= np.linalg.norm(beta, axis=1, keepdims=True)
    cosines = carried.unit[mine].astype(np.float64) @ beta.T
    return mine, cosines[np.arange(len(mine)), [where[carried.ids[k]] for k in mine]], cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A default map over some rows with everything a card asks for, all of the same documents."""

    forward: LinearMap
    moments: Moments
    table: DirectTable
    back: LinearMap
    folds: FoldedMoments
    fired: FiringSums

    @classmethod
    def of(cls, tokens: Tokens, rows: NDArray[np.int64], dictionary: Directions, target: Site) -> Fitted:
        """From rows of the documents that may be fitted on."""
        source = dictionary.site
        folds = folded(tokens, rows, source.block, target.block)
        forward = aligned_map(tokens, rows, dictionary, target)
        turned = FoldedMoments(folds=tuple(fold.reversed() for fold in folds.folds), documents=folds.documents)
        back = fit_map(turned, target, source, allow_underdetermined=True)
        ids = [str(i) for i in range(tokens.fired.shape[1])]
        x, fired = tokens.x[source.block][rows], tokens.fired[rows]
        at_home = FiringSums(source, ids, x.shape[1]).add(fired, x, tokens.documents[rows])
        return cls(
            forward=forward,
            moments=folds.total,
            table=direct(tokens, rows, target),
            back=back,
            folds=folds,
            fired=at_home,
        )

    def cards(self, directions: Directions) -> list[Card]:
        """A card per direction."""
        return make_cards(
            directions, self.forward, self.moments, self.table, back=self.back, folds=self.folds, fired=self.fired
        )


def folded(tokens: Tokens, rows: NDArray[np.int64], source: int, target: int) -> FoldedMoments:
    """Moments by fold of documents."""
    x, y = tokens.x[source][rows], tokens.y[target][rows]
    stream = MomentStream(x.shape[1], y.shape[1])
    stream.add(x, y, tokens.documents[rows])
    return stream.finish()


def aligned_map(tokens: Tokens, rows: NDArray[np.int64], dictionary: Directions, target: Site) -> LinearMap:
    """The default map: penalty by document folds, on the direction criterion."""
    source = dictionary.site
    fired = tokens.fired[rows]
    often = np.argsort(-np.asarray((fired > 0).sum(axis=0)).ravel(), kind="stable")[:CALIBRATORS]
    y = tokens.y[target.block][rows]
    sums = [FiringSums(target, often.tolist(), y.shape[1]) for _ in range(FOLDS)]
    add_by_fold(sums, fired.tocsc()[:, often], y, tokens.documents[rows])
    calibration = Calibration(directions=dictionary, direct=sums)
    moments = folded(tokens, rows, source.block, target.block)
    return fit_map(moments, source, target, calibration=calibration, allow_underdetermined=True)


def direct(tokens: Tokens, rows: NDArray[np.int64], target: Site) -> DirectTable:
    """The direct route's table of some rows, read at a block of the target."""
    ids = [str(i) for i in range(tokens.fired.shape[1])]
    y, fired = tokens.y[target.block][rows], tokens.fired[rows]
    return FiringSums(target, ids, y.shape[1]).add(fired, y, tokens.documents[rows]).table()


def moments_of(x: NDArray[Any], y: NDArray[Any], *, centred: bool = True) -> Moments:
    """Moments of rows; without centring as if both means were zero, which is a fit without an intercept."""
    found = Moments.of(x, y)
    if centred:
        return found
    n, a, b = found.count, found.mean_x, found.mean_y
    return Moments(
        count=n,
        mean_x=np.zeros_like(a),
        mean_y=np.zeros_like(b),
        sxx=found.sxx + n * np.outer(a, a),
        sxy=found.sxy + n * np.outer(a, b),
        syy=found.syy + n * np.outer(b, b),
    )


def pooled(tokens: Tokens, rows: NDArray[np.int64], source: int, target: int) -> tuple[Floats, Floats]:
    """Means of x and y over each document's rows, the post's way."""
    _, where, counts = np.unique(tokens.documents[rows], return_inverse=True, return_counts=True)
    found = []
    for values in (tokens.x[source][rows], tokens.y[target][rows]):
        sums = np.zeros((len(counts), values.shape[1]))
        np.add.at(sums, where, values)
        found.append((sums / counts[:, None]).astype(np.float32))
    return found[0], found[1]
