"""Detection with the embedder as judge, and the ROC area under it: against scikit-learn and planted contexts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import roc_auc_score

from dragoman.core import Refusal
from dragoman.stats.roc import (
    ContextEmbeddings,
    Outcomes,
    auroc,
    auroc_estimate,
    auroc_interval,
    detection_estimate,
    detection_per_feature,
    detection_table,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def planted(n=12, meaning=1.0, common=0.0, seed=0, width=32):
    """Feature k's firing contexts lie near t_k (and a common theme), silent ones anywhere; explanations near t_k."""
    draw = rng(seed)
    truth, theme = unit(draw.normal(size=(n, width))), unit(draw.normal(size=width))
    contexts = [
        ContextEmbeddings.of(
            unit(0.7 * t + common * theme + unit(draw.normal(size=(15, width)))), unit(draw.normal(size=(25, width)))
        )
        for t in truth
    ]
    return unit(meaning * truth + common * theme + 0.3 * unit(draw.normal(size=(n, width)))), contexts


# The area


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=15),
    st.lists(st.integers(0, 5), min_size=1, max_size=15),
)
def test_area_equals_scikit_learns_ties_included(high, low):
    labels, scores = [1] * len(high) + [0] * len(low), high + low
    assert auroc(np.array(high), np.array(low)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize(("shift", "m", "n"), [(0.0, 10, 10), (1.0, 15, 25), (2.5, 8, 40)])
def test_interval_of_an_area_covers_the_truth(shift, m, n):
    from scipy.stats import norm

    truth, draw, covered = norm.cdf(shift / np.sqrt(2)), rng(1), 0
    for _ in range(400):
        low, high = auroc_interval(auroc(draw.normal(shift, 1, m), draw.normal(size=n)), m, n)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_interval_of_an_area_has_width_at_its_ends_and_turns_round_with_it():
    low, high = auroc_interval(1.0, 8, 12)
    assert 0.6 < low < 0.95 and high == 1
    assert auroc_interval(0.0, 12, 8) == pytest.approx((0, 1 - low))
    low, high = auroc_interval(0.8, 20, 30)
    assert low < 0.8 < high
    assert auroc_interval(0.2, 30, 20) == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_area_of_confidences_is_scikit_learns_with_a_test_and_topics():
    draw = rng(2)
    right = draw.random(200) < 0.4
    score = draw.normal(size=200) + 1.2 * right
    found = auroc_estimate(Outcomes.of(score, right), rng=rng())
    assert found.value == pytest.approx(roc_auc_score(right, score))
    assert found.low < found.value < found.high and found.p < 1e-6
    clustered = auroc_estimate(Outcomes.of(score, right, clusters=np.arange(200) // 5), rng=rng(), draws=500)
    assert (clustered.value, clustered.n, clustered.unit) == (found.value, 40, "topics")
    assert clustered.low == pytest.approx(found.low, abs=0.04)


def test_a_score_that_says_nothing_has_an_area_of_a_half():
    found = auroc_estimate(Outcomes.of(np.ones(40), np.arange(40) % 2), rng=rng())
    assert (found.value, found.p) == (0.5, 1.0)
    draw = rng(3)
    found = auroc_estimate(Outcomes.of(draw.normal(size=400), draw.random(400) < 0.5), rng=rng())
    assert found.low < 0.5 < found.high and found.p > 0.05


# Detection


def test_table_holds_the_area_of_every_text_on_every_features_contexts():
    texts, contexts = planted()
    table = detection_table(texts, contexts)
    labels = [1] * 15 + [0] * 25
    scores = np.concatenate([contexts[3].firing, contexts[3].silent]) @ texts[5]
    assert table[5, 3] == pytest.approx(roc_auc_score(labels, scores))
    assert table.shape == (12, 12)


def test_texts_that_mean_their_features_detect_them_and_no_others():
    texts, contexts = planted()
    table = detection_table(texts, contexts)
    found = detection_estimate(table, rng=rng())
    assert found.value > 0.9 and found.p < 0.01
    assert abs(found.extra["others"] - 0.5) < 0.05
    assert found.extra["lift"] == pytest.approx(found.value - found.extra["others"])


def test_texts_about_what_all_firing_contexts_share_detect_but_are_no_evidence():
    texts, contexts = planted(meaning=0.0, common=1.0)
    found = detection_estimate(detection_table(texts, contexts), rng=rng())
    assert found.low > 0.7  # far above one half
    assert found.p > 0.05 and found.extra["lift_low"] < 0 < found.extra["lift_high"]


def test_each_feature_has_its_area_with_an_interval():
    texts, contexts = planted()
    table = detection_table(texts, contexts)
    found = detection_per_feature(table, contexts)
    assert_allclose([d["auroc"] for d in found], np.diag(table))
    assert all(d["low"] <= d["auroc"] <= d["high"] and d["low"] < d["high"] for d in found)
    assert found[0]["firing"] == 15


def test_detection_over_topics_counts_topics():
    texts, contexts = planted()
    found = detection_estimate(detection_table(texts, contexts), np.repeat(list("abcd"), 3), rng=rng())
    assert (found.n, found.unit) == (4, "topics")


def test_detection_refuses_too_few_unequal_and_undefined_contexts():
    good = unit(rng().normal(size=(5, 8)))
    with pytest.raises(Refusal, match="2 firing and 5 silent contexts"):
        ContextEmbeddings.of(good[:2], good)
    with pytest.raises(Refusal, match="embed both kinds with the same embedder"):
        ContextEmbeddings.of(good, good[:, :4])
    with pytest.raises(Refusal, match="NaN or infinite"):
        ContextEmbeddings.of(good, np.full((5, 8), np.nan))
    with pytest.raises(Refusal, match="as wide as the contexts"):
        detection_table(good[:, :4], [ContextEmbeddings.of(good, good)])


def test_areas_refuse_one_kind_alone():
    with pytest.raises(Refusal, match="one of the two kinds has no members"):
        auroc(np.ones(3), np.ones(0))
    with pytest.raises(Refusal, match="all 12 explanations are right"):
        auroc_estimate(Outcomes.of(np.arange(12), np.ones(12)), rng=rng())
