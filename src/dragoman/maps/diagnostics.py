"""What weights and moments tell of directions under a map: how much it keeps, how surely, how that ranks, and purity.

In: directions at the source, a map, the moments it was fitted on, for purity where features fire in the source itself.
Out: ``Retained``, reliabilities, ``Baselines`` to rank them by, purities; one number per direction each. Refuses
directions and sums of another site.

For ridge E[dW] = dHW*, H = (Sxx + lam I)^-1 Sxx: the map explains dH, not d, and nothing in its output says so. Pushing
d through least squares regresses the target on a linear read-out of x, and every overlapping feature leaks into it:
dW = sum_j m_j t_j with m = Cov(f, x)(Sx + lam/n)^-1 d. Purity is what the feature itself has of this mixture. These
numbers saturate with more rows, but their ranks among random directions and the dictionary's keep telling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, refuse_other_site
from dragoman.maps.direct import FiringSums
from dragoman.maps.folds import FoldedMoments
from dragoman.maps.linear import LinearMap, solve_shifted
from dragoman.maps.moments import Doubles, Moments
from dragoman.maps.penalty import source_scale

RANDOM = 1000
MOST = 4096  # rows of a dictionary that are measured: enough for a quartile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retained:
    """``coverage`` d H d' and ``kappa`` cos(d, dH), (k,), in [0, 1]; ``spread`` d A d' (k,), None but for ridge.

    A = (S + lam)^-1 S (S + lam)^-1, so that Cov(dW) = (d A d') Cov(errors).
    """

    coverage: Doubles
    kappa: Doubles
    spread: Doubles | None


def retained(unit: Doubles, map_: LinearMap, moments: Moments) -> Retained:
    """What the map keeps of unit rows (k, p)."""
    spread = None
    if map_.method == "procrustes":  # a truncated rotation keeps the projection on its informative directions
        turn = map_.weight / map_.settings["scale"]
        through = unit @ turn @ turn.T
    else:
        lam = map_.settings["lam"]
        scale = source_scale(np.diag(moments.sxx) / moments.count) if map_.settings.get("standardised") else None
        rows, fitted = (unit, moments) if scale is None else (unit / scale, moments.rescaled(scale))
        solved = solve_shifted(fitted.sxx, lam, rows.T)
        through = rows - lam * solved.T  # dH; I - H = lam (Sxx + lam I)^-1
        if scale is not None:
            through = through * scale
        if map_.method == "ridge":
            spread = np.sum(solved * (fitted.sxx @ solved), axis=0)
    coverage = np.clip(np.sum(through * unit, axis=1), 0.0, 1.0)
    length = np.linalg.norm(through, axis=1)
    # Nothing kept is 0, not rounding noise.
    kappa = np.clip(coverage / np.where(length > 1e-9, length, 1.0), 0.0, 1.0)
    return Retained(coverage=coverage, kappa=kappa, spread=spread)


def reliability(image: Doubles, spread: Doubles, map_: LinearMap, moments: Moments) -> Doubles:
    """Expected cosine (k,) of an image with what infinitely many such rows would give: sqrt(Q / (Q + N)).

    N = (d A d') RSS / (n - df) is the noise's energy, Q = max(|dW|^2 - N, 0) the signal's.
    Rows of one document are alike, so n overstates what was seen: ``reliability_of_folds`` does not.
    """
    weight, lam = map_.weight, map_.settings["lam"]
    rss = np.trace(moments.syy) - 2 * np.sum(weight * moments.sxy) + np.sum(weight * (moments.sxx @ weight))
    fitted = moments
    if map_.settings.get("standardised"):
        fitted = moments.rescaled(source_scale(np.diag(moments.sxx) / moments.count))
    values = np.clip(np.linalg.eigvalsh(fitted.sxx), 0.0, None)
    freedom = max(moments.count - 1.0 - float(np.sum(values / (values + lam))), 1e-9)
    return _share(np.sum(image**2, axis=1), spread * max(float(rss), 0.0) / freedom)


def reliability_of_folds(unit: Doubles, map_: LinearMap, folds: FoldedMoments) -> Doubles:
    """The same (k,) with N from a jackknife over folds of documents: (K - 1)/K sum_f |dW_-f - mean|^2 (ridge only)."""
    images = []
    for k in range(len(folds.folds)):
        fitted = folds.without(k)
        rows = unit
        if map_.settings.get("standardised"):
            scale = source_scale(np.diag(fitted.sxx) / fitted.count)
            rows, fitted = unit / scale, fitted.rescaled(scale)
        lam = map_.settings["lam_rel"] * float(np.trace(fitted.sxx)) / fitted.p
        images.append(solve_shifted(fitted.sxx, lam, rows.T).T @ fitted.sxy)
    mean = np.mean(images, axis=0)
    noise = (len(images) - 1) / len(images) * np.sum([np.sum((i - mean) ** 2, axis=1) for i in images], axis=0)
    return _share(np.sum(mean**2, axis=1), noise)


def _share(energy: Doubles, noise: Doubles) -> Doubles:
    signal = np.maximum(energy - noise, 0.0)
    return np.sqrt(signal / np.where(signal + noise > 0, signal + noise, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baselines:
    """Sorted values: coverage and |dW| of random directions, coverage and cycle of the dictionary's own."""

    random_coverage: Doubles
    random_norm: Doubles
    dictionary_coverage: Doubles
    dictionary_cycle: Doubles | None

    @classmethod
    def of(
        cls,
        map_: LinearMap,
        moments: Moments,
        dictionary: Directions,
        back: LinearMap | None = None,
        *,
        rng: np.random.Generator,
    ) -> Baselines:
        """Measure 1000 isotropic directions and at most 4096 of the dictionary's, drawn at random."""
        refuse_other_site("dictionary directions", dictionary.site, map_.source)
        noise = rng.normal(size=(RANDOM, moments.p))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        rows = dictionary.unit
        if len(rows) > MOST:
            rows = rows[np.sort(rng.choice(len(rows), MOST, replace=False))]
        rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        both = retained(np.concatenate([noise, rows]), map_, moments)
        return cls(
            random_coverage=np.sort(both.coverage[:RANDOM]),
            random_norm=np.sort(np.linalg.norm(noise @ map_.weight, axis=1)),
            dictionary_coverage=np.sort(both.coverage[RANDOM:]),
            dictionary_cycle=None if back is None else np.sort(cycle(rows, map_, back)),
        )


def below(values: Doubles, found: NDArray[Any]) -> Doubles:
    """Share of sorted ``values`` that lie below each number of ``found``, ties counted half."""
    left, right = np.searchsorted(values, found, "left"), np.searchsorted(values, found, "right")
    return (left + right) / (2.0 * len(values))


def cycle(unit: Doubles, map_: LinearMap, back: LinearMap) -> Doubles:
    """cos(d, d W V) (k,) of unit rows with V the map back; 0 where nothing comes back."""
    returned = unit @ map_.weight @ back.weight
    length = np.linalg.norm(returned, axis=1)
    return np.sum(returned * unit, axis=1) / np.where(length > 0, length, 1.0)


def purity(directions: Directions, fired: FiringSums, moments: Moments, lam: float) -> Doubles:
    """m_kk^2 / sum_j m_kj^2 (k,), in [0, 1]; nan for directions that are none of the watched features.

    Args:
        directions: at the source.
        fired: sums of the SAE's activations with the *source's* rows in the place of the target's.
        moments: of the fitted rows; only the source's side is used.
        lam: the map's penalty.

    Raises:
        Refusal: another site or width.
    """
    refuse_other_site("statistics for purity", fired.site, directions.site)
    if not directions.d_model == moments.p == fired.y_sum.size:
        raise Refusal(
            f"directions of width {directions.d_model}, moments of {moments.p} and statistics of {fired.y_sum.size}",
            "all three are of the source",
            "accumulate the activations with the source's own rows",
        )
    covariance = fired.weighted_sum - np.outer(fired.weight_sum, fired.mean_y)  # Cov(f, x) but for 1 / n
    unit = directions.unit.astype(np.float64)
    mixture = (covariance @ solve_shifted(moments.sxx, lam, unit.T)).T ** 2
    where = {name: i for i, name in enumerate(fired.ids)}
    own = [where.get(name, -1) if directions.kind == "feature" else -1 for name in directions.ids]
    total = mixture.sum(axis=1)
    share = mixture[np.arange(len(own)), own] / np.where(total > 0, total, 1.0)
    return np.where(np.array(own) >= 0, share, np.nan)
