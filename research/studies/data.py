"""How much data: from a hundred pairs to two hundred thousand, pooled against aligned, both routes.

In: a ground, a library. Out: conditions to be said, rows judged. Amounts are nested parts of the same documents. The
penalty of every map, aligned or pooled, is tuned by one criterion: the co-firing of latents that are not judged, on
texts that neither fit nor judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dragoman.core import Directions
from dragoman.maps import Moments
from studies.cast import Cast
from studies.controls import fake_direct
from studies.ground import Ground
from studies.library import Library
from studies.maps import direct, moments_of, pooled
from studies.tokens import Tokens
from studies.tuning import fit_documents, settings_of
from studies.yardstick import PairReading, sizes_of

QUESTION = "How much text does each route need, and where does more stop helping?"
FEATURES, ONE_WORD = 600, 110
PAIRS = (100, 300, 1000, 3000, 10_000, 30_000, 100_000, 200_000)
TEXTS = (100, 300, 800, 2000, 6000)
FEWEST = 40  # documents: with fewer nothing is known of how documents differ


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Maps and direct tables of nested amounts of the same documents, washed out on shell."""
    pair = PairReading.read(ground, library, sizes_of(n, one_word=ONE_WORD * n // FEATURES), seed=seed)
    lines, tokens = pair.lines(), pair.fit
    directions, where = ground.directions(pair.chosen.every), (ground.source, ground.target)
    most = fit_documents(tokens)
    pool = tokens.of(slice(0, most))
    x, y = tokens.x[ground.source.block], tokens.y[ground.target.block]
    aligned: list[tuple[int, str]] = []
    for pairs in PAIRS:
        rows = nested(tokens, pool, pairs, seed)
        if len(rows) < 0.9 * pairs:
            continue
        made = pair.tuner.ridge(Moments.of(x[rows], y[rows]), *where)
        texts = len(np.unique(tokens.documents[rows]))
        told: dict[str, Any] = {"pairs": len(rows), "documents": texts}
        name = f"aligned map, {pairs} pairs"
        lines.add(name, made.carry(directions), **told, **settings_of(made))
        lines.add(f"fake latents, {name}", made.carry(pair.fakes), kind="control", texts=(), **told)
        aligned.append((texts, name))
        table = direct(tokens, rows, ground.target)
        fires = [i for i in pair.chosen.every if np.linalg.norm(table.beta[int(i)]) > 0]
        if len(set(fires) & set(pair.chosen.drawn)) < 3:
            continue
        found = Directions.of(ground.target, table.beta[[int(i) for i in fires]], fires)
        often = float(np.median(table.n_eff[[int(i) for i in pair.chosen.drawn]]))
        lines.add(f"direct, {pairs} pairs", found, **told, effective_documents=often)
        lines.compare((f"direct, {pairs} pairs", name))
    if aligned:
        fakes = fake_direct(pair.fakes, pair.fake_encoder, tokens, ground, pool)
        lines.add("fake latents, direct, all pairs", fakes, kind="control", texts=())
    for texts in TEXTS:
        if texts > most:
            continue
        rows = tokens.of(slice(0, texts))
        made = pair.tuner.ridge(moments_of(*pooled(tokens, rows, ground.source.block, ground.target.block)), *where)
        name = f"pooled map, {texts} texts"
        lines.add(name, made.carry(directions), pairs=len(rows), documents=texts, **settings_of(made))
        if near := [other for count, other in aligned if count >= texts]:
            lines.compare((near[0], name))  # the aligned map that reads as many texts or the next more
    lines.compare(*((b, a) for (_, a), (_, b) in zip(aligned, aligned[1:], strict=False)))
    lines.cast.measured["notes"] = {"chosen from": dict(pair.chosen.notes)}
    return lines.cast


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
