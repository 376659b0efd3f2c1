import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge

from dragoman.core import Directions, Refusal
from dragoman.maps import LinearMap, Moments
from dragoman.maps.diagnostics import held_out, usable, usable_means
from dragoman.maps.linear import RidgePath, fit_ridge, relative_lambda
from planted_worlds import ELSEWHERE, SOURCE, TARGET, at_source, cosines, rows


def fit(x, y, lam, **kwargs):
    return fit_ridge(Moments.of(x, y), SOURCE, TARGET, lam, **kwargs)


@pytest.mark.parametrize(("n", "p"), [(200, 12), (20, 60)])
@pytest.mark.parametrize("lam", [0.1, 100.0])
def test_ridge_equals_scikit_learn(n, p, lam):
    x, y = rows(n, p, 9, np.random.default_rng(0))
    bridge = fit(x, y, lam, allow_underdetermined=True)
    oracle = Ridge(alpha=lam).fit(x, y)
    assert_allclose(bridge.weight, oracle.coef_.T, rtol=1e-9, atol=1e-9 * np.abs(oracle.coef_).max())
    assert_allclose(bridge.points(x), oracle.predict(x), rtol=1e-9)


def test_lambda_sweep_from_one_eigendecomposition_equals_refits():
    x, y = rows(200, 15, 9, np.random.default_rng(1))
    path = RidgePath(Moments.of(x, y))
    for lam in np.logspace(-3, 5, 9):
        assert_allclose(path.images(np.eye(15), lam), fit(x, y, lam).weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lam", [0.01, 3.0, 1e3])
def test_held_out_error_from_moments_equals_explicit_residuals(lam):
    x, y = rows(260, 15, 9, np.random.default_rng(2))
    train, fold = slice(0, 200), slice(200, None)
    path = RidgePath(Moments.of(x[train], y[train]))
    oracle = Ridge(alpha=lam).fit(x[train], y[train])
    unseen = np.sum((y[fold] - oracle.predict(x[fold])) ** 2)
    assert path.held_out_curve(np.array([lam]), Moments.of(x[fold], y[fold]))[0] == pytest.approx(unseen, rel=1e-9)


@pytest.mark.parametrize(("n", "snr", "known"), [(128, 1, 0.70), (128, 10, 0.952), (640, 1, 0.947), (6400, 10, 0.9995)])
def test_planted_map_is_recovered_as_well_as_its_noise_allows(n, snr, known):
    p, q, rng = 64, 96, np.random.default_rng(3)
    truth = rng.normal(size=(p, q))
    sigma2 = np.sum(truth**2) / q / snr
    x = rng.normal(size=(n, p))
    y = x @ truth + np.sqrt(sigma2) * rng.normal(size=(n, q))
    d = rng.normal(size=(200, p))
    nsr = sigma2 * q * p / ((n - p - 2) * np.sum(truth**2))
    cos = cosines(d @ fit(x, y, 1e-6).weight, d @ truth).mean()
    assert cos == pytest.approx(1 / np.sqrt(1 + nsr), abs=0.015)
    assert cos == pytest.approx(known, abs=0.015)


def test_directions_are_differences_of_points_so_means_and_scale_drop_out():
    x, y = rows(300, 10, 8, np.random.default_rng(4))
    bridge, d = fit(x, y, 5.0), at_source(np.random.default_rng(5).normal(size=(6, 10)))
    for a in (1e-3, 1.0, 40.0):
        moved = (bridge.points(x[:6] + a * d.unit.astype(float)) - bridge.points(x[:6])) / a
        assert_allclose(moved, d.unit @ bridge.weight, rtol=1e-8, atol=1e-10)
        scaled = at_source(a * d.unit)
        assert_allclose(bridge.carry(scaled).unit, bridge.carry(d).unit, atol=1e-6)
    shifted = fit(x + 7.0, y - 300.0, 5.0)
    assert_allclose(shifted.carry(d).unit, bridge.carry(d).unit, atol=1e-6)
    image = bridge.carry(d)
    assert (image.site, image.ids, image.kind) == (TARGET, d.ids, "feature")
    assert_allclose(image.norms, np.linalg.norm(d.unit @ bridge.weight, axis=1), rtol=1e-6)


def test_rotating_the_source_rotates_the_map_and_any_linear_change_of_the_target_passes_through():
    rng = np.random.default_rng(6)
    x, y = rows(300, 10, 8, rng)
    d, turn, change = rng.normal(size=(5, 10)), ortho_group.rvs(10, random_state=0), rng.normal(size=(8, 8))
    weight = fit(x, y, 5.0).weight
    assert_allclose((d @ turn) @ fit(x @ turn, y, 5.0).weight, d @ weight, rtol=1e-8, atol=1e-10)
    assert_allclose(fit(x, y @ change, 5.0).weight, weight @ change, rtol=1e-8, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e4))
