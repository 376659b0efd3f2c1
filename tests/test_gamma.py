import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA

from dragoman.core import Refusal
from dragoman.maps import Moments, make_cards
from dragoman.maps.linear import fit_procrustes, fit_ridge, relative_lambda
from planted_worlds import SOURCE, TARGET, at_source, cosines, rows
from studies.gamma import fit_gamma


def fit(x, y, gamma, lam_rel=1e-3, **how):
    m = Moments.of(x, y)
    return fit_gamma(m, SOURCE, TARGET, gamma, lam=relative_lambda(m, lam_rel), **how)


@pytest.mark.parametrize("target_rel", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize(("p", "q"), [(12, 9), (9, 12)])
def test_gamma_one_is_ridge_whatever_the_targets_whitener(p, q, target_rel):
    x, y = rows(300, p, q, np.random.default_rng(0))
    m = Moments.of(x, y)
    bridge = fit_gamma(m, SOURCE, TARGET, 1.0, lam=3.0, target_rel=target_rel)
    assert_allclose(bridge.weight, fit_ridge(m, SOURCE, TARGET, 3.0).weight, rtol=1e-8, atol=1e-10)


def test_gamma_zero_is_procrustes_between_whitened_streams():
    x, y = rows(400, 8, 11, np.random.default_rng(1))
    bridge = fit(x, y, 0.0, 1e-9, target_rel=1e-9)

    def whitener(rows):
        values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False) * (len(rows) - 1))
        return (vectors / np.sqrt(values)) @ vectors.T, (vectors * np.sqrt(values)) @ vectors.T

    (left, _), (right, back) = whitener(x), whitener(y)
    white = fit_procrustes(Moments.of(x @ left, y @ right), SOURCE, TARGET)
    turn = white.weight / white.settings["scale"]
    assert_allclose(bridge.weight, left @ turn @ back, rtol=1e-5, atol=1e-6)


def test_the_first_correlation_is_scikit_learns():
    x, y = rows(500, 6, 7, np.random.default_rng(2), noise=1.5)
    one, other = CCA(n_components=1, max_iter=5000, tol=1e-12).fit_transform(x, y)
    oracle = np.corrcoef(one[:, 0], other[:, 0])[0, 1]
    found = fit(x, y, 0.5, 1e-9, target_rel=1e-9).report["first_correlation"]
    assert found == pytest.approx(oracle, abs=1e-4)


def test_smaller_gamma_brings_weakly_predicted_directions_back():
    rng = np.random.default_rng(3)
    p = 20
    turn = ortho_group.rvs(p, random_state=0)
    x = rng.normal(size=(4000, p))
    noise = np.geomspace(0.1, 10, p)  # the last target dimensions hardly follow
    y = (x + noise * rng.normal(size=(4000, p))) @ turn
    length = [np.linalg.norm(np.eye(p)[[0, -1]] @ fit(x, y, gamma).weight, axis=1) for gamma in (1.0, 0.5, 0.0)]
    assert_allclose(length[0], 1, atol=0.3)  # ridge: gains as planted
    gains = [weak / strong for strong, weak in length]
    assert gains[0] < gains[1] < gains[2]
    assert gains[2] == pytest.approx(10, rel=0.1)  # standardised: sd of the target's last dimension over its first
    d = rng.normal(size=(50, p))
    assert cosines(d @ fit(x, y, 1.0).weight, d @ turn).mean() > 0.95


def test_with_few_rows_only_informative_triplets_are_kept():
    x, y = rows(20, 60, 50, np.random.default_rng(4))
    bridge = fit(x, y, 0.0, 0.1, allow_underdetermined=True)
    assert bridge.settings["rank"] == np.linalg.matrix_rank(bridge.weight, tol=1e-8) == 19
    assert bridge.report["underdetermined"] is True
    cards = make_cards(at_source(np.random.default_rng(5).normal(size=(9, 60))), bridge, Moments.of(x, y))
    assert all(0 <= card.coverage <= 0.9 and card.rel is None for card in cards)


@pytest.mark.parametrize("gamma", [-0.1, np.nan])
def test_gamma_refuses_a_negative_exponent(gamma):
    with pytest.raises(Refusal, match="the exponent is 0 or more"):
        fit(*rows(50, 4, 3, np.random.default_rng(0)), gamma)


def test_gamma_refuses_penalties_rows_and_pairs_that_cannot_be():
    x, y = rows(50, 4, 3, np.random.default_rng(0))
    with pytest.raises(Refusal, match="penalties 0 and 0.001: both must be positive"):
        fit(x, y, 0.5, 0.0)
    with pytest.raises(Refusal, match="4 rows of width 4"):
        fit(x[:4], y[:4], 0.5)
    with pytest.raises(Refusal, match="do not covary"):
        m = Moments.of(np.repeat(np.eye(4), 2, axis=0), np.tile([[1.0], [-1.0]], (4, 1)))
        fit_gamma(m, SOURCE, TARGET, 0.5, lam=1.0)
