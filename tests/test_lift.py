from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy import stats

from dragoman.core import Refusal
from dragoman.stats.intervals import clustered_interval, mean_estimate, t_interval, wilson_interval
from dragoman.stats.lift import (
    doubly_centred,
    doubly_centred_lift,
    lift_estimate,
    lift_over_others,
    lift_per_feature,
    paired_difference,
    permutation_moments,
    permutation_p,
    similarity,
)

numbers = st.floats(-1, 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def planted(n=12, lift=0.3, seed=0):
    return 0.1 * rng(seed).normal(size=(n, n)) + lift * np.eye(n)


def test_similarity_is_the_table_of_cosines_of_unit_rows():
    c, b = (rng(s).normal(size=(5, 7)) for s in (0, 1))
    c, b = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (c, b))
    assert similarity(c, b)[2, 3] == pytest.approx(c[2] @ b[3])


def test_lift_in_matrix_form_equals_the_posts_definition_written_as_a_loop():
    s = rng().normal(size=(9, 9))
    loop = [s[k, k] - np.mean([s[k, j] for j in range(9) if j != k]) for k in range(9)]
    assert_allclose(lift_per_feature(s), loop, atol=1e-12)


def test_every_reference_gives_the_same_mean_lift():
    s = rng().normal(size=(9, 9))
    off = (s.sum() - np.trace(s)) / (9 * 8)
    for lifts in (lift_per_feature(s), lift_per_feature(s.T), doubly_centred_lift(s)):
        assert lifts.mean() == pytest.approx(np.trace(s) / 9 - off, abs=1e-12)


