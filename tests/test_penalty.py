from dataclasses import asdict

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from dragoman.core import Refusal
from dragoman.maps import LinearMap
from dragoman.maps.linear import RidgePath, fit_ridge, relative_lambda
from dragoman.maps.moments import MomentStream, fold_of
from dragoman.maps.penalty import Calibration, choose_penalty, fit_map
from planted_worlds import SOURCE, TARGET, at_source, cosines, rows, sparse_world, sums_by_fold, unit


def folded(x, y, documents):
    stream = MomentStream(x.shape[1], y.shape[1])
    stream.add(x, y, documents)
    return stream.finish()


@pytest.fixture(scope="module")
def anisotropic():
    """Frequent features in a few loud source dimensions, calibration features at all frequencies, much noise."""
    rates = np.geomspace(0.15, 0.045, 120)
    rng = np.random.default_rng(20)
    source = unit(rng.normal(size=(120, 64)) * np.geomspace(1, 0.2, 64))
    world = sparse_world(n=3000, m=120, rates=rates, source=source, noise=2.0, seed=20)
    world.documents = np.arange(3000)
    direct = sums_by_fold(TARGET, 120, 96, world)
    return world, folded(world.x, world.y, world.documents), direct


def drawn(direct, seed=0):
    """Which features the criteria average over: at random among those that fire often enough in every fold."""
    enough = np.flatnonzero(np.min([fold.n_eff for fold in direct], axis=0) >= 20)
    return np.sort(np.random.default_rng(seed).permutation(enough)[:150])


def test_cofiring_equals_its_formula_and_comes_near_the_best_penalty(anisotropic):
    world, moments, direct = anisotropic
    d = at_source(world.source)
    chosen = choose_penalty(moments, Calibration(directions=d, direct=direct))
    able = drawn(direct)
    assert chosen.rule == "cofiring" and chosen.overlap is None and chosen.features == len(able) >= 30
    curve = []
    for lam_rel in chosen.grid[::9]:
        each = []
        for k, fold in enumerate(direct):
            m = moments.without(k)
            image = d.unit[able] @ fit_ridge(m, SOURCE, TARGET, relative_lambda(m, lam_rel)).weight
            s = m.syy / (m.count - 1)
            inverse = np.linalg.inv(s + 1e-3 * np.trace(s) / len(s) * np.eye(len(s)))
            apart = np.einsum("ij,jk,ik->i", image, inverse, fold.beta()[able])
            each.append(np.mean(norm.cdf(apart / np.sqrt(2 * np.einsum("ij,jk,ik->i", image, inverse, image)))))
        curve.append(np.mean(each))
    assert_allclose(chosen.cofiring[::9], curve, rtol=1e-7)
    assert chosen.lam_rel == chosen.grid[int(np.argmax(chosen.cofiring))]
    path, one = RidgePath(moments.total), relative_lambda(moments.total, 1.0)
    truth = [cosines(path.images(world.source, lam * one), world.target).mean() for lam in chosen.grid]
    assert truth[chosen.grid.index(chosen.lam_rel)] > max(truth) - 0.05
    assert f"images of {chosen.features:.0f} features drawn at random co-fire with them best" in chosen.reason


def test_the_formula_is_the_auroc_of_two_normal_classes_that_differ_in_their_means():
    """Planted: the stream is normal, and where the feature fires (rarely) its mean is another."""
    rng = np.random.default_rng(3)
    fires = rng.random(60_000) < 0.02
    delta, root = rng.normal(size=6), rng.normal(size=(6, 6))
    y = rng.normal(size=(60_000, 6)) @ root + np.outer(fires, delta)
    inverse = np.linalg.inv(np.cov(y, rowvar=False))
    beta = y[fires].mean(axis=0) - y.mean(axis=0)
    for d in rng.normal(size=(5, 6)):
        formula = norm.cdf(d @ inverse @ beta / np.sqrt(2 * d @ inverse @ d))
        assert formula == pytest.approx(roc_auc_score(fires, (y - y.mean(axis=0)) @ inverse @ d), abs=0.02)


def test_lens_words_decide_first_and_cofiring_among_those_that_keep_nearly_as_many(anisotropic):
    world, moments, direct = anisotropic
    d, able = at_source(world.source), drawn(direct)
    told = []

    def overlap(rows, images):
        assert_allclose(rows, d.unit[able], rtol=1e-6)
        told.append(len(told))
        return np.full(len(images), 10.0 if told[-1] in (4, 5) else 9.9 if told[-1] == 6 else 1.0)

    chosen = choose_penalty(moments, Calibration(directions=d, direct=direct, overlap=overlap))
    near = [4, 5, 6]
    assert chosen.rule == "lens" and chosen.overlap[4] == 10.0 and len(chosen.overlap) == len(chosen.grid)
    assert chosen.lam_rel == chosen.grid[max(near, key=lambda k: chosen.cofiring[k])]
    assert "among penalties at which they keep most of their rows' lens words" in chosen.reason


