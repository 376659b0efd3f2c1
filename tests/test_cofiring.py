"""Co-firing against scikit-learn, planted features, and what must not change it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from dragoman.core import Refusal
from studies.cofiring import Whitening, cofiring, lateness, telling_tokens

Rows = NDArray[Any]


def world(n: int = 24, q: int = 16, tokens: int = 6000, seed: int = 0) -> tuple[Rows, Rows, Any, Rows]:
    """Features that fire at random tokens and add their direction to a stream with a few loud dimensions."""
    rng = np.random.default_rng(seed)
    fired = (rng.random((tokens, n)) < 0.03) * rng.uniform(0.5, 1.5, (tokens, n))
    rows = rng.normal(size=(n, q))
    noise = rng.normal(size=(tokens, q)) * np.r_[20.0, 20.0, np.ones(q - 2)]
    return rows, fired @ rows + noise + 5, csr_array(fired), np.repeat(np.arange(tokens // 30), 30)


def scored(directions: Rows, y: Rows, fired: Any, documents: Rows, *, shrink: float = 1e-3, **more: Any) -> Rows:
    whitening = Whitening.of(y, shrink=shrink)
    return cofiring(directions, y, fired, documents, whitening=whitening, rng=np.random.default_rng(0), **more)


def test_the_score_is_the_whitened_projections_auroc_on_the_tokens_that_tell() -> None:
    rows, y, fired, documents = world(n=5, tokens=3000)
    tokens = telling_tokens(
        fired, documents, columns=np.arange(5), siblings=None, most=2000, rng=np.random.default_rng(0)
    )
    inverse = np.linalg.inv(np.cov(y, rowvar=False) + 1e-3 * np.trace(np.cov(y, rowvar=False)) / 16 * np.eye(16))
    on = fired.toarray() > 0
    found = scored(rows, y, fired, documents)
    for k in range(5):
        own = tokens.rows[k]
        oracle = roc_auc_score(on[own, k], (y[own] - y.mean(axis=0)) @ inverse @ rows[k])
        assert found[k] == pytest.approx(oracle, abs=1e-9)


def test_planted_features_are_found_and_dealt_ones_are_not() -> None:
    rows, y, fired, documents = world()
    assert scored(rows, y, fired, documents).mean() > 0.9
    assert scored(np.roll(rows, 1, axis=0), y, fired, documents).mean() == pytest.approx(0.5, abs=0.06)


def test_a_direction_that_only_tells_families_apart_loses_half_of_it_to_hard_negatives() -> None:
    rng = np.random.default_rng(5)
    family = rng.random(8000) < 0.1
    first = family & (rng.random(8000) < 0.5)
    fired = csr_array(np.stack([first, family & ~first], axis=1).astype(float))
    y = rng.normal(size=(8000, 6)) + np.outer(family, [6, 0, 0, 0, 0, 0])
    documents = np.repeat(np.arange(400), 20)
    shared = np.tile([1.0, 0, 0, 0, 0, 0], (2, 1))
    assert scored(shared, y, fired, documents).min() > 0.9
    hard = scored(shared, y, fired, documents, siblings=np.array([[1], [0]]))
    assert_allclose(hard, 0.75, atol=0.06)


def test_what_lateness_alone_tells_is_no_score() -> None:
    rng = np.random.default_rng(6)
    documents = np.repeat(np.arange(200), 64)
    late = lateness(documents)
    assert set(late.tolist()) == set(range(8))
    y = rng.normal(size=(12800, 4)) * 0.01
    y[:, 0] += late
    fired = csr_array(((rng.random(12800) < 0.1) & (late < 3)).astype(float)[:, None])
    assert scored(np.array([[-1.0, 0, 0, 0]]), y, fired, documents)[0] == pytest.approx(0.5, abs=0.05)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1e-3, 1e3))
def test_scale_and_invertible_changes_of_the_stream_change_nothing(seed: int, factor: float) -> None:
    rows, y, fired, documents = world(n=4, q=6, tokens=1200, seed=seed)
    change = np.random.default_rng(seed).normal(size=(6, 6)) + 4 * np.eye(6)
    first = scored(rows, y, fired, documents, shrink=0.0)
    assert_allclose(scored(rows * factor, y, fired, documents, shrink=0.0), first, atol=1e-3)
    assert_allclose(scored(rows @ change, y @ change + 3, fired, documents, shrink=0.0), first, atol=1e-3)
    assert_allclose(scored(-rows, y, fired, documents, shrink=0.0), 1 - first, atol=1e-3)


def test_features_that_hardly_fire_have_no_score_and_shapes_are_refused() -> None:
    rows, y, fired, documents = world(n=3, tokens=600)
    dense = fired.toarray()
    dense[:, 1] = 0
    dense[:9, 1] = 1
    found = scored(rows, y, csr_array(dense), documents)
    assert np.isnan(found[1]) and np.isfinite(found[[0, 2]]).all()
    with pytest.raises(Refusal, match="each direction has a feature, each row a token"):
        scored(rows, y, fired, documents[:-1])
    with pytest.raises(Refusal, match="the rows do not vary"):
        Whitening.of(np.ones((5, 3)))
