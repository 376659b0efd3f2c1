"""Activations into another stream: the whole affine map, and nothing mixed in afterwards.

In: sums over aligned tokens, or a map that was fitted before; activations with their lengths. Out: a ``LinearMap``
fitted for points; activations at the target. Refuses what ``fit_map`` and ``LinearMap`` refuse.

A decoder's row is a difference of points: both means cancel, the map's linear part carries it, and a washout puts it
back among the activations a verbalizer was trained on. An activation is a point: it is carried by the affine map, means
included, mean_y + (x - mean_x) W. So it arrives with the target's own mean in it, which is what a washout would mix in;
doing so again would take away from what is particular of it. A verbalizer then brings it to the length it was trained
on, as every activation. A row's penalty is chosen by lens words and co-firing; a point's by how well left-out
activations are predicted, since that is what is asked of it.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Directions, refuse_other_site
from dragoman.maps.algebra import HOST, Algebra
from dragoman.maps.aligned import Aligned
from dragoman.maps.crossing import judged
from dragoman.maps.linear import LinearMap
from dragoman.maps.penalty import fit_map


def fit_points(aligned: Aligned, algebra: Algebra = HOST) -> LinearMap:
    """The map of activations, with ``held_out`` on its report: the smallest penalty that predicts nearly best."""
    return judged(aligned, fit_map(aligned.folded, aligned.source, aligned.target, algebra=algebra), algebra)


def carry_points(map_: LinearMap, activations: Directions) -> Directions:
    """Activations ``(n, p)`` at the target, ids and labels kept.

    Raises:
        Refusal: they were read at another site, or their width is not the map's.
    """
    refuse_other_site("activations", activations.site, map_.source)
    rows = activations.unit.astype(np.float64) * activations.norms.astype(np.float64)[:, None]
    how = f"{activations.origin or activations.site}, by affine {map_.method} map {map_.source} to {map_.target}"
    return activations.moved(map_.target, map_.points(rows), how)
