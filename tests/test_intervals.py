"""Resampling, rates, multiple tests and power: against formulas, scipy, and simulations with a known answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from dragoman.core import Refusal
from dragoman.stats.intervals import (
    bootstrap,
    bootstrap_mean,
    clustered_interval,
    rate_interval,
    resampled,
    t_interval,
    two_way_interval,
    wilson_interval,
)
from dragoman.stats.nulls import holm
from dragoman.stats.power import detectable, features_needed, plan, power_of


def rng(seed=0):
    return np.random.default_rng(seed)


# Rates and two-way intervals


def test_a_rate_of_independent_hits_has_wilsons_interval():
    hits = np.array([1] * 33 + [0] * 67)
    assert rate_interval(hits) == pytest.approx(wilson_interval(33, 100), abs=1e-12)
    assert rate_interval(np.zeros(40)) == pytest.approx(wilson_interval(0, 40), abs=1e-12)


def test_hits_that_come_in_topics_count_as_often_as_there_are_topics():
    hits, topics = np.repeat([1, 0, 1, 1, 0, 0, 1, 0], 5), np.repeat(np.arange(8), 5)
    low, high = rate_interval(hits, topics)
    again = wilson_interval(4, 8)
    assert (low, high) == pytest.approx(again, abs=0.04)
    assert rate_interval(np.ones(40), topics) == pytest.approx(wilson_interval(8, 8), abs=1e-12)


def test_topics_never_make_a_rates_interval_narrower():
    hits, topics = np.tile([1, 0], 20), np.repeat(np.arange(20), 2)  # every topic has exactly one hit
    assert rate_interval(hits, topics) == pytest.approx(rate_interval(hits))


def test_two_way_interval_without_texts_is_the_t_interval_or_the_clustered_one():
    values, topics = rng().normal(size=30), np.repeat(np.arange(6), 5)
    assert two_way_interval(values, np.ones(1)) == pytest.approx(t_interval(values.mean(), values.std(ddof=1), 30))
    assert two_way_interval(values, np.ones(1), topics) == pytest.approx(clustered_interval(values, topics)[:3])


def test_rates_refuse_what_is_no_share():
    with pytest.raises(Refusal, match="they are shares from 0 to 1"):
        rate_interval(np.array([0.5, 1.5]))
    with pytest.raises(Refusal, match="an interval from 1 values"):
        two_way_interval(np.ones(1), np.ones(3))


# Bootstrap


def test_bootstrap_of_a_mean_agrees_with_students_interval():
    values = rng().normal(1, 2, size=200)
    found = bootstrap(lambda rows: float(values[rows].mean()), 200, rng=rng(1))
    low, high, _ = t_interval(values.mean(), values.std(ddof=1), 200)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    assert found.error == pytest.approx(values.std() / np.sqrt(200), rel=0.06)
    assert (found.units, found.unit) == (200, "features")


def test_bootstrap_of_single_rows_is_scipys_percentile_bootstrap():
    values = rng().gamma(2, size=40)
    found = bootstrap(lambda rows: float(np.median(values[rows])), 40, rng=rng(1))
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=2000, confidence_level=0.95, method="percentile", rng=rng(1)
    )
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), rel=0.03)
    assert found.error == pytest.approx(theirs.standard_error, rel=0.05)


@pytest.mark.parametrize("n", [2, 14, 45, 1023, 3000])
@pytest.mark.parametrize("grouped", [False, True])
def test_means_that_are_drawn_together_are_those_drawn_one_by_one(n: int, grouped: bool) -> None:
    values, draw, again = rng(n).normal(size=n), rng(1), rng(1)
    clusters = [k // 2 for k in range(n)] if grouped and n > 2 else None
    together = bootstrap_mean(values, rng=draw, clusters=clusters, draws=999)
    one = bootstrap(lambda rows: float(values[rows].mean()), n, rng=again, clusters=clusters, draws=999)
    assert together == one and draw.integers(1 << 30) == again.integers(1 << 30)


def test_bootstrap_over_topics_draws_whole_topics_and_has_their_spread():
    topics = np.array(list("abcab"))
    for rows in resampled(5, rng(), clusters=topics, draws=20):
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[3] and counts[1] == counts[4]
    values, names = np.repeat(rng(2).normal(size=30), 5), np.repeat(np.arange(30), 5)
    found = bootstrap(lambda rows: float(values[rows].mean()), 150, rng=rng(1), clusters=names)
    low, high, *_ = clustered_interval(values, names)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert (found.units, found.unit) == (30, "topics")


def test_bootstrap_refuses_no_spread_and_statistics_that_are_mostly_undefined():
    with pytest.raises(Refusal, match="one row has no spread"):
        bootstrap(lambda rows: 1.0, 1, rng=rng())
    with pytest.raises(Refusal, match="one row has no spread"):
        bootstrap_mean(np.ones(1), rng=rng())
    with pytest.raises(Refusal, match="undefined on 50 of 50 draws"):
        bootstrap(lambda rows: float("nan"), 5, rng=rng(), draws=50)
    with pytest.raises(Refusal, match="one cluster has no spread"):
        bootstrap(lambda rows: 1.0, 5, rng=rng(), clusters=["a"] * 5)
    with pytest.raises(Refusal, match="5 rows with 4 clusters"):
        bootstrap(lambda rows: 1.0, 5, rng=rng(), clusters=list("abcd"))


# Many tests


def test_holm_of_a_worked_example():
    assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_decide_as_the_step_procedure_does(p):
    p, level, n = np.array(p), 0.05 + 1e-7 * np.pi, len(p)  # no product of round numbers lies on it
    rejected = np.zeros(n, dtype=bool)
    for i, k in enumerate(np.argsort(p, kind="stable")):  # Holm: stop at the first that fails
        if p[k] * (n - i) > level:
            break
        rejected[k] = True
    assert ((holm(p) <= level) == rejected).all()


def test_holm_refuses_what_are_no_p_values():
    with pytest.raises(Refusal, match="there is nothing to adjust"):
        holm(np.array([]))
    with pytest.raises(Refusal, match="outside 0 to 1 or NaN"):
        holm(np.array([0.5, float("nan")]))


# Power


def test_smallest_detectable_effects_are_the_tables():
    found = [detectable(n, sd=1.0) for n in (45, 100, 200, 500)]
    assert_allclose(found, [0.427, 0.283, 0.199, 0.126], atol=0.001)


def test_features_needed_is_the_first_number_with_enough_power():
    for effect in (1.0, 0.45, 0.25, 0.15):
        n = features_needed(effect, 1.0)
        assert power_of(n, effect) >= 0.8 > power_of(n - 1, effect)
    assert features_needed(-0.25, 1.0) == features_needed(0.25, 1.0)
    assert features_needed(0.25, 1.0, design_effect=2.0) == 2 * features_needed(0.25, 1.0)


def test_power_is_what_simulated_studies_find():
    n, draw = features_needed(0.05, 0.15), rng(5)
    lifts = draw.normal(0.05, 0.15, size=(4000, n))
    found = np.mean(stats.ttest_1samp(lifts, 0, axis=1)[1] <= 0.05)
    assert found == pytest.approx(0.8, abs=0.025)


def test_plan_reads_the_spread_and_the_topics_of_a_pilot():
    draw = rng(3)
    pilot = draw.normal(0.05, 0.15, size=200)
    pilot += 0.05 - pilot.mean()
    found = plan(pilot)
    assert found.sd == pytest.approx(pilot.std(ddof=1)) and found.design_effect == 1
    assert found.low < found.n == features_needed(found.lift, found.sd) < found.high
    topics = np.repeat(np.arange(40), 5)
    together = plan(np.repeat(draw.normal(0.05, 0.15, size=40), 5), clusters=topics)
    assert together.design_effect == pytest.approx(5, rel=0.05)  # five features that say the same count as one
    assert together.n > 4 * features_needed(together.lift, together.sd)
    assert plan(pilot).lift == pytest.approx(pilot.mean())


def test_plans_refuse_what_cannot_be_planned():
    with pytest.raises(Refusal, match="a lift of zero is never found"):
        features_needed(0.0, 1.0)
    with pytest.raises(Refusal, match="spread of zero"):
        plan(np.ones(10))
    with pytest.raises(Refusal, match="more than 10000000"):
        features_needed(1e-5, 1.0)
    with pytest.raises(Refusal, match="five finite lifts"):
        plan(np.ones(4))
    with pytest.raises(Refusal, match="plan at least three"):
        detectable(2, sd=1.0)
