"""A penalty by one criterion for every arm: how well images of latents that are not judged co-fire, on other texts.

In: a ground, tokens that neither fit nor judge, what makes a map at a setting. Out: the best map with the curve it was
chosen from; the post's recipe at every penalty it is shown at. Refuses what the fits refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Site
from dragoman.maps import LinearMap, Moments, fit_pooled
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.stats.roc import auroc
from studies.choice import at_most
from studies.cofiring import Whitening, telling_tokens
from studies.ground import Ground
from studies.library import Library
from studies.tokens import Tokens

GRID = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # relative penalties
POST_REL = 0.18  # the post's penalty of 100 in units of its own pooled rows, as science puts it (simulated)
LATENTS, FIRING = 100, 50  # latents that tune, and the held-out tokens at which each fires at least
MOST = 300  # tokens of a kind and latent


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuner:
    """Latents' own rows at the source, and the site to which they are carried, at tokens that tell them from silence.

    ``seen``: per latent (t, q) rows of the site less its mean, ``firing`` of which the first are those at which it
    fires; ``precision``: the inverse of the site's covariance.
    """

    rows: Directions
    seen: Sequence[Floats]
    firing: Sequence[int]
    precision: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        ground: Ground,
        tokens: Tokens,
        held: NDArray[np.int64],
        y: Floats,
        *,
        without: Collection[str],
        whitening: Whitening,
        seed: int = 0,
    ) -> Tuner:
        """From held-out rows ``held`` of ``tokens``; ``y``: (T, q) rows of the site at all of them."""
        fired = tokens.fired[held].tocsc()
        counts = np.asarray((fired > 0).sum(axis=0)).ravel()
        gone, least = set(without), min(FIRING, len(held) // 50)
        others = [i for i in ground.latents if i not in gone and counts[int(i)] >= least]
        ids = at_most(others, LATENTS, seed=seed + 5)
        told = telling_tokens(
            fired,
            tokens.documents[held],
            columns=np.array([int(i) for i in ids]),
            most=MOST,
            rng=np.random.default_rng(seed),
        )
        mean = whitening.mean.astype(np.float32)
        seen = [y[held[rows]] - mean for rows in told.rows]
        return cls(rows=ground.rows.pick(ids), seen=seen, firing=told.firing, precision=whitening.precision)

    def score(self, carried: Directions) -> float:
        """Mean co-firing AUROC of the rows' images; negatives at random."""
        reads = (self.precision @ carried.unit.T.astype(np.float64)).astype(np.float32)
        areas = []
        for k, (y, firing) in enumerate(zip(self.seen, self.firing, strict=True)):
            if firing:
                scores = y @ reads[:, k]
                areas.append(auroc(scores[:firing], scores[firing:]))
        return float(np.mean(areas))

    def best(self, make: Callable[[Any], LinearMap], settings: Sequence[Any]) -> LinearMap:
        """The map whose images score best; its report has ``tuned``: the setting, the curve, whether it is an edge."""
        made = [make(setting) for setting in settings]
        scores = [self.score(one.carry(self.rows)) for one in made]
        k = int(np.argmax(scores))
        told = {"setting": settings[k], "settings": list(settings), "scores": [round(s, 5) for s in scores]}
        return replace(made[k], report=made[k].report | {"tuned": told | {"edge": k in (0, len(made) - 1)}})

    def ridge(self, moments: Moments, source: Site, target: Site) -> LinearMap:
        """A ridge at the relative penalty whose images score best."""
        return self.best(lambda lam_rel: ridge_at(moments, source, target, lam_rel), GRID)


def ridge_at(moments: Moments, source: Site, target: Site, lam_rel: float) -> LinearMap:
    """A ridge at a relative penalty."""
    return fit_ridge(moments, source, target, relative_lambda(moments, lam_rel), allow_underdetermined=True)


def settings_of(map_: LinearMap) -> dict[str, Any]:
    """What an answer tells of a map: its penalty and rank, and the curve either was chosen from."""
    told = {key: map_.settings[key] for key in ("lam_rel", "rank") if key in map_.settings}
    return told | {key: map_.report[key] for key in ("tuned",) if key in map_.report}


def fit_documents(tokens: Tokens) -> int:
    """How many of the documents maps are fitted on: two thirds; penalties are chosen on the others."""
    return 2 * (int(tokens.documents.max()) + 1) // 3


def post_maps(
    ground: Ground, library: Library, tuner: Tuner, *, seed: int = 0
) -> tuple[dict[str, LinearMap], dict[str, float]]:
    """The post's recipe at its literal penalty, at its own relative one, tuned, and its ablation; their penalties."""
    rows = library.pooled(ground, "map")
    where = (ground.source, ground.target)
    literal, moments = fit_pooled(rows.x, rows.y, *where, seed=seed)
    turned, _ = fit_pooled(rows.x, rows.y, *where, seed=seed, method="procrustes")
    made = {
        "post": literal,
        "procrustes": turned,
        "post, its relative penalty": ridge_at(moments, *where, POST_REL),
        "post, tuned": tuner.ridge(moments, *where),
    }
    notes = {f"{name} lam_rel": one.settings["lam_rel"] for name, one in made.items() if "lam_rel" in one.settings}
    return made, notes
