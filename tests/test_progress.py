"""Long steps as plain lines with the time left, and the log that a run keeps: with times, without secrets."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import dragoman
from ar_checkpoints import WIDTH
from dragoman.commands.printing import talking
from dragoman.core import Refusal, Talk
from dragoman.runs.progress import EVERY, FIRST, Paced, duration, logged
from dragoman.store.outputs import check_file
from dragoman.store.runs import LOG
from small_world import World
from verbalizer_doubles import ScriptedVerbalizer

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S.*")


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(marks: list[tuple[float, int]], total: int) -> list[str]:
    """What is said where a step is so far at such times."""
    said, clock = list[str](), Clock()
    paced = Paced(said.append, clock)
    for clock.now, done in marks:
        paced.bar("reading", done, total)
    return said


def test_a_step_says_that_it_begins_how_long_it_takes_and_that_it_is_done() -> None:
    marks = [(0, 0), (1, 1), (FIRST, 10), (FIRST + 1, 12), (FIRST + EVERY, 70), (50, 100), (51, 100)]
    assert lines_of(marks, 100) == [
        "reading: 0 of 100",
        "reading: 10 of 100, about 45 s left",
        "reading: 70 of 100, about 15 s left",
        "reading: 100 of 100, done in 50 s",
    ]


def test_a_step_that_goes_on_counts_from_where_it_was() -> None:
    assert lines_of([(0, 900), (10, 910)], 1000)[-1] == "reading: 910 of 1000, about 2 min left"
    assert lines_of([(0, 0), (100, 0)], 10)[-1] == "reading: 0 of 10"
    assert lines_of([(0, 5)], 5) == ["reading: 5 of 5, done in 1 s"]


def test_two_steps_and_one_that_begins_anew_are_told_apart() -> None:
    said, clock = list[str](), Clock()
    paced = Paced(said.append, clock)
    for what, done in (("a", 1), ("b", 1), ("a", 2), ("a", 1), ("a", 2)):
        paced.bar(what, done, 2)
    assert said == ["a: 1 of 2", "b: 1 of 2", "a: 2 of 2, done in 1 s", "a: 1 of 2", "a: 2 of 2, done in 1 s"]


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (7_200, "2.0 h")])
def test_durations_are_short(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize("quiet", [False, True])
def test_where_stderr_is_no_terminal_bars_are_lines(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with talking(quiet=quiet) as talk:
        talk.step("first")
        talk.say("said \x1b[2J")
        talk.bar("reading", 1, 2)
        talk.bar("reading", 2, 2)
    told = ["first"] if quiet else ["first", "said \\x1b[2J", "reading: 1 of 2", "reading: 2 of 2, done in 1 s"]
    assert stream.getvalue().splitlines() == told


def test_nothing_is_logged_before_the_folder_is_the_run_s_and_all_of_it_then(tmp_path: Path) -> None:
    with logged(Talk()) as talk:
        talk.say("with https://u:SECRET@host/x and hf_" + "abcdefgh" * 4)
        assert not list(tmp_path.iterdir())
        talk.kept(tmp_path)
        talk.say("two\nlines \x1b]52;c;x\x07 \u202e \ud800 \u00e9")
        talk.bar("saying", 1, 2)
    with pytest.raises(Refusal), logged(Talk()) as talk:
        talk.kept(tmp_path)
        raise Refusal("it", "is refused", "do another")
    text = (tmp_path / LOG).read_text("utf-8")
    lines = text.split("\n")
    assert lines.pop() == "" and all(LINE.fullmatch(line) for line in lines)
    said = [line.split(" ", 1)[1] for line in lines]
    assert said[0] == "begun" and said[1].startswith("with https://host/x and hf_")
    assert said[2:] == [
        r"two\nlines \x1b]52;c;x\x07 \u202e \ud800 " + "\u00e9",
        "saying: 1 of 2",
        "done",
        "begun",
        "it: is refused; do another.",
    ]
    assert "SECRET" not in text and "abcdefgh" not in text


def test_a_log_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / LOG).symlink_to(other)
    with logged(Talk()) as talk:
        talk.kept(tmp_path)
        talk.say("more")
    assert other.read_text() == "mine"


def test_a_run_keeps_its_log_and_another_s_stays_as_it_is(world: World, tmp_path: Path) -> None:
    spoken = list[str]()
    by = ScriptedVerbalizer(world.target, WIDTH, lambda vector: f"of {vector.argmax()} {vector.sum():.3f}")
    how: dict[str, Any] = {"by": by, "texts": str(world.root / "texts.txt"), "map": "post", "route": "map"}
    dictionary, talk = dragoman.open_dictionary(world.sae, site=world.source), Talk(say=spoken.append)
    run = dragoman.explain(dictionary, features=[1, 2], out=tmp_path / "run", talk=talk, **how)
    log = run.path / LOG
    first = log.read_text()
    assert [sentence for sentence in spoken if f" {sentence}\n" not in first] == []
    assert first.splitlines()[0].endswith(" begun") and first.splitlines()[-1].endswith(" done")
    rows = (run.path / "rows.jsonl").read_bytes()
    with pytest.raises(Refusal):
        dragoman.explain(dictionary, features=[1, 2], out=run.path, **how, seed=5)
    assert log.read_text() == first
    again = dragoman.explain(dictionary, features=[1, 2], out=run.path, **how)
    assert log.read_text().startswith(first) and log.read_text().count(" begun\n") == 2
    assert (again.path / "rows.jsonl").read_bytes() == rows
    with pytest.raises(Refusal, match="it is a file of the run there"):
        check_file(log)
