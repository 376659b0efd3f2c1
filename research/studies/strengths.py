"""Washouts at several strengths: what the study of the washout injects.

In: directions and a ``Background`` at one site. Out: vectors (n, d), float32. Refuses what ``dragoman.washout``
refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Directions, Floats
from dragoman.washout import RIGHT, on_shell_angle, wash

TIMES = (0.5, 1.0, 1.5, 2.0, 3.0)  # on-shell angles
WEIGHTS = (0.15, 0.3, 0.5, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strength:
    """One point of a sweep.

    ``name``: as ``wash`` takes it. ``angle``: mean angle to the background, radians. ``times``: the same in on-shell
    angles. ``vectors``: (n, d), float32.
    """

    name: str
    angle: float
    times: float
    vectors: Floats


def sweep(
    directions: Directions,
    background: Background,
    *,
    times: Sequence[float] = TIMES,
    weights: Sequence[float] = WEIGHTS,
) -> list[Strength]:
    """Directions at several strengths: multiples of the on-shell angle, the post's weights, projected, and bare.

    Multiples that pass the right angle are left out: on a stream that spreads wide, three on-shell angles do. Choose a
    strength on features that are not reported, by what the words score and not by how they read.

    Raises:
        Refusal: as ``at_angle`` and ``mix`` do.
    """
    shell, b = on_shell_angle(background), unit_mean(background)
    names = [f"on-shell x {t:g}" for t in times if t * shell <= RIGHT]
    names += [f"{w:g}" for w in weights]
    found = []
    for name in (*names, "projected", "none"):
        vectors = wash(directions, background, name)
        angle = float(np.mean(np.arccos(np.clip(vectors.astype(np.float64) @ b, -1.0, 1.0))))
        found.append(Strength(name=name, angle=angle, times=angle / shell if shell > 0 else np.inf, vectors=vectors))
    return found


def on_shell_weight(background: Background) -> float:
    """The post's weight that lands on shell: s / (s + c), s = sqrt(Var), c = sqrt(1 - Var), for d orthogonal to b."""
    s, c = np.sqrt(max(background.spread, 0.0)), background.constant_cosine
    return float(s / (s + c))


def unit_mean(background: Background) -> NDArray[np.float64]:
    """The background's mean at unit length."""
    mean = background.mean.astype(np.float64)
    return mean / np.linalg.norm(mean)
