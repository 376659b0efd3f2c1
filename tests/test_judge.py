"""A run judged: every null by name, two embedders, one family of p, power, detection; on texts that were planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Refusal
from dragoman.embed import LexicalEmbedder
from dragoman.scores import Scores
from dragoman.scoring import JudgedRun, judge_run, run_evidence
from dragoman.scoring.by_windows import embedded_contexts
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.stats.lift import lift_per_feature, similarity
from dragoman.stats.nulls import against_each, holm
from dragoman.stats.power import plan, power_of
from dragoman.stats.roc import detection_estimate, detection_table
from dragoman.store import RunFolder
from judging import judged, whole
from word_hash import HashEmbedder

TOPICS = ("bees", "chess", "rain", "wine", "trains", "opera", "glaciers", "bread", "whales", "law")
FILLER = ("opens", "with", "definition", "turns", "how", "people", "meet", "every", "day", "towns", "by", "sea", "it")


def words_of(topic: str, rng: np.random.Generator, right: bool = True) -> str:
    said = topic if right else str(rng.choice(TOPICS))
    return f"A passage about {said} and {said}, {said}, {said}; " + " ".join(rng.choice(FILLER, 6))


def built(path: Path, *, contexts: bool = True, **more: Any) -> RunFolder:
    """Ten features: washed texts name all topics, plain ones half of them, random directions and background none."""
    rng = np.random.default_rng(3)
    conditions = [
        {"name": "native", "washout": "on-shell", "verbalizer": "own"},
        {"name": "plain", "washout": "none", "route": "map", "verbalizer": "av"},
        {"name": "washed", "washout": "on-shell", "route": "map", "verbalizer": "av"},
        {"name": "random_plain", "washout": "none", "route": "map", "verbalizer": "av", "null": "random directions"},
        {"name": "random_washed", "washout": "on-shell", "route": "map", "verbalizer": "av", "null": "random"},
        {"name": "unused", "washout": "on-shell", "route": "post", "verbalizer": "other", "null": "unused rows"},
        {"name": "nothing", "washout": "none", "verbalizer": "av", "null": "background alone"},
    ]
    features = [str(k) for k in range(len(TOPICS))]
    manifest = {"plan_digest": "x", "conditions": conditions, "features": features, **more}
    run = RunFolder.create(path, manifest)

    def add(condition: str, names: list[str], texts: list[str]) -> None:
        for feature, text in zip(names, texts, strict=True):
            run.append([whole({"feature": feature, "condition": condition, "sample": 0, "text": text})])

    add("native", features, [words_of(t, rng) for t in TOPICS])
    add("plain", features, [words_of(t, rng, k % 2 == 0) for k, t in enumerate(TOPICS)])
    add("washed", features, [words_of(t, rng) for t in TOPICS])
    for name in ("random_plain", "random_washed", "unused"):
        add(name, [f"{name}-{k}" for k in range(7)], [" ".join(rng.choice(FILLER, 12)) for _ in range(7)])
    add("nothing", ["background"], ["it turns to how people meet it"])
    if contexts:
        run.write_contexts({
            f: {
                "firing": [f"{' '.join(rng.choice(FILLER, 3))} {topic} {topic} {k}" for k in range(5)],
                "silent": [f"{' '.join(rng.choice(FILLER, 5))} {k}" for k in range(5)],
            }
            for f, topic in list(zip(features, TOPICS, strict=True))[:-1]
        })  # fmt: skip
    return run


LEXICAL = LexicalEmbedder([words_of(t, np.random.default_rng(1)) for t in TOPICS])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return built(tmp_path_factory.mktemp("judge") / "run")


@pytest.fixture(scope="module")
def scores(run: RunFolder) -> dict[str, Any]:
    return judged(run, HashEmbedder(), seed=0, also=[LEXICAL])


def texts(run: RunFolder, condition: str) -> list[str]:
    return [r["text"] for r in run.rows() if r["condition"] == condition]


def test_each_condition_stands_against_the_nulls_that_were_washed_and_said_as_it_was(scores: dict[str, Any]) -> None:
    found = {c: set(by) for c, by in scores["nulls"].items()}
    assert found == {
        "plain": {"other features", "random directions", "background alone"},
        "washed": {"other features", "random directions", "background alone"},
    }
    assert all(set(one) == {"lift", "centred", "top1", "mrr"} for by in scores["nulls"].values() for one in by.values())


def test_a_null_is_what_the_judging_code_makes_of_its_own_texts(run: RunFolder, scores: dict[str, Any]) -> None:
    embed = HashEmbedder().encode
    native = embed(texts(run, "native"))
    s = similarity(embed(texts(run, "washed")), native)
    r = similarity(embed(texts(run, "random_washed")), native)
    by_hand = against_each(s, {"random directions": r}, rng=np.random.default_rng(0))["random directions"]
    told = scores["nulls"]["washed"]["random directions"]
    assert told["lift"]["value"] == pytest.approx(by_hand.lift.value)
    assert told["lift"]["extra"]["null_texts"] == 7 and told["lift"]["null"] == "random directions"
    assert told["top1"]["value"] == 1.0 and told["lift"]["p"] < 0.01


def test_of_several_nulls_those_by_the_conditions_own_route_are_taken(tmp_path: Path) -> None:
    conditions = [
        {"name": "native", "route": "identity"},
        {"name": "post", "route": "post"}, {"name": "direct", "route": "direct"},
        {"name": "a", "route": "post", "null": "random"}, {"name": "b", "route": "map", "null": "random"},
    ]  # fmt: skip
    run = RunFolder.create(
        tmp_path / "run", {"plan_digest": "x", "conditions": conditions, "features": ["1", "2", "3"]}
    )
    for c in conditions:
        n = {"a": 3, "b": 4}.get(c["name"], 3)
        ids = [f"{c['name']}-{k}" if c["name"] in "ab" else str(k + 1) for k in range(n)]
        run.append(
            [
                whole({"feature": i, "condition": c["name"], "sample": 0, "text": f"word{k} said"})
                for k, i in enumerate(ids)
            ]
        )
    found = judged(run, HashEmbedder(), seed=0)["nulls"]
    counted = {c: by["random directions"]["lift"]["extra"]["null_texts"] for c, by in found.items()}
    assert counted == {"post": 3, "direct": 7}


def test_an_unknown_null_is_refused(tmp_path: Path) -> None:
    conditions = [{"name": "native"}, {"name": "x", "null": "weather"}]
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "x", "conditions": conditions, "features": ["1"]})
    with pytest.raises(Refusal, match="null: input should be 'random directions', 'shuffled map', 'unused rows' or"):
        judged(run, HashEmbedder(), seed=0)


def test_a_row_that_a_run_folder_cannot_hold_is_refused_by_its_number(tmp_path: Path) -> None:
    run = built(tmp_path / "run")
    run.append([{"feature": "1", "condition": "plain", "sample": "0", "text": "x"}])
    with pytest.raises(Refusal, match=f"row {len(run.rows())}: "):
        judged(run, HashEmbedder(), seed=0)


def test_a_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = built(tmp_path / "run"), list[int]()
    rows = run.rows()
    monkeypatch.setattr(run, "each_row", lambda: read.append(1) or iter(rows))
    once = JudgedRun.of(run)
    judge_run(once, HashEmbedder(), seed=0)
    run_evidence(once, HashEmbedder())
    assert read == [1]


def test_a_null_is_one_by_what_the_manifest_marks_and_not_by_its_name(tmp_path: Path) -> None:
    run = JudgedRun.of(built(tmp_path / "run"))
    assert run.claims == ["plain", "washed"]
    assert {name: entry.null for name, entry in run.entries.items() if entry.is_null} == {
        "random_plain": "random directions",
        "random_washed": "random directions",
        "unused": "unused rows",
        "nothing": "background alone",
    }
    assert [run.control_of(c) for c in ("plain", "washed", "nothing")] == [
        "random_plain",
        "random_washed",
        "random_plain",
    ]


def test_two_embedders_agree_where_the_words_are_there(run: RunFolder, scores: dict[str, Any]) -> None:
    found = scores["embedders"]
    assert found["names"] == ["word-hash-256", LEXICAL.name]
    s = similarity(LEXICAL.encode(texts(run, "washed")), LEXICAL.encode(texts(run, "native")))
    one = found["lifts"][LEXICAL.name]["washed"]
    assert one["lift"]["value"] == pytest.approx(lift_per_feature(s).mean())
    assert one["centred"]["value"] == pytest.approx(one["lift"]["value"]) and one["centred"]["low"] > 0
    assert found["agree"] == {"plain": True, "washed": True}
    assert found["summary"] == "the embedders agree in sign on plain, washed"


def test_embedders_that_disagree_are_told_with_their_lifts(run: RunFolder) -> None:
    class Contrary(HashEmbedder):
        """Hears in every text the topic after the one it names, but in natives."""

        @property
        def name(self) -> str:
            return "contrary"

        def encode(self, texts):
            rows = super().encode(texts)
            return np.stack([row if text in natives else -row for row, text in zip(rows, texts, strict=True)])

    natives = set(texts(run, "native"))
    found = judged(run, HashEmbedder(), seed=0, also=[Contrary()])["embedders"]
    assert found["agree"] == {"plain": False, "washed": False}
    assert found["summary"].startswith("the embedders disagree in sign on plain (word-hash-256 +0.")
    assert "contrary -0." in found["summary"]


def test_all_claims_are_one_family_and_nulls_are_no_claims(scores: dict[str, Any]) -> None:
    tests = scores["adjusted"]["tests"]
    assert {(t["condition"], t["embedder"]) for t in tests} == {
        (c, e) for c in ("plain", "washed") for e in ("word-hash-256", LEXICAL.name)
    }
    assert [t["adjusted"] for t in tests] == pytest.approx(holm(np.array([t["p"] for t in tests])))
    assert all(t["holds"] == (t["adjusted"] <= 0.05) for t in tests) and scores["adjusted"]["method"] == "holm"


def test_power_says_how_many_features_the_difference_needs(scores: dict[str, Any]) -> None:
    lift = {c: {r["feature"]: r["lift"] for r in scores["per_feature"][c]} for c in ("plain", "washed")}
    gap = np.array([lift["washed"][f] - lift["plain"][f] for f in lift["plain"]])
    (told,) = scores["power"]
    assert told["what"] == "washed minus plain" and told["n"] == plan(gap).n and told["observed"] == 10
    assert power_of(10, told["detectable"] / told["sd"]) == pytest.approx(0.8, abs=1e-6)


def test_detection_is_over_the_features_that_have_contexts(run: RunFolder, scores: dict[str, Any]) -> None:
    contexts = embedded_contexts(run.contexts or {}, HashEmbedder())
    own = [contexts[str(k)] for k in range(9)]
    table = detection_table(HashEmbedder().encode(texts(run, "washed")[:9]), own)
    by_hand = detection_estimate(table, rng=np.random.default_rng(0))
    found = scores["detection"]
    told = {row["condition"]: row for row in found["table"]}
    assert told["washed"]["value"] == pytest.approx(by_hand.value) and told["washed"]["features"] == 9
    assert told["washed"]["value"] > 0.9 > told["random_washed"]["value"] and told["washed"]["p"] < 0.01
    assert [row["auroc"] for row in found["per_feature"]["washed"]] == pytest.approx(np.diag(table))
    assert "random_washed" not in found["per_feature"] and found["embedder"] == "word-hash-256"


def test_contexts_alone_are_enough_to_judge_by(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole")
    manifest = {k: v for k, v in whole.manifest.items() if k != "conditions"}
    bare = RunFolder.create(tmp_path / "bare", {**manifest, "conditions": [{"name": "washed"}]})
    bare.append([r for r in whole.rows() if r["condition"] == "washed"])
    with pytest.raises(Refusal, match="nothing to judge by"):
        judged(bare, HashEmbedder(), seed=0)
    bare.write_contexts(whole.contexts or {})
    scores = judged(bare, HashEmbedder(), seed=0)
    assert [row["condition"] for row in scores["detection"]["table"]] == ["washed"]
    assert not {"nulls", "embedders", "adjusted", "power"} & set(scores)


def test_the_same_seed_gives_the_same_scores_and_they_can_be_kept(run: RunFolder, scores: dict[str, Any]) -> None:
    assert judged(run, HashEmbedder(), seed=0, also=[LEXICAL]) == scores
    run.write_scores(scores)
    assert Scores.read(json.dumps(run.scores), "scores.json").to_json() == scores


def test_every_text_is_embedded_once() -> None:
    class Counted(HashEmbedder):
        asked: list[str] = []

        def encode(self, texts):
            self.asked.extend(texts)
            return super().encode(texts)

    one = CachedEmbedder(Counted())
    first = one.encode(["a b", "c", "a b"])
    np.testing.assert_array_equal(first, HashEmbedder().encode(["a b", "c", "a b"]))
    np.testing.assert_array_equal(one.encode(["c"]), first[1:2])
    assert Counted.asked == ["a b", "c"] and one.encode([]).shape == (0, 256)
    np.testing.assert_array_equal(one.encode(["", " ,.", "(empty)"]), HashEmbedder().encode(["empty"] * 3))


@pytest.mark.parametrize(
    "told", ["[]", '{"1": []}', '{"1": {"firing": []}}', '{"1": {"firing": ["a"], "silent": [1]}}']
)
def test_contexts_that_are_something_else_are_refused(tmp_path: Path, told: str) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "x", "conditions": []})
    assert run.contexts is None
    run.write_contexts({"1": {"firing": ["where"], "silent": []}})
    assert run.contexts == {"1": {"firing": ["where"], "silent": []}}
    (run.path / "contexts.json").write_text(told.replace("{", '{"plan_digest": "x", ', 1))
    with pytest.raises(Refusal, match=r"contexts.json: it does not hold windows of text by feature; remove it"):
        _ = run.contexts


def test_natives_drawn_twice_are_the_ceiling_and_a_condition_as_good_has_all_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    names = [str(k) for k in range(len(TOPICS))]
    conditions = [{"name": "native", "washout": "none"}, {"name": "washed", "washout": "none", "route": "map"}]
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "x", "conditions": conditions, "features": names})
    for condition in ("native", "washed"):
        for sample in range(3):
            said = [words_of(topic, rng) for topic in TOPICS]
            rows = [
                whole({"feature": f, "condition": condition, "sample": sample, "text": t})
                for f, t in zip(names, said, strict=True)
            ]
            run.append(rows)
    found = judged(run, HashEmbedder(), seed=0)["ceiling"]
    assert found["ceiling"]["low"] > 0.1 and found["ceiling"]["n"] == len(TOPICS)
    assert found["share"]["washed"]["low"] < 1 < found["share"]["washed"]["high"]


def test_natives_said_once_have_no_ceiling(tmp_path: Path) -> None:
    assert "ceiling" not in judged(built(tmp_path / "run"), HashEmbedder(), seed=0)
