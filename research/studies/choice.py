"""Which latents are judged: drawn by how often they fire and by nothing else, those of one word, those without a topic.

In: a ground, what its latents fire on. Out: ids. Refuses more than there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dragoman.core import Refusal
from studies.ground import FAINT, SHARP, Ground

THIRDS = 3


def by_frequency(ids: Iterable[str], often: Mapping[str, float], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """``n`` of the ids, as many from each third of how often they fire; nothing else is asked of them.

    Raises:
        Refusal: more than there are.
    """
    every = sorted(ids, key=lambda name: (often[name], int(name)))
    if not 1 <= n <= len(every):
        raise Refusal(f"{n} features", f"there are {len(every)} to choose from", "ask for fewer, and at least one")
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for k, part in enumerate(np.array_split(np.arange(len(every)), THIRDS)):
        want = n // THIRDS + (k < n % THIRDS)
        chosen += [every[i] for i in rng.permutation(part)[:want]]
    return tuple(sorted(chosen, key=int))


def without_topic(ground: Ground, ids: Iterable[str]) -> tuple[str, ...]:
    """Latents whose most frequent category has no more than a share that chance comes near."""
    return tuple(i for i in ids if i in ground.latents and ground.latents[i].selectivity < FAINT)


def with_topic(ground: Ground, ids: Iterable[str]) -> tuple[str, ...]:
    """Latents of which one category has a good part of the firing."""
    return tuple(i for i in ids if i in ground.latents and ground.latents[i].selectivity >= SHARP)


def at_most(ids: Iterable[str], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """At most ``n`` of the ids, drawn at random."""
    every = sorted(ids, key=int)
    drawn = np.random.default_rng(seed).permutation(len(every))[:n]
    return tuple(every[i] for i in sorted(drawn))
