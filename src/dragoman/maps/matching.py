"""Which latent of another dictionary fires where a feature fires: sums over pairs of tokens, and what is found in them.

In: activations of M features at one site and of K latents at another, at the same positions of the same texts. Out:
``Matched``, for each feature the latent whose activation correlates best with its own. Refuses more of both than
there is room for, and texts too few to choose by some and report by others.

Correlation of activations over tokens is how features of different models are compared (Bricken et al. 2023, "Towards
Monosemanticity", activation similarity; Lan et al. 2024, arXiv 2410.06981). The best of thousands is high by chance,
and tokens of one document are alike, so the latent is chosen on two folds of documents and its correlation told on the
other three, all together and each alone. The null is the best of all latents on these three, each document's tokens set
beside another document's latents: it keeps how often everything fires, and chooses where it is told of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from dragoman.core import Refusal
from dragoman.maps.moments import FOLDS, Doubles, fold_of

ROOM = 2e9  # bytes of sums
CHOOSE, REPORT = (0, 1), (2, 3, 4)  # folds of documents
TOGETHER, DEALT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """Of each of M features, over the folds that had no part in choosing; all (M,).

    ``latent``: column of the other dictionary. ``r``: correlation of both activations over tokens; ``low``, ``high``:
    least and most of the single folds. ``dealt``: the highest r of any latent where latents are another document's.
    ``shared``: of the tokens at which the feature fires, the share at which the latent does; ``returned``:
    of those of the latent, that of the feature. ``tokens``, ``documents``: at which and in how many the feature fires.
    Where the feature or its latent does not fire, r is 0. ``pairs``: of tokens, in all folds.
    """

    latent: NDArray[np.int64]
    r: Doubles
    low: Doubles
    high: Doubles
    dealt: Doubles
    shared: Doubles
    returned: Doubles
    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]
    pairs: int


class CoActivation:
    """Sums by fold of documents, added to in place: some 90 M K bytes."""

    def __init__(self, features: int, latents: int) -> None:
        """Nothing seen yet.

        Raises:
            Refusal: so many of both do not fit.
        """
        shape = (FOLDS, 2, features, latents)
        need = 8.0 * (np.prod(shape) + features * latents)
        if need > ROOM:
            raise Refusal(
                f"matching {features} features with {latents} latents",
                f"their sums would take {need / 1e9:.1f} GB, and {ROOM / 1e9:g} GB are allowed",
                f"name at most {int(features * ROOM / need)} features at a time",
            )
        self._rows = np.zeros((FOLDS, 2), np.int64)
        self._first, self._second = np.zeros((FOLDS, 2, 2, features)), np.zeros((FOLDS, 2, 2, latents))
        self._products = np.zeros(shape)
        self._both = np.zeros((features, latents), np.int64)
        self._fires = np.zeros(features, np.int64), np.zeros(latents, np.int64)
        self._documents = np.zeros(features, np.int64)

    def add(self, first: csr_array, second: csr_array, documents: NDArray[np.int64]) -> None:
        """Add activations (n, M) and (n, K) at the same tokens; all of a document's come at once."""
        first, second = csr_array(first, dtype=np.float64), csr_array(second, dtype=np.float64)
        mine = fold_of(documents, FOLDS)
        for fold in np.unique(mine):
            rows = np.flatnonzero(mine == fold)
            rows = rows[np.argsort(documents[rows], kind="stable")]
            self._add(fold, TOGETHER, len(rows), first[rows], second[rows])
            dealt = np.roll(rows, len(rows) // 2)
            apart = documents[rows] != documents[dealt]
            self._add(fold, DEALT, int(apart.sum()), first[rows[apart]], second[dealt[apart]])
            if fold in REPORT:
                self._count(first[rows], second[rows], documents[rows])

    def _add(self, fold: int, kind: int, rows: int, first: csr_array, second: csr_array) -> None:
        self._rows[fold, kind] += rows
        for sums, part in ((self._first, first), (self._second, second)):
            sums[fold, kind, 0] += part.sum(axis=0)
            sums[fold, kind, 1] += part.power(2).sum(axis=0)
        products = coo_array(first.T @ second)
        self._products[fold, kind][products.row, products.col] += products.data

    def _count(self, first: csr_array, second: csr_array, documents: NDArray[np.int64]) -> None:
        one, other = (_fires(part) for part in (first, second))
        both = coo_array(one.T @ other)
        self._both[both.row, both.col] += both.data
        for total, part in zip(self._fires, (one, other), strict=True):
            total += part.sum(axis=0)
        starts = np.flatnonzero(np.r_[True, documents[1:] != documents[:-1]])
        each = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(documents)]))
        member = csr_array((np.ones(len(each), np.int64), (each, np.arange(len(each)))))
        self._documents += ((member @ one) > 0).sum(axis=0)

    def matched(self) -> Matched:
        """What is chosen, and what the other folds say of it.

        Raises:
            Refusal: a fold has no pair of tokens.
        """
        if (self._rows[:, TOGETHER] < 2).any():
            why = f"a latent is chosen on {len(CHOOSE)} folds of them and told of on {len(REPORT)} others"
            raise Refusal("so few texts", why, "give some dozens")
        best = self._correlation(CHOOSE, TOGETHER).argmax(axis=1)
        each = np.stack([self._correlation((fold,), TOGETHER, best) for fold in REPORT])
        at = np.arange(len(best))
        both, fires, others = self._both[at, best], self._fires[0], self._fires[1][best]
        return Matched(
            latent=best,
            r=self._correlation(REPORT, TOGETHER, best),
            low=each.min(axis=0),
            high=each.max(axis=0),
            dealt=self._correlation(REPORT, DEALT).max(axis=1),
            shared=both / np.maximum(fires, 1),
            returned=both / np.maximum(others, 1),
            tokens=fires,
            documents=self._documents,
            pairs=int(self._rows[:, TOGETHER].sum()),
        )

    def _correlation(self, folds: tuple[int, ...], kind: int, of: NDArray[np.int64] | None = None) -> Doubles:
        """(M, K), or (M,) with one latent each; 0 where either never varies."""
        chosen = list(folds)
        n = max(int(self._rows[chosen, kind].sum()), 1)
        first, second = (sums[chosen, kind].sum(axis=0) / n for sums in (self._first, self._second))
        if of is None:
            products = self._products[chosen, kind].sum(axis=0) / n
            mean, other = np.multiply.outer(first[0], second[0]), second
            spread = np.multiply.outer(*(_variance(part) for part in (first, other)))
        else:
            products = sum(self._products[fold, kind][np.arange(len(of)), of] for fold in chosen) / n
            mean, other = first[0] * second[0][of], second[:, of]
            spread = _variance(first) * _variance(other)
        safe = np.where(spread > 0, spread, 1.0)
        return np.where(spread > 0, (products - mean) / np.sqrt(safe), 0.0)


def _variance(sums: Doubles) -> Doubles:
    """Of means (2, n) of values and of squares."""
    return np.maximum(sums[1] - sums[0] ** 2, 0.0)


def _fires(activations: csr_array) -> csr_array:
    """1 where a feature fires."""
    fires = csr_array(activations, dtype=np.float64, copy=True)
    fires.eliminate_zeros()
    return csr_array((np.ones(len(fires.data), np.int64), fires.indices, fires.indptr), shape=fires.shape)
