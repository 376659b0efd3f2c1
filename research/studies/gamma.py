"""Between regression and whitened Procrustes: one exponent on the canonical correlations.

In: ``Moments``. Out: a ``LinearMap``. Refuses fewer rows than the map needs and exponents below 0.

With shrunk whiteners, K = Sx^-1/2 Sxy Sy^-1/2 = U diag(r) V' and W = Sx^-1/2 U diag(r^gamma) V' Sy^1/2. gamma = 1 is
ridge, exactly; gamma = 0 takes every correlation for 1, which is Procrustes between whitened streams: what ridge
shrinks because it is weakly predicted comes back at full strength.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Refusal, Site
from dragoman.maps.linear import LinearMap, relative_lambda
from dragoman.maps.moments import Doubles, Moments, refuse_few


def fit_gamma(
    moments: Moments,
    source: Site,
    target: Site,
    gamma: float,
    *,
    lam: float,
    target_rel: float = 1e-3,
    allow_underdetermined: bool = False,
) -> LinearMap:
    """Fit W = Sx^-1/2 U diag(r^gamma) V' Sy^1/2, Sx = Sxx + lam I and Sy = Syy + ``target_rel`` tr(Syy)/q I.

    Only triplets above 1e-9 of the largest, and at most n - 1, are kept, as in ``fit_procrustes``.

    Args:
        moments: of the paired rows.
        source: where x was read.
        target: where y was read.
        gamma: 1 ridge, 0 whitened Procrustes, 0.5 half way, above 1 trusts only what is well predicted.
        lam: ridge penalty on the source, on the scale of Sxx.
        target_rel: shrinkage of the target's whitener, relative to its mean eigenvalue; no part of it at gamma = 1.
        allow_underdetermined: fit no more rows than the source is wide.

    Raises:
        Refusal: too few rows, a negative ``gamma``, penalties that are not positive, or nothing covaries.
    """
    refuse_few(moments.count, moments.p, allow_underdetermined=allow_underdetermined)
    if not (np.isfinite(gamma) and gamma >= 0):
        raise Refusal(f"gamma {gamma}", "the exponent is 0 or more", "use 1 for ridge or 0.5 for half way")
    if not (lam > 0 and target_rel > 0):
        raise Refusal(
            f"whitening with penalties {lam:g} and {target_rel:g}", "both must be positive", "use 1e-3 of tr(S)/width"
        )
    target_lam = target_rel * float(np.trace(moments.syy)) / moments.q
    left, _ = _roots(moments.sxx, lam)
    right, back = _roots(moments.syy, target_lam)
    u, r, v = np.linalg.svd(left @ moments.sxy @ right, full_matrices=False)
    if r[0] <= 0:
        raise Refusal("a whitened map", "source and target rows do not covary at all", "check that the rows pair")
    rank = min(int(np.sum(r > 1e-9 * r[0])), moments.count - 1)
    return LinearMap(
        source=source,
        target=target,
        weight=(left @ (u[:, :rank] * r[:rank] ** gamma)) @ (v[:rank] @ back),
        mean_x=moments.mean_x,
        mean_y=moments.mean_y,
        method="gamma",
        settings={
            "gamma": float(gamma),
            "lam": float(lam),
            "lam_rel": float(lam) / relative_lambda(moments, 1.0),
            "target_rel": float(target_rel),
            "rank": rank,
        },
        report={
            "rows": moments.count,
            "underdetermined": moments.underdetermined,
            "first_correlation": float(r[0]),
            "median_correlation": float(np.median(r[:rank])),
        },
    )


def _roots(products: Doubles, lam: float) -> tuple[Doubles, Doubles]:
    """(S + lam I)^-1/2 and (S + lam I)^1/2."""
    values, vectors = np.linalg.eigh(products)
    root = np.sqrt(np.clip(values, 0.0, None) + lam)
    return (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
