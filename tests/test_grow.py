"""A run grows by features: what was there stays as it was, what is new is what a run of it alone would say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dragoman
from dragoman.core import Refusal
from dragoman.records import ENDED
from dragoman.runs.crossings import fit_crossing
from dragoman.runs.grow import parts_of
from dragoman.runs.run import Run
from dragoman.store import RunFolder
from small_world import World

Ask = Callable[..., Run]


@pytest.fixture(scope="module")
def crossing(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grow") / "crossing"
    fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt").save(folder)
    return folder


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows alone: verbalizers are not examined and texts are not judged, which takes long and is not asked about."""
    for name in ("common.add_claims", "common.add_confidence", "speakers.quick"):
        monkeypatch.setattr(f"dragoman.runs.{name}", lambda *_a, **_k: None)


@pytest.fixture
def ask(world: World, crossing: Path) -> Ask:
    sae = dragoman.open_dictionary(world.sae, site=world.source)

    def asked(features: str, out: Path, **more: Any) -> Run:
        how: dict[str, Any] = {"through": crossing, "by": world.av, "max_new_tokens": 4, "batch_size": 2}
        return dragoman.explain(sae, features=features, out=out, **(how | more))

    return asked


def lines(out: Path) -> list[bytes]:
    return (out / "rows.jsonl").read_bytes().splitlines()


def said(run: Run, features: set[str]) -> list[dict[str, Any]]:
    return [row for row in run.folder.rows() if row["feature"] in features]


def test_what_was_there_stays_and_what_is_new_is_what_it_alone_would_be(ask: Ask, tmp_path: Path) -> None:
    how = {"samples": 3, "temperature": 1.0}  # several samples: drawn from seeds of the part's own batches
    first = ask("0,3", tmp_path / "run", **how)
    before, old = lines(tmp_path / "run"), first.folder.vectors()[0]
    grown = ask("0,3,7,11", tmp_path / "run", **how)
    alone = ask("7,11", tmp_path / "alone", **how)
    assert lines(tmp_path / "run")[: len(before)] == before
    assert said(grown, {"7", "11"}) == alone.folder.rows()
    assert grown.manifest["features"] == ["0", "3", "7", "11"]
    assert grown.manifest["rows"] == len(grown.folder.rows()) == len(before) + len(alone.folder.rows())
    assert [part.features for part in parts_of(grown.manifest)] == [("0", "3"), ("7", "11")]
    vectors, own = grown.folder.vectors()[0], alone.folder.vectors()[0]
    for name, rows in vectors.items():
        parts = [one[name] for one in (old, own) if name in one]
        np.testing.assert_array_equal(rows, np.concatenate(parts))
    contexts = grown.folder.contexts
    assert contexts is not None and {"0", "3", "7", "11"} <= set(contexts)
    assert all(contexts[name]["silent"] == (alone.folder.contexts or {})[name]["silent"] for name in ("7", "11"))
    assert grown.scores is not None and {one.feature for one in grown.scores.claims["writes"]} == {"0", "3", "7", "11"}
    assert grown.write_page().is_file() and len(grown.explanations("writes")) == 12


def test_asking_again_for_what_is_there_changes_nothing(ask: Ask, bare: None, tmp_path: Path) -> None:
    ask("0,3", tmp_path / "run")
    for features in ("0,3", "3", "3,0"):
        ask(features, tmp_path / "run")
    assert "parts" not in RunFolder.open(tmp_path / "run").manifest
    ask("7", tmp_path / "run")
    before, vectors = lines(tmp_path / "run"), (tmp_path / "run" / "vectors.safetensors").read_bytes()
    for features in ("7", "0,7", "3", "7,3,0"):
        ask(features, tmp_path / "run")
        assert lines(tmp_path / "run") == before
    assert (tmp_path / "run" / "vectors.safetensors").read_bytes() == vectors
    third = ask("0,3,7,11", tmp_path / "run")
    assert [part.features for part in parts_of(third.manifest)] == [("0", "3"), ("7",), ("11",)]
    assert lines(tmp_path / "run")[: len(before)] == before
    assert Run.open(tmp_path / "run").manifest["features"] == ["0", "3", "7", "11"]


