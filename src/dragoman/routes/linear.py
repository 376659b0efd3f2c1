"""A fitted map from one residual stream into another.

In: a weight and two means from ``ridge`` or ``procrustes``. Out: points through the affine map, directions through its
linear part. Refuses directions from another site and directions the map sends to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, Site, frozen, refuse_other_site
from dragoman.routes.moments import Doubles
from dragoman.store import Contents, write_arrays

_FILE = Contents(
    called="a map",
    holds="map",
    origin="dragoman fit",
    arrays={"weight": "pq", "mean_x": "p", "mean_y": "q"},
    words={"source": str, "target": str, "method": str, "settings": dict, "report": dict},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearMap:
    """y = mean_y + (x - mean_x) @ weight, from ``source`` to ``target``.

    ``weight`` (p, q), ``mean_x`` (p,), ``mean_y`` (q,), float64 and read-only. ``method`` is ``"ridge"`` or
    ``"procrustes"``, ``settings`` what it was told, ``report`` what is known of its quality.
    """

    source: Site
    target: Site
    weight: Doubles
    mean_x: Doubles
    mean_y: Doubles
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the three arrays against each other."""
        for name in ("weight", "mean_x", "mean_y"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64))
        if self.weight.shape != (self.mean_x.size, self.mean_y.size):
            raise Refusal(
                f"a map with weight {self.weight.shape}",
                f"its means are {self.mean_x.size} and {self.mean_y.size} wide",
                "pass weight (p, q) with means (p,) and (q,)",
            )

    def points(self, x: NDArray[Any]) -> Doubles:
        """Carry activations ``(n, p)`` into the target stream ``(n, q)``: the affine map."""
        self._refuse_width(np.shape(x)[-1])
        return self.mean_y + (np.asarray(x, dtype=np.float64) - self.mean_x) @ self.weight

    def directions(self, d: Directions) -> Directions:
        """Carry directions into the target stream; rows come back at unit length.

        The linear part only: a direction is a difference of points, so both means cancel.

        Raises:
            Refusal: ``d`` lives at another site, or has no image (it lies outside the span of the fitted rows).
        """
        refuse_other_site("directions", d.site, self.source)
        self._refuse_width(d.d_model)
        image = d.unit @ self.weight
        lost = np.flatnonzero(np.linalg.norm(image, axis=1) <= 1e-9 * np.linalg.norm(self.weight))
        if lost.size:
            raise Refusal(
                f"feature {d.ids[lost[0]]}",
                f"the {self.method} map sends it to zero, so nothing is known of its image",
                "fit the map on more rows, or leave the feature out",
            )
        return d.moved(self.target, image, f"{d.origin or d.site}, by {self.method} map {self.source} to {self.target}")

    def _refuse_width(self, width: int) -> None:
        if width != self.mean_x.size:
            raise Refusal(
                f"rows of width {width}",
                f"the map from {self.source} takes width {self.mean_x.size}",
                "use rows from that site",
            )

    def save(self, path: Path) -> None:
        """Write the map, its settings and its report to one file."""
        arrays = {name: getattr(self, name) for name in ("weight", "mean_x", "mean_y")}
        words = {name: getattr(self, name) for name in ("method", "settings", "report")}
        write_arrays(path, arrays, {"holds": "map", "source": str(self.source), "target": str(self.target), **words})

    @classmethod
    def load(cls, path: Path) -> LinearMap:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        source, target = (Site.parse(words.pop(name)) for name in ("source", "target"))
        return cls(source=source, target=target, **arrays, **words)
