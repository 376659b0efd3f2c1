"""A dictionary that was not learnt: random directions that fire as often as learnt features do.

In: source activations and firing rates. Out: ``Directions`` at the source and an encoder of the same shape as a
dictionary's. Refuses rates that are none and rows that are too few for them. A score that does not tell learnt
features from these does not measure what was learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Refusal, Site, frozen

BLOCK = 64  # latents whose projections are held at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FakeEncoder:
    """``mean`` (p,) taken off rows, unit ``rows`` (m, p) projected on, ``threshold`` (m,) above which one fires."""

    mean: Floats
    rows: Floats
    threshold: Floats

    @property
    def d_in(self) -> int:
        """Width of the stream."""
        return self.rows.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.rows)

    def encode(self, x: NDArray[Any]) -> Floats:
        """Activations (n, m), float32: how far projections of rows x (n, p) are above the thresholds, else 0.

        Raises:
            Refusal: rows of another width.
        """
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise Refusal(f"rows of shape {x.shape}", f"the encoder reads width {self.d_in}", "pass rows of its stream")
        return np.maximum((x.astype(np.float32) - self.mean) @ self.rows.T - self.threshold, np.float32(0))


def fake_dictionary(
    x: NDArray[Any],
    rates: NDArray[Any],
    *,
    site: Site,
    seed: int,
    draw: Literal["isotropic", "covariance"] = "isotropic",
) -> tuple[Directions, FakeEncoder]:
    """Random latents, latent j firing at ``rates[j]`` of the rows x.

    Args:
        x: source activations (T, p).
        rates: shares of rows (m,), above 0 and below 1; say, of an SAE's features.
        site: where x was read.
        seed: of the directions.
        draw: "isotropic": normal rows, made unit; "covariance": normal rows with the covariance of x, made unit, which
            lie where the stream varies most.

    Raises:
        Refusal: rates outside (0, 1), a word that is no draw, rows that are not (T, p), or rates at which some latent
            would fire at none or all of the rows.
    """
    x, rates = np.asarray(x, dtype=np.float32), np.asarray(rates, dtype=np.float64)
    if draw not in ("isotropic", "covariance"):
        raise Refusal(f"draw '{draw}'", "known are isotropic, covariance", "use one of these")
    if x.ndim != 2 or rates.ndim != 1 or not len(rates) or not ((rates > 0) & (rates < 1)).all():
        raise Refusal("a fake dictionary", "it needs rows (T, p) and rates between 0 and 1", "pass a rate a latent")
    fires = np.rint(rates * len(x)).astype(np.int64)
    if fires.min() < 1 or fires.max() >= len(x):
        why = f"of {len(x)} rows a latent would fire at {fires.min() if fires.min() < 1 else fires.max()}"
        raise Refusal("a fake dictionary", why, "pass more rows, or other rates")
    rng, mean = np.random.default_rng(seed), x.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = x - mean
    rows = rng.normal(size=(len(rates), x.shape[1]))
    if draw == "covariance":
        values, vectors = np.linalg.eigh(np.cov(centred, rowvar=False, dtype=np.float64))
        rows = (rows * np.sqrt(np.maximum(values, 0))) @ vectors.T
    names = [f"fake-{k}" for k in range(len(rates))]  # never taken for a latent of a dictionary
    directions = Directions.of(site, rows, names, kind="custom", origin=f"random latents, {draw}")
    thresholds = np.empty(len(rates), dtype=np.float32)
    for start in range(0, len(rates), BLOCK):
        projected = centred @ directions.unit[start : start + BLOCK].T
        for j, column in enumerate(projected.T, start):
            at = len(x) - int(fires[j])
            low, high = np.partition(column, (at - 1, at))[at - 1 : at + 1]
            thresholds[j] = low + (high - low) / 2  # between the last that is silent and the first that fires
    return directions, FakeEncoder(mean=frozen(mean), rows=directions.unit, threshold=frozen(thresholds))
