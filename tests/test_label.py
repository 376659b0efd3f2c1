"""Labels from contexts: dealt windows, a planted world whose marked word is known, going on after any cut, refusals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Interrupted, Refusal
from dragoman.embed import LexicalEmbedder
from dragoman.measures.excerpts import dealt_windows, marked
from dragoman.records import LabelsHead, TokenWindow
from dragoman.runs import label as room
from dragoman.runs.label import TOGETHER, label
from dragoman.scores import FORMAT, Scores
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.labels import LABEL, label_scores, with_labels
from dragoman.store import RunFolder, digest, read_json, write_json
from dragoman.store.firing import write_tokens
from dragoman.store.labels import LABELS, need_labels
from judging import whole
from report_fixture import TOPICS

WORDS = [topic.split()[-1].lower() for topic in TOPICS.values()][:40]
FILLER = ("the", "and", "of", "a", "in", "to", "was", "it", "for", "on", "with", "as", "by", "at", "from", "his", "her")
HEAD = LabelsHead(
    format=1, holds="labels from contexts", model="echo", files="f", dtype="float32", prompt="p", windows=8, tokens=24
)


class Echo:
    """Says the word that is marked most often; ``stops``: the batch before which somebody presses Ctrl-C."""

    def __init__(self, *, stops: int | None = None, **head: Any) -> None:
        self.told, self.stops, self.batches = HEAD.model_copy(update=head), stops, list[int]()

    def head(self, windows: int) -> LabelsHead:
        return self.told.model_copy(update={"windows": windows})

    def open(self) -> None: ...

    def label(self, asked: Sequence[Sequence[str]]) -> list[str]:
        if len(self.batches) == self.stops:
            raise KeyboardInterrupt
        self.batches.append(len(asked))
        counts = [Counter(word for excerpt in some for word in re.findall("<<(.*?)>>", excerpt)) for some in asked]
        return [one.most_common(1)[0][0] for one in counts]


def window(word: str, rng: np.random.Generator) -> tuple[str, TokenWindow]:
    """Ten filler words with one among them, at which a feature fires."""
    words = [str(w) for w in rng.choice(FILLER, 10)]
    at = int(rng.integers(1, 10))
    words.insert(at, word)
    ends = np.cumsum([len(one) + (k > 0) for k, one in enumerate(words)])
    return " ".join(words), TokenWindow(ends=tuple(map(int, ends)), at=(at,), fires=(3.0,))


def planted(path: Path, count: int = 40, *, swapped: bool = False, **manifest: Any) -> RunFolder:
    """Feature k fires on word k; ``swapped``: what is kept as firing are other windows in which it is silent.

    Texts of condition "right" name the word, those of "wrong" the next feature's.
    """
    rng, ids = np.random.default_rng(0), [f"{k}" for k in range(count)]
    entries = [{"name": name, "route": "map", "washout": "none", "verbalizer": "av"} for name in ("right", "wrong")]
    told = {"source": "s:1", "target": "t:1", "conditions": entries, "features": ids, "rows": 2 * count}
    run = RunFolder.create(path, {**told, "plan_digest": digest("planted"), **manifest})
    contexts, tokens = {}, {}
    for k in range(count):
        firing = [window(WORDS[k], rng) for _ in range(10)]
        others = [WORDS[int(j)] for j in rng.choice([j for j in range(40) if j != k], 20)]
        silent, more = ([window(word, rng) for word in some] for some in (others[:10], others[10:]))
        kept = more if swapped else firing
        contexts[ids[k]] = {"firing": [text for text, _ in kept], "silent": [text for text, _ in silent]}
        tokens[ids[k]] = [one for _, one in kept]
    run.append([
        whole({"feature": ids[k], "condition": c, "sample": 0, "text": f"About {WORDS[(k + (c == 'wrong')) % count]}"})
        for c in ("right", "wrong")
        for k in range(count)
    ])  # fmt: skip
    run.write_contexts(contexts)
    write_tokens(run, tokens)
    return run


@pytest.fixture(autouse=True)
def _judged_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "add_labels", lambda *_args, **_how: None)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A planted run with all its labels."""
    run = planted(tmp_path_factory.mktemp("labelled") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "add_labels", lambda *_args, **_how: None)
        label(run.path, Echo())
    return run


