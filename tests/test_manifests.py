"""A manifest that somebody else wrote is refused by name, and tells no secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dragoman import store
from dragoman.core import Refusal
from dragoman.dictionaries.beside import read_truth
from dragoman.runs.run import Run
from dragoman.scoring.judged_run import JudgedRun
from dragoman.store import RunFolder
from dragoman.store.outputs import check_run
from report_fixture import build_run

PLANTED = {"feature_info": {"7": {"category": "birds", "topic": "owls"}}, "category_words": {"birds": ["bird"]}}
WHOLE = {"format": 2, "plan_digest": "x", "conditions": [{"name": "washed"}], "features": ["7"], **PLANTED}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"category_words": {"birds": "bird"}}, "category_words is no object of lists of words"),
        ({"category_words": None}, "category_words is no object of lists of words"),
        ({"feature_info": {"7": {}}}, "feature_info is no object of features with categories"),
        ({"feature_info": {"7": {"category": 3}}}, "feature_info is no object of features with categories"),
        ({"feature_info": ["7"]}, "feature_info is no object of features with categories"),
        ({"conditions": {"name": "washed"}}, "conditions are no list of objects with names"),
        ({"conditions": [{"route": "map"}]}, "conditions are no list of objects with names"),
        ({"features": [7]}, "features are no list of ids"),
        ({"features": "7"}, "features are no list of ids"),
        ({"source": None}, "source is no site"),
        ({"rows": "12"}, "rows is no count of them"),
        ({"rows": True}, "rows is no count of them"),
        ({"dictionary": "tiny-sae"}, "dictionary is no object"),
        ({"map_report": [1]}, "map_report is no object"),
    ],
)
def test_a_manifest_of_another_form_is_refused_by_what_is_odd(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    store.write_json(tmp_path / "manifest.json", WHOLE | changes)
    with pytest.raises(Refusal, match=rf"manifest\.json: its {why}; make the run again"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("words", [{}, {"birds": []}, {"birds": [" "]}, {"boats": ["boat"]}])
def test_a_category_that_no_word_names_is_shown_and_not_judged(tmp_path: Path, words: dict[str, list[str]]) -> None:
    store.write_json(tmp_path / "manifest.json", WHOLE | {"category_words": words})
    run = RunFolder.open(tmp_path)
    with pytest.raises(Refusal, match=r"no word in its category_words names the category 'birds' of feature 7; make"):
        JudgedRun.of(run)


def test_a_whole_manifest_and_one_that_leaves_things_out_are_read(tmp_path: Path) -> None:
    for manifest in (WHOLE, {"format": 2, "plan_digest": "x"}, WHOLE | {"feature_info": {}, "category_words": {}}):
        store.write_json(tmp_path / "manifest.json", manifest)
        assert RunFolder.open(tmp_path).manifest == manifest


def test_planted_truth_whose_category_no_word_names_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    path, features = tmp_path / "truth.json", [{"id": "7", "category": "birds", "topic": "owls"}]
    for words in ({}, {"birds": []}, {"birds": [""]}):
        store.write_json(path, {"features": features, "category_words": words})
        with pytest.raises(Refusal, match="no list of features with a topic and a category that has words"):
            read_truth(path)
    store.write_json(path, {"features": features, "category_words": {"birds": ["bird"], "none of them": []}})
    assert read_truth(path).of(["7"])["category_words"]["birds"] == ["bird"]


def test_no_secret_of_a_manifest_is_on_the_disk_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (written.append(Path(old).read_bytes()), real(old, new)))
    secret = "https://user:PASSWORD@host.example/export?X-Amz-Signature=SIGNED"
    run = RunFolder.create(tmp_path / "run", WHOLE | {"settings": {"labels": secret}})
    assert run.manifest["settings"]["labels"] == "https://host.example/export"
    assert len(written) == 1 and b"PASSWORD" not in written[0] and b"SIGNED" not in written[0]


@pytest.mark.parametrize("part", ["source", "target", "conditions"])
def test_a_run_whose_manifest_leaves_out_what_every_run_tells_is_refused_by_what_is_missing(
    tmp_path: Path, part: str
) -> None:
    run = build_run(tmp_path / "run", info=False)
    manifest = store.read_json(run.path / "manifest.json")
    del manifest[part]
    store.write_json(run.path / "manifest.json", manifest)
    folder = RunFolder.open(run.path)
    for use in (Run.open, lambda path: Run(RunFolder.open(path)), check_run):
        with pytest.raises(Refusal, match=rf"manifest\.json: it tells no {part}; make the run again in another folder"):
            use(run.path)
    if part != "conditions":
        judged = JudgedRun.of(folder)
        with pytest.raises(Refusal, match=f"it tells no {part}"):
            getattr(judged, part)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"conditions": []}, "its conditions are none"), ({"source": "elsewhere"}, "a site names a model and a block")],
)
def test_a_run_of_no_condition_or_no_place_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    run = build_run(tmp_path / "run")
    store.write_json(run.path / "manifest.json", store.read_json(run.path / "manifest.json") | changes)
    with pytest.raises(Refusal, match=why):
        Run.open(run.path)
