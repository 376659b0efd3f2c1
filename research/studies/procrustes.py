"""Why Procrustes fails: rank truncation, anisotropy and centring, each switched on its own.

In: a ground, a library. Out: conditions to be said, rows judged. Three amounts of data: 300 and the post's 800 pooled
texts, and all tokens that maps may be fitted on. Everything but the switch is the same within each; penalties and the
rank are tuned in every arm by one criterion, the co-firing of latents that are not judged, on texts that neither fit
nor judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dragoman.core import Site
from dragoman.maps import LinearMap, Moments
from dragoman.maps.linear import fit_procrustes, relative_lambda
from studies.cast import Cast
from studies.gamma import fit_gamma
from studies.ground import Ground
from studies.library import Library
from studies.maps import moments_of, pooled
from studies.tuning import Tuner, fit_documents, settings_of
from studies.yardstick import PairReading, sizes_of

QUESTION = "Why does Procrustes fail: arbitrary completion, anisotropy, or centring?"
FEATURES, ONE_WORD = 600, 100
POOLED, FEW = 800, 300
RANKS = (16, 64, 256)
WHITENERS = (0.01, 0.1, 1.0)  # relative penalties of both whiteners


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Every variant on every amount of data, washed out on shell."""
    pair = PairReading.read(ground, library, sizes_of(n, one_word=ONE_WORD * n // FEATURES), seed=seed)
    lines, tokens = pair.lines(), pair.fit
    directions = ground.directions(pair.chosen.every)
    most = fit_documents(tokens)
    fitted, few, some = (tokens.of(slice(0, min(count, most))) for count in (most, FEW, POOLED))
    x, y = tokens.x[ground.source.block], tokens.y[ground.target.block]
    amounts = {
        f"{FEW} pooled texts": pooled(tokens, few, ground.source.block, ground.target.block),
        f"{POOLED} pooled texts": pooled(tokens, some, ground.source.block, ground.target.block),
        "all tokens": (x[fitted], y[fitted]),
    }
    for amount, (a, b) in amounts.items():
        centred, raw = moments_of(a, b), moments_of(a, b, centred=False)
        for variant, map_ in variants(ground, centred, raw, pair.tuner):
            told: dict[str, Any] = {"variant": variant, "amount": amount, "rows_fitted": len(a), **settings_of(map_)}
            lines.add(f"{variant}, {amount}", map_.carry(directions), **told)
            if variant == "ridge":
                lines.add(f"fake latents by ridge, {amount}", map_.carry(pair.fakes), kind="control", texts=())
            else:
                lines.compare((f"{variant}, {amount}", f"ridge, {amount}"))
    lines.cast.measured["notes"] = {
        "anisotropy": {
            amount: {side: participation(rows) for side, rows in zip(("source", "target"), both, strict=True)}
            for amount, both in amounts.items()
        },
        "chosen from": dict(pair.chosen.notes),
    }
    return lines.cast


def variants(ground: Ground, centred: Moments, raw: Moments, tuner: Tuner) -> Iterator[tuple[str, LinearMap]]:
    """Ridge; Procrustes as the textbook has it; one thing changed at a time, penalties and rank tuned."""
    where: tuple[Site, Site] = (ground.source, ground.target)
    how: dict[str, Any] = {"allow_underdetermined": True}
    yield "ridge", tuner.ridge(centred, *where)
    yield "ridge, not centred", tuner.ridge(raw, *where)
    yield "Procrustes", fit_procrustes(centred, *where, rank="full", **how)
    yield "Procrustes, informative rank", fit_procrustes(centred, *where, **how)
    yield "Procrustes, not centred", fit_procrustes(raw, *where, rank="full", **how)
    ranks = [rank for rank in RANKS if rank < min(centred.count - 1, centred.p)]
    if ranks:
        yield (
            "Procrustes, rank tuned",
            tuner.best(lambda rank: fit_procrustes(centred, *where, rank=rank, **how), ranks),
        )
    for name, gamma in (("Procrustes, whitened", 0.0), ("half way (gamma 0.5)", 0.5)):
        yield name, tuner.best(lambda rel, gamma=gamma: whitened(ground, centred, gamma, rel), WHITENERS)


def whitened(ground: Ground, moments: Moments, gamma: float, rel: float) -> LinearMap:
    """A map between whitened streams, both whiteners shrunk alike."""
    return fit_gamma(
        moments,
        ground.source,
        ground.target,
        gamma,
        lam=relative_lambda(moments, rel),
        target_rel=rel,
        allow_underdetermined=True,
    )


def participation(rows: np.ndarray) -> dict[str, float]:
    """How many dimensions carry the variance: (sum e)^2 / sum e^2 of the covariance's eigenvalues, and the width."""
    values = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))
    return {"dimensions": float(values.sum() ** 2 / np.sum(values**2)), "width": rows.shape[1]}