def test_r2_of_left_out_documents_equals_scikit_learns_predictions(anisotropic):
    world, moments, _ = anisotropic
    chosen, mine = choose_penalty(moments, grid=np.array([0.01, 1.0, 100.0])), fold_of(world.documents)
    sse = sst = 0.0
    for k in range(5):
        x, y = world.x[mine != k], world.y[mine != k]
        lam = 1.0 * np.sum(np.var(x, axis=0)) * len(x) / 64
        sse += np.sum((world.y[mine == k] - Ridge(alpha=lam).fit(x, y).predict(world.x[mine == k])) ** 2)
        sst += np.sum((world.y[mine == k] - y.mean(axis=0)) ** 2)
    assert chosen.r2[1] == pytest.approx(1 - sse / sst, rel=1e-9)


def test_without_calibration_the_smallest_penalty_near_the_best_r2_is_taken(anisotropic):
    _, moments, direct = anisotropic
    chosen = choose_penalty(moments)
    r2 = np.array(chosen.r2)
    assert chosen.rule == "fallback" and chosen.cofiring is chosen.overlap is None
    assert chosen.lam_rel == min(g for g, r in zip(chosen.grid, r2, strict=True) if r >= 0.97 * r2.max())
    assert chosen.lam_rel < chosen.grid[int(np.argmax(r2))]
    few = at_source(np.eye(64)[:20])
    with_few = choose_penalty(moments, Calibration(directions=few, direct=direct))
    assert with_few.rule == "fallback"
    assert "fewer than 30 calibration features" in with_few.reason
    assert with_few.lam_rel == chosen.lam_rel


def test_rows_that_do_not_predict_each_other_drive_the_penalty_to_the_upper_edge():
    rng = np.random.default_rng(21)
    x, y = rng.normal(size=(300, 40)), rng.normal(size=(300, 20))
    chosen = choose_penalty(folded(x, y, np.arange(300)))
    assert max(chosen.r2) <= 0
    assert chosen.edge == "upper"


def test_a_penalty_refuses_grids_and_calibrations_that_do_not_fit(anisotropic):
    world, moments, direct = anisotropic
    for grid in ([1.0], [1.0, 0.1], [0.0, 1.0]):
        with pytest.raises(Refusal, match="penalties increase from above 0"):
            choose_penalty(moments, grid=np.array(grid))
    d = at_source(world.source)
    with pytest.raises(Refusal, match="a calibration of 3 folds and width 64: the moments have 5 folds"):
        choose_penalty(moments, Calibration(directions=d, direct=sums_by_fold(TARGET, 120, 96, folds=3)))
    with pytest.raises(Refusal, match="a calibration of target width 95"):
        choose_penalty(moments, Calibration(directions=d, direct=sums_by_fold(TARGET, 120, 95)))


# --- the default map ---------------------------------------------------------------------------------------------


def test_the_default_map_is_ridge_on_all_rows_at_the_chosen_penalty(anisotropic):
    world, moments, direct = anisotropic
    calibration = Calibration(directions=at_source(world.source), direct=direct)
    bridge = fit_map(moments, SOURCE, TARGET, calibration=calibration)
    chosen = choose_penalty(moments, calibration)
    total = moments.total
    oracle = fit_ridge(total, SOURCE, TARGET, relative_lambda(total, chosen.lam_rel))
    assert_allclose(bridge.weight, oracle.weight)
    assert bridge.report["penalty"] == asdict(chosen)
    assert bridge.report["thin"] is False
    assert bridge.report["loudness"] < 1e3


def test_a_loud_source_dimension_is_standardised_and_directions_stay_in_the_sources_own_units(tmp_path):
    rng = np.random.default_rng(22)
    x, y = rows(600, 12, 9, rng)
    x = x * np.r_[1000.0, np.ones(11)]
    moments = folded(x, y, np.arange(600))
    bridge = fit_map(moments, SOURCE, TARGET, penalty=0.05)
    assert bridge.report["loudness"] > 1e3
    assert bridge.settings["standardised"] is True
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    oracle = Ridge(alpha=0.05 * 600).fit(z, y)
    assert_allclose(bridge.points(x), oracle.predict(z), rtol=1e-8, atol=1e-8)
    assert_allclose(bridge.weight, oracle.coef_.T / scale[:, None], rtol=1e-8, atol=1e-12)
    assert "standardised" not in fit_map(moments, SOURCE, TARGET, penalty=0.05, standardise=False).settings
    bridge.save(tmp_path / "map.safetensors")
    assert LinearMap.load(tmp_path / "map.safetensors").settings == bridge.settings


def test_the_default_map_refuses_few_rows_and_a_source_that_does_not_vary():
    x, y = rows(40, 60, 5, np.random.default_rng(23))
    moments = folded(x, y, np.arange(40))
    with pytest.raises(Refusal, match="a map from 40 rows of width 60"):
        fit_map(moments, SOURCE, TARGET)
    assert fit_map(moments, SOURCE, TARGET, allow_underdetermined=True).report["thin"] is True
    still = folded(np.ones((40, 3)), y, np.arange(40))
    with pytest.raises(Refusal, match="none of its dimensions varies"):
        fit_map(still, SOURCE, TARGET, standardise=True)
