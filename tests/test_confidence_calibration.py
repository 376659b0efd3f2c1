"""What a confidence is worth: scikit-learn's numbers, planted calibration, honest floors, promises about nulls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from dragoman.confidence.fit import bins_of, calibration_error, ece_estimate, reliability_curve
from dragoman.confidence.model import expit
from dragoman.core import Refusal
from dragoman.stats.roc import Outcomes
from dragoman.store import plain
from studies.evaluation import brier_estimate, brier_parts, confidence_report
from studies.selective import (
    accuracy_at,
    against_one_feature,
    answered_accuracy,
    false_label_rate,
    risk_coverage,
    threshold_for_nulls,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(n=500, seed=0, sharpness=1.0, shift=0.0):
    """Probabilities that are exact, made too sure (sharpness above 1) or too high."""
    draw = rng(seed)
    z = 1.5 * draw.normal(size=n)
    right = draw.random(n) < expit(z)
    return Outcomes.of(expit(sharpness * z + shift), right)


# Calibration


def test_bins_hold_equal_numbers_and_equal_probabilities_share_one():
    assert_allclose(np.bincount(bins_of(rng().random(100))), 10)
    where = bins_of(np.array([0.1] * 30 + list(np.linspace(0.2, 0.9, 30))), 6)
    assert len(set(where[:30])) == 1
    assert (np.diff(where[30:]) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)))
def test_calibration_error_does_not_depend_on_the_order_of_explanations(order):
    p, right = np.round(rng().random(40), 1), rng(1).random(40) < 0.5
    order = np.array(order)
    assert calibration_error(p[order], right[order], 5) == pytest.approx(calibration_error(p, right, 5))


def test_calibration_error_is_its_definition_written_as_a_loop():
    found = drawn(200)
    order = np.argsort(found.score)
    loop = sum(
        len(part) / 200 * abs(found.score[part].mean() - found.right[part].mean()) for part in np.array_split(order, 10)
    )
    assert calibration_error(found.score, found.right) == pytest.approx(loop)


def test_exact_probabilities_pass_the_test_as_often_as_it_says():
    p = np.array([ece_estimate(drawn(seed=s), rng=rng(s), draws=99).p for s in range(100)])
    assert (p <= 0.05).mean() < 0.12
    assert 0.4 < p.mean() < 0.6


def test_exact_probabilities_score_the_floor_and_the_floor_is_told():
    values = [ece_estimate(drawn(seed=s), rng=rng(s), draws=50) for s in range(30)]
    floor = np.mean([v.extra["if_calibrated"] for v in values])
    assert np.mean([v.value for v in values]) == pytest.approx(floor, rel=0.1)
    assert floor == pytest.approx(0.045, abs=0.006)
    assert np.mean([v.extra["corrected"] for v in values]) < 0.7 * floor


def test_interval_of_the_calibration_error_covers_the_truth():
    big = drawn(400_000, seed=99, sharpness=2.0)
    truth, covered, found = calibration_error(big.score, big.right, 100), 0, None
    for seed in range(60):
        found = ece_estimate(drawn(seed=seed, sharpness=2.0), rng=rng(seed), draws=200)
        covered += found.low <= truth <= found.high
    assert covered / 60 >= 0.9
    assert found is not None and found.p < 0.05 and found.low <= found.value <= found.high


def test_probabilities_that_are_too_high_are_seen_and_signed():
    found = ece_estimate(drawn(shift=1.0), rng=rng(), draws=200)
    assert found.p < 0.01
    assert found.extra["signed"] == pytest.approx(found.value, abs=0.02)


def test_reliability_curve_brackets_exact_probabilities():
    curve = reliability_curve(drawn(2000))
    assert sum(b.n for b in curve) == 2000
    assert [b.predicted for b in curve] == sorted(b.predicted for b in curve)
    assert sum(b.low <= b.predicted <= b.high for b in curve) >= 8
    assert plain(curve[0])["n"] == 200


# Brier


def test_brier_is_scikit_learns_and_its_parts_add_up_exactly():
    found = drawn(300, sharpness=2.0)
    parts = brier_parts(found.score, found.right)
    assert parts["brier"] == pytest.approx(brier_score_loss(found.right, found.score))
    assert parts["miscalibration"] - parts["discrimination"] + parts["uncertainty"] == pytest.approx(parts["brier"])
    best = IsotonicRegression().fit(found.score, found.right).predict(found.score)
    assert parts["miscalibration"] == pytest.approx(parts["brier"] - brier_score_loss(found.right, best))


def test_brier_parts_of_tied_probabilities_are_scikit_learns_too():
    p, right = np.round(drawn(300).score, 1), drawn(300).right
    best = IsotonicRegression().fit(p, right).predict(p)
    assert brier_parts(p, right)["discrimination"] == pytest.approx(
        brier_score_loss(right, np.full(300, right.mean())) - brier_score_loss(right, best)
    )


def test_saying_the_base_rate_has_no_skill_and_no_miscalibration():
    right = drawn(200).right
    parts = brier_parts(np.full(200, right.mean()), right)
    assert parts["miscalibration"] == pytest.approx(0) and parts["discrimination"] == pytest.approx(0)
    found = brier_estimate(Outcomes.of(np.full(200, right.mean()), right), rng=rng(), draws=50)
    assert found.extra["skill"] == pytest.approx(0) and found.p == 1


def test_exact_probabilities_have_skill_and_too_sure_ones_less():
    exact, sure = (brier_estimate(drawn(sharpness=s), rng=rng(), draws=200) for s in (1.0, 4.0))
    assert exact.p < 1e-6 and exact.extra["skill"] > 0.2
    assert sure.extra["skill"] < exact.extra["skill"]
    assert sure.extra["miscalibration"] > exact.extra["miscalibration"]
    assert exact.low < exact.value < exact.high


# Abstaining


def test_risk_coverage_is_the_error_among_the_surest():
    found = risk_coverage(Outcomes.of(np.arange(12, 0, -1), [1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0]))
    assert found.risk[:4] == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert (found.coverage[-1], found.risk[-1], found.chance) == (1, pytest.approx(5 / 12), pytest.approx(5 / 12))
    assert found.least < found.area < found.chance
    assert found.coverage[0] == pytest.approx(1 / 12)


def test_a_perfect_order_reaches_the_least_area_and_ties_gain_nothing():
    right = rng().random(50) < 0.5
    perfect, tied = risk_coverage(Outcomes.of(right * 1.0, right)), risk_coverage(Outcomes.of(np.ones(50), right))
    assert perfect.area == pytest.approx(perfect.least)
    assert_allclose(tied.risk, 1 - right.mean())


def test_accuracy_at_coverage_gains_where_the_confidence_knows_something():
    found = accuracy_at(drawn(600), 0.8, rng=rng(), draws=400)
    assert found.extra["gain_low"] > 0 and found.p < 0.01
    order = np.argsort(-drawn(600).score)[:480]
    assert found.value == pytest.approx(drawn(600).right[order].mean())
    assert (drawn(600).score >= found.extra["threshold"]).sum() == 480
    everything = accuracy_at(drawn(600), 1.0, rng=rng(), draws=100)
    assert everything.value == pytest.approx(drawn(600).base_rate) and everything.p == 1


def test_a_confidence_that_knows_nothing_gains_nothing():
    draw, gains, false = rng(5), [], 0
    for _ in range(40):
        found = accuracy_at(Outcomes.of(draw.random(200), draw.random(200) < 0.6), 0.8, rng=draw, draws=100)
        gains.append(found.extra["gain"])
        false += found.p <= 0.05
    assert abs(np.mean(gains)) < 0.01 and false <= 7


def test_accuracy_of_what_is_answered():
    found = answered_accuracy(Outcomes.of(np.arange(20) / 20, np.arange(20) >= 8), 0.5)
    assert (found["accuracy"], found["coverage"], found["n"]) == (1, 0.5, 10)
    assert answered_accuracy(Outcomes.of(np.arange(20) / 20, np.arange(20) >= 8), 2.0)["accuracy"] is None
    one_topic = Outcomes.of(np.arange(20) / 20, np.arange(20) >= 8, clusters=np.arange(20) >= 10)
    assert answered_accuracy(one_topic, 0.5)["n"] == 10


def test_baselines_are_compared_on_the_same_draws():
    draw = rng(6)
    margin = draw.normal(size=300)
    z = 1.2 * margin + 1.2 * draw.normal(size=300)
    right = draw.random(300) < expit(z)
    missing = [None if i % 10 == 0 else float(m) for i, m in enumerate(margin)]
    found = against_one_feature(
        Outcomes.of(expit(z), right), {"margin": missing, "itself": z.tolist()}, rng=rng(), draws=300
    )
    assert 0.5 < found["margin"]["auroc"].value < 0.85
    assert found["margin"]["auroc_gain"].low > 0 and found["margin"]["accuracy_gain"].value > 0
    same = found["itself"]["auroc_gain"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


# Nulls


def test_false_label_rate_has_the_exact_interval():
    found = false_label_rate(np.r_[np.zeros(195), np.ones(5)], 0.5, null="random directions")
    assert found.value == 0.025 and found.extra["hits"] == 5
    assert (found.low, found.high) == pytest.approx((stats.beta.ppf(0.025, 5, 196), stats.beta.ppf(0.975, 6, 195)))
    assert found.statistic == "share of random directions given a confident label"


def test_threshold_by_clopper_and_pearson_keeps_its_promise_nineteen_times_in_twenty():
    draw, broken = rng(7), 0
    for _ in range(400):
        line = threshold_for_nulls(draw.random(400), 0.02)  # true rate at t is 1 - t
        assert line.bound <= 0.02
        broken += 1 - line.value > 0.02
    assert broken / 400 <= 0.07


def test_the_bound_of_a_line_is_scipys_one_sided_exact_interval():
    lines = [threshold_for_nulls(rng(seed).random(400), rate, level=0.9) for seed, rate in ((1, 0.02), (2, 0.1))]
    for line in lines:
        exact = stats.binomtest(line.hits, line.n, alternative="less").proportion_ci(0.9, method="exact")
        assert line.hits > 0 and line.bound == pytest.approx(exact.high, abs=1e-9)


def test_equal_nulls_stay_out_together_and_the_line_says_what_it_rests_on():
    line = threshold_for_nulls(np.r_[np.full(100, 0.9), np.full(200, 0.1)])
    assert line.value > 0.9 and (line.hits, line.n) == (0, 300)
    assert line.bound == pytest.approx(1 - 0.05 ** (1 / 300))
    assert line.method == "clopper-pearson"


def test_149_nulls_are_the_fewest_that_can_promise_two_per_cent():
    assert threshold_for_nulls(rng().random(149)).bound <= 0.02
    with pytest.raises(Refusal, match="judge 149 null directions at least"):
        threshold_for_nulls(rng().random(148))


# All together, and refusals


def test_the_report_holds_every_promised_figure_and_can_be_written_down():
    found = drawn(300)
    report = confidence_report(
        found,
        0.6,
        alone={"margin": found.score.tolist()},
        nulls={"random directions": np.linspace(0, 0.5, 60)},
        rng=rng(),
        draws=60,
    )
    told = plain(report)
    assert told["false_labels"]["random directions"]["value"] == 0
    assert told["accuracy_at_80"]["value"] > told["accuracy_at_100"]["value"]
    assert len(told["risk"]["risk"]) == 300 and told["curve"] and told["alone"]["margin"]["auroc"]["n"] == 300


def test_topics_are_resampled_whole_everywhere():
    base, topics = drawn(300), np.arange(300) // 10
    found = Outcomes.of(base.score, base.right, clusters=topics)
    report = confidence_report(found, 0.5, rng=rng(), draws=60)
    for one in (report.ece, report.brier, report.auroc, report.accuracy_at_80):
        assert (one.n, one.unit) == (30, "topics")


def test_outcomes_refuse_what_cannot_be_judged():
    with pytest.raises(Refusal, match="9 confidences: 10 is the fewest"):
        Outcomes.of(np.ones(9), np.ones(9))
    with pytest.raises(Refusal, match="two lists of equal length"):
        Outcomes.of(np.ones(12), np.ones(11))
    with pytest.raises(Refusal, match="some are NaN or infinite"):
        Outcomes.of(np.full(12, np.nan), np.ones(12))
    with pytest.raises(Refusal, match="neither right nor wrong"):
        Outcomes.of(np.ones(12), np.full(12, 0.5))
    with pytest.raises(Refusal, match="12 rows with 11 clusters"):
        Outcomes.of(np.ones(12), np.ones(12), clusters=np.arange(11))


def test_calibration_refuses_scores_that_are_no_probabilities_and_bins_too_small():
    margins = Outcomes.of(np.linspace(-1, 1, 30), np.arange(30) % 2)
    with pytest.raises(Refusal, match="run from -1 to 1, so they are no probabilities"):
        ece_estimate(margins, rng=rng())
    with pytest.raises(Refusal, match="a Brier score"):
        brier_estimate(margins, rng=rng())
    with pytest.raises(Refusal, match="10 bins of 12 explanations"):
        bins_of(np.linspace(0, 1, 12))


def test_abstaining_refuses_impossible_requests():
    found = drawn(50)
    with pytest.raises(Refusal, match="coverage 0"):
        accuracy_at(found, 0.0, rng=rng())
    with pytest.raises(Refusal, match="'margin' of 3 explanations"):
        against_one_feature(found, {"margin": [1.0, 2.0, 3.0]}, rng=rng())
    with pytest.raises(Refusal, match="all 12 explanations are wrong"):
        against_one_feature(Outcomes.of(np.ones(12), np.zeros(12)), {}, rng=rng())
    with pytest.raises(Refusal, match="finite numbers, one per null direction"):
        false_label_rate(np.array([np.nan]), 0.5, null="random directions")
    with pytest.raises(Refusal, match="both are shares"):
        threshold_for_nulls(np.ones(200), 2.0)
