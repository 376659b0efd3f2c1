"""The confidence: planted models are recovered, useless evidence is worth nothing, scikit-learn agrees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from dragoman.confidence.fit import ece_estimate, fit_signed, fit_step, log_loss, platt
from dragoman.confidence.model import expit
from dragoman.core import Refusal
from dragoman.stats.roc import Outcomes, auroc_estimate
from studies.selective import accuracy_at


def rng(seed=0):
    return np.random.default_rng(seed)


def planted(n, seed=0, slope=1.5, bias=0.3):
    """Margins and coverages with a known chance of being right."""
    draw = rng(seed)
    margin, coverage = draw.normal(0.2, 0.3, size=n), draw.uniform(size=n)
    chance = expit(bias + slope * (margin - 0.2) / 0.3 + 1.0 * (coverage - 0.5) / 0.29)
    rows = [{"margin": m, "coverage": c} for m, c in zip(margin.tolist(), coverage.tolist(), strict=True)]
    return rows, draw.random(n) < chance, chance


def useless(n, seed=0):
    draw = rng(seed)
    return [{"noise": v} for v in draw.normal(size=n).tolist()], draw.random(n) < 0.6


# The regression


@pytest.mark.parametrize("penalty", [0.1, 1.0, 100.0])
def test_regression_is_scikit_learns(penalty):
    draw = rng(1)
    x = draw.normal(size=(120, 4)) * [1, 5, 0.2, 1]
    y = (draw.random(120) < expit(x[:, 0] - 0.3 * x[:, 1])).astype(float)
    oracle = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=10_000).fit(x, y)
    weights, intercept = fit_signed(x, y, penalty, np.zeros(4))
    assert_allclose(weights, oracle.coef_[0], atol=1e-5)
    assert intercept == pytest.approx(oracle.intercept_[0], abs=1e-5)


def test_regression_on_separated_outcomes_is_finite_with_a_penalty_and_one_class_is_refused():
    x, y = np.arange(20.0)[:, None], (np.arange(20) >= 10).astype(float)
    weights, _ = fit_signed(x, y, 1.0, np.zeros(1))
    assert 0 < weights[0] < 10
    with pytest.raises(Refusal, match="all are the same"):
        fit_signed(x, np.ones(20), 1.0, np.zeros(1))


def newton(x, y, penalty, signs):
    """The optimum by Newton steps over the weights that are not held at 0 (what fitted the confidence that ships)."""
    held = np.zeros(x.shape[1], dtype=bool)
    wide = np.column_stack([x, np.ones(len(x))])
    ridge = np.append(np.full(x.shape[1], penalty), 0.0)
    while True:
        use, theta = np.append(~held, True), np.zeros(x.shape[1] + 1)
        for _ in range(60):
            p = expit(wide @ theta)
            slope = (wide.T @ (p - y) + ridge * theta)[use]
            curve = ((wide * (p * (1 - p))[:, None]).T @ wide + np.diag(ridge))[np.ix_(use, use)]
            theta[use] -= np.linalg.solve(curve, slope)
        wrong = theta[:-1] * signs < 0
        if wrong.any():
            held |= wrong
            continue
        eager = np.where(held, -(x.T @ (expit(wide @ theta) - y)) * signs, 0.0)
        if eager.max() <= 1e-8 * len(y):
            return theta
        held[np.argmax(eager)] = False


@pytest.mark.parametrize("seed", range(30))
def test_weights_are_those_of_newtons_method_within_a_millionth(seed):
    draw = rng(seed)
    x, signs = draw.normal(size=(150, 6)) @ draw.normal(size=(6, 6)), draw.choice([1, 0, -1], size=6)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = (draw.random(150) < expit(x @ draw.normal(size=6))).astype(float)
    penalty = float(draw.choice([0.1, 1.0, 10.0, 100.0]))
    weights, intercept = fit_signed(x, y, penalty, signs)
    assert_allclose(np.append(weights, intercept), newton(x, y, penalty, signs), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_signed_regression_is_the_optimum_under_its_signs(seed):
    from scipy.optimize import minimize

    draw = rng(seed)
    x, signs = draw.normal(size=(80, 5)) @ draw.normal(size=(5, 5)), np.array([1, 1, -1, 0, 1])
    y = (draw.random(80) < expit(x @ draw.normal(size=5))).astype(float)
    y[:2] = [0, 1]
    weights, intercept = fit_signed(x, y, 1.0, signs)
    assert (weights * signs >= 0).all()

    def objective(at):
        return 80 * log_loss(x @ at[:-1] + at[-1], y) + 0.5 * at[:-1] @ at[:-1]

    spans = [(0, None) if s > 0 else (None, 0) if s < 0 else (None, None) for s in [*signs, 0]]
    oracle = minimize(objective, np.zeros(6), bounds=spans, method="L-BFGS-B")
    assert objective(np.append(weights, intercept)) <= oracle.fun + 1e-6


def test_margin_may_not_count_against_an_explanation():
    draw = rng(5)
    rows = [{"margin": v} for v in draw.normal(size=200).tolist()]
    right = draw.random(200) < expit(np.array([-2 * row["margin"] for row in rows]))
    assert fit_step(rows, right).weights == (0.0,)
    assert np.ptp(fit_step(rows, right).predict(rows)) == 0


def test_logistic_function_and_loss_do_not_overflow():
    assert_array_equal(expit(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])
    assert log_loss(np.array([-1e4, 1e4]), np.array([0, 1])) == 0


def test_calibration_step_is_platts_as_in_scikit_learn():
    draw = rng(2)
    z = draw.normal(size=300)
    y = draw.random(300) < expit(2 * z - 1)
    plain = LogisticRegression().fit(z[:, None], y)
    oracle = CalibratedClassifierCV(FrozenEstimator(plain), method="sigmoid").fit(z[:, None], y)
    slope, offset = platt(z, y)
    assert_allclose(expit(slope * z + offset), oracle.predict_proba(z[:, None])[:, 1], atol=1e-4)


def test_log_odds_that_point_the_wrong_way_are_set_aside_not_turned_round():
    z = rng().normal(size=100)
    y = rng(1).random(100) < expit(-z)
    assert platt(z, y) == (0.0, pytest.approx(np.log(y.sum() / (100 - y.sum()))))


# Planted truth


def test_planted_probabilities_are_recovered_on_other_features():
    rows, right, _ = planted(1500)
    model = fit_step(rows, right)
    fresh, outcome, chance = planted(2000, seed=1)
    p = model.predict(fresh)
    assert np.abs(p - chance).mean() < 0.03
    oracle = auroc_estimate(Outcomes.of(chance, outcome), rng=rng(), draws=9).value
    assert auroc_estimate(Outcomes.of(p, outcome), rng=rng(), draws=9).value == pytest.approx(oracle, abs=0.01)
    error = ece_estimate(Outcomes.of(p, outcome), rng=rng(), draws=200)
    assert error.value < 0.05 and error.p > 0.01


def test_useless_evidence_has_an_area_of_a_half_and_nothing_to_gain():
    areas, gains = [], []
    for seed in range(12):
        model = fit_step(*useless(150, seed))
        rows, right = useless(600, seed + 100)
        found = Outcomes.of(model.predict(rows), right)
        areas.append(auroc_estimate(found, rng=rng(), draws=9).value)
        gains.append(accuracy_at(found, 0.8, rng=rng(), draws=9).extra["gain"])
        assert np.ptp(found.score) < 0.35
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)
    assert np.mean(gains) == pytest.approx(0, abs=0.01)


def test_whole_groups_are_held_out_so_that_topics_do_not_flatter(monkeypatch):
    monkeypatch.setattr("dragoman.confidence.fit.PENALTIES", (0.1,))

    def topical(seed):
        draw = rng(seed)
        words = np.repeat(draw.normal(size=(40, 30)), 8, axis=0) + 0.05 * draw.normal(size=(320, 30))
        right = np.repeat(draw.random(40) < 0.5, 8)
        return [{f"w{i}": v for i, v in enumerate(row)} for row in words.tolist()], right

    rows, right = topical(0)
    grouped, loose = (fit_step(rows, right, groups=g) for g in (np.repeat(np.arange(40), 8), None))
    fresh, outcome = topical(1)
    losses = [log_loss(m.slope * m.log_odds(fresh) + m.offset, outcome) for m in (grouped, loose)]
    assert losses[0] < 0.75 < 2 < losses[1]  # a coin's is 0.69


def test_what_is_missing_counts_where_missing_means_something():
    draw = rng(3)
    gone = draw.random(800) < 0.4
    right = draw.random(800) < np.where(gone, 0.2, 0.8)
    rows = [{"n_eff": None if g else v} for g, v in zip(gone, draw.normal(size=800).tolist(), strict=True)]
    model = fit_step(rows, right)
    assert model.flagged == ("n_eff",)
    p = model.predict([{"n_eff": None}, {"n_eff": 0.0}, {}])
    assert p[0] == pytest.approx(0.2, abs=0.06) and p[1] == pytest.approx(0.8, abs=0.06)
    assert p[2] == p[0]  # absent is missing
    assert model.why({"n_eff": None})["n_eff is missing"] < -1


def test_numbers_that_were_never_missing_are_taken_as_average_when_they_are():
    rows, right, _ = planted(300)
    model = fit_step(rows, right)
    middle = dict(zip(model.names, model.centre, strict=True))
    without = {**middle, "margin": None}
    assert model.predict([without])[0] == pytest.approx(model.predict([middle])[0])


def test_evidence_that_does_not_vary_is_dropped_and_said_so():
    rows, right, _ = planted(200)
    model = fit_step([row | {"tokens": 5.0} for row in rows], right)
    assert model.names == ("coverage", "margin") and model.report["dropped"] == ["tokens"]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_units_of_the_evidence_do_not_matter(scale, shift):
    rows, right, _ = planted(120)
    moved = [{"margin": scale * row["margin"] + shift, "coverage": row["coverage"]} for row in rows]
    assert_allclose(fit_step(moved, right).predict(moved), fit_step(rows, right).predict(rows), atol=1e-6)


def test_noise_is_penalised_more_than_signal():
    rows, right, _ = planted(200)
    draw = rng(8)
    noisy = [{f"n{i}": v for i, v in enumerate(line)} for line in draw.normal(size=(200, 25)).tolist()]
    assert fit_step(noisy, right).report["penalty"] > fit_step(rows, right).report["penalty"]


def test_reasons_add_up_to_the_log_odds():
    rows, right, _ = planted(200)
    model = fit_step(rows, right)
    why = model.why(rows[0])
    z = np.log(model.predict(rows[:1])[0] / (1 - model.predict(rows[:1])[0]))
    assert sum(why.values()) + model.slope * model.intercept + model.offset == pytest.approx(z)
    assert list(map(abs, why.values())) == sorted(map(abs, why.values()), reverse=True)


# Use


def test_the_same_seed_gives_the_same_confidence():
    rows, right, _ = planted(150)
    assert fit_step(rows, right, seed=3) == fit_step(rows, right, seed=3)


# Refusals


def test_confidence_refuses_what_cannot_be_learnt_from():
    rows, right, _ = planted(60)
    with pytest.raises(Refusal, match="explanations: it takes 30 at least"):
        fit_step(rows[:20], right[:20])
    with pytest.raises(Refusal, match="60 right and 0 wrong"):
        fit_step(rows, np.ones(60))
    with pytest.raises(Refusal, match="lists of equal length"):
        fit_step(rows, right[:59])
    with pytest.raises(Refusal, match="right or wrong"):
        fit_step(rows, np.linspace(0, 1, 60))
    with pytest.raises(Refusal, match="evidence 'margin': it is infinite"):
        fit_step([*rows[:-1], {"margin": float("inf")}], right)
    with pytest.raises(Refusal, match="no evidence varies"):
        fit_step([{"margin": 1.0}] * 60, right)
    with pytest.raises(Refusal, match="3 groups in 5 folds"):
        fit_step(rows, right, groups=np.arange(60) % 3)
    with pytest.raises(Refusal, match="59 groups for 60"):
        fit_step(rows, right, groups=np.arange(59))
    one_topic = np.where(right, 0, 1 + np.arange(60) % 6)
    with pytest.raises(Refusal, match="leaves only right or only wrong"):
        fit_step(rows, right, groups=one_topic)


def test_a_step_refuses_evidence_that_is_not_its_own():
    rows, right, _ = planted(60)
    with pytest.raises(Refusal, match="none of them has any of coverage, margin"):
        fit_step(rows, right).predict([{"cycle": 0.5}, {"margin": None}])
