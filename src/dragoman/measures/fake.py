"""Fake latents: random projections that fire as rarely as a dictionary's. What means nothing, and has an encoder.

In: a source's rows, firing rates. Out: directions at the source, and an encoder that says where they fire. Refuses
rates that are none. Everything a latent goes through they go through as well, the direct route included, so a measure
that cannot tell them from a dictionary's latents does not see features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Refusal, Site, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FakeEncoder:
    """Fires by ``max(x r - threshold, 0)``. ``rows``: (m, p) unit; ``thresholds``: (m,)."""

    rows: Floats
    thresholds: Floats

    @property
    def d_in(self) -> int:
        """Width of the source."""
        return int(self.rows.shape[1])

    @property
    def d_sae(self) -> int:
        """How many there are."""
        return len(self.rows)

    def encode(self, x: NDArray[Any]) -> Floats:
        """Activations (n, m) of rows (n, p)."""
        return np.maximum(np.asarray(x, dtype=np.float32) @ self.rows.T - self.thresholds, 0.0).astype(np.float32)


def fake_dictionary(
    x: NDArray[Any], rates: NDArray[Any], *, site: Site, seed: int = 0
) -> tuple[Directions, FakeEncoder]:
    """One random direction for each rate, which fires at that share of the tokens ``x`` (T, p).

    Directions are isotropic: nothing of the stream's own geometry is in them.

    Raises:
        Refusal: a rate that is not between 0 and 1.
    """
    rates = np.asarray(rates, dtype=np.float64)
    if not len(rates) or not ((rates > 0) & (rates < 1)).all():
        raise Refusal("rates of fake latents", "each is between 0 and 1", "pass the dictionary's own")
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(len(rates), x.shape[1]))
    rows = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    some = x if len(x) <= 100_000 else x[np.sort(rng.choice(len(x), 100_000, replace=False))]
    values = np.asarray(some, dtype=np.float32) @ rows.T
    thresholds = np.array([np.quantile(values[:, k], 1 - rate) for k, rate in enumerate(rates)], dtype=np.float32)
    made = Directions.of(
        site, rows, [f"fake-{k}" for k in range(len(rates))], kind="custom", origin="random projections"
    )
    return made, FakeEncoder(rows=frozen(rows), thresholds=frozen(thresholds))
