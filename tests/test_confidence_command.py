"""`explain` and `score` believe a run by a file of confidences, or say in a line that there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asking import explain
from dragoman import tiny
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_confidence
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal
from dragoman.models import embedder
from dragoman.scoring import add_confidence, confidence_set
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.run import second_opinion
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
def copied(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of this file's own, so that what is put beside it lies beside no other."""
    return Path(shutil.copytree(world.sae, tmp_path_factory.mktemp("copied") / "sae"))


@pytest.fixture
def run(world: World, copied: Path) -> Iterator[RunFolder]:
    asked = world.request(dictionary=str(copied), temperature=1.0, max_new_tokens=12)
    yield explain(asked, world.root / "believed")
    (copied / "confidence.json").unlink(missing_ok=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "SentenceEmbedder", lambda **_: HashEmbedder())


def put_beside(run: RunFolder, kits: Path, sites: Any = None) -> Path:
    """The kits beside the run's own dictionary, calibrated on these sites; the run's own when None."""
    own = [run.manifest["source"], run.manifest["target"]]
    path = Path(run.manifest["dictionary"]["at"].removeprefix("file:")) / "confidence.json"
    path.write_text(json.dumps(json.loads(kits.read_text()) | {"sites": own if sites is None else sites}))
    return path


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
    found = (run.scores or {})["confidence"]["per_feature"]
    assert {c: [row["feature"] for row in rows] for c, rows in found.items()} == {
        "fires": ["3", "7"], "writes": ["0", "3", "7"]
    }  # fmt: skip
    found = [row for rows in found.values() for row in rows]
    assert all(0 <= row["probability"] <= 1 for row in found)
    for row in found:
        word = f"confidence {row['probability']:.2f}" if row["answered"] else f"abstains ({row['probability']:.2f})"
        assert word in " ".join(said.out.split())
    again = command(monkeypatch, capsys, *words, "--json")
    told = [json.loads(line) for line in again.out.splitlines()]
    assert [row["confidence"]["probability"] for row in told] == [row["probability"] for row in found]
    assert "confidence" not in run.rows()[0]


@pytest.mark.parametrize("job", ["fit", "recalibrate"])
def test_what_was_checked_by_hand_is_not_written_over(
    job: str, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = tmp_path / "checked.csv"
    checked.write_text("feature,right\n0,1\n")
    said = command(monkeypatch, capsys, "confidence", job, str(run.path), "--checked", str(checked), "-o", str(checked))
    assert said.code == 1 and "it is the file of checked explanations" in said.err
    assert checked.read_text() == "feature,right\n0,1\n"


@pytest.mark.usefixtures("quick")
def test_what_lies_beside_the_dictionary_is_used_on_its_own_pair(run: RunFolder, kits: Path) -> None:
    run.write_scores({"format": 2, "table": []})
    said: list[str] = []
    add_confidence(run, None, said.append)
    assert said == ["no confidence: none lies beside the dictionary; --confidence names a file"]
    own = [run.manifest["source"], run.manifest["target"]]
    for other in (own[::-1], [own[0], "other-model:3"]):
        put_beside(run, kits, other)
        add_confidence(run, None, said.append)
        assert said[-1] == (
            f"no confidence: the one beside the dictionary was calibrated on {other[0]}; {other[1]};"
            " --confidence names a file"
        )
    assert run.scores == {"format": 2, "table": []}
    put_beside(run, kits)
    add_confidence(run, None, said.append)
    assert set(run.scores or {}) == {"format", "table", "confidence"} and len(said) == 4


def test_a_named_file_of_another_pair_is_used_with_a_word(run: RunFolder, kits: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(kits.read_text()) | {"sites": ["a:1", "b:2"]}))
    said: list[str] = []
    assert confidence_set(other, said.append, JudgedRun.of(run)) is not None
    assert said == [f"{other} was calibrated on other models: its confidences are a guess until you have checked some"]
    assert confidence_set(kits, said.append, JudgedRun.of(run)) is not None and len(said) == 1  # it names no pair


@pytest.mark.parametrize("sites", ["a:1", ["a:1"], ["a:1", 2], ["a:1", "no site"]])
def test_sites_that_are_no_pair_are_refused(run: RunFolder, kits: Path, sites: Any) -> None:
    put_beside(run, kits, sites)
    with pytest.raises(Refusal, match="its confidences are damaged"):
        confidence_set(None, run=JudgedRun.of(run))


def test_a_confidence_beside_a_dictionary_must_name_its_pair(run: RunFolder, kits: Path) -> None:
    shutil.copy(kits, put_beside(run, kits))
    with pytest.raises(Refusal, match="it names no pair of sites that it was calibrated on"):
        confidence_set(None, run=JudgedRun.of(run))


def test_without_the_embedder_there_is_none_and_a_named_file_is_refused(
    run: RunFolder, kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Path:
        raise Refusal("sentence embedder", "it is not installed", "install it")

    monkeypatch.setattr(embedder, "packaged_folder", absent)
    put_beside(run, kits)
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

    monkeypatch.setattr("dragoman.scoring.run.run_evidence", watched)
    # In random models every feature fires in nearly every text: too few are silent.
    run.write_contexts({f: {"firing": [f"of {f}"] * 3, "silent": ["of none"] * 3} for f in run.manifest["features"]})
    ar = ["--ar", str(world.root / "target-ar"), "--ar-layout", "easynla"]
    said = command(monkeypatch, capsys, "score", str(run.path), "--confidence", str(kits), *ar)
    assert said.code == 0, said.err
    assert "telling windows where the feature fires" in " ".join(said.out.split())
    assert str(asked["reconstructor"].site) == str(world.target) and set(asked["directions"]) == {"fires", "writes"}


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
