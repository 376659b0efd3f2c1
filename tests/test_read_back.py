"""A run's texts read back by a reconstructor of its source or of its target, and by no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ar_checkpoints import Reading, head_of, lora_of, save_base, save_full, save_peft
from asking import explain
from dragoman.core import Refusal, Site
from dragoman.models import embedder
from dragoman.models.reconstruct import Reconstructor
from dragoman.report import write_page
from dragoman.scoring import JudgedRun, score_run, sought_directions
from dragoman.stats.reconstruct import mean_output
from dragoman.store import RunFolder
from dragoman.verbalizers import registry
from dragoman.verbalizers.registry import Checkpoint
from judging import judged
from small_world import World, command
from word_hash import HashEmbedder

FEATURES = tuple(str(i) for i in range(6))


@pytest.fixture(scope="module")
def run(world: World) -> RunFolder:
    """Six features in a random verbalizer's words: nonsense, and different for each."""
    made = explain(
        world.request(features=FEATURES, max_new_tokens=12, temperature=1.0, map="post", route="map"),
        world.root / "run",
    )
    assert len({r["text"] for r in made.rows()}) > 3
    return made


def source_ar(world: World) -> str:
    return str(world.root / "source-ar")


def target_ar(world: World) -> str:
    return str(world.root / "target-ar")


def test_a_reconstructor_of_the_source_is_asked_for_the_dictionarys_own_rows(world: World, run: RunFolder) -> None:
    reader = Reconstructor.open(source_ar(world), layout="kitft")
    wanted = sought_directions(JudgedRun.of(run), reader.site)
    assert reader.site == world.source and not isinstance(wanted, dict)
    assert wanted.ids == FEATURES
    np.testing.assert_allclose(wanted.unit, world.rows[:6], atol=1e-6)
    found = judged(run, HashEmbedder(), seed=0, reconstructor=reader, directions=wanted)["reconstruction"]
    assert [row["condition"] for row in found["table"]] == ["washed"]
    texts = [row["text"] for row in run.rows()]
    by_hand = Reading(family="llama", special=True, head=head_of(), lora=lora_of("llama"), factor=2.0)(texts).numpy()
    rows = by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True) - mean_output(by_hand)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = float((rows * world.rows[:6]).sum(1).mean())
    assert found["table"][0]["cosine"]["value"] == pytest.approx(cosine, abs=2e-3)


def test_a_reconstructor_of_the_target_is_asked_for_the_carried_rows_before_washout(
    world: World, run: RunFolder
) -> None:
    reader = Reconstructor.open(target_ar(world), layout="easynla")
    wanted = sought_directions(JudgedRun.of(run), reader.site)
    assert isinstance(wanted, dict) and set(wanted) == {"washed"}
    kept = run.vectors()[0]
    np.testing.assert_array_equal(wanted["washed"].unit, kept["bare/washed"])
    assert not np.allclose(kept["bare/washed"], kept["washed"], atol=1e-3)
    found = judged(run, HashEmbedder(), seed=0, reconstructor=reader, directions=wanted)["reconstruction"]
    assert [row["condition"] for row in found["table"]] == ["washed"] and found["site"] == str(world.target)


def test_what_was_found_is_scored_shown_and_on_the_page(
    world: World, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedder, "SentenceEmbedder", lambda **_: HashEmbedder())
    monkeypatch.setenv("COLUMNS", "120")
    said = command(monkeypatch, capsys, "score", str(run.path), "--ar", target_ar(world), "--ar-layout", "easynla")
    assert said.code == 0 and "read back by" in said.out and "top-1" in said.out
    kept = RunFolder.open(run.path).scores
    assert kept is not None and kept["reconstruction"]["table"][0]["condition"] == "washed"
    page = write_page(RunFolder.open(run.path), run.page).read_text()
    assert "<html" in page and run.rows()[0]["condition"] in page
    said = command(
        monkeypatch, capsys, "score", str(run.path), "--ar", source_ar(world), "--ar-layout", "kitft", "--json"
    )
    assert said.code == 0 and json.loads(said.out)["reconstruction"]["site"] == str(world.source)


