"""How a feature's own row stands out of the stream where the feature fires, which a random direction's hardly does.

In: directions at the source, sums of where features fire there, moments of the stream. Out: three numbers a feature.
Refuses directions, sums and moments of different places.

What is learnt of a stream lies where it is far from a bell curve (Olshausen and Field 1996): along a feature's row most
tokens are alike and a few stand far out, and these are the ones it fires on. A random direction with a threshold fires
too, on a bell curve's tail, often on one common word, and a text about that word may be true. So where a direction
fires does not tell whether anything was learnt; how far it stands out there does.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Directions
from dragoman.maps.diagnostics import refuse_of_another_stream
from dragoman.maps.direct import FiringSums
from dragoman.maps.moments import Moments

LEAST = 0.05  # sharpness below which all are alike: its logarithm is read; of a squared length that is left
MOST = 1.5  # of a cosine, which may be above 1 where much was taken off
_BAND = 1024  # rows whose products with the covariance are held at a time


def along_rows(directions: Directions, fired: FiringSums, moments: Moments) -> dict[str, dict[str, float]]:
    """``sharpness``, ``cosine`` and ``share`` of each feature that was watched and fired, by its id.

    ``sharpness``: how far the stream lies along the feature's row where it fires, mean by activation less the mean of
    all tokens, in standard deviations of the stream along that row; at least 0.05. ``cosine``: of the row with that
    mean less the mean of all, whose squared length is first made shorter by what chance gives it from so few documents,
    tr(S) / n_eff: from few a random row would seem further off than from many. ``share``: effective documents in which
    it fires, of all documents.

    Args:
        directions: (k, p) features at the source.
        fired: sums of activations with the source's own rows.
        moments: of which the source's side is used.

    Raises:
        Refusal: another site or width.
    """
    refuse_of_another_stream("statistics of where features fire", directions, fired, moments)
    if directions.kind != "feature":
        return {}
    at = {name: k for k, name in enumerate(fired.ids) if fired.weight_sum[k] > 0}
    here = [(k, at[name]) for k, name in enumerate(directions.ids) if name in at]
    documents, n_eff = max(len(fired.documents), 1), fired.n_eff
    noise = float(np.trace(moments.sxx)) / max(moments.count, 1)
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(here), _BAND):
        mine, theirs = (np.array(column) for column in zip(*here[start : start + _BAND], strict=True))
        unit = directions.unit[mine].astype(np.float64)
        shift = fired.weighted_sum[theirs] / fired.weight_sum[theirs, None] - fired.mean_y
        along = np.sum(shift * unit, axis=1)
        spread = np.sqrt(np.maximum(np.sum(unit @ moments.sxx * unit, axis=1) / max(moments.count, 1), 0.0))
        square = np.sum(shift**2, axis=1)
        length = np.sqrt(np.maximum(square - noise / n_eff[theirs], LEAST * square))
        for k, j, a, s, n in zip(mine, theirs, along, spread, length, strict=True):
            found[directions.ids[k]] = {
                "sharpness": round(max(float(a / s), LEAST), 4) if s > 0 else LEAST,
                "cosine": round(float(np.clip(a / n, -MOST, MOST)), 4) if n > 0 else 0.0,
                "share": round(float(n_eff[j] / documents), 6),
            }
    return found
