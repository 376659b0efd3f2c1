"""Lift, top-1 and MRR against each named null, the ceiling, and what ties and style do to them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from dragoman.core import Refusal
from dragoman.records import NULL_NAMES
from dragoman.stats.lift import (
    ceiling_estimate,
    doubly_centred,
    lift_estimate,
    lift_per_feature,
    share_of_ceiling,
    similarity,
)
from dragoman.stats.nulls import against_each, against_others, against_texts, among, chance, credits, row_credits


def rng(seed=0):
    return np.random.default_rng(seed)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def world(n=40, m=30, meaning=0.6, style=0.0, seed=0, width=64):
    """Natives, carried texts that mean them by a share, and a null's texts that know nothing; both have a style."""
    draw = rng(seed)
    common = unit(draw.normal(size=width))
    native = unit(0.7 * common + unit(draw.normal(size=(n, width))))
    carried = unit(meaning * native + style * common + unit(draw.normal(size=(n, width))))
    null = unit(unit(draw.normal(size=(m, width))))
    return similarity(carried, native), similarity(null, native)


# Credits and chance


def test_credits_without_ties_are_the_plain_ranks():
    top1, mrr = credits(np.array([0, 1, 4]), np.ones(3))
    assert_allclose(top1, [1, 0, 0])
    assert_allclose(mrr, [1, 1 / 2, 1 / 5])


def test_credits_of_ties_are_the_mean_over_every_way_to_break_them():
    # greater 2, equal 3: places 3, 4 and 5 are shared; greater 0, equal 4: first in one of four orders
    assert credits(np.array([2]), np.array([3]))[1][0] == pytest.approx(np.mean([1 / 3, 1 / 4, 1 / 5]))
    assert credits(np.array([0]), np.array([4]))[0][0] == pytest.approx(1 / 4)


def test_a_verbalizer_that_always_says_the_same_scores_exactly_chance():
    s = np.tile(rng().normal(size=8), (8, 1))
    top1, mrr = row_credits(s)
    assert (np.diag(top1).mean(), np.diag(mrr).mean()) == pytest.approx(chance(8))
    found = against_others(s, rng=rng(), permutations=99)
    assert (found.top1.value, found.mrr.value) == pytest.approx(chance(8))
    assert found.top1.p == 1


