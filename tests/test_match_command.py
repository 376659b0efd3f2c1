"""``dragoman match`` on a small world: a dictionary beside itself, beside another model's, cut short, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from dragoman.models.pairing import Pairing
from schemas import schema_of
from small_world import Said, World, command


@pytest.fixture
def asked(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))

    def ask(*words: str, other: str = world.sae, target: str = str(world.source), texts: Path | None = None) -> Said:
        how = ("--source", str(world.source), "--target", target, "--texts", str(texts or world.root / "texts.txt"))
        return command(monkeypatch, capsys, "match", world.sae, other, *how, *words)

    return ask


def test_a_dictionary_is_matched_with_itself(asked: Any, world: World, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    shutil.copytree(world.sae, labelled)
    (labelled / "labels.json").write_text(json.dumps({"3": "the letter \x1b[31me", "7": "names"}))
    said = asked("--features", "3,7", "--json", other=str(labelled))
    assert said.code == 0, said.err
    told = json.loads(said.out)
    jsonschema.validate(told, schema_of("matching"))
    assert told["schema"] == "dragoman.matching/1" and told["texts"] == 40 and told["pairs"] > 500
    for match, label in zip(told["matches"], ("the letter \x1b[31me", "names"), strict=True):
        assert match["latent"] == match["feature"] and match["latent_label"] == label
        assert match["r"] == pytest.approx(1.0) and match["shared"] == match["returned"] == 1.0
        assert match["often"] and match["above_chance"] and match["dealt"] < 0.9
    again = asked("--features", "3,7", other=str(labelled))
    assert again.code == 0
    assert "reused matching" in again.err and "reading" not in again.err
    assert "1.00" in again.out and "3 the letter \\x1b[31me" in again.out and "\x1b" not in again.out
    assert "2 of 2 that fire often are matched" in again.out


def test_a_reading_cut_short_goes_on_to_the_same(
    asked: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.runs.match.TEXTS", {"cpu": 8})
    whole = asked("--json", target=str(world.target)).out
    shutil.rmtree(tmp_path / "cache")
    read, done = Pairing.pairs, list[int]()

    def cut(self: Pairing, *batch: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return read(self, *batch)

    monkeypatch.setattr(Pairing, "pairs", cut)
    assert asked("--json", target=str(world.target)).code == 130
    monkeypatch.setattr(Pairing, "pairs", read)
    said = asked("--json", target=str(world.target))
    assert "going on after 2 batches" in said.err and said.out == whole
    assert not list((tmp_path / "cache").glob("reading/*")), "what was kept meanwhile is given up"
    # Two random models have little in common: what is none is said to be none.
    told = json.loads(whole)
    assert len(told["matches"]) == 30 and told["target"] == str(world.target)
    line = max(m["dealt"] for m in told["matches"] if m["often"])
    assert told["line"] == line
    assert all(m["above_chance"] == (m["often"] and m["low"] > line) for m in told["matches"])
    shown = asked(target=str(world.target)).out
    assert ("none" in shown) == any(m["often"] and not m["above_chance"] for m in told["matches"])


def test_what_cannot_be_matched_is_refused_before_a_model_is_opened(
    asked: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.runs.readings.open_both", lambda *_, **__: pytest.fail("models were opened"))
    np.save(tmp_path / "rows.npy", world.rows)
    for words, other, why in (
        (("--features", "99"), world.sae, "feature 99"),
        ((), str(tmp_path / "rows.npy"), "without an encoder|no encoder"),
        (("--seed", "-1"), world.sae, "seed|range"),
        (("--features", "top:3"), world.sae, "name ids, or random:100"),
    ):
        said = asked(*words, other=other)
        assert said.code in (1, 2) and said.err and not said.out
        assert any(part in said.err for part in why.split("|")), said.err
    few = tmp_path / "few.txt"
    few.write_text("one text\nanother text\n")
    said = asked(texts=few, target=str(world.target))
    assert said.code == 1 and "folds of documents" in said.err
