"""A run's index: made once, again when the run changes, and the same as the run read whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dragoman.core import Refusal
from dragoman.report.cards import feature_cards
from dragoman.report.lit import Lit
from dragoman.report.opened import ShownRun
from dragoman.store import RunFolder, read_json, write_json
from dragoman.store.runs import PLAN, ROWS_PLAN
from dragoman.view import build, index
from dragoman.view.build import index_of
from dragoman.view.find import Columns, Selection, expression, found
from dragoman.view.index import NAME, folder_for
from report_fixture import build_run
from viewed_run import make_run, scores_of, viewed


def head_lines(made: index.Index) -> list[tuple[Any, ...]]:
    with made.reading() as database:
        return database.execute(
            "SELECT f.id, f.name, t.status, t.gist, t.lift, t.confidence FROM texts t JOIN features f "
            "ON f.n = t.feature WHERE t.condition = -1 ORDER BY f.n"
        ).fetchall()


@pytest.mark.parametrize("post", [True, False])
def test_what_it_says_of_a_feature_is_what_the_page_says(tmp_path: Path, post: bool) -> None:
    run = build_run(tmp_path / "run") if post else make_run(tmp_path / "run")
    cards = {card.id: card for card in feature_cards(ShownRun.of(run), {})}
    lines = head_lines(index_of(run))
    assert len(lines) == len(cards)
    for name, called, status, gist, lift, confidence in lines:
        card = cards[name]
        assert (called, status, gist) == (card.name, card.status, card.gist)
        assert lift == card.head.lift
        assert confidence == (card.head.confidence.probability if card.head.confidence else None)


def texts_of(windows: Sequence[Sequence[Lit]]) -> list[str]:
    return ["".join(one.text for one in window) for window in windows]


def test_what_a_feature_page_reads_is_the_card_of_the_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = {card.id: card for card in feature_cards(ShownRun.of(run), {})}
    view = viewed(run)
    with view.index.reading() as database:
        for name in ("0", "7", "59", "random-2"):
            card = view.told(database, view.number(database, name)).card
            same = {part: getattr(card, part) for part in ("id", "gist", "status", "control", "flagged")}
            assert same == {part: getattr(whole[name], part) for part in same}
            for one, other in zip(card.shown, whole[name].shown, strict=True):
                assert [row.text for row in one.rows] == [row.text for row in other.rows]
                assert (one.claims, one.confidence) == (other.claims, other.confidence)
                assert one.evidence.lines == other.evidence.lines
                # What of a window is lit the page of a feature asks for itself.
                assert texts_of(one.evidence.windows) == texts_of(other.evidence.windows)
    view.close()


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    once = head_lines(index_of(run))
    (run.path / NAME).unlink()
    monkeypatch.setattr(build, "_BATCH", 7)
    assert head_lines(index_of(run)) == once


def test_it_is_made_once_and_again_when_the_run_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", 8)
    made = index_of(run)
    calls = []
    real = build._made
    monkeypatch.setattr(build, "_made", lambda *told: calls.append(1) or real(*told))
    assert index_of(run).state == made.state
    assert not calls
    run.append([{**run.rows()[0], "feature": "new", "text": "Text about zebras."}])
    again = index_of(run)
    assert calls == [1]
    assert again.about["features"] == 9
    with again.reading() as database:
        columns = Columns.read(database, -1)
        assert [line.id for line in found(database, Selection(q="zebras"), again, columns).lines] == ["new"]


def test_a_run_that_grew_is_told_on_its_pages(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    view = viewed(run)
    assert not view.changed
    run.append([{**run.rows()[0], "sample": 3}])
    assert view.changed
    view.close()


def test_a_folder_that_takes_no_files_has_its_index_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", 8)
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index.os, "access", lambda _path, _mode: False)
    made = index_of(run)
    assert folder_for(run).is_relative_to(tmp_path / "cache")
    assert made.path.parent == folder_for(run)
    assert not (run.path / NAME).exists()


@pytest.mark.parametrize("torn", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_an_index_that_is_none_is_made_again(tmp_path: Path, torn: bytes) -> None:
    run = make_run(tmp_path / "run", 8)
    (run.path / NAME).write_bytes(torn)
    assert index_of(run).about["features"] == 8


def test_nothing_is_left_of_an_index_that_could_not_be_made(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    path = run.path / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"general", b"GENERAL", 1))
    with pytest.raises(Refusal, match="line 1: it was changed, moved"):
        index_of(run)
    assert not [one.name for one in run.path.iterdir() if "index" in one.name and not one.name.endswith(".lock")]


def test_scores_of_another_run_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    scores = json.loads((run.path / "scores.json").read_text())
    (run.path / "scores.json").write_text(json.dumps({**scores, "plan_digest": "other"}))
    made = index_of(run)
    assert made.about["missing"] == ["scores.json is left out: it does not hold this run's scores"]
    assert made.about["tallies"]["answers"] == {}
    with made.reading() as database:
        assert database.execute("SELECT count(*) FROM parts WHERE part = 'claims'").fetchone() == (0,)


def test_windows_and_words_of_another_run_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    for name in ("contexts.json", "lens.json"):
        told = json.loads((run.path / name).read_text())
        (run.path / name).write_text(json.dumps(told | {"plan_digest": "other"}))
    why = "is left out: it is of another run, or does not say of which"
    made = index_of(run)
    assert sorted(made.about["missing"]) == [f"contexts.json {why}", f"lens.json {why}"]
    with made.reading() as database:
        assert database.execute("SELECT count(*) FROM parts WHERE part IN ('contexts', 'lens')").fetchone() == (0,)


def test_vectors_of_another_run_give_no_neighbours_and_that_is_said(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run", 8), make_run(tmp_path / "other", 9)
    (run.path / "vectors.safetensors").write_bytes((other.path / "vectors.safetensors").read_bytes())
    view = viewed(run)
    assert "vectors.safetensors is left out" in view.index.about["missing"][0]
    assert view.directions.nearest(0, 3) == []
    view.close()


def test_a_run_without_a_row_or_with_another_condition_is_refused(tmp_path: Path) -> None:
    empty = RunFolder.create(tmp_path / "empty", make_run(tmp_path / "run", 8).manifest)
    with pytest.raises(Refusal, match="it holds no explanation yet"):
        index_of(empty)
    empty.append([{"feature": "1", "condition": "nobody", "sample": 0}])
    with pytest.raises(Refusal, match="it names no feature, sample or condition of this run"):
        index_of(empty)


def test_the_nearest_by_the_sketch_are_the_nearest(tmp_path: Path) -> None:
    import numpy as np

    run = make_run(tmp_path / "run")
    view = viewed(run)
    rows = run.vectors()[0]["source"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    cosines[4] = -2
    wanted = np.argsort(-cosines)[:5]
    assert [n for n, _ in view.directions.nearest(4, 5)] == wanted.tolist()
    assert [c for _, c in view.directions.nearest(4, 5)] == pytest.approx(cosines[wanted].tolist(), abs=1e-6)
    view.close()


def test_an_index_is_only_read(tmp_path: Path) -> None:
    made = index_of(make_run(tmp_path / "run", 8))
    with pytest.raises(sqlite3.OperationalError), made.reading() as database:
        database.execute("DELETE FROM texts")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("fruit", '"fruit"*'),
        ("of", '"of"'),
        ('"tropical fruit" red', '"tropical fruit" AND "red"*'),
        ("- ! ...", ""),
        ('un"closed', '"un closed"*'),
    ],
)
def test_words_are_quoted(typed: str, wanted: str) -> None:
    assert expression(typed) == wanted


def test_a_run_that_has_grown_is_read_by_the_plan_of_its_first_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 12)
    manifest, (arrays, meta) = read_json(run.path / "manifest.json"), run.vectors()
    write_json(run.path / "manifest.json", manifest | {PLAN: "grown", ROWS_PLAN: run.plan})
    grown = RunFolder.open(run.path)
    grown.write_scores(scores_of([str(k) for k in range(12)]))
    grown.write_vectors(arrays, meta)
    view = viewed(grown)
    with view.index.reading() as database:
        page = view.feature(database, 3)
    assert page.by_token and page.near and page.card.head.claims and not view.index.about["missing"]
    view.close()