def test_relative_lambda_makes_directions_independent_of_units(scale):
    x, y = rows(120, 8, 6, np.random.default_rng(7))
    d = np.random.default_rng(8).normal(size=(5, 8))
    a, b = Moments.of(x, y), Moments.of(scale * x, y)
    here = d @ fit_ridge(a, SOURCE, TARGET, relative_lambda(a, 0.1)).weight
    there = d @ fit_ridge(b, SOURCE, TARGET, relative_lambda(b, 0.1)).weight
    assert np.max(1 - cosines(here, there)) < 1e-10


def test_map_of_a_model_onto_itself_keeps_directions():
    x, _ = rows(300, 10, 8, np.random.default_rng(9))
    m = Moments.of(x, x)
    d = np.eye(10)
    assert np.max(1 - cosines(d @ fit_ridge(m, SOURCE, TARGET, relative_lambda(m, 1e-8)).weight, d)) < 1e-8


def test_map_refuses_directions_from_another_site():
    bridge = fit(*rows(50, 4, 3, np.random.default_rng(0)), 1.0)
    with pytest.raises(Refusal, match="third-model:3: it is needed at source-model:20"):
        bridge.carry(Directions.of(ELSEWHERE, np.eye(4), range(4)))


def test_map_refuses_rows_of_another_width():
    bridge = fit(*rows(50, 4, 3, np.random.default_rng(0)), 1.0)
    with pytest.raises(Refusal, match="width 5: the map from source-model:20 takes width 4"):
        bridge.points(np.ones((1, 5)))


def test_map_refuses_directions_outside_the_span_of_its_rows():
    x, y = rows(50, 4, 3, np.random.default_rng(0))
    bridge = fit(np.hstack([x, np.zeros((50, 1))]), y, 1.0)
    with pytest.raises(Refusal, match="feature 4: the ridge map sends it to zero"):
        bridge.carry(at_source(np.eye(5)))


def test_ridge_refuses_fewer_documents_than_needed():
    x, y = rows(20, 20, 3, np.random.default_rng(0))
    with pytest.raises(Refusal, match="20 rows of width 20.*allow an underdetermined fit"):
        fit(x, y, 1.0)
    assert fit(x, y, 1.0, allow_underdetermined=True).report["underdetermined"] is True
    with pytest.raises(Refusal, match="three are the least"):
        fit(x[:2], y[:2], 1.0, allow_underdetermined=True)


@pytest.mark.parametrize("lam", [0.0, -1.0, np.nan])
def test_ridge_refuses_a_penalty_that_is_not_positive(lam):
    x, y = rows(50, 4, 3, np.random.default_rng(0))
    with pytest.raises(Refusal, match="must be a positive number"):
        fit(x, y, lam)


def test_map_survives_the_disk(tmp_path):
    bridge = fit(*rows(50, 4, 3, np.random.default_rng(0)), 1.0)
    bridge.save(tmp_path / "map.safetensors")
    back = LinearMap.load(tmp_path / "map.safetensors")
    assert np.array_equal(back.weight, bridge.weight)
    assert (back.source, back.target, back.method) == (SOURCE, TARGET, "ridge")
    assert (back.settings, back.report) == (bridge.settings, bridge.report)


def test_map_refuses_a_file_that_holds_something_else(tmp_path):
    Moments.of(*rows(50, 4, 3, np.random.default_rng(0))).save(tmp_path / "m.safetensors")
    with pytest.raises(Refusal, match="does not hold a map"):
        LinearMap.load(tmp_path / "m.safetensors")


def constant_map(y):
    mean = y.mean(axis=0)
    return LinearMap(
        source=SOURCE, target=TARGET, weight=np.zeros((4, y.shape[1])), mean_x=np.zeros(4), mean_y=mean, method="ridge"
    )


def test_constant_predictor_explains_nothing_however_high_its_raw_cosine():
    rng = np.random.default_rng(10)
    y = rng.normal(size=(400, 16)) + 3.0
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    spread = 1 - np.sum(y.mean(axis=0) ** 2)
    found = held_out(constant_map(y), np.ones((400, 4)), y)
    assert found["fve_raw"] == pytest.approx(0, abs=1e-9)
    assert found["centred_cosine"] == 0
    assert found["raw_cosine"] == pytest.approx(np.sqrt(1 - spread), abs=1e-9)
    assert found["constant_cosine"] == pytest.approx(found["raw_cosine"], abs=1e-12)
    assert found["raw_cosine"] > 0.9
    assert found["fve_unit"] <= 0


def test_held_out_numbers_tell_a_good_map_from_its_own_shuffle():
    x, y = rows(1500, 12, 16, np.random.default_rng(11), noise=0.1)
    found = held_out(fit(x[:1000], y[:1000], 1e-3), x[1000:], y[1000:])
    assert list(found)[0] == "n"
    assert list(found)[-1] == "raw_cosine"
    assert found["n"] == found["top1_among"] == 500
    assert found["fve_raw"] > 0.95
    assert found["fve_unit"] > 0.9
    assert found["centred_cosine"] > found["centred_cosine_p10"] > 0.9
    assert found["top1"] > 0.95
    assert found["shuffled_fve"] < 0


