"""The trained read-out is a logistic regression, and tells what no mean of rows tells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

pytest.importorskip("torch")
sklearn = pytest.importorskip("sklearn.linear_model")

from dragoman.stats.roc import auroc  # noqa: E402
from studies.ceiling import Openings  # noqa: E402
from studies.cofiring import Whitening  # noqa: E402


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray, Whitening]:
    """Latent 0 fires where one coordinate of six is large, latent 1 on others; the stream is far from round."""
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(600, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    fired = np.stack([y[:, 2] > 1.0, y[:, 2] + y[:, 3] > 2.0, y[:, 0] < -2.0], axis=1).astype(np.float32)
    return y, fired, Whitening.of(y)


@pytest.mark.parametrize("hard", [0.0, 0.5])
def test_weights_are_those_of_scikit_learns_regression(planted, hard: float) -> None:
    y, fired, whitening = planted
    seen = Openings.of(y, csr_array(fired), [0], np.array([[1]]), whitening, "cpu")
    on, sibling = fired[:, 0] > 0, (fired[:, 1] > 0) & (fired[:, 0] == 0)
    weight = np.where(on, 1 / on.sum(), (1 - hard) / len(y) + hard * sibling / sibling.sum())
    oracle = sklearn.LogisticRegression(C=1 / 0.1, tol=1e-10, max_iter=1000)
    oracle.fit(seen.white.numpy(), on, sample_weight=weight)
    expected = seen.root.numpy() @ oracle.coef_[0]
    assert np.allclose(seen.logistic(0.1, hard)[:, 0], expected, atol=2e-3 * np.abs(expected).max())


def test_the_trained_read_out_beats_the_mean_of_the_rows(planted) -> None:
    y, fired, whitening = planted
    on = fired[:, 0] > 0
    read = Openings.of(y, csr_array(fired), [0], np.array([[1]]), whitening, "cpu").logistic(0.003, 0.0)[:, 0]
    mean = whitening.precision @ (y[on].mean(axis=0) - y.mean(axis=0))
    assert auroc(y[on] @ read, y[~on] @ read) > max(auroc(y[on] @ mean, y[~on] @ mean), 0.99)