def judged(run: RunFolder, made_by: RunFolder) -> Any:
    return label_scores(JudgedRun.of(run), need_labels(made_by), LexicalEmbedder(), seed=0)


def test_half_of_the_windows_are_shown_and_the_deal_is_by_their_words_alone() -> None:
    some = [f"window number {k}" for k in range(9)] + ["  "]
    shown, held = dealt_windows(some)
    assert len(shown) == 4 and sorted(shown + held) == list(range(9)) and shown == sorted(shown)
    again, _ = dealt_windows(some[::-1])
    assert {some[k] for k in shown} == {some[::-1][k] for k in again}
    twice = ["Same words ", "same  WORDS", "other"]
    assert dealt_windows(twice) in (([0, 1], [2]), ([2], [0, 1]))
    assert dealt_windows(["alone"]) == ([], [0]) and dealt_windows([]) == ([], [])


def test_marks_stand_around_whole_words_and_blanks_are_told() -> None:
    text = "a valley,\n of stones"
    ends = (1, 5, 8, 9, 10, 13, 20)  # a| val|ley|,|\n| of| stones
    some = TokenWindow(ends=ends, at=(1, 4, 6), fires=(4.0, 2.0, 1.0))
    assert marked(text, some) == "a <<valley>>, <<line break>> of stones"
    assert marked(text, TokenWindow(ends=ends, at=(2, 3), fires=(4.0, 4.0))) == "a <<valley,>> of stones"
    assert marked("一" * 40, TokenWindow(ends=(1, 2), at=(1,), fires=(1.0,))) == "一<<一>>" + "一" * 38


def test_planted_words_are_found_from_the_shown_half_and_told_in_one_file(labelled: RunFolder) -> None:
    found = need_labels(labelled)
    assert [one.label for one in found.by_feature.values()] == WORDS
    assert {one.windows for one in found.by_feature.values()} == {5} and found.head.model == "echo"


def test_labels_of_planted_words_tell_the_other_half_apart_and_wrong_texts_do_not(labelled: RunFolder) -> None:
    found = judged(labelled, labelled)
    rates = {row.condition: row for row in found.table}
    assert list(rates) == [LABEL, "right", "wrong"] and {row.features for row in found.table} == {40}
    assert rates[LABEL].value > 0.95 and rates["right"].value > 0.95 and rates[LABEL].p < 0.01
    assert abs(rates[LABEL].extra["others"] - 0.5) < 0.05 and abs(rates["wrong"].value - 0.5) < 0.1
    right, wrong = found.over
    assert right.low <= 0 <= right.high and wrong.high < -0.3 and wrong.what == f"wrong minus {LABEL}"
    assert {one.firing for one in found.per_feature[LABEL]} == {5}


def test_labels_made_from_silent_windows_tell_no_more_than_dealt_ones(labelled: RunFolder, tmp_path: Path) -> None:
    control = planted(tmp_path / "control", swapped=True)
    label(control.path, Echo())
    (rate, *_) = judged(labelled, control).table
    assert rate.p > 0.05 and abs(rate.value - rate.extra["others"]) < 0.05
    assert abs(rate.value - 0.5) < 0.05


def test_interrupted_it_keeps_whole_batches_and_goes_on_to_the_same_bytes(labelled: RunFolder, tmp_path: Path) -> None:
    run = planted(tmp_path / "run")
    with pytest.raises(Interrupted, match=f"interrupted: {TOGETHER} of 40 labels are kept; run the same command"):
        label(run.path, Echo(stops=1))
    rest = Echo()
    label(run.path, rest)
    assert rest.batches == [TOGETHER, 40 - 2 * TOGETHER]
    assert (run.path / LABELS).read_bytes() == (labelled.path / LABELS).read_bytes()
    again = Echo()
    label(run.path, again)
    assert again.batches == []


def test_cut_at_any_byte_it_goes_on_to_the_same_bytes(labelled: RunFolder, tmp_path: Path) -> None:
    run, all_of_it = planted(tmp_path / "run"), (labelled.path / LABELS).read_bytes()
    for cut in [0, 1, 400, *range(700, len(all_of_it), 997), len(all_of_it) - 1]:
        (run.path / LABELS).write_bytes(all_of_it[:cut])
        label(run.path, Echo())
        assert (run.path / LABELS).read_bytes() == all_of_it