def test_a_run_is_scored_when_its_dictionary_is_gone(world: World, tmp_path: Path) -> None:
    """Rows are kept with the run: a dictionary may have been a hub's, or named by index."""
    np.savez(tmp_path / "probes.npz", truth=world.rows[:4])
    asked = world.request(dictionary=f"file:{tmp_path}/probes.npz#truth[2,0,1]", features=())
    run = explain(asked, tmp_path / "run")
    (tmp_path / "probes.npz").unlink()
    found = sought_directions(JudgedRun.of(run), world.source)
    assert not isinstance(found, dict) and found.ids == ("2", "0", "1")
    np.testing.assert_allclose(found.unit, world.rows[[2, 0, 1]], atol=1e-6)


def test_a_run_without_its_dictionarys_rows_says_how_to_get_them(world: World, tmp_path: Path) -> None:
    run = RunFolder.create(
        tmp_path / "run", {"plan_digest": "x", "source": str(world.source), "target": str(world.target), "features": []}
    )
    run.write_vectors({"washed": np.eye(2, dtype=np.float32)})
    with pytest.raises(Refusal, match=r"it does not hold its dictionary's rows; give the command that made it once"):
        sought_directions(JudgedRun.of(run), world.source)


def test_a_reconstructor_of_a_third_place_is_refused(world: World, run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"a reconstructor at other:1: the run's directions are at .*llama:1 and .*gemma"):
        sought_directions(JudgedRun.of(run), Site("other", 1))
    with pytest.raises(Refusal, match="the run's directions are at"):
        sought_directions(JudgedRun.of(run), Site(world.source.model, 0))
    other = save_peft(tmp_path / "ar", "qwen2", save_base(tmp_path / "qwen", "qwen2"))
    before = (run.path / "scores.json").read_bytes() if (run.path / "scores.json").exists() else None
    with pytest.raises(Refusal, match="use a reconstructor of one of these"):
        score_run(run, ar=str(other), layout="kitft")
    assert before == ((run.path / "scores.json").read_bytes() if before else None)


def test_a_layout_is_told_and_never_guessed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="its layout is not known, and its files do not say; pass --ar-layout kitft or"):
        Reconstructor.open(source_ar(world))
    with pytest.raises(Refusal, match=r"layout 'nanonla': known are kitft, easynla"):
        Reconstructor.open(source_ar(world), layout="nanonla")
    entry = {"id": "org/ar", "role": "ar", "base": "m", "contract": "kitft", "blocks": [1]}
    known = Checkpoint.model_validate(entry)
    monkeypatch.setattr(registry, "find", lambda ref: known if ref == source_ar(world) else None)
    assert Reconstructor.open(source_ar(world)).contract.layout == "kitft"
    with pytest.raises(Refusal, match=r"layout 'easynla' for .*: it is laid out as kitft, as dragoman"):
        Reconstructor.open(source_ar(world), layout="easynla")


def test_a_repository_whose_reconstructor_lies_deeper_is_refused_with_its_folder() -> None:
    with pytest.raises(Refusal, match=r"rl_vllm/critic_latest; use achand45/gemma-3-12b-it-nla-L32/rl_vllm/critic"):
        Reconstructor.open("achand45/gemma-3-12b-it-nla-L32")


@pytest.mark.parametrize("levels", [1, 2])
def test_the_sidecar_of_a_reconstructors_run_lies_one_folder_up_and_no_further(tmp_path: Path, levels: int) -> None:
    folder = save_full(tmp_path / "run" / "steps" / "critic_latest", "llama")
    above = folder.parents[levels - 1]
    (folder / "nla_meta.yaml").rename(above / "nla_meta.yaml")
    if levels == 1:
        assert Reconstructor.open(str(folder), layout="kitft").identity["sidecar"]
        return
    with pytest.raises(Refusal, match=r"it holds no nla_meta\.yaml, so its template and block are unknown"):
        Reconstructor.open(str(folder), layout="kitft")
