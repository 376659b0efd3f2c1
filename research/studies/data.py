"""How much data: from a hundred pairs to two hundred thousand, pooled against aligned, both routes.

In: a ground, a library. Out: conditions to be said and held-out numbers, judged by a table of documents nobody fitted
on.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Directions
from dragoman.maps.linear import fit_ridge, relative_lambda
from studies.cast import Cast
from studies.ground import Ground, stratified
from studies.library import Library
from studies.maps import Reference, aligned_map, direct, moments_of, pooled
from studies.tokens import Tokens

QUESTION = "How much text does each route need, and where does more stop helping?"
FEATURES = 225
PAIRS = (100, 300, 1000, 3000, 10_000, 30_000, 100_000, 200_000)
TEXTS = (100, 300, 800, 2000, 6000)
FEWEST = 40  # documents: with fewer one of the five folds may stay empty


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Maps and direct tables of nested amounts of the same documents, washed out on shell."""
    features = stratified(ground, n, seed=seed)
    directions, tokens = ground.directions(features), library.tokens(ground)
    judging = tokens.of(slice(library.fit, None))
    reference = Reference.of(tokens, judging, ground.target, seed)
    crossing = library.crossing(ground)
    cast = Cast.on(ground, crossing, features)
    pool = tokens.of(slice(0, library.fit))
    for pairs in PAIRS:
        rows = nested(tokens, pool, pairs, seed)
        if len(rows) < 0.9 * pairs:
            continue
        made = aligned_map(tokens, rows, ground.rows, ground.target)
        told = {"pairs": len(rows), "texts": len(np.unique(tokens.documents[rows])), "kind": "carried"}
        carried = made.carry(directions)
        cast.add(f"aligned map, {pairs} pairs", carried, route="map", reading="aligned", **told)
        cast.measured[f"aligned map, {pairs} pairs"] = reference.judged(made) | told | {
            "identity": reference.identity(carried), "lam_rel": made.settings["lam_rel"]
        }  # fmt: skip
        table = direct(tokens, rows, ground.target)
        fires = [i for i in features if np.linalg.norm(table.beta[int(i)]) > 0]
        if len(fires) >= 3:
            found = Directions.of(ground.target, table.beta[[int(i) for i in fires]], fires)
            cast.add(f"direct, {pairs} pairs", found, route="direct", reading="aligned", **told)
            floor = {"effective_documents": float(np.median(table.n_eff[[int(i) for i in features]]))}
            cast.measured[f"direct, {pairs} pairs"] = told | floor | {
                "identity": reference.identity(found), "silent": len(features) - len(fires)
            }  # fmt: skip
    for texts in TEXTS:
        if texts > library.fit:
            continue
        rows = tokens.of(slice(0, texts))
        a, b = pooled(tokens, rows, ground.source.block, ground.target.block)
        moments = moments_of(a, b)
        for name, lam in (("post", 100.0), ("relative", relative_lambda(moments, 0.1))):
            made = fit_ridge(moments, ground.source, ground.target, lam, allow_underdetermined=True)
            carried = made.carry(directions)
            told = {"pairs": len(rows), "texts": texts, "kind": "carried", "penalty": name}
            cast.add(f"pooled map ({name}), {texts} texts", carried, route="map", reading="pooled", **told)
            cast.measured[f"pooled map ({name}), {texts} texts"] = reference.judged(made) | told | {
                "identity": reference.identity(carried), "lam_rel": made.settings["lam_rel"]
            }  # fmt: skip
    return cast


def nested(tokens: Tokens, pool: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """About ``pairs`` rows of the pool: whole documents in order, or where these were under forty, rows drawn of forty.

    Amounts of whole documents hold one another; those that are drawn do not.
    """
    documents = tokens.documents[pool]
    _, first, counts = np.unique(documents, return_index=True, return_counts=True)
    reach = int(np.searchsorted(np.cumsum(counts), pairs)) + 1
    reach = min(max(reach, FEWEST), len(counts))
    rows = pool[: first[reach - 1] + counts[reach - 1]]
    if len(rows) <= 1.2 * pairs:
        return rows
    return np.sort(np.random.default_rng([seed, pairs]).permutation(rows)[:pairs])
