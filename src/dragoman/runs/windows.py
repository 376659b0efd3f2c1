"""Windows of text in which a run's features fire, cut from the texts that were read while the map was made.

In: a crossing, ids of features. Out: windows by feature, or None where nobody watched. Refuses texts that are not those
that were read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from dragoman.maps import Crossing
from dragoman.maps.aligned import Firings, by_name, contexts

Windows = dict[str, dict[str, list[str]]]
OTHERS = 64  # features not asked for, whose windows show what any text has in common with any feature
FEWEST = 3  # windows of each of those


def windows_of(crossing: Crossing, features: Sequence[str], *, seed: int) -> Windows | None:
    """Where each feature that was watched fires most, and where it is silent; None where none was watched.

    Besides, where up to 64 others fire, drawn from the watched ones, with no silent windows. What is drawn of a feature
    depends on the seed and its own id, not on the others asked for.
    """
    firings, texts = crossing.firings, crossing.texts
    watched = set(firings.ids) if firings is not None else set()
    if firings is None or not texts or not watched.intersection(features):
        return None
    documents, windows = by_name(texts), Windows()
    for name in features:
        if name in watched:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            firing, silent = contexts(firings, documents, name, rng=rng)
            windows[name] = {"firing": firing, "silent": silent}
    for name in _others(firings, features, seed):
        firing, _ = contexts(firings, documents, name, rng=np.random.default_rng(seed))
        windows[name] = {"firing": firing, "silent": []}
    return windows


def _others(firings: Firings, features: Sequence[str], seed: int) -> list[str]:
    """Ids drawn from those that fire in documents enough, the asked ones left out."""
    often = np.flatnonzero((firings.documents >= 0).sum(axis=1) >= FEWEST)
    names = [firings.ids[k] for k in often]
    left = [name for name in names if name not in set(features)]
    return [left[k] for k in np.random.default_rng(seed).permutation(len(left))[:OTHERS]]