def test_growing_that_was_cut_short_goes_on_to_the_same_bytes(ask: Ask, bare: None, tmp_path: Path) -> None:
    ask("0,3", tmp_path / "run")
    whole = ask("0,3,7,11", tmp_path / "run")
    want = lines(tmp_path / "run")
    (tmp_path / "run" / "rows.jsonl").write_bytes(b"\n".join(want[:-1]) + b"\n" + want[-1][:20])
    with pytest.raises(Refusal, match=r"more features for .*: the run there is not finished \(\d of \d rows\)"):
        ask("12", tmp_path / "run")
    (tmp_path / "run" / "rows.jsonl").write_bytes(b"\n".join(want) + b"\n")
    with RunFolder.open(tmp_path / "run").writing() as rows:
        said = rows.read()
        rows.replace([*said[:-1], {**said[-1], "text": "", "problems": [ENDED, "empty"]}])
    with pytest.raises(Refusal, match=r"more features for .*: the run there is not finished \(\d of \d rows\)"):
        ask("12", tmp_path / "run")
    (tmp_path / "run" / "rows.jsonl").write_bytes(b"\n".join(want[:-1]) + b"\n" + want[-1][:20])
    ask("7,11", tmp_path / "run")
    assert (
        lines(tmp_path / "run") == want and whole.folder.vectors()[1] == Run.open(tmp_path / "run").folder.vectors()[1]
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"washout": "none"}, "its washout is on-shell, and none is asked for"),
        ({"samples": 2}, "its samples is 1, and 2 is asked for"),
        ({"seed": 4}, "its seed is 0, and 4 is asked for"),
        ({"reading": "writes"}, "its reading is both, and writes is asked for"),
    ],
)
def test_a_run_that_was_asked_for_otherwise_is_refused_by_what_differs_before_any_model(
    ask: Ask, bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], sentence: str
) -> None:
    ask("0,3", tmp_path / "run")
    before = lines(tmp_path / "run")
    monkeypatch.setattr("dragoman.models.decode.Verbalizer.open", lambda *_a, **_k: pytest.fail("a model was opened"))
    for features in ("0,3", "0,3,7"):
        with pytest.raises(Refusal, match=f"output folder .*: it holds another run .{sentence}"):
            ask(features, tmp_path / "run", **more)
    assert lines(tmp_path / "run") == before


def test_another_crossing_is_another_run(ask: Ask, bare: None, world: World, tmp_path: Path) -> None:
    ask("0,3", tmp_path / "run")
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    fit_crossing(sae, world.target, texts=world.root / "texts.txt", seed=5).save(tmp_path / "other")
    with pytest.raises(Refusal, match="it holds another run"):
        ask("7", tmp_path / "run", through=tmp_path / "other")


def test_a_dictionary_that_has_changed_where_it_lies_lets_no_run_grow(bare: None, world: World, tmp_path: Path) -> None:
    folder, out = tmp_path / "sae", tmp_path / "run"
    shutil.copytree(world.sae, folder)
    how: dict[str, Any] = {"by": world.av, "map": "post", "route": "map", "max_new_tokens": 4, "out": out}
    how["texts"] = str(world.root / "texts.txt")

    def asked(features: str) -> Run:
        return dragoman.explain(dragoman.open_dictionary(str(folder), site=world.source), features=features, **how)

    asked("0,3")
    assert {row["feature"] for row in asked("0,3,5").folder.rows()} == {"0", "3", "5"}
    before = lines(out)
    arrays = load_file(folder / "sae_weights.safetensors")
    save_file(arrays | {"b_enc": arrays["b_enc"] + 1}, folder / "sae_weights.safetensors")
    with pytest.raises(Refusal, match="the files of its dictionary are not those that the run was made with"):
        asked("0,3,5,7")
    save_file(arrays | {"W_dec": arrays["W_dec"][::-1].copy()}, folder / "sae_weights.safetensors")
    with pytest.raises(Refusal, match="feature 0 of its dictionary has another row now than when the run was made"):
        asked("0,3,7")
    assert lines(out) == before


def test_a_manifest_whose_parts_are_odd_is_refused(ask: Ask, bare: None, tmp_path: Path) -> None:
    ask("0,3", tmp_path / "run")
    ask("7", tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"parts": [{"features": ["0"]}]}))
    with pytest.raises(Refusal, match="its parts are no list of features with rows and a plan"):
        Run.open(tmp_path / "run")


def test_a_copy_another_spelling_and_notes_beside_are_no_other_files(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.sae, tmp_path / "sae")
    shutil.copytree(world.sae, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "sae")
    for name in (".DS_Store", "README.md"):
        (tmp_path / "copy" / name).write_text("of no reader's")
    monkeypatch.chdir(tmp_path)

    def told(where: str, **how: Any) -> str:
        return dragoman.open_dictionary(where, site=world.source, **how).fingerprint()

    same = told(str(tmp_path / "sae"))
    assert {told(where) for where in (f"{tmp_path}/sae/", "sae", "./sae", "link", str(tmp_path / "copy"))} == {same}
    arrays = load_file(tmp_path / "copy" / "sae_weights.safetensors")
    save_file(arrays | {"b_enc": arrays["b_enc"] + 1}, tmp_path / "copy" / "sae_weights.safetensors")
    assert told("copy") != same
    assert told("sae", k=3) != same


def test_a_run_whose_dictionary_got_notes_beside_it_grows(ask: Ask, world: World, bare: None, tmp_path: Path) -> None:
    ask("0,3", tmp_path / "run")
    note = Path(world.sae) / ".DS_Store"
    note.write_text("of the system's")
    try:
        assert {row["feature"] for row in ask("0,3,7", tmp_path / "run").folder.rows()} == {"0", "3", "7"}
    finally:
        note.unlink()
