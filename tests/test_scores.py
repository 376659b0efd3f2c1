"""What scores.json holds: what is read is what was written, nothing else is read, and estimates name their nulls."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from dragoman.core import Estimate, Refusal
from dragoman.records import ConditionEntry
from dragoman.scores import FORMAT, BareRate, DetectionRate, NamingRate, PairedDifference, Scores

ESTIMATE = Estimate(
    value=0.25,
    low=0.2,
    high=0.3,
    p=0.001,
    n=45,
    statistic="mean lift",
    null="explanations dealt to features at random",
    unit="features",
    method="t interval",
    extra={"hits": 40, "sd": 0.1},
)
TOLD = {
    "format": FORMAT,
    "embedder": "words",
    "seed": 0,
    "rule": None,
    "table": [
        {"condition": "native", "route": "identity", "washout": None, "verbalizer": "v"},
        {"condition": "auto", "lift": asdict(ESTIMATE), "category": {"value": 0.5, "n": 4, "random": None}},
        {"condition": "washed", "category": asdict(ESTIMATE) | {"random": 0.02}},
    ],
    "paired": [{"what": "washed minus plain", **asdict(ESTIMATE)}],
    "per_feature": {"auto": [{"feature": "7", "lift": 0.1}, {"feature": "9", "names_category": True}]},
    "nulls": {"auto": {"other features": dict.fromkeys(("lift", "centred", "top1", "mrr"), asdict(ESTIMATE))}},
    "detection": {
        "embedder": "words",
        "table": [{"condition": "auto", "features": 60, **asdict(ESTIMATE)}],
        "per_feature": {},
    },
}


def test_scores_read_are_the_scores_written_number_for_number():
    scores = Scores.read(json.dumps(TOLD), "scores.json")
    assert json.dumps(scores.to_json(), sort_keys=True) == json.dumps(TOLD, sort_keys=True)


def test_an_estimate_in_the_scores_names_its_null():
    scores = Scores.read(json.dumps(TOLD), "scores.json")
    assert scores.lift == {"auto": ESTIMATE}
    assert scores.lift["auto"].null == "explanations dealt to features at random"
    assert isinstance(scores.category["auto"], BareRate) and scores.category["auto"].random is None
    assert isinstance(scores.category["washed"], NamingRate) and scores.category["washed"].random == 0.02
    assert isinstance(scores.paired[0], PairedDifference) and scores.paired[0].what == "washed minus plain"
    assert scores.detection is not None and isinstance(scores.detection.table[0], DetectionRate)
    assert (scores.detection.table[0].features, scores.detection.table[0].n) == (60, 45)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 1}, "format: input should be 2"),
        ({"table": [{"condition": "auto", "lift": {"value": 1.0}}]}, r"table.0.lift.low: field required"),
        ({"told": 1}, "told: extra inputs are not permitted"),
        ({"seed": "0"}, "seed: input should be a valid integer"),
    ],
)
def test_scores_of_another_shape_are_refused_by_the_file_and_the_field(change, why):
    with pytest.raises(Refusal, match=f"run/scores.json: {why}.*; score the run again"):
        Scores.read(json.dumps(TOLD | change), "run/scores.json")


def test_scores_without_a_format_are_refused():
    with pytest.raises(Refusal, match="format: field required; score the run again"):
        Scores.read("{}", "run/scores.json")


def entry(**told):
    return ConditionEntry(**{"route": "map", "washout": "none", "verbalizer": "v"} | told)


def test_a_condition_has_the_role_that_its_null_or_its_name_gives():
    assert entry(name="native").role == "native"
    assert entry(name="washed").role == "claim"
    assert [entry(name="a", null=n).null for n in ("unused", "background alone")] == ["unused rows", "background alone"]
    assert entry(name="unused", null="unused rows").is_null
    assert not entry(name="random_looking").is_null


@pytest.mark.parametrize("told", [{"role": "null"}, {"role": "claim", "null": "unused rows"}, {"null": "no such null"}])
def test_a_null_names_which_one_it_is_and_nothing_else_does(told):
    told = json.dumps({"name": "a", "route": "map", "washout": "none", "verbalizer": "v"} | told)
    with pytest.raises(Refusal, match="manifest.json: "):
        ConditionEntry.read(told, "manifest.json")
