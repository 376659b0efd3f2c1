"""Windows of text in which a run's features fire, cut from the texts that were read while the map was made.

In: a crossing, the request. Out: windows by feature, or None where nobody watched. Refuses texts that are not those
that were read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from dragoman.explain.request import Request
from dragoman.maps import Crossing
from dragoman.maps.firings import by_name, contexts

Windows = dict[str, dict[str, list[str]]]


def contexts_of(cross: Crossing, request: Request, features: Sequence[str]) -> Windows | None:
    """Where each feature that was watched fires most, and where it is silent; None where none was watched.

    What is drawn of a feature depends on the seed and its own id, not on the others asked for.
    """
    firings = cross.firings
    watched = set(firings.ids) if firings is not None else set()
    if firings is None or not watched.intersection(features):
        return None
    known, found = by_name(cross.texts), Windows()
    for name in features:
        if name in watched:
            rng = np.random.default_rng([request.seed, zlib.crc32(name.encode())])
            firing, silent = contexts(firings, known, name, rng=rng)
            found[name] = {"firing": firing, "silent": silent}
    return found
