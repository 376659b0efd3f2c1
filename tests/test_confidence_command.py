"""`explain` and `score` believe a run by a file of confidences, or say in a line that there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman import tiny
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_confidence
from dragoman.confidence.sets import ConfidenceSet
from dragoman.core import Refusal, Site
from dragoman.explain import explain
from dragoman.models import embedder
from dragoman.score import add_confidence, confidence_set
from dragoman.score.run import second_opinion
from dragoman.store import RunFolder
from small_world import World, command
from word_hash import HashEmbedder

PLACES = ("explain", "score")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    rows: list[Evidence] = [{"kappa": float(v)} for v in draw.normal(0.5, 0.2, size=80)]
    right = np.array([v["kappa"] or 0.0 for v in rows]) + 0.1 * draw.normal(size=80) > 0.5
    path = tmp_path_factory.mktemp("kits") / "kits.json"
    ConfidenceSet.holding({"card": (("kappa",), fit_confidence(rows, right))}).save(path)
    return path


@pytest.fixture(scope="module")
def run(world: World) -> RunFolder:
    return explain(world.request(temperature=1.0, max_new_tokens=12), world.root / "believed")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "SentenceEmbedder", lambda **_: HashEmbedder())


def of_the_pair(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this run's models were those that the packaged confidences were calibrated on."""
    monkeypatch.setattr(tiny, "SOURCE", Site.parse(run.manifest["source"]))
    monkeypatch.setattr(tiny, "TARGET", Site.parse(run.manifest["target"]))


def nothing_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.DATA, "tiny-confidence", "not-there.json")


@pytest.mark.usefixtures("quick")
def test_explain_ends_with_confidences_that_stand_with_the_texts(
    world: World, kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "explain", world.sae, "--features", "0,3,7", "--by", world.av, "--source", str(world.source), "--texts",
        str(world.root / "texts.txt"), "--max-new-tokens", "6", "--confidence", str(kits), "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    said = command(monkeypatch, capsys, *words)
    assert said.code == 0, said.err
    run = RunFolder.open(tmp_path / "run")
    found = (run.scores or {})["confidence"]["per_feature"]["auto"]
    assert [row["feature"] for row in found] == ["0", "3", "7"] and all(0 <= row["probability"] <= 1 for row in found)
    for row in found:
        word = f"confidence {row['probability']:.2f}" if row["answered"] else f"abstains ({row['probability']:.2f})"
        assert word in " ".join(said.out.split())
    again = command(monkeypatch, capsys, *words, "--json")
    told = [json.loads(line) for line in again.out.splitlines()]
    assert [row["confidence"]["probability"] for row in told] == [row["probability"] for row in found]
    assert "confidence" not in run.rows()[0]


@pytest.mark.usefixtures("quick")
def test_what_ships_is_used_where_it_is_there(run: RunFolder, kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_scores({"format": 2, "table": []})
    nothing_ships(monkeypatch)
    said: list[str] = []
    add_confidence(run, None, said.append)
    assert said == ["no confidence: none ships here, and --confidence names no file"] and run.scores == {
        "format": 2,
        "table": [],
    }
    monkeypatch.setattr(tiny, "data", lambda _name: kits)
    add_confidence(run, None, said.append)
    assert "calibrated on other models" in said[-1] and run.scores == {"format": 2, "table": []}
    of_the_pair(run, monkeypatch)
    add_confidence(run, None, said.append)
    assert set(run.scores or {}) == {"format", "table", "confidence"} and len(said) == 3


def test_without_the_embedder_there_is_none_and_a_named_file_is_refused(
    run: RunFolder, kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Path:
        raise Refusal("sentence embedder", "it is not installed", "install it")

    monkeypatch.setattr(embedder, "packaged_folder", absent)
    monkeypatch.setattr(tiny, "data", lambda _name: kits)
    of_the_pair(run, monkeypatch)
    said: list[str] = []
    add_confidence(run, None, said.append)
    assert said == ["no confidence: the sentence embedder it reads with is not installed"]
    with pytest.raises(Refusal, match="it is not installed"):
        add_confidence(run, kits, said.append)


@pytest.mark.usefixtures("quick")
def test_score_believes_by_a_file_and_a_run_that_nothing_else_judges(
    world: World, kits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bare = explain(world.request(map="post", route="map"), tmp_path / "bare")
    nothing_ships(monkeypatch)
    said = command(monkeypatch, capsys, "score", str(bare.path))
    assert said.code == 1 and "nothing to judge by" in said.err and "no confidence" in said.err
    said = command(monkeypatch, capsys, "score", str(bare.path), "--confidence", str(kits))
    assert said.code == 0 and "confidence: washed, answers for" in said.out
    assert set(bare.scores or {}) == {"format", "confidence"}


@pytest.mark.usefixtures("quick")
def test_a_run_with_contexts_is_scored_by_detection_and_a_reconstructor_is_evidence(
    world: World, run: RunFolder, kits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def watched(*_: Any, **given: Any) -> dict[str, Any]:
        asked.update(given)
        return {}

    monkeypatch.setattr("dragoman.score.run.run_evidence", watched)
    # In random models every feature fires in nearly every text: too few are silent.
    run.write_contexts({f: {"firing": [f"of {f}"] * 3, "silent": ["of none"] * 3} for f in run.manifest["features"]})
    ar = ["--ar", str(world.root / "target-ar"), "--ar-layout", "easynla"]
    said = command(monkeypatch, capsys, "score", str(run.path), "--confidence", str(kits), *ar)
    assert said.code == 0, said.err
    assert "telling windows where the feature fires" in " ".join(said.out.split())
    assert str(asked["reconstructor"].site) == str(world.target) and set(asked["directions"]) == {"auto"}


def test_a_file_that_is_something_else_is_refused_before_anything_is_done(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Refusal, match="it is not a set of confidences"):
        confidence_set(tmp_path / "other.json")
    for word in PLACES:
        what = world.sae if word == "explain" else str(tmp_path)
        said = command(monkeypatch, capsys, word, what, "--confidence", str(tmp_path / "none.json"))
        assert said.code == 1 and said.err.startswith("dragoman: ")


def test_scores_of_another_version_are_not_mixed_with_these(
    run: RunFolder, kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "SentenceEmbedder", lambda **_: HashEmbedder())
    run.write_scores({"table": []})
    with pytest.raises(Refusal, match="scores.json: format: field required; score the run again"):
        add_confidence(run, kits, lambda _text: None)
    assert run.scores == {"table": []}


def test_words_that_are_weighed_alike_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert second_opinion(said.append).name.startswith("tf-idf-8192-1000-") and not said
    monkeypatch.setitem(tiny.DATA, "tiny-documents", "not-there.jsonl.gz")
    assert second_opinion(said.append).name == "tf-8192"
    assert said == ["words are weighed alike: the sentences that tell how rare they are come with dragoman-tiny"]
