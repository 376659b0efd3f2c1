"""Measures of features in a run's scores: planted words and lens words, beside what other features' reach."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dragoman.commands.show import show_scores
from dragoman.core import Directions, Refusal, Site, Talk
from dragoman.measures.firing import spoken_of
from dragoman.report import write_page
from dragoman.runs.crossings import lens_words
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.scores import FORMAT, Scores
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.measures import measure_scores
from dragoman.store import RunFolder

WORDS = {"1": "owl", "2": "boat", "3": "bread", "4": "lamp"}
LENS = {"1": ("owl", "bird", "wing"), "2": ("boat", "sea", "sail"), "3": ("bread", "oven", "flour")}


def text_of(word: str) -> str:
    return (
        f'It turns on "{word}" and the {word}.\n\nFinal token "{word}" goes on, and "of the owl" is likely to follow.'
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two conditions: one speaks of its own feature's word, the other of the next feature's."""
    conditions = [
        {"name": name, "route": route, "washout": "on-shell", "verbalizer": "av", "reading": name}
        for name, route in (("fires", "direct"), ("writes", "map"))
    ]
    manifest = {"source": "m:1", "target": "n:2", "conditions": conditions, "features": list(WORDS)}
    folder = RunFolder.create(tmp_path / "run", {"plan_digest": "by hand", **manifest})
    next_word = dict(zip(WORDS, [*list(WORDS.values())[1:], "owl"], strict=True))
    folder.append([
        {
            "feature": feature, "label": "", "kind": "feature", "condition": name, "sample": 0, "raw": "",
            "text": text_of(said[feature]), "problems": [], "tokens": 9, "log_probability": None, "card": None,
        }
        for name, said in (("fires", WORDS), ("writes", next_word))
        for feature in WORDS
    ])  # fmt: skip
    folder.write_contexts(
        {i: {"firing": [], "silent": [], "words": {word: 0.8, "the": 0.1}} for i, word in WORDS.items()}
        | {"9": {"firing": [], "silent": [], "words": {",": 0.9}}}
    )
    carried = {i: {"source": list(words), "carried": [*words[:2], "stone"]} for i, words in LENS.items()}
    folder.write_lens({"writes": carried})
    return folder


def test_texts_that_quote_the_firing_word_are_told_from_those_of_other_features(run: RunFolder) -> None:
    found = measure_scores(JudgedRun.of(run))
    assert {name: sorted(by) for name, by in found.items()} == {
        "fires": ["final_token", "firing_word"],
        "writes": ["final_token", "firing_word", "lens_overlap"],
    }
    fires, writes = found["fires"]["firing_word"], found["writes"]["firing_word"]
    assert (fires.value, fires.n, fires.extra["dealt"]) == (1.0, 4, 0.0)
    assert writes.value == 0.0 and writes.extra["dealt"] == pytest.approx(4 / 12)
    assert fires.null == "other features' firing words (dealt)" and fires.unit == "features"
    assert found["fires"]["final_token"].value == 1.0


def test_lens_words_that_arrive_are_counted_beside_other_features(run: RunFolder) -> None:
    lens = measure_scores(JudgedRun.of(run))["writes"]["lens_overlap"]
    assert (lens.value, lens.n, lens.extra["dealt"]) == (2.0, 3, 0.0)


def test_a_word_is_spoken_of_where_it_is_quoted_alone() -> None:
    assert spoken_of('The owl "boat" by "the owl" and "sea,".') == '"boat" "sea,"'


def test_rows_words_are_read_by_lenses_that_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, ...]] = []

    def pair_of(*refs: str, **_: Any) -> Any:
        opened.append(refs)
        return SimpleNamespace(source=_Lens("source"), target=_Lens("target"))

    monkeypatch.setattr("dragoman.runs.readings.LensPair.open", pair_of)
    readings = Readings(source=Site("m", 1), target=Site("n", 2), texts=Texts.of(["a text"]))
    rows = Directions.of(readings.source, np.eye(2), ["7", "9"])
    carried = Directions.of(readings.target, np.eye(3)[:2], ["7", "9"])
    for _ in range(2):
        found = lens_words(readings, rows, {"writes": carried, "fires": carried.pick(["9"])})
    assert opened == [("m", "n")]
    assert found["fires"] == {"9": {"source": ["source 1"], "carried": ["target 1"]}}
    assert list(found["writes"]) == ["7", "9"] and lens_words(readings, rows, {}) == {}


def test_where_a_lens_cannot_be_read_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str, **__: Any) -> Any:
        raise Refusal("the lens of m", "its weights are quantised", "use others")

    monkeypatch.setattr("dragoman.runs.readings.LensPair.open", refuse)
    sentences: list[str] = []
    talk = Talk(say=sentences.append)
    readings = Readings(source=Site("m", 1), target=Site("n", 2), texts=Texts.of(["a text"]), talk=talk)
    rows = Directions.of(readings.source, np.eye(2), ["7", "9"])
    assert lens_words(readings, rows, {"writes": rows}) == {} and readings.lenses is None
    assert len(sentences) == 1 and "the lens of m, its weights are quantised" in sentences[0]


class _Lens:
    """Names the dimension that a row points along."""

    def __init__(self, name: str) -> None:
        self.name = name

    def top(self, rows: Any) -> list[tuple[str, ...]]:
        return [(f"{self.name} {int(np.argmax(row))}",) for row in rows]


def test_too_few_features_and_marks_have_no_measure(run: RunFolder) -> None:
    run.write_contexts({i: {"firing": [], "silent": [], "words": {",": 0.9}} for i in WORDS})
    run.write_lens({"writes": {"1": {"source": ["owl"], "carried": ["owl"]}}})
    assert measure_scores(JudgedRun.of(run)) == {}


def test_measures_stand_on_terminal_and_page_and_are_read_back(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = Scores(format=FORMAT, measures=measure_scores(JudgedRun.of(run)))
    assert Scores.of(scores.to_json(), "scores").measures["fires"]["firing_word"].value == 1.0
    show_scores(scores, run.manifest)
    told = capsys.readouterr().out
    assert "firing word" in told and "lens words: of the 20 words" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 80
    run.write_scores(scores.to_json())
    page = write_page(run, tmp_path / "page.html").read_text()
    assert "What texts and rows tell of features" in page and "firing word" in page