@settings(max_examples=40, deadline=None)
@given(arrays(float, (6, 6), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_credits_of_every_row_sum_to_what_chance_says(s):
    top1, mrr = row_credits(s)
    assert_allclose(top1.sum(axis=1), 1)
    assert_allclose(mrr.mean(axis=1), chance(6)[1])


def test_chance_is_the_harmonic_mean_of_ranks():
    assert chance(45) == pytest.approx((0.0222, 0.0977), abs=1e-4)
    assert chance(500) == pytest.approx((0.002, 0.0136), abs=1e-4)


def test_rate_among_fewer_equals_drawing_the_rivals():
    s = 0.3 * rng().normal(size=(30, 30)) + 0.4 * np.eye(30)
    own = np.diag(s)[:, None]
    greater, equal = (s > own).sum(axis=1), (s == own).sum(axis=1)
    draw, hits = rng(1), []
    for _ in range(150):
        for k in range(30):
            rivals = draw.choice([j for j in range(30) if j != k], size=9, replace=False)
            hits.append(s[k, k] > s[k, rivals].max())
    assert among(greater, equal, 30, 10) == pytest.approx(np.mean(hits), abs=0.015)


# Other features


def test_against_other_features_gives_both_lifts_and_the_ranks_of_the_centred_table():
    s, _ = world()
    found = against_others(s, rng=rng(), permutations=199)
    assert found.lift.value == pytest.approx(lift_per_feature(s).mean())
    assert found.centred == lift_estimate(s, rng=rng(), permutations=199)
    d = doubly_centred(s)
    assert found.top1.value == np.mean(d.argmax(axis=1) == np.arange(len(s)))
    ranks = 1 + (d > np.diag(d)[:, None]).sum(axis=1)
    assert found.mrr.value == pytest.approx(np.mean(1 / ranks))
    assert found.top1.extra["chance"] == pytest.approx(1 / 40)
    assert found.lift.p < 0.02 > found.top1.p
    assert found.lift.low < found.lift.value < found.lift.high


def test_a_study_of_more_features_says_its_top1_among_45():
    assert "among_45" not in against_others(world(n=40)[0], rng=rng(), permutations=9).top1.extra
    found = against_others(world(n=120, meaning=0.3)[0], rng=rng(), permutations=9).top1
    assert found.value < found.extra["among_45"] < 1


def test_topics_widen_every_interval_and_move_no_value():
    draw, topics = rng(2), np.repeat(np.arange(8), 5)
    hits = np.repeat(draw.normal(size=8), 5)
    s = 0.05 * draw.normal(size=(40, 40)) + np.diag(0.2 + 0.2 * hits)
    plainly, clustered = (against_others(s, topics=t, rng=rng(), permutations=99) for t in (None, topics))
    for name in ("lift", "centred", "top1", "mrr"):
        a, b = getattr(plainly, name), getattr(clustered, name)
        assert a.value == b.value
        assert b.high - b.low > a.high - a.low
        assert (a.unit, a.n, b.unit, b.n) == ("features", 40, "topics", 8)


# Nulls with texts of their own


def test_lift_over_a_null_is_the_mean_of_lift_over_random():
    s, r = world()
    found = against_texts("random directions", s, r, rng=rng(), permutations=99)
    assert found.lift.value == pytest.approx(np.mean(np.diag(s) - r.mean(axis=0)))
    assert found.lift.p <= 0.02


def test_style_lifts_over_random_directions_but_not_over_other_features():
    s, r = world(meaning=0.0, style=1.0)
    found = against_each(s, {"random directions": r}, rng=rng(), permutations=199)
    random, others = found["random directions"], found["other features"]
    assert random.lift.value > 0.1 and random.lift.p < 0.02
    assert others.lift.p > 0.05 and random.centred.p > 0.05
    assert random.lift.extra["style"] == pytest.approx(random.lift.value - others.lift.value)
    assert random.top1.value > 3 * random.top1.extra["chance"]  # nearest to the native, for the wrong reason


def test_the_centred_lift_has_one_value_whatever_the_null():
    s, r = world(style=0.5)
    values = [
        f.centred.value for f in against_each(s, dict.fromkeys(NULL_NAMES, r), rng=rng(), permutations=9).values()
    ]
    assert_allclose(values, lift_per_feature(s).mean(), atol=1e-12)


def test_top1_against_a_null_is_being_nearest_of_itself_and_the_nulls_texts():
    s, r = world(meaning=0.3)
    found = against_texts("unused rows", s, r, rng=rng(), permutations=9)
    assert found.top1.value == np.mean(np.diag(s) > r.max(axis=0))
    assert found.top1.extra["candidates"] == 31
    ranks = 1 + (r > np.diag(s)).sum(axis=0)
    assert found.mrr.value == pytest.approx(np.mean(1 / ranks))


def test_dealing_texts_is_exact_where_all_deals_can_be_listed():
    s, r = world(n=3, m=2, meaning=0.5, seed=3)
    pool = np.concatenate([s, r])
    lifts = [pool[list(order[:3]), range(3)].mean() - pool[list(order[3:])].mean() for order in permutations(range(5))]
    seen = np.diag(s).mean() - r.mean()
    exact = 2 * min(np.mean(np.array(lifts) >= seen - 1e-12), np.mean(np.array(lifts) <= seen + 1e-12))
    assert against_texts("shuffled map", s, r, rng=rng(), permutations=1999).lift.p == pytest.approx(exact, abs=0.04)


def test_p_against_a_null_is_level_when_the_texts_know_nothing():
    hits = {"lift": 0, "centred": 0, "mrr": 0}
    for seed in range(150):
        s, r = world(n=12, m=10, meaning=0.0, seed=seed, width=16)
        found = against_texts("random directions", s, r, rng=rng(seed), permutations=59)
        for name in hits:
            hits[name] += getattr(found, name).p <= 0.05
    assert all(count / 150 < 0.12 for count in hits.values())


def test_interval_over_a_null_covers_the_truth_though_the_nulls_texts_are_few():
    covered = naive = 0
    for seed in range(200):
        draw = rng(seed)
        hubs, texts = draw.normal(size=20), draw.normal(size=5)
        s = 0.3 + draw.normal(size=(20, 20)) * 0.1 + hubs
        r = 0.1 + draw.normal(size=(5, 20)) * 0.1 + hubs + 0.3 * texts[:, None]
        found = against_texts("background alone", s, r, rng=draw, permutations=1).lift
        covered += found.low <= 0.2 <= found.high
        half = 2.09 * (np.diag(s) - r.mean(axis=0)).std(ddof=1) / np.sqrt(20)
        naive += abs(found.value - 0.2) <= half
    assert 0.9 <= covered / 200 <= 0.99
    assert naive / 200 < 0.5


def test_one_text_of_the_background_is_taken_as_given():
    s, r = world(m=1)
    found = against_texts("background alone", s, r, rng=rng(), permutations=99)
    assert found.top1.extra["chance"] == 0.5
    assert "1 texts" in found.lift.method and found.lift.low < found.lift.value < found.lift.high


def test_the_same_seed_gives_the_same_answer_and_it_can_be_written_down():
    s, r = world(n=12, m=6)
    a, b = (against_texts("shuffled map", s, r, rng=rng(4), permutations=49) for _ in range(2))
    assert a == b
    assert a.lift.null == a.null == "shuffled map"


def test_nulls_refuse_other_natives():
    s, r = world(n=6, m=4)
    with pytest.raises(Refusal, match="one row per text and 6 columns"):
        against_texts("unused rows", s, r[:, :5], rng=rng())
    with pytest.raises(Refusal, match="they are finite"):
        against_texts("unused rows", s, np.full_like(r, np.nan), rng=rng())


# The ceiling


def test_a_ceiling_is_the_lift_of_one_sample_over_the_other_either_way_round():
    s, _ = world(meaning=1.0)
    found = ceiling_estimate(s, rng())
    assert found.value == pytest.approx(lift_per_feature(s).mean())
    assert found == ceiling_estimate(s.T, rng())
    assert "ceiling" in found.statistic


def test_share_of_the_ceiling_covers_the_true_share():
    covered = 0
    for seed in range(300):
        draw = rng(seed)
        shared = draw.normal(size=40)
        ceilings = 0.4 + 0.2 * shared + 0.1 * draw.normal(size=40)
        lifts = 0.2 + 0.1 * shared + 0.2 * draw.normal(size=40)
        found = share_of_ceiling(lifts, ceilings)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_share_of_the_ceiling_is_a_ratio_of_means_and_tests_whether_it_is_one():
    draw = rng(1)
    ceilings = 0.4 + 0.1 * draw.normal(size=60)
    half = share_of_ceiling(0.5 * ceilings + 0.01 * draw.normal(size=60), ceilings)
    assert half.value == pytest.approx(0.5, abs=0.01) and half.p < 1e-6
    assert half.low < half.value < half.high
    full = share_of_ceiling(ceilings + 0.1 * draw.normal(size=60), ceilings)
    assert full.p > 0.05 and (full.n, full.unit) == (60, "features")


def test_a_share_of_nothing_is_refused():
    with pytest.raises(Refusal, match="the ceiling cannot be told from zero"):
        share_of_ceiling(np.ones(20), 0.01 * rng().normal(size=20))
    with pytest.raises(Refusal, match="same features in the same order"):
        share_of_ceiling(np.ones(20), np.ones(19))
