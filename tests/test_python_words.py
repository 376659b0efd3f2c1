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
from small_world import World, command

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
        ((k for k in (3, 5)), "features of type generator: ids are read in the order"),
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
