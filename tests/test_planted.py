import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dragoman.core import Refusal
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.planted import accuracy_estimate, names_category
from studies.topics import nameable, named_estimate, naming_table, token_table, topic_estimates


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


def topical(n=24, right=18, seed=0):
    draw = np.random.default_rng(seed)
    topics = [list(WORDS)[k % 4] for k in range(n)]
    texts = [
        f"A text about {topics[k]}." if k < right else f"A text about {draw.choice(list(WORDS))}." for k in range(n)
    ]
    return texts, topics


def test_topic_rate_stands_beside_other_topics_features():
    texts, topics = topical(right=24)
    found = topic_estimates(texts, topics, WORDS, rng=np.random.default_rng(0))["all"]
    assert (found.value, found.extra["others"]) == (1, 0)
    assert found.p < 0.001 and (found.n, found.unit) == (4, "topics")


def test_a_text_that_lists_every_topic_names_all_and_proves_nothing():
    _, topics = topical()
    found = topic_estimates(["bees, tractors, whales, snakes"] * 24, topics, WORDS, rng=np.random.default_rng(0))["all"]
    assert (found.value, found.extra["others"], found.p) == (1, 1, 1)


def test_held_out_topics_are_scored_apart_from_seen_ones():
    texts, topics = topical(right=24)
    held_out = [topic in ("whales", "snakes") for topic in topics]
    texts = ["A text about water." if away else text for text, away in zip(texts, held_out, strict=True)]
    found = topic_estimates(texts, topics, WORDS, held_out=held_out, rng=np.random.default_rng(0), permutations=199)
    assert (found["seen"].value, found["held out"].value, found["all"].value) == (1, 0, 0.5)
    assert found["seen"].n == found["held out"].n == 2


def test_a_part_with_too_little_to_compare_is_left_out():
    texts, topics = topical(n=8, right=8)
    found = topic_estimates(texts, topics, WORDS, held_out=[True] * 8, rng=np.random.default_rng(0), permutations=99)
    assert set(found) == {"all", "held out"}


def test_tokens_count_by_how_few_features_have_them():
    tokens = [["Ġthe", "▁bee", "hive"], ["the", "tractor"], ["the", "whale", "hive"]]
    table = token_table(["The bee hive", "the the", "A TRACTOR and a hive"], tokens)
    bee, hive = np.log(3), np.log(3 / 2)
    assert table[0] == pytest.approx([1, 0, hive / (bee + hive)])
    assert table[1] == pytest.approx([0, 0, 0])  # what all features have counts nothing
    assert table[2] == pytest.approx([hive / (bee + hive), 1, hive / (bee + hive)])


def test_features_whose_tokens_are_no_words_are_told_apart_from_the_rest():
    tokens = [["$", "$12"], ["the", "bee"], ["the"], ["the", "tractor"], ["the", "whale"]]
    assert nameable(tokens) == [1, 2, 3, 4]  # "the" still says something here: the first has none
    assert nameable(tokens[1:]) == [0, 2, 3]
    kept = [tokens[1:][j] for j in nameable(tokens[1:])]
    assert token_table(["a bee"], kept).tolist() == [[1, 0, 0]]


def test_token_agreement_of_texts_with_their_own_tokens_is_no_accident():
    draw = np.random.default_rng(1)
    vocabulary = ["".join(draw.choice(list("abcdefghij"), size=6)) for _ in range(200)]
    tokens = [list(draw.choice(vocabulary, size=8, replace=False)) for _ in range(20)]
    texts = [" ".join([*one[:4], *draw.choice(vocabulary, size=4)]) for one in tokens]
    found = named_estimate(token_table(texts, tokens), what="top-token agreement", rng=draw, permutations=999)
    assert found.value > 0.4 > 0.15 > found.extra["others"]
    assert found.p < 0.01 and found.statistic == "top-token agreement"


def test_planted_contexts_refuse_what_names_nothing():
    with pytest.raises(Refusal, match=r"top tokens of feature 1: '1', 'the': none is a word that other features lack"):
        token_table(["text"], [["the", "bee"], ["1", "the"]])
    with pytest.raises(Refusal, match="topic 'cats': no words name it"):
        topic_estimates(["a"], ["cats"], WORDS, rng=np.random.default_rng(0))
    with pytest.raises(Refusal, match="2 texts with 1 topics"):
        topic_estimates(["a", "b"], ["bees"], WORDS, rng=np.random.default_rng(0))
