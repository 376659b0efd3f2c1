import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from dragoman.core import Refusal
from dragoman.maps import Moments, fit_pooled
from dragoman.maps.diagnostics import held_out
from planted_worlds import SOURCE, TARGET, rows


@pytest.fixture(scope="module")
def pooled():
    return rows(100, 120, 30, np.random.default_rng(0))


def test_the_posts_recipe_is_ridge_100_on_four_fifths_of_the_texts(pooled):
    x, y = pooled
    bridge, _ = fit_pooled(x, y, SOURCE, TARGET)
    order = np.random.default_rng(0).permutation(100)
    kept, fitted = order[:20], order[20:]
    oracle = Ridge(alpha=100.0).fit(x[fitted], y[fitted])
    assert_allclose(bridge.weight, oracle.coef_.T, rtol=1e-8, atol=1e-10)
    assert bridge.report["held_out"] == held_out(bridge, x[kept], y[kept])
    assert bridge.report["held_out"]["n"] == 20
    assert bridge.settings["lam"] == 100.0


def test_the_posts_recipe_says_that_it_is_underdetermined(pooled):
    assert fit_pooled(*pooled, source=SOURCE, target=TARGET)[0].report["underdetermined"] is True
    assert fit_pooled(*pooled, source=SOURCE, target=TARGET)[0].report["rows"] == 80


def test_the_posts_recipe_has_a_procrustes_twin(pooled):
    bridge, _ = fit_pooled(*pooled, source=SOURCE, target=TARGET, method="procrustes")
    assert bridge.method == "procrustes"
    assert np.linalg.matrix_rank(bridge.weight) == 30


def test_same_seed_same_map_and_another_seed_another(pooled):
    first, again, other = (fit_pooled(*pooled, source=SOURCE, target=TARGET, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(first.weight, again.weight)
    assert not np.array_equal(first.weight, other.weight)


def test_the_posts_recipe_refuses_what_it_cannot_split_or_does_not_know(pooled):
    x, y = pooled
    with pytest.raises(Refusal, match="at least 3 texts are needed to fit and 2 to judge"):
        fit_pooled(x[:4], y[:4], SOURCE, TARGET)
    with pytest.raises(Refusal, match="pair one to one"):
        fit_pooled(x, y[:50], SOURCE, TARGET)
    with pytest.raises(Refusal, match="method 'lasso'"):
        fit_pooled(x, y, SOURCE, TARGET, method="lasso")  # pyright: ignore[reportArgumentType]


def test_the_posts_fit_gives_the_recipes_map_with_the_moments_it_was_fitted_on(pooled):
    x, y = pooled
    bridge, moments = fit_pooled(x, y, SOURCE, TARGET, seed=3)
    fitted = np.random.default_rng(3).permutation(100)[20:]
    assert moments.count == 80
    assert np.array_equal(moments.sxy, Moments.of(x[fitted], y[fitted]).sxy)
    assert_allclose(moments.mean_x, bridge.mean_x)
