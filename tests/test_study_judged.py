"""What a study's texts are worth, on runs whose texts are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import rate_interval, wilson_interval
from studies.judged import Heard, accuracy, both, grounds_in, mean, own, paired, plain, rate
from studies.reading import Reading
from study_worlds import latent, row, run_of

LATENTS = [
    latent("1", "birds", selectivity=0.5),
    latent("2", "birds", selectivity=0.4),
    latent("3", "boats", selectivity=0.2),
    latent("4", "boats", selectivity=0.15),
    latent("5", "bread", selectivity=0.07),
]
OF_AUTO = ["An owl calls.", "The harbour wall.", "Boats and birds.", "", "Dough in the oven."]
ROWS = [
    *(row(one.id, "auto", text) for one, text in zip(LATENTS, OF_AUTO, strict=True)),
    row("1", "auto", "Bread, said of something else.", 1),
    *(row(i, "map", text) for i, text in (("5", "An owl."), ("1", "Two owls."), ("3", "A harbour."))),
    row("background", "alone", "Boats, always boats.", kind="custom"),
]


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(run=run_of(tmp_path / "run", LATENTS, ROWS), reading=None)


def test_first_samples_are_what_was_said_in_the_order_it_was_said(heard: Heard) -> None:
    assert list(heard.said) == ["auto", "map", "alone"]
    auto = heard.said["auto"]
    assert auto.features == ("1", "2", "3", "4", "5") and auto.texts == (*OF_AUTO[:3], "(empty)", OF_AUTO[4])
    assert auto.rows.tolist() == [0, 1, 2, 3, 4] and heard.said["map"].rows.tolist() == [6, 7, 8]
    assert auto.told["kind"] == "carried" and heard.latents == {one.id: one for one in LATENTS}


def test_a_text_is_right_where_it_names_its_features_category(heard: Heard) -> None:
    auto = heard.said["auto"]
    assert heard.right(auto).tolist() == [True, False, True, False, True]
    assert heard.table(auto)[2].tolist() == [1, 1, 1, 1, 0]  # "Boats and birds"
    assert heard.right(heard.said["map"]).tolist() == [False, True, True]
    assert heard.categories(heard.said["map"]) == ["bread", "birds", "boats"]


def test_a_text_of_a_feature_without_a_category_names_nothing(heard: Heard) -> None:
    assert heard.right(heard.said["alone"]).tolist() == [False]


def test_accuracy_stands_beside_the_same_texts_dealt_to_other_categories(heard: Heard) -> None:
    found = accuracy(heard, heard.said["auto"])
    assert found["accuracy"]["value"] == 0.6 and found["accuracy"]["n"] == 5
    # of the 16 pairs of a text and a feature of another category four are named: the second's text names both boats,
    # the third's both birds
    assert found["dealt"] == 4 / 16
    assert {level: r["value"] for level, r in found["by_level"].items()} == {"middling": 0.5, "sharp": 0.5}
    assert "of_all" not in found


def test_features_without_a_text_count_as_wrong(heard: Heard) -> None:
    found = accuracy(heard, heard.said["map"], of=10)
    assert found["of_all"] == 0.2 and found["accuracy"]["value"] == pytest.approx(2 / 3)


def test_texts_of_one_category_have_no_others_to_be_dealt_to(tmp_path: Path) -> None:
    rows = [row("1", "auto", "An owl."), row("2", "auto", "A wren.")]
    one = Heard(run=run_of(tmp_path / "run", LATENTS, rows), reading=None)
    found = accuracy(one, one.said["auto"])
    assert found["dealt"] is None and found["accuracy"]["value"] == 0.5


def test_a_rates_interval_is_wilsons_over_categories_where_features_share_them() -> None:
    values = np.array([1, 1, 1, 0, 0, 0, 1, 1])
    assert rate(values)["low"] == pytest.approx(wilson_interval(5, 8)[0])
    together = ["a", "a", "a", "b", "b", "b", "c", "c"]
    low, high = rate_interval(values, together)
    assert rate(values, together) == {"value": 0.625, "low": low, "high": high, "n": 8}
    assert high - low > rate(values)["high"] - rate(values)["low"]
    assert rate(values, list("abcdefgh")) == rate(values) == rate(values, ["a"] * 8)


def test_a_condition_paired_with_itself_differs_by_nothing(heard: Heard) -> None:
    auto = heard.said["auto"]
    left, right, categories = both(heard, auto, auto)
    assert categories == heard.categories(auto)
    assert paired(left, right, categories) == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "n": 5, "clusters": 3}


def test_two_conditions_are_compared_on_the_features_they_share(heard: Heard) -> None:
    left, right, categories = both(heard, heard.said["auto"], heard.said["map"])
    assert categories == ["birds", "boats", "bread"]
    assert left.tolist() == [True, True, True] and right.tolist() == [True, True, False]
    found = paired(left, right, categories)
    assert found["value"] == pytest.approx(-1 / 3) and found["low"] < found["value"] < found["high"]
    turned = paired(right, left, categories)
    assert [turned[k] for k in ("value", "low", "high")] == pytest.approx([-found[k] for k in ("value", "high", "low")])
    assert turned["p"] == pytest.approx(found["p"])


def test_a_mean_has_its_interval_over_categories() -> None:
    values, clusters = np.array([1.0, 1.0, 3.0, 3.0]), ["a", "a", "b", "b"]
    found = mean(values, clusters)
    assert (found["value"], found["n"], found["clusters"]) == (2.0, 4, 2)
    # two categories of equal size, means 1 and 3: Student's interval with one degree of freedom
    assert (found["low"], found["high"]) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


def test_embeddings_are_those_of_a_conditions_first_samples(heard: Heard) -> None:
    with pytest.raises(Refusal, match="have not been read by the sentence model"):
        heard.embedded(heard.said["map"])
    texts = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    read = Heard(run=heard.run, reading=Reading(texts=texts, rebuilt={}))
    assert_array_equal(read.embedded(read.said["map"]), texts[6:9])


def test_small_things_are_what_they_say(tmp_path: Path) -> None:
    table = np.arange(9.0).reshape(3, 3)
    assert_allclose(own(table), [0.0, 4.0, 8.0])
    told = Estimate(
        value=1.0, low=0.0, high=2.0, p=0.5, n=3, statistic="s", null="nothing", unit="features", method="m",
        extra={"more": 1.0},
    )  # fmt: skip
    assert plain(told) == {
        "value": 1.0, "low": 0.0, "high": 2.0, "p": 0.5, "n": 3, "null": "nothing", "unit": "features",
        "extra": {"more": 1.0},
    }  # fmt: skip
    for name in ("gemma-to-smollm2", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "smollm2-to-gemma").mkdir()
    assert grounds_in(tmp_path) == ["gemma-to-smollm2"]