def test_a_run_that_has_grown_keeps_its_labels_and_has_more(tmp_path: Path) -> None:
    features = [f"{k}" for k in range(40)]
    parts = [{"features": some, "rows": 1, "plan": "p"} for some in (features[:5], features[5:])]
    grown = planted(tmp_path / "run", parts=parts)
    echo = Echo()
    label(grown.path, echo)
    assert echo.batches == [5, 16, 16, 3]
    before = (grown.path / LABELS).read_bytes()
    write_json(grown.path / "manifest.json", {**read_json(grown.path / "manifest.json"), "parts": parts[:1]})
    (grown.path / LABELS).unlink()
    label(grown.path, Echo())
    write_json(grown.path / "manifest.json", {**read_json(grown.path / "manifest.json"), "parts": parts})
    rest = Echo()
    label(grown.path, rest)
    assert rest.batches == [16, 16, 3] and (grown.path / LABELS).read_bytes() == before


@pytest.mark.parametrize(
    ("head", "windows", "why"),
    [
        ({"files": "of another"}, 8, "were made by echo, and are not mixed; remove context_labels.jsonl"),
        ({"dtype": "bfloat16"}, 8, "were made with dtype float32"),
        ({}, 3, "were made with windows 8"),
    ],
)
def test_labels_of_another_model_or_asked_for_otherwise_are_refused(
    labelled: RunFolder, head: dict[str, Any], windows: int, why: str
) -> None:
    before = (labelled.path / LABELS).read_bytes()
    with pytest.raises(Refusal, match=why):
        label(labelled.path, Echo(**head), windows=windows)
    assert (labelled.path / LABELS).read_bytes() == before


def test_labels_from_other_windows_and_changed_ones_are_refused(labelled: RunFolder, tmp_path: Path) -> None:
    run = planted(tmp_path / "run")
    told = (labelled.path / LABELS).read_bytes()
    (run.path / LABELS).write_bytes(told)
    contexts = dict(run.contexts or {})
    contexts["3"] = {**contexts["3"], "firing": [one.upper() for one in contexts["3"]["firing"]]}
    run.write_contexts(contexts)
    with pytest.raises(Refusal, match="its label of feature 3 was made from other windows"):
        label(run.path, Echo())
    (run.path / LABELS).write_bytes(told.replace(b"echo", b"ohce", 1))
    with pytest.raises(Refusal, match=r"line 1: it was changed.* remove context_labels.jsonl and label the run again"):
        label(run.path, Echo())


def test_runs_in_which_nothing_is_known_to_fire_are_refused(tmp_path: Path) -> None:
    def why(run: RunFolder) -> str:
        with pytest.raises(Refusal) as refused:
            label(run.path, Echo())
        assert not (run.path / LABELS).exists()
        return refused.value.why

    assert "plain vectors" in why(planted(tmp_path / "vectors", dictionary={"layout": "vectors"}))
    bare = planted(tmp_path / "bare")
    (bare.path / "tokens.jsonl").unlink()
    assert "on which tokens" in why(bare)
    (bare.path / "contexts.json").unlink()
    assert "it keeps no windows" in why(bare)
    short = planted(tmp_path / "short", rows=400)
    (short.path / "contexts.json").unlink()
    assert "80 of its 400 explanations, and windows are kept with the last" in why(short)
    rare = planted(tmp_path / "rare")
    rare.write_contexts({f: {**one, "firing": one["firing"][:3]} for f, one in (rare.contexts or {}).items()})
    assert "none of its features has 4 windows" in why(rare)
    with pytest.raises(Refusal, match="ask for 2 or more"):
        label(rare.path, Echo(), windows=1)


def test_scores_hold_what_the_labels_are_worth_where_there_are_any(labelled: RunFolder, tmp_path: Path) -> None:
    empty = Scores(format=FORMAT)
    assert with_labels(empty, JudgedRun.of(planted(tmp_path / "none")), LexicalEmbedder(), seed=0) == empty
    found = with_labels(empty, JudgedRun.of(labelled), LexicalEmbedder(), seed=0)
    assert found.context_labels == judged(labelled, labelled)
    few = replace(need_labels(labelled), by_feature={"0": need_labels(labelled).by_feature["0"]})
    assert label_scores(JudgedRun.of(labelled), few, LexicalEmbedder(), seed=0) is None
