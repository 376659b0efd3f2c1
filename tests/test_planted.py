import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dragoman.core import Refusal
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.planted import accuracy_estimate, names_category
from studies.judged import naming_table


@pytest.mark.parametrize(
    ("text", "words", "named"),
    [
        ("Text about art.", ["art"], True),
        ("ART and its history", ["art"], True),
        ("the arts", ["art"], True),
        ("an art", ["arts"], True),
        ("a fresh start", ["art"], False),
        ("an artist", ["art"], False),
        ("two galaxies", ["galaxy"], True),
        ("a galaxy", ["galaxies"], True),
        ("the churches", ["church"], True),
        ("a photo of photos", ["photos"], True),
        ("planes", ["plan"], False),
        ("something new", ["news"], False),
        ("the news", ["news"], True),
        ("a glass", ["glasses"], True),
        ("a gla", ["glass"], False),
        ("constitutional rights (law)", ["constitutional right"], True),
        ("constitutional\nright", ["constitutional rights"], True),
        ("machine-learning", ["machine learning"], True),
        ("machines learning", ["machine learning"], False),
        ("learning", ["machine learning"], False),
        ("C++ code", ["c++"], True),
        ("cxx code", ["c++"], False),
        ("art's purpose", ["art"], True),
        ("fine_art", ["art"], False),
        ("", ["art"], False),
    ],
)
def test_naming_rule(text, words, named):
    assert names_category(text, words) is named


@given(st.text(alphabet="abcdefghij", min_size=4, max_size=8), st.text(alphabet="klmno", min_size=1, max_size=3))
def test_a_word_is_named_alone_and_never_inside_a_longer_one(word, rest):
    assert names_category(f"about {word.upper()}.", [word])
    assert not names_category(f"about {word}{rest} and {rest}{word}.", [word])


def test_accuracy_carries_wilsons_interval_and_the_rate_on_random_directions():
    named, random_named = [True] * 33 + [False] * 67, [True] * 2 + [False] * 98
    found = accuracy_estimate(named, random_named)
    assert found.value == 0.33
    assert (found.low, found.high) == wilson_interval(33, 100)
    assert found.extra["random_rate"] == 0.02
    assert (found.extra["random_low"], found.extra["random_high"]) == wilson_interval(2, 100)
    assert found.p == pytest.approx(stats.fisher_exact([[33, 67], [2, 98]])[1])
    assert (found.n, found.unit) == (100, "features")
    assert all((found.statistic, found.null, found.method))


def test_accuracy_takes_numpy_booleans():
    found = accuracy_estimate(list(np.array([True, False])), list(np.array([False, False])))
    assert found.value == 0.5


def test_planted_truth_refuses_categories_without_words_and_rates_without_controls():
    with pytest.raises(Refusal, match="a category without words"):
        names_category("text", [" "])
    with pytest.raises(Refusal, match="nothing to be compared with"):
        accuracy_estimate([True], [])


# Topics of the firing contexts, held-out topics, top tokens

WORDS = {"bees": ["beekeeping", "bee"], "tractors": ["tractor"], "whales": ["whale"], "snakes": ["snake"]}


def test_naming_table_says_which_text_names_which_features_topic():
    table = naming_table(["Bees and whales.", "A tractor"], [WORDS["bees"], WORDS["tractors"], WORDS["whales"]])
    assert table.tolist() == [[1, 0, 1], [0, 1, 0]]
