"""Latents planted to fire as features do are found, by documents that had no part in choosing; others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.maps.matching import CoActivation, Matched
from dragoman.maps.moments import fold_of

DOCUMENTS, TOKENS = 60, 20
M, K = 4, 300
PLANTED = 17  # the latent that fires as feature 0 does; 40 to 79 do in part as feature 1, nobody as the others


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations of features and of latents at tokens, and whose document each token is."""
    rng = np.random.default_rng(seed)
    n = DOCUMENTS * TOKENS
    first = np.where(rng.random((n, M)) < 0.1, rng.gamma(2.0, 1.0, (n, M)), 0.0)
    second = np.where(rng.random((n, K)) < 0.05, rng.gamma(2.0, 1.0, (n, K)), 0.0)
    second[:, PLANTED] = 2.0 * first[:, 0] + (rng.random(n) < 0.01)
    first[:, 3] = 0.0
    return first, second, np.repeat(rng.permutation(DOCUMENTS) * 1000, TOKENS)


def summed(parts: int, seed: int = 0) -> Matched:
    first, second, documents = planted(seed)
    sums = CoActivation(M, K)
    for piece in np.array_split(np.arange(DOCUMENTS), parts):
        rows = np.concatenate([np.arange(d * TOKENS, (d + 1) * TOKENS) for d in piece])
        sums.add(csr_array(first[rows]), csr_array(second[rows]), documents[rows])
    return sums.matched()


def test_what_is_planted_is_found_and_nothing_else_is_above_chance() -> None:
    found = summed(3)
    assert found.latent[0] == PLANTED and found.r[0] > 0.97
    assert found.low[0] <= found.r[0] <= found.high[0] + 1e-12
    assert (np.abs(found.r[1:]) < 0.15).all(), "the best of 300 by chance is chance in other documents"
    assert (found.dealt < 0.25).all() and (found.low[1:] < found.dealt.max()).all() and found.low[0] > 0.9
    assert found.r[3] == found.shared[3] == found.tokens[3] == found.documents[3] == 0, "it never fires"
    assert found.pairs == DOCUMENTS * TOKENS


def test_numbers_are_those_of_numpy_on_the_documents_that_report() -> None:
    first, second, documents = planted()
    found, told = summed(5), np.isin(fold_of(documents), (2, 3, 4))
    assert_allclose(found.r[0], np.corrcoef(first[told, 0], second[told, PLANTED])[0, 1], rtol=1e-9)
    fires, other = first[told, 0] > 0, second[told, PLANTED] > 0
    assert_allclose(
        (found.shared[0], found.returned[0]), ((fires & other).sum() / fires.sum(), (fires & other).sum() / other.sum())
    )
    assert found.tokens[0] == fires.sum()
    assert found.documents[0] == len(np.unique(documents[told][fires]))


def test_batches_change_nothing_but_what_is_dealt() -> None:
    one, many = summed(1), summed(12)
    for name in ("latent", "r", "low", "high", "shared", "returned", "tokens", "documents"):
        assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-9, atol=1e-12)


def test_latents_are_chosen_on_other_documents_than_they_are_told_of() -> None:
    """A latent that fires as a feature does only where it is chosen is told with what the others say: nothing."""
    first, second, documents = planted()
    chosen = np.isin(fold_of(documents), (0, 1))
    second[:, PLANTED] = np.where(chosen, second[:, PLANTED], 0.0)
    second[~chosen, PLANTED] = np.random.default_rng(1).permutation(first[~chosen, 0])
    sums = CoActivation(M, K)
    sums.add(csr_array(first), csr_array(second), documents)
    found = sums.matched()
    assert found.latent[0] == PLANTED and abs(found.r[0]) < 0.15


def test_dealt_documents_lose_what_is_planted() -> None:
    """The null keeps how often everything fires, and how alike the tokens of one document are."""
    first, second, documents = planted()
    topic = (np.arange(DOCUMENTS) % 4 == 0).repeat(TOKENS)  # a quarter of all documents, through and through
    first[:, 1], second[:, 5] = topic, topic
    sums = CoActivation(M, K)
    sums.add(csr_array(first), csr_array(second), documents)
    found = sums.matched()
    assert found.latent[1] == 5 and found.r[1] > 0.99
    assert found.dealt[0] < 0.25 and found.dealt[1] < 0.9


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: CoActivation(1000, 65_536), "matching 1000 features with 65536 latents: their sums would take .* GB"),
        (lambda: one_document(), "so few texts: a latent is chosen on 2 folds of them"),
    ],
)
def test_what_cannot_be_summed_is_refused(make: Any, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        make()


def one_document() -> Matched:
    first, second, documents = planted()
    sums = CoActivation(M, K)
    sums.add(csr_array(first[:TOKENS]), csr_array(second[:TOKENS]), documents[:TOKENS])
    return sums.matched()
