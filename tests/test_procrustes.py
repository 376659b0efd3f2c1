import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from dragoman.core import Refusal
from dragoman.maps import Moments
from dragoman.maps.linear import fit_procrustes, fit_ridge
from planted_worlds import SOURCE, TARGET, cosines, rows


def fit(x, y, **kwargs):
    return fit_procrustes(Moments.of(x, y), SOURCE, TARGET, **kwargs)


def centred(*arrays):
    return (a - a.mean(axis=0) for a in arrays)


def test_square_procrustes_equals_scipy():
    x, y = rows(200, 12, 12, np.random.default_rng(0))
    a, b = centred(x, y)
    turn, strength = orthogonal_procrustes(a, b)
    scale = strength / np.sum(a**2)
    assert_allclose(fit(x, y).weight, scale * turn, atol=1e-10)


@pytest.mark.parametrize(("p", "q"), [(8, 13), (13, 8)])
def test_rectangular_procrustes_equals_scipy_on_zero_padded_rows(p, q):
    x, y = rows(200, p, q, np.random.default_rng(1))
    a, b = centred(x, y)
    wide = max(p, q)
    a_wide, b_wide = np.pad(a, ((0, 0), (0, wide - p))), np.pad(b, ((0, 0), (0, wide - q)))
    turn, _ = orthogonal_procrustes(a_wide, b_wide)
    bridge = fit(x, y)
    assert_allclose(bridge.weight / bridge.settings["scale"], turn[:p, :q], atol=1e-8)


def test_planted_rotation_is_recovered():
    rng = np.random.default_rng(2)
    turn = ortho_group.rvs(10, random_state=0)
    x = rng.normal(size=(100, 10)) + 2
    assert_allclose(fit(x, 3 * x @ turn - 5).weight, 3 * turn, atol=1e-8)


def test_few_rows_keep_only_informative_triplets():
    rng = np.random.default_rng(3)
    x, y = rows(20, 60, 50, rng)
    bridge = fit(x, y, allow_underdetermined=True)
    assert bridge.settings["rank"] == np.linalg.matrix_rank(bridge.weight) == 19
    outside = np.linalg.svd(x - x.mean(axis=0))[2][19:]
    assert np.abs(outside @ bridge.weight).max() < 1e-10


def test_a_dead_dimension_is_not_rotated_to_an_arbitrary_place():
    x, y = rows(200, 12, 12, np.random.default_rng(7))
    x[:, 3] = 1.0
    bridge = fit(x, y)
    assert bridge.settings["rank"] == 11
    assert np.abs(bridge.weight[3]).max() < 1e-10


def test_truncation_brings_procrustes_back_to_ridge_where_rows_are_few():
    rng = np.random.default_rng(4)
    p, n = 120, 30
    turn = ortho_group.rvs(p, random_state=1)
    x = rng.normal(size=(n, p))
    y = x @ turn
    d = rng.normal(size=(200, p))
    untruncated, _ = orthogonal_procrustes(*centred(x, y))
    ours = cosines(d @ fit(x, y, allow_underdetermined=True).weight, d @ turn).mean()
    ridge = fit_ridge(Moments.of(x, y), SOURCE, TARGET, 1e-3, allow_underdetermined=True)
    assert ours > cosines(d @ untruncated, d @ turn).mean() + 0.1
    assert ours == pytest.approx(cosines(d @ ridge.weight, d @ turn).mean(), abs=0.02)


def test_procrustes_refuses_fewer_documents_than_needed():
    x, y = rows(10, 12, 12, np.random.default_rng(5))
    with pytest.raises(Refusal, match="10 rows of width 12"):
        fit(x, y)


def test_procrustes_refuses_rows_that_do_not_covary():
    with pytest.raises(Refusal, match="do not covary"):
        fit(np.random.default_rng(6).normal(size=(20, 3)), np.ones((20, 3)))


def test_a_smaller_rank_keeps_the_strongest_triplets():
    x, y = rows(200, 12, 14, np.random.default_rng(8))
    a, b = centred(x, y)
    u, _, v = np.linalg.svd(a.T @ b)
    bridge = fit(x, y, rank=5)
    assert_allclose(bridge.weight / bridge.settings["scale"], u[:, :5] @ v[:5], atol=1e-8)
    assert (bridge.settings["rank"], bridge.settings["informative"]) == (5, 12)


def test_full_rank_is_the_textbooks_map_whose_arbitrary_part_has_unit_gain():
    x, y = rows(20, 60, 60, np.random.default_rng(9))
    full = fit(x, y, rank="full", allow_underdetermined=True)
    turn = full.weight / full.settings["scale"]
    assert_allclose(turn @ turn.T, np.eye(60), atol=1e-8)
    outside = np.linalg.svd(x - x.mean(axis=0))[2][19:]
    assert_allclose(np.linalg.norm(outside @ turn, axis=1), 1, atol=1e-8)
    assert np.abs(outside @ fit(x, y, allow_underdetermined=True).weight).max() < 1e-10


@pytest.mark.parametrize("rank", [0, -1, 20])
def test_procrustes_refuses_ranks_that_are_not_informative(rank):
    x, y = rows(20, 60, 50, np.random.default_rng(10))
    with pytest.raises(Refusal, match=f"rank {rank}: 19 singular triplets are informative"):
        fit(x, y, rank=rank, allow_underdetermined=True)