def test_held_out_fve_is_about_the_training_mean():
    x, y = rows(400, 6, 5, np.random.default_rng(12))
    bridge = fit(x[:300], y[:300], 1.0)
    sse = np.sum((y[300:] - bridge.points(x[300:])) ** 2)
    sst = np.sum((y[300:] - y[:300].mean(axis=0)) ** 2)
    assert held_out(bridge, x[300:], y[300:])["fve_raw"] == pytest.approx(1 - sse / sst, rel=1e-12)


def test_held_out_refuses_rows_that_do_not_pair():
    x, y = rows(50, 4, 3, np.random.default_rng(0))
    with pytest.raises(Refusal, match="at least two pairs of rows"):
        held_out(fit(x, y, 1.0), x, y[:-1])


def test_retrieval_among_different_documents_is_not_helped_by_rows_that_are_alike():
    rng = np.random.default_rng(13)
    documents = np.repeat(np.arange(40), 25)
    x = rng.normal(size=(40, 12))[documents] + 0.05 * rng.normal(size=(1000, 12))
    y = x @ rng.normal(size=(12, 16)) + 0.3 * rng.normal(size=(1000, 16))
    bridge = fit(x, y, 1e-3)
    rowwise, apart = held_out(bridge, x, y), held_out(bridge, x, y, documents=documents)
    assert (rowwise["top1_among"], apart["top1_among"]) == (1000, 40)
    assert rowwise["top1"] < 0.6 < 0.9 < apart["top1"] <= apart["mrr"] <= 1
    assert apart["shuffled_top1"] == 1 / 40
    with pytest.raises(Refusal, match="retrieval is among at least two"):
        held_out(bridge, x, y, documents=np.zeros(1000, dtype=int))


def test_loud_dimensions_and_the_median_one_are_told_apart():
    rng = np.random.default_rng(14)
    x, y = rng.normal(size=(800, 12)), rng.normal(size=(800, 40))
    y[:, :10] = 100 * x[:, :10]  # only the loudest dimensions follow the source
    found = held_out(fit(x[:600], y[:600], 1.0), x[600:], y[600:])
    assert found["fve_raw"] > 0.99
    assert found["fve_quiet"] < 0.05
    assert found["median_r2"] < 0.05


def test_mrr_is_the_mean_of_one_over_the_rank():
    y = np.eye(4)
    weight = np.array([[1, 0, 0, 0], [0.9, 1, 0, 0], [0, 2, 1, 0], [3, 2, 1, 0.5]])
    bridge = LinearMap(
        source=SOURCE, target=TARGET, weight=weight, mean_x=np.zeros(4), mean_y=np.zeros(4), method="ridge"
    )
    found = held_out(bridge, np.eye(4), y)
    assert found["mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)
    assert found["top1"] == 0.5


def test_a_map_is_called_good_usable_or_unusable_by_what_it_explains():
    good = {"fve_unit": 0.3, "top1": 0.5, "shuffled_fve": -0.1}
    assert usable(good)[0] == "good"
    assert usable(good | {"top1": 0.2})[0] == usable(good | {"fve_unit": 0.2})[0] == "usable"
    assert usable(good | {"fve_unit": 0.1}) == (
        "unusable",
        "it explains 0.10 of the unit rows' variance, 0.15 are needed",
    )
    assert usable(good | {"shuffled_fve": 0.01})[0] == "unusable"
    for name in ("fve_unit", "top1", "shuffled_fve"):
        assert usable(good | {name: float("nan")})[0] == usable(good | {name: float("inf")})[0] == "unusable"
    raw = {"raw_cosine": 0.9808, "constant_cosine": 0.9811}
    why = "its cosine with held-out rows (0.9808) is not above that of a constant (0.9811)"
    assert usable(good | raw) == ("unusable", why)
    assert usable(good | raw | {"raw_cosine": 0.9812})[0] == "good"


def test_what_the_three_words_mean_is_told_with_the_numbers_they_turn_on():
    found = re.fullmatch(
        r"good: explains (.+?) of .* finds (\d+)% of .*; usable: explains (.+?) or more; .*", usable_means()
    )
    assert found is not None
    good, top1, least = float(found[1]), float(found[2]) / 100, float(found[3])
    at = {"fve_unit": good, "top1": top1, "shuffled_fve": 0.0}
    assert usable(at)[0] == "good"
    assert usable(at | {"fve_unit": good - 1e-6})[0] == usable(at | {"top1": top1 - 1e-6})[0] == "usable"
    assert usable(at | {"fve_unit": least})[0] == "usable"
    assert usable(at | {"fve_unit": least - 1e-6})[0] == "unusable"