def test_a_constant_with_a_diagonal_has_that_diagonal_as_lift():
    assert_allclose(doubly_centred_lift(0.4 * np.ones((6, 6)) + 0.2 * np.eye(6)), 0.2, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(arrays(float, (7, 7), elements=numbers), arrays(float, 7, elements=numbers), arrays(float, 7, elements=numbers))
def test_generic_explanations_and_hub_natives_leave_the_doubly_centred_lift_unchanged(s, generic, hub):
    moved = s + generic[:, None] + hub
    assert_allclose(doubly_centred_lift(moved), doubly_centred_lift(s), atol=1e-12)
    assert permutation_moments(moved)[1] == pytest.approx(permutation_moments(s)[1], abs=1e-12)


def test_hub_natives_do_move_the_posts_lift():
    s, hub = planted(), np.zeros(12)
    hub[0] = 1.0
    assert np.abs(lift_per_feature(s + hub) - lift_per_feature(s)).max() > 0.05


def all_traces(s):
    n = len(s)
    return np.array([s[np.arange(n), list(p)].sum() for p in permutations(range(n))])


def test_closed_form_permutation_moments_equal_full_enumeration():
    s = rng().normal(size=(6, 6))
    traces = all_traces(s)
    assert_allclose(permutation_moments(s), (traces.mean(), traces.var()), atol=1e-12)


def test_permutation_p_equals_full_enumeration_where_that_is_small():
    s = planted(n=6, lift=0.05)
    traces = all_traces(s)
    greater, less = (traces >= np.trace(s) - 1e-12).mean(), (traces <= np.trace(s) + 1e-12).mean()
    assert permutation_p(s, rng()) == pytest.approx(min(1, 2 * min(greater, less)))


def test_monte_carlo_p_is_never_zero():
    assert permutation_p(planted(n=40, lift=5.0), rng(), n=99) == pytest.approx(2 / 100)
    certain = mean_estimate(np.ones(40) + 1e-3 * rng().normal(size=40), rng(), statistic="s", null="n")
    assert certain.p == pytest.approx(2 / 10_000)


def test_permutation_p_is_uniform_under_the_null_even_with_hubs():
    draw = rng(7)
    null = draw.normal(size=(500, 15, 15)) + 2 * draw.exponential(size=(500, 1, 15)) + draw.normal(size=(500, 15, 1))
    p = np.array([permutation_p(s, draw, n=199) for s in null])
    assert 0.03 <= np.mean(p <= 0.05) <= 0.08
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_t_interval_of_the_posts_numbers():
    low, high, p = t_interval(0.163, 0.148, 45)
    assert (low, high) == pytest.approx((0.118, 0.207), abs=0.001)
    assert p == pytest.approx(3e-9, rel=0.2)


def test_t_interval_equals_scipys_one_sample_test():
    values = rng().normal(0.2, 1, size=30)
    oracle = stats.ttest_1samp(values, 0)
    found = t_interval(values.mean(), values.std(ddof=1), 30)
    assert found == pytest.approx((*oracle.confidence_interval(), oracle[1]))


def test_wilson_interval_equals_the_formula():
    z, hits, n = stats.norm.ppf(0.975), 7, 40
    rate = hits / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    assert wilson_interval(hits, n) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert wilson_interval(0, 40)[0] == 0
    assert wilson_interval(40, 40)[1] == 1


def test_clustered_interval_with_equal_clusters_is_the_t_interval_over_cluster_means():
    values, topics = rng().normal(size=(9, 5)) + rng(1).normal(size=(9, 1)), np.repeat(np.arange(9), 5)
    means = values.mean(axis=1)
    found = clustered_interval(values.ravel(), topics)
    assert found[:3] == pytest.approx(t_interval(means.mean(), means.std(ddof=1), 9))
    assert found[3] == 9


def test_clustered_interval_covers_where_the_naive_one_does_not():
    draw, topics = rng(3), np.repeat(np.arange(9), 5)
    naive = clustered = 0
    for _ in range(300):
        values = np.repeat(draw.normal(size=9), 5) + 0.3 * draw.normal(size=45)
        low, high, _ = t_interval(values.mean(), values.std(ddof=1), 45)
        naive += low <= 0 <= high
        low, high, *_ = clustered_interval(values, topics)
        clustered += low <= 0 <= high
    assert clustered / 300 > 0.91
    assert naive / 300 < 0.75


def test_lift_estimate_says_what_it_was_compared_with():
    s = planted(30)
    found = lift_estimate(s, rng=rng())
    assert found.value == pytest.approx(lift_per_feature(s).mean())
    assert found.low < found.value < found.high
    assert found.p < 0.01
    assert (found.n, found.unit, found.level) == (30, "features", 0.95)
    assert all((found.statistic, found.null, found.method))
    assert found.extra["z"] > 5
    assert found.extra["post_low"] < found.value < found.extra["post_high"]


def test_lift_estimate_over_topics_keeps_the_value_and_both_intervals():
    s, topics = planted(30), np.repeat(list("abcdef"), 5)
    plain, clustered = lift_estimate(s, rng=rng()), lift_estimate(s, topics, rng=rng())
    assert clustered.value == plain.value
    assert (clustered.n, clustered.unit) == (6, "topics")
    assert (clustered.extra["features_low"], clustered.extra["features_high"]) == (plain.low, plain.high)
    assert clustered.p == plain.p


def test_lift_estimate_of_identical_texts_is_zero_and_finite():
    found = lift_estimate(np.ones((5, 5)), rng=rng())
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert np.isfinite(list(found.extra.values())).all()


def test_same_seed_gives_the_same_estimate():
    assert lift_estimate(planted(30, 0.02), rng=rng(5)) == lift_estimate(planted(30, 0.02), rng=rng(5))


def test_paired_difference_is_second_minus_first_with_both_tests():
    first = rng().normal(0.16, 0.15, size=45)
    second = first + rng(1).normal(0.05, 0.1, size=45)
    found, oracle = paired_difference(first, second, rng()), stats.ttest_rel(second, first)
    assert found.value == pytest.approx((second - first).mean())
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert found.extra["p_t"] == pytest.approx(oracle.pvalue)
    assert found.p == pytest.approx(oracle.pvalue, abs=0.01)
    assert (found.n, found.unit) == (45, "features")
    assert all((found.statistic, found.null, found.method))


def test_doubly_centred_rows_and_columns_sum_to_zero():
    d = doubly_centred(rng().normal(size=(6, 6)))
    assert_allclose(d.sum(axis=0), 0, atol=1e-12)
    assert_allclose(d.sum(axis=1), 0, atol=1e-12)


def test_lift_refuses_tables_that_are_not_square_small_or_undefined():
    with pytest.raises(Refusal, match="pass a square matrix"):
        lift_per_feature(np.ones((4, 5)))
    with pytest.raises(Refusal, match="three features at least"):
        lift_per_feature(np.ones((2, 2)))
    with pytest.raises(Refusal, match="NaN or infinite"):
        lift_estimate(np.full((4, 4), np.nan), rng=rng())


def test_scores_refuse_what_does_not_match():
    with pytest.raises(Refusal, match="same embedder"):
        similarity(np.ones((3, 4)), np.ones((3, 5)))
    with pytest.raises(Refusal, match="same features in the same order"):
        paired_difference(np.ones(3), np.ones(4), rng())
    with pytest.raises(Refusal, match="at least two topics"):
        lift_estimate(planted(6), ["a"] * 6, rng=rng())
    with pytest.raises(Refusal, match="one value has no spread"):
        t_interval(1.0, 1.0, 1)
    with pytest.raises(Refusal, match="at least one trial"):
        wilson_interval(0, 0)


def test_lift_over_others_sees_a_planted_likeness_and_no_other() -> None:
    made = rng(0)
    others, s = made.normal(0.2, 0.1, (2, 64)), np.array([[0.7, 0.25], [0.15, 0.65]])
    found = lift_over_others(s, others, rng=rng(1))
    assert found.p < 0.01 and found.n == 2 and found.extra["others"] == 64
    assert found.value == pytest.approx(float(np.mean([0.7, 0.65] - others.mean(axis=1))))
    assert found.extra["dealt"] == pytest.approx(0.2 - others.mean())
    low, high, _ = t_interval(found.value, float(np.std([0.7, 0.65] - others.mean(axis=1), ddof=1)), 2)
    assert (found.low, found.high) == (low, high)
    swapped = lift_over_others(s[::-1], others[::-1], rng=rng(1))  # each text under the other's name
    assert swapped.p > 0.05 and abs(swapped.value) < 0.1 < swapped.extra["dealt"]
    p = [
        lift_over_others(made.normal(0.2, 0.1, (3, 3)), made.normal(0.2, 0.1, (3, 64)), rng=rng(k), draws=999).p
        for k in range(400)
    ]
    assert np.mean(np.array(p) <= 0.05) < 0.08 and np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("n", "m"), [(1, 64), (2, 9)])
def test_lift_over_others_refuses_too_few(n: int, m: int) -> None:
    with pytest.raises(Refusal, match="it takes two texts and 10 others"):
        lift_over_others(np.zeros((n, n)), np.zeros((n, m)), rng=rng(0))
