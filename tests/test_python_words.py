"""What a caller in Python may pass by mistake is taken as it is meant, or refused in one sentence."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragoman
from dragoman import Refusal
from dragoman.runs.texts import Texts
from report_fixture import build_run
from small_world import World, command
from verbalizer_doubles import ScriptedVerbalizer

SOME = ["one text", "another text"]


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        set(SOME),
        frozenset(SOME),
        (text for text in SOME),
        iter(SOME),
        dict.fromkeys(SOME),
        np.array(SOME),
        3,
        map(str, SOME),
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_without_order_or_given_once_are_refused(world: World, given: Any) -> None:
    kind = type(given).__name__
    sentence = f"^texts of type {kind}: texts are read in order and more than once; pass a list of str, or a file.$"
    with pytest.raises(Refusal, match=sentence):
        Texts.of(given)
    with pytest.raises(Refusal, match=sentence):
        dragoman.fit_crossing(world.sae, world.target, texts=given)


@pytest.mark.parametrize("given", [[], (), b"one text", bytearray(b"text"), range(3), ["one", 3], ["one", ""], [["a"]]])
def test_a_list_of_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(Refusal, match="they are no list of texts with words in them; pass a list of str, or a file"):
        Texts.of(given)


def test_lists_and_tuples_are_kept_in_order() -> None:
    assert Texts.of(SOME).own == Texts.of(tuple(SOME)).own == Texts.of(deque(SOME)).own == tuple(SOME)  # type: ignore[arg-type]


# --- features ---------------------------------------------------------------------------------------------------------


def test_one_id_alone_and_an_array_are_ids(world: World) -> None:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    given: list[Any] = [5, "5", np.int64(5), [5], np.array([5]), np.array(["5"]), np.array(5)]
    assert all(list(sae.features(ids)) == ["5"] for ids in given)
    assert list(sae.features("12")) == ["12"] and list(sae.features(range(2))) == ["0", "1"]
    assert list(sae.features(np.array([2, 1]))) == ["2", "1"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({3, 5}, "features of type set: ids are read in the order they are asked for; pass a list of ids"),
        pytest.param((k for k in (3, 5)), "features of type generator: ids are read in the order", id="generator"),
        ({3: "bees"}, "features of type dict: ids are read in the order"),
        (b"12", "features of type bytes: ids are read in the order"),
        (2.0, "features of type float: ids are read in the order"),
        (np.array([[1, 2]]), r"feature \[1, 2\] of .*: it has 30 features"),
        (np.array([1.0]), "feature 1.0 of .*: it has 30 features"),
        (np.array([], int), "no features of .*: there is nothing to read"),
        (True, "feature True of .*: it has 30 features"),
        (-1, "feature -1 of .*: it has 30 features"),
    ],
    ids=str,
)
def test_what_is_no_list_of_ids_is_refused(world: World, given: Any, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        dragoman.open_dictionary(world.sae, site=world.source).features(given)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--features", "99"), "feature 99 of "),
        (("--features", "3,bees"), "feature bees of "),
        (("--features", "3", "--map", "post"), "features: the post's map counts no feature; leave --features out, or"),
    ],
)
def test_a_fit_refuses_features_that_it_could_not_count(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr("dragoman.runs.readings.Readings.pooled", reads)
    monkeypatch.setattr("dragoman.runs.readings.Readings.aligned", reads)
    rest = ("--by", world.av, "--source", str(world.source), "-o", str(tmp_path / "crossing"))
    said = command(monkeypatch, capsys, "fit", world.sae, *rest, *words)
    assert said.code == 1 and not said.out and sentence in said.err and not (tmp_path / "crossing").exists()
    sae, ids = dragoman.open_dictionary(world.sae, site=world.source), words[1].split(",")
    how: Any = {"map": "post"} if "post" in words else {}
    with pytest.raises(Refusal, match=sentence):
        dragoman.fit_crossing(sae, world.target, features=ids, **how)


def reads(*_args: Any, **_how: Any) -> None:
    raise AssertionError("a model was read")


# --- verbalizers, places, words ---------------------------------------------------------------------------------------


def test_paths_texts_and_numbers_are_taken_as_what_they_name(world: World, tmp_path: Path) -> None:
    sae = dragoman.open_dictionary(Path(world.sae), site=str(world.source))
    assert sae.site == world.source
    how: Any = {"features": [0, 3], "texts": world.root / "texts.txt", "max_new_tokens": 6, "map": "post"}
    by, name = Path(world.av), "washed"
    run = dragoman.explain(sae, by=by, out=tmp_path / "a", route="map", washout=0.3, **how)
    assert run.manifest["settings"]["washout"] == "0.3" and len(run.explanations(name)) == 2
    same = dragoman.explain(sae, by=world.av, out=str(tmp_path / "a"), route="map", washout="0.3", **how)
    assert same.manifest["plan_digest"] == run.manifest["plan_digest"]
    with pytest.raises(Refusal, match="washout '1.5': its strength is out of range"):
        dragoman.explain(sae, by=by, out=tmp_path / "b", route="map", washout=1.5, **how)
    with pytest.raises(Refusal, match="native': there is no such folder here"):
        dragoman.explain(sae, by=by, out=tmp_path / "b", native=tmp_path / "native", route="map", **how)


def test_a_fit_leads_to_a_site_its_text_or_an_open_verbalizer(world: World) -> None:
    sae, width = dragoman.open_dictionary(world.sae, site=world.source), world.rows.shape[1]
    reader = ScriptedVerbalizer(world.target, width, lambda _vector: "words")
    how: Any = {"map": "post", "texts": world.root / "texts.txt"}
    made = [dragoman.fit_crossing(sae, to, **how) for to in (world.target, str(world.target), reader)]
    assert {crossing.target for crossing in made} == {world.target}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"by": 3}, "by 3: it is no verbalizer; pass an open one, or its reference"),
        ({"by": None}, "by None: it is no verbalizer"),
        ({"native": 3}, "native 3: it is no verbalizer"),
        ({"through": 3}, "through 3: it is no path; pass a crossing, or its folder"),
        ({"talk": print}, r"talk <built-in function print>: it is no Talk; pass Talk\(say=print\), or leave it out"),
        ({"route": 3}, "route '3': known are "),
        ({"reading": 3}, "reading '3': known are both, fires, writes"),
        ({"map": 3}, "map '3': known are "),
        ({"washout": None}, "washout None: it is no word and no share"),
        ({"washout": True}, "washout True: it is no word and no share"),
        ({"temperature": "1"}, "temperature '1': it is no number"),
        ({"out": None}, "out None: it is no path"),
        ({"device": None}, "device 'None': it is no device"),
        ({"engine": None}, "engine None: it is no word; pass a str"),
        ({"on": 5}, "on 5: it is no word; pass a str"),
        ({"confidence": 5}, "confidence 5: it is no path; pass a str or a Path, or leave it out"),
        ({"texts": 3}, "texts of type int: texts are read in order"),
        ({"features": 99}, "feature 99 of "),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_explain_cannot_take_is_one_sentence(
    world: World, tmp_path: Path, words: dict[str, Any], sentence: str
) -> None:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    how = {"by": world.av, "out": tmp_path / "run", "texts": world.root / "texts.txt", **words}
    with pytest.raises(Refusal, match=sentence):
        dragoman.explain(sae, **how)
    assert not (tmp_path / "run").exists()


def test_what_is_no_dictionary_run_or_place_is_one_sentence(world: World, tmp_path: Path) -> None:
    sae, run = dragoman.open_dictionary(world.sae, site=world.source), build_run(tmp_path / "run")
    given: Any = sae.features([3]).directions
    for job in (
        lambda: dragoman.explain(given, by=world.av, out=tmp_path / "new"),
        lambda: dragoman.fit_crossing(given, world.target),
    ):
        with pytest.raises(
            Refusal, match="what is read .*: it is no dictionary; pass features of a dictionary, one, or"
        ):
            job()
    odd: Any = 3
    for job in (
        lambda: dragoman.fit_crossing(sae, odd),
        lambda: dragoman.open_dictionary(world.sae, site=odd),
        lambda: dragoman.open_dictionary(world.sae, site="nowhere"),
    ):
        with pytest.raises(Refusal, match="site '(3|nowhere)': a site names a model and a block"):
            job()
    for name, job in (("run", dragoman.Run.open), ("run", dragoman.score), ("path", dragoman.Run(run).write_page)):
        with pytest.raises(Refusal, match=f"{name} 3: it is no path"):
            job(odd)
    with pytest.raises(Refusal, match="confidence 3: it is no path; pass a str or a Path, or leave it out"):
        dragoman.score(run.path, confidence=odd)
    for job in (dragoman.fit_confidence, dragoman.recalibrate_confidence):
        with pytest.raises(Refusal, match="checked 3: it is no path"):
            job(run.path, odd)
    runs: Any
    for runs in (None, 3, "run", {str(run.path)}, (one for one in ())):
        with pytest.raises(Refusal, match="runs .*: it is no list; pass a list of runs, or of their folders"):
            dragoman.rank(runs)
    for wrong, why in ((None, "conditions None: it is no list"), ([1], "condition 1: it is no name")):
        conditions: Any = wrong
        with pytest.raises(Refusal, match=why):
            dragoman.rank([run.path, run.path], conditions=conditions)
        with pytest.raises(Refusal, match=why):
            dragoman.compare(run.path, run.path, conditions=conditions)
    for size in ("latents", "documents", "known", "nulls"):
        for value in (20.5, "40", True, float("inf"), None):
            with pytest.raises(Refusal, match=rf"{size} .*: it is no whole number; pass an int"):
                dragoman.calibrate("nowhere", by="nowhere", **{size: value})  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="method 'None': known are"):
        dragoman.fit_crossing(sae, world.target, method=None)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="penalty 1: it is no positive number"):
        dragoman.fit_crossing(sae, world.target, map="post", lam="1")  # type: ignore[arg-type]
