"""Facts about maps that are known beforehand: the design's list, at its tolerances. The number in a name is the fact's.

Fact 18 is in ``test_known_answers_drift``, facts 13 to 17 and 19 in ``test_known_answers_scores``.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import null_space, orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge

from dragoman.maps import LinearMap, Moments
from dragoman.maps.diagnostics import retained
from dragoman.maps.linear import RidgePath, fit_procrustes, fit_ridge, relative_lambda
from dragoman.maps.moments import MomentStream, fold_of
from planted_worlds import SOURCE, TARGET, cosines, rows, shifted, unit

PARTS = ("mean_x", "mean_y", "sxx", "sxy", "syy")


def close(found, expected, rel):
    """To ``rel`` of the largest number there is: entries near zero are sums of large ones."""
    assert_allclose(found, expected, rtol=rel, atol=rel * np.abs(expected).max())


def fit(x, y, lam_rel, source=SOURCE, target=TARGET):
    m = Moments.of(x, y)
    return fit_ridge(m, source, target, relative_lambda(m, lam_rel), allow_underdetermined=True)


def streamed(x, y, documents, sizes=(997,), **how):
    stream, start, turn = MomentStream(x.shape[1], y.shape[1], **how), 0, 0
    while start < len(x):
        size = sizes[turn % len(sizes)]
        stream.add(x[start : start + size], y[start : start + size], documents[start : start + size])
        start, turn = start + size, turn + 1
    return stream.finish()


# --- 1, 2: ridge is ridge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p"), [(300, 20), (20, 60)])
@pytest.mark.parametrize("lam", [0.1, 100.0])
def test_01_weight_and_intercept_equal_scikit_learn_and_primal_equals_dual(n, p, lam):
    x, y = rows(n, p, 9, np.random.default_rng(0))
    m = Moments.of(x, y)
    bridge = fit_ridge(m, SOURCE, TARGET, lam, allow_underdetermined=True)
    oracle = Ridge(alpha=lam).fit(x, y)
    close(bridge.weight, oracle.coef_.T, 1e-9)
    close(bridge.mean_y - bridge.mean_x @ bridge.weight, oracle.intercept_, 1e-9)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    close(bridge.weight, a.T @ np.linalg.solve(a @ a.T + lam * np.eye(n), b), 1e-9)


def test_02_one_eigendecomposition_serves_every_lambda():
    x, y = rows(200, 15, 9, np.random.default_rng(1))
    m = Moments.of(x, y)
    path, d = RidgePath(m), np.random.default_rng(2).normal(size=(5, 15))
    for lam in np.logspace(-3, 5, 9):
        weight = fit_ridge(m, SOURCE, TARGET, lam).weight
        close(path.images(np.eye(15), lam), weight, 1e-9)
        close(path.images(d, lam), d @ weight, 1e-9)


@pytest.mark.parametrize("lam", [0.03, 2.0, 300.0])
def test_02_held_out_error_equals_explicit_residuals(lam):
    x, y = rows(260, 15, 9, np.random.default_rng(4))
    oracle = Ridge(alpha=lam).fit(x[:200], y[:200])
    path, fold = RidgePath(Moments.of(x[:200], y[:200])), Moments.of(x[200:], y[200:])
    unseen = np.sum((y[200:] - oracle.predict(x[200:])) ** 2)
    assert path.held_out_curve(np.array([lam / 7, lam]), fold)[1] == pytest.approx(unseen, rel=1e-9)


# --- 3, 4, 7, 20: what can be recovered --------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "snr", "known"), [(128, 1, 0.70), (128, 10, 0.952), (640, 1, 0.947), (6400, 10, 0.9995)])
def test_03_a_planted_map_is_recovered_as_well_as_its_noise_allows(n, snr, known):
    p, q, found = 64, 96, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(p, q))
        x = rng.normal(size=(n, p))
        y = x @ truth + np.sqrt(np.sum(truth**2) / q / snr) * rng.normal(size=(n, q))
        d = rng.normal(size=(200, p))
        found.append(cosines(d @ fit(x, y, 1e-8).weight, d @ truth).mean())
    assert np.mean(found) == pytest.approx(1 / np.sqrt(1 + p / ((n - p - 2) * snr)), abs=0.01)
    assert np.mean(found) == pytest.approx(known, abs=0.01)


def test_04_a_random_direction_keeps_22_percent_of_its_energy_at_the_posts_size():
    n, p, rng = 800, 3584, np.random.default_rng(5)
    m = Moments.of(rng.normal(size=(n, p)), rng.normal(size=(n, 2)))
    lam = relative_lambda(m, 1e-6)
    bridge = LinearMap(
        source=SOURCE,
        target=TARGET,
        weight=np.zeros((p, 2)),
        mean_x=m.mean_x,
        mean_y=m.mean_y,
        method="ridge",
        settings={"lam": lam},
    )
    rho = retained(unit(rng.normal(size=(200, p))), bridge, m).coverage
    assert rho.mean() == pytest.approx(0.2229, abs=0.01)
    assert (n - 1) / p == pytest.approx(0.2229, abs=1e-4)


def test_04_directions_outside_the_rows_map_to_nothing():
    x, y = rows(40, 100, 30, np.random.default_rng(6))
    weight = fit(x, y, 0.1).weight
    outside = null_space(x - x.mean(axis=0)).T
    assert outside.shape == (61, 100)
    assert np.abs(outside @ weight).max() < 1e-10


def test_07_a_model_onto_itself_keeps_every_direction():
    x, _ = rows(400, 30, 2, np.random.default_rng(7))
    d = np.random.default_rng(8).normal(size=(50, 30))
    assert np.max(1 - cosines(d @ fit(x, x, 1e-8).weight, d)) < 1e-8


@pytest.mark.parametrize("lam_rel", [1e-6, 0.1, 10.0])
def test_07_with_fewer_rows_than_dimensions_it_keeps_kappa_of_it_and_not_all(lam_rel):
    x, _ = rows(30, 100, 2, np.random.default_rng(9))
    d, bridge = unit(np.random.default_rng(10).normal(size=(50, 100))), fit(x, x, lam_rel)
    found = cosines(d @ bridge.weight, d)
    assert_allclose(found, retained(d, bridge, Moments.of(x, x)).kappa, atol=1e-8)
    assert found.max() < 0.8


def test_20_coverage_and_kappa_are_shares_that_fall_with_lambda_and_grow_with_rows():
    rng = np.random.default_rng(11)
    x, y = rows(60, 20, 12, rng)
    d = unit(rng.normal(size=(40, 20)))

    def at(n, lam):
        m = Moments.of(x[:n], y[:n])
        return retained(d, fit_ridge(m, SOURCE, TARGET, lam, allow_underdetermined=True), m)

    ladder = [at(60, lam) for lam in np.logspace(-4, 5, 10)]
    for one in (*ladder, at(10, 1.0)):
        assert ((one.coverage >= 0) & (one.kappa <= 1)).all()
        assert (one.kappa**2 >= one.coverage - 1e-12).all()
    assert (np.diff([one.coverage for one in ladder], axis=0) < 0).all()
    assert (np.diff([at(n, 5.0).coverage for n in (10, 20, 40, 60)], axis=0) > 0).all()


# --- 5, 6, 11: what a map must not care about --------------------------------------------------------------------


def test_05_rotation_of_the_source_any_map_of_the_target_and_shifts_pass_through():
    rng = np.random.default_rng(12)
    x, y = rows(300, 20, 16, rng)
    d, turn, change = rng.normal(size=(9, 20)), ortho_group.rvs(20, random_state=0), rng.normal(size=(16, 16))
    weight = fit(x, y, 0.1).weight
    close(d @ turn @ fit(x @ turn, y, 0.1).weight, d @ weight, 1e-8)
    close(fit(x, y @ change, 0.1).weight, weight @ change, 1e-8)
    close(fit(x + rng.normal(size=20), y - 30, 0.1).weight, weight, 1e-8)


def test_06_units_and_repeated_rows_change_no_direction_at_a_relative_penalty():
    rng = np.random.default_rng(13)
    x, y = rows(150, 20, 16, rng)
    d = rng.normal(size=(50, 20))
    here = d @ fit(x, y, 0.1).weight
    for other in (fit(1000 * x, y, 0.1), fit(np.vstack([x, x]), np.vstack([y, y]), 0.1)):
        assert np.max(1 - cosines(d @ other.weight, here)) < 1e-10


def test_11_a_direction_is_a_difference_of_points():
    rng = np.random.default_rng(14)
    x, y = rows(200, 20, 16, rng)
    bridge, d = fit(x, y, 0.1), rng.normal(size=(1, 20))
    for a in (0.01, 1.0, 40.0):
        close((bridge.points(x + a * d) - bridge.points(x)) / a, np.repeat(d @ bridge.weight, 200, axis=0), 1e-8)


def test_11_least_squares_is_the_targets_covariance_with_the_matched_filter():
    rng = np.random.default_rng(15)
    x, y = rows(200, 20, 16, rng)
    d, a = rng.normal(size=(5, 20)), x - x.mean(axis=0)
    read_out = a @ np.linalg.solve(a.T @ a / 200, d.T)
    close(d @ fit(x, y, 1e-12).weight, read_out.T @ (y - y.mean(axis=0)) / 200, 1e-8)


# --- 8: Procrustes -----------------------------------------------------------------------------------------------


def test_08_procrustes_equals_scipy_also_padded_and_recovers_a_rotation():
    rng = np.random.default_rng(19)
    for p, q in ((12, 12), (8, 13), (13, 8)):
        x, y = rows(200, p, q, rng)
        wide = max(p, q)
        a, b = (np.pad(m - m.mean(axis=0), ((0, 0), (0, wide - m.shape[1]))) for m in (x, y))
        bridge = fit_procrustes(Moments.of(x, y), SOURCE, TARGET)
        turn = bridge.weight / bridge.settings["scale"]
        close(turn, orthogonal_procrustes(a, b)[0][:p, :q], 1e-8)
        inner = turn @ turn.T if p <= q else turn.T @ turn
        assert_allclose(inner, np.eye(min(p, q)), atol=1e-8)
    turn = ortho_group.rvs(10, random_state=0)
    x = rng.normal(size=(50, 10)) + 2
    assert_allclose(fit_procrustes(Moments.of(x, 3 * x @ turn - 5), SOURCE, TARGET).weight, 3 * turn, atol=1e-8)


# --- 9, 10, 12: arithmetic and data ------------------------------------------------------------------------------


def same(a, b, rel=1e-10):
    assert a.count == b.count
    for name in PARTS:
        close(getattr(a, name), getattr(b, name), rel)


def test_09_a_stream_in_any_pieces_and_order_equals_one_batch_and_a_fold_left_out_was_never_seen():
    rng = np.random.default_rng(20)
    x, y = rows(6000, 12, 9, rng)
    documents = np.repeat(np.arange(300), 20)
    folded = streamed(x, y, documents, sizes=rng.integers(1, 900, size=40).tolist())
    whole = Moments.of(x, y)
    same(folded.total, whole)
    order = rng.permutation(6000)
    again = streamed(x[order], y[order], documents[order])
    for k in range(5):
        same(again.folds[k], folded.folds[k])
        unseen = fold_of(documents) != k
        same(folded.without(k), Moments.of(x[unseen], y[unseen]))


def test_10_float32_products_are_right_with_the_pilot_shift_and_wrong_without():
    rng = np.random.default_rng(21)
    p, q, n = 64, 80, 20_000
    x = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * np.arange(1, p + 1) ** -0.5
    y = x @ rng.normal(size=(p, q)) + x.std() * rng.normal(size=(n, q)) * 4
    x, y = (x + 30 * x.std(axis=0)).astype(np.float32), (y + 30 * y.std(axis=0)).astype(np.float32)
    d, documents = rng.normal(size=(200, p)), np.arange(n) // 20
    right = Moments.of(x.astype(np.float64), y.astype(np.float64))
    lam = relative_lambda(right, 1e-3)

    def worst(moments):
        here, there = (d @ fit_ridge(m, SOURCE, TARGET, lam).weight for m in (moments, right))
        return np.max(1 - cosines(here, there))

    assert worst(streamed(x, y, documents, product=np.float32).total) < 1e-8
    unshifted = shifted(x, y, (np.zeros(p), np.zeros(q)), product=np.float32)
    assert worst(unshifted) > 1e-4
