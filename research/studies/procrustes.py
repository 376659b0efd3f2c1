"""Why Procrustes fails: rank truncation, anisotropy and centring, each switched on its own.

In: a ground, a library. Out: conditions to be said and held-out numbers. Three amounts of data: 300 and the post's 800
pooled texts, and all tokens that maps may be fitted on. Everything but the switch is the same within each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dragoman.maps import LinearMap, Moments
from dragoman.maps.linear import fit_procrustes, fit_ridge, relative_lambda
from studies.cast import Cast
from studies.gamma import fit_gamma
from studies.ground import Ground, stratified
from studies.library import Library
from studies.maps import Reference, moments_of, pooled

QUESTION = "Why does Procrustes fail: arbitrary completion, anisotropy, or centring?"
FEATURES = 225
POOLED, FEW = 800, 300
LAM = 0.1  # relative penalty of ridge and of the whiteners, chosen by the direction criterion on the pair


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Every variant on every amount of data, washed out on shell."""
    features = stratified(ground, n, seed=seed)
    directions, tokens = ground.directions(features), library.tokens(ground)
    fitted, judging = tokens.of(slice(0, library.fit)), tokens.of(slice(library.fit, None))
    reference = Reference.of(tokens, judging, ground.target, seed)
    crossing = library.crossing(ground)
    cast = Cast.on(ground, crossing, features)
    few, some = (tokens.of(slice(0, min(count, library.fit))) for count in (FEW, POOLED))
    x, y = tokens.x[ground.source.block], tokens.y[ground.target.block]
    amounts = {
        f"{FEW} pooled texts": pooled(tokens, few, ground.source.block, ground.target.block),
        f"{POOLED} pooled texts": pooled(tokens, some, ground.source.block, ground.target.block),
        "all tokens": (x[fitted], y[fitted]),
    }
    for amount, (a, b) in amounts.items():
        centred, raw = moments_of(a, b), moments_of(a, b, centred=False)
        for variant, map_ in variants(ground, centred, raw):
            carried = map_.carry(directions)
            name = f"{variant}, {amount}"
            cast.add(name, carried, variant=variant, amount=amount, kind="carried")
            cast.measured[name] = reference.judged(map_) | {"identity": reference.identity(map_.carry(directions))}
            cast.measured[name] |= {"rows": len(a), "source_width": a.shape[1], "rank": map_.settings.get("rank")}
    cast.measured["anisotropy"] = {
        amount: {side: participation(rows) for side, rows in zip(("source", "target"), both, strict=True)}
        for amount, both in amounts.items()
    }
    return cast


def variants(ground: Ground, centred: Moments, raw: Moments) -> Iterator[tuple[str, LinearMap]]:
    """Ridge; Procrustes as the textbook has it; one thing changed at a time."""
    where, how = (ground.source, ground.target), {"allow_underdetermined": True}
    lam = relative_lambda(centred, LAM)
    yield "ridge", fit_ridge(centred, *where, lam, **how)
    yield "ridge, not centred", fit_ridge(raw, *where, lam, **how)
    yield "Procrustes", fit_procrustes(centred, *where, rank="full", **how)
    yield "Procrustes, informative rank", fit_procrustes(centred, *where, **how)
    yield "Procrustes, not centred", fit_procrustes(raw, *where, rank="full", **how)
    for rank in (16, 64, 256):
        if rank < min(centred.count - 1, centred.p):
            yield f"Procrustes, rank {rank}", fit_procrustes(centred, *where, rank=rank, **how)
    yield "Procrustes, whitened", fit_gamma(centred, *where, 0.0, lam=lam, target_rel=LAM, **how)
    yield "half way (gamma 0.5)", fit_gamma(centred, *where, 0.5, lam=lam, target_rel=LAM, **how)


def participation(rows: np.ndarray) -> dict[str, float]:
    """How many dimensions carry the variance: (sum e)^2 / sum e^2 of the covariance's eigenvalues, and the width."""
    values = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))
    return {"dimensions": float(values.sum() ** 2 / np.sum(values**2)), "width": rows.shape[1]}
