"""Evidence and fallback phrases: what is read off a card, what carries over between pairs, what is said of nothing."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal
from dragoman.score import Fallbacks, evidence, percentiles, sample_agreement


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


CARD = {"coverage": 0.4, "norm": 2.0, "n_eff": 100.0, "margin": None, "nearest": "5258", "status": "ok", "known": True}


def test_evidence_takes_the_numbers_of_a_card_and_none_of_its_words():
    found = evidence(CARD, problems=("empty", "repeats itself"), tokens=90, reconstruction=0.3)
    assert found == {
        "coverage": 0.4,
        "norm": pytest.approx(np.log(2)),
        "n_eff": pytest.approx(np.log(100)),
        "margin": None,
        "known": 1.0,
        "sample_agreement": None,
        "problems": 2.0,
        "tokens": pytest.approx(np.log(90)),
        "reconstruction": 0.3,
    }


def test_evidence_without_a_card_is_what_the_text_shows():
    assert set(evidence(None)) == {"sample_agreement", "problems", "tokens"}
    assert evidence({"margin": float("nan"), "norm": 0.0}) == {
        "margin": None,
        "norm": pytest.approx(np.log(1e-6)),
        "sample_agreement": None,
        "problems": 0.0,
        "tokens": None,
    }


def test_sample_agreement_is_the_mean_cosine_over_pairs():
    rows = unit(np.random.default_rng(0).normal(size=(4, 9)))
    loop = np.mean([rows[i] @ rows[j] for i in range(4) for j in range(4) if i != j])
    assert sample_agreement(rows) == pytest.approx(loop)
    assert sample_agreement(rows[:1]) is None
    assert sample_agreement(np.tile(rows[0], (3, 1))) == pytest.approx(1)


def test_places_among_a_dictionary_carry_over_what_scales_do_not():
    draw = np.random.default_rng(1)
    here = [{"coverage": v} for v in draw.uniform(size=200).tolist()]
    there = [{"coverage": 0.1 * row["coverage"] ** 3} for row in here]  # another pair, another scale, the same order
    assert percentiles(here, here) == percentiles(there, there)
    assert np.mean([row["coverage"] for row in percentiles(here, here)]) == pytest.approx(0.5)


def test_places_of_ties_are_in_the_middle_and_missing_numbers_stay_missing():
    reference = [{"a": 1.0, "b": None}, {"a": 1.0}, {"a": 2.0}]
    found = percentiles([{"a": 1.0, "b": 5.0}, {"a": None, "c": 1.0}, {"a": 9.0}], reference)
    assert found == [{"a": pytest.approx(1 / 3), "b": None}, {"a": None, "c": None}, {"a": 1.0}]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(-5, 5), st.floats(-5, 5))
def test_places_are_shares_in_the_numbers_order(reference, a, b):
    low, high = sorted((a, b))
    found = percentiles([{"x": low}, {"x": high}], [{"x": v} for v in reference])
    assert 0 <= found[0]["x"] <= found[1]["x"] <= 1


def test_evidence_refuses_infinite_numbers_and_places_among_nothing():
    with pytest.raises(Refusal, match="evidence 'margin': it is infinite"):
        evidence({"margin": float("inf")})
    with pytest.raises(Refusal, match="percentiles of 1 rows among 0"):
        percentiles([{"a": 1.0}], [])


# Fallback phrases

TOPICS = ["whales", "tractors", "contracts", "opera", "glaciers", "bread", "chess", "harbours"]


def ordinary(n, seed=0):
    draw = np.random.default_rng(seed)
    return [f'A passage about {draw.choice(TOPICS)}. Final token "{draw.choice(TOPICS)}".' for _ in range(n)]


def nothing(n, seed=1, share=0.5):
    draw = np.random.default_rng(seed)
    texts = ordinary(n, seed)
    return [f'{text} Final token "e.g." goes on.' if draw.random() < share else text for text in texts]


def test_a_planted_fallback_phrase_is_found_and_the_template_is_not():
    found = Fallbacks.of(nothing(100), ordinary(100))
    assert "final token e g goes on" in found.phrases
    assert not any("passage about" in phrase for phrase in found.phrases)
    assert found.rates[0] == pytest.approx(0.5, abs=0.12) and found.base_rates[0] == 0
    assert found.said('FINAL token "e.g." goes on, and so forth') == found.phrases
    assert found.said("Final token; goes on") == ()


def test_texts_of_one_kind_have_no_fallback_phrases():
    flagged = [len(Fallbacks.of(ordinary(80, seed), ordinary(80, seed + 50)).phrases) for seed in range(20)]
    assert sum(count > 0 for count in flagged) <= 3


def test_a_habit_that_ordinary_texts_share_is_no_fallback():
    assert Fallbacks.of(nothing(100, share=0.3), nothing(100, seed=9, share=0.3)).phrases == ()


def test_fallbacks_survive_json():
    found = Fallbacks.of(nothing(60), ordinary(60))
    assert Fallbacks.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Fallbacks.of(["one"] * 20, ["one"] * 20).phrases == ()


def test_fallbacks_refuse_too_few_texts():
    with pytest.raises(Refusal, match="19 texts for nothing and 30 ordinary ones"):
        Fallbacks.of(["a"] * 19, ["b"] * 30)
