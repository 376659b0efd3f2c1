"""Tables of words and of ranks against counting by hand, and what estimates say of planted agreement and of none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dragoman.core import Refusal
from dragoman.measures.overlap import (
    estimate,
    overlap_estimate,
    overlap_table,
    own_and_dealt,
    rank_auroc,
    rank_estimate,
)


def lists(seed: int, n: int = 30, k: int = 8) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(f"w{j}" for j in rng.choice(60, k, replace=False)) for _ in range(n)]


def test_a_table_counts_the_words_that_two_lists_share():
    first, second = lists(0, 7), [*lists(1, 4), ()]
    table = overlap_table(first, second)
    assert table.shape == (7, 5)
    for i, own in enumerate(first):
        for j, other in enumerate(second):
            assert table[i, j] == len(set(own) & set(other))


def test_a_rank_is_the_auroc_of_the_own_entry_against_the_others():
    table = np.random.default_rng(0).integers(0, 5, (9, 9)).astype(float)
    expected = [roc_auc_score(np.eye(9)[k], table[k]) for k in range(9)]
    np.testing.assert_allclose(rank_auroc(table), expected)
    assert rank_auroc(np.ones((4, 4))).tolist() == [0.5] * 4
    assert rank_auroc(np.eye(4)).tolist() == [1.0] * 4 and rank_auroc(-np.eye(4)).tolist() == [0.0] * 4


def test_estimates_find_planted_agreement():
    own = lists(2)
    near = [(*words[:3], *other[3:]) for words, other in zip(own, lists(3), strict=True)]
    table = overlap_table(own, near)
    found = overlap_estimate(table)
    diagonal, dealt = own_and_dealt(table)
    assert found.value == pytest.approx(np.diag(table).mean()) == pytest.approx(diagonal.mean())
    assert found.extra["dealt"] == pytest.approx(table[~np.eye(30, dtype=bool)].mean()) == pytest.approx(dealt)
    assert found.low > found.extra["dealt"] and found.p < 1e-3
    assert (found.null, found.unit, found.n) == ("other features' words (dealt)", "features", 30)
    ranks = rank_estimate(table, statistic="how often")
    assert ranks.value == pytest.approx(rank_auroc(table).mean()) and ranks.p < 1e-3
    assert ranks.extra["dealt"] == pytest.approx((0.5 * 30 - ranks.value) / 29), "places of a row average one half"


def test_where_nothing_agrees_p_is_no_smaller_than_it_should_be():
    small = 0
    for seed in range(60):
        table = overlap_table(lists(seed, 12), lists(1000 + seed, 12))
        small += overlap_estimate(table, rng=np.random.default_rng(seed)).p < 0.05
    assert small <= 8  # 3 expected; 9 or more four times in a thousand


def test_equal_calls_say_the_same_and_topics_widen_the_interval():
    table = overlap_table(lists(4), lists(4))
    assert overlap_estimate(table) == overlap_estimate(table)
    table = table + np.repeat(np.arange(6), 5)[:, None] * np.eye(30)
    apart, together = overlap_estimate(table), overlap_estimate(table, np.repeat(np.arange(6), 5))
    assert together.high - together.low > apart.high - apart.low and together.unit == "topics"


def test_an_estimate_leaves_out_what_could_not_be_known():
    found = estimate(np.array([0.9, np.nan, 0.8, 0.7]), 0.5, statistic="mean AUROC")
    assert (found.value, found.n, found.extra["dealt"]) == (pytest.approx(0.8), 3, 0.5)
    with pytest.raises(Refusal, match="no spread"):
        estimate(np.array([np.nan, 0.3]), 0.5, statistic="mean AUROC")


@pytest.mark.parametrize("table", [np.ones((2, 3)), np.ones(4), np.ones((1, 1)), np.full((3, 3), np.nan)])
def test_tables_without_own_entries_are_refused(table):
    with pytest.raises(Refusal):
        rank_auroc(table)
    with pytest.raises(Refusal):
        own_and_dealt(table)
    with pytest.raises(Refusal):
        overlap_estimate(table)
