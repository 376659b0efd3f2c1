"""Rows that should fail a measure of features: where a feature does not fire, random ones, dealt ones, unpaired maps.

In: ``Tokens``, features, moments. Out: directions and a map. Refuses nothing of its own; features without a silent or
an earlier token have no row and are left out.

Silent and earlier rows are made of the documents in which the feature fires, each weighing what it weighs in the direct
route's mean, so that all that distinguishes them from the direct row is at which tokens they were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Directions, Site
from dragoman.maps import FiringSums, LinearMap, Moments
from dragoman.maps.aligned import HeldOutPairs
from dragoman.maps.linear import fit_ridge
from dragoman.models.encoding import encoded
from studies.ground import Ground
from studies.tokens import Tokens

Doubles = NDArray[np.float64]


def silent_rows(tokens: Tokens, target: Site, ids: Sequence[str]) -> Directions:
    """Mean of the target over the tokens of those documents at which the feature is silent, less the overall mean.

    Per document the mean of its silent tokens, weighed by the document's activation.
    """
    y, fired, member = _parts(tokens, target, ids)
    weight: Any = (member @ fired).tocsr()  # (documents, features): activation of each document
    fires = (fired > 0).astype(np.float64)
    many = np.asarray(member.sum(axis=1)).ravel()
    quiet = _aligned_to(weight, many[:, None] - (member @ fires).toarray())
    share = weight.copy()
    share.data = np.where(quiet > 0, weight.data / np.maximum(quiet, 1), 0.0)
    # Sum over silent tokens = sum over all tokens of the document, less those at which it fires.
    sums = share.T @ (member @ y) - (fires * (member.T @ share)).T @ y
    return _finished(sums, np.asarray(share.multiply(_like(weight, quiet)).sum(axis=0)).ravel(), y, target, ids)


def earlier_rows(tokens: Tokens, target: Site, ids: Sequence[str]) -> Directions:
    """The same over the tokens of those documents that come before the feature's first firing there."""
    y, fired, member = _parts(tokens, target, ids)
    weight: Any = (member @ fired).tocsr()
    starts = np.searchsorted(tokens.documents, np.unique(tokens.documents))
    sums, mass = np.zeros((len(ids), y.shape[1])), np.zeros(len(ids))
    running = np.vstack([np.zeros((1, y.shape[1])), np.cumsum(y, axis=0, dtype=np.float64)])
    columns = fired.tocsc()
    columns.sort_indices()
    where = np.searchsorted(starts, np.arange(len(y)), side="right") - 1  # each row's document, by number
    by_feature = weight.tocsc()
    for k in range(len(ids)):
        rows = columns.indices[columns.indptr[k] : columns.indptr[k + 1]]
        documents, first = np.unique(where[rows], return_index=True)
        if not len(documents):
            continue
        first, start = rows[first], starts[documents]
        own = by_feature[:, [k]].toarray().ravel()[documents]
        there = first > start
        if not there.any():
            continue
        first, start, own = first[there], start[there], own[there]
        means = (running[first] - running[start]) / (first - start)[:, None]
        sums[k], mass[k] = own @ means, own.sum()
    return _finished(sums, mass, y, target, ids)


def like_activations(moments: Moments, site: Site, n: int, rng: np.random.Generator) -> Directions:
    """Directions drawn with the source's own covariance: z Sxx^1/2."""
    values, vectors = np.linalg.eigh(moments.sxx)
    root = np.sqrt(np.clip(values, 0.0, None))
    rows = (rng.normal(size=(n, moments.p)) * root) @ vectors.T
    return Directions.of(site, rows, [f"random-{i}" for i in range(n)], kind="random", origin="random, as activations")


def shuffled_map(pairs: HeldOutPairs, forward: LinearMap, seed: int) -> LinearMap:
    """A ridge over rows that do not belong together, at the map's own relative penalty: what no pairing leads to."""
    order = np.random.default_rng(seed + 3).permutation(len(pairs.y))
    moments = Moments.of(pairs.x, pairs.y[order])
    lam = forward.settings["lam_rel"] * float(np.trace(moments.sxx)) / moments.p
    made = fit_ridge(moments, forward.source, forward.target, lam, allow_underdetermined=True)
    return replace(made, report=made.report | {"shuffled": True})


def fake_direct(fakes: Directions, encoder: Any, tokens: Tokens, ground: Ground, rows: Any = slice(None)) -> Directions:
    """The direct route of fake latents over some of the tokens; those that never fire there are left out."""
    ids, y = list(fakes.ids), tokens.y[ground.target.block][rows]
    fired = encoded(encoder, tokens.x[ground.source.block][rows])
    table = FiringSums(ground.target, ids, y.shape[1]).add(fired, y, tokens.documents[rows]).table()
    able = np.flatnonzero(np.linalg.norm(table.beta, axis=1) > 0)
    origin = "direct route of fake latents"
    return Directions.of(ground.target, table.beta[able], [ids[k] for k in able], kind="custom", origin=origin)


def dealt(rows: Directions, seed: int) -> Directions:
    """The same rows under one another's names."""
    order = np.random.default_rng(seed + 4).permutation(len(rows))
    moved = np.roll(order, 1)
    unit = np.empty_like(rows.unit)
    unit[order] = rows.unit[moved]
    return Directions.of(rows.site, unit, rows.ids, labels=rows.labels, origin="dealt")


def _parts(tokens: Tokens, target: Site, ids: Sequence[str]) -> tuple[Any, Any, Any]:
    """Target rows (n, q), activations of the features (n, m), and which document (d, n) each row belongs to."""
    y = tokens.y[target.block]
    fired = csr_array(tokens.fired.tocsc()[:, [int(i) for i in ids]], dtype=np.float64)
    names, where = np.unique(tokens.documents, return_inverse=True)
    member = csr_array((np.ones(len(where)), (where, np.arange(len(where)))), shape=(len(names), len(where)))
    return y, fired, member


def _aligned_to(sparse: Any, dense: Doubles) -> Doubles:
    """The entries of a dense array at the places of a sparse one, in its order."""
    rows = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.indptr))
    return dense[rows, sparse.indices]


def _like(sparse: Any, data: Doubles) -> csr_array:
    return csr_array((data, sparse.indices, sparse.indptr), shape=sparse.shape)


def _finished(sums: Doubles, mass: Doubles, y: Any, target: Site, ids: Sequence[str]) -> Directions:
    """Means less the overall mean, of those that have one."""
    able = np.flatnonzero(mass > 0)
    means = (1.0 / mass[able])[:, None] * sums[able] - y.mean(axis=0, dtype=np.float64)
    return Directions.of(target, means, [ids[k] for k in able.tolist()], origin="where the feature is silent")
