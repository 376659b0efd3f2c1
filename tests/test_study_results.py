"""A study's answer on disk, its figure, and the command that asks for it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from dragoman.core import Refusal
from dragoman.store import RunFolder
from small_world import Said, command
from studies import results
from studies.answers import lines
from studies.figure import COLOURS, MARKS, panels, points
from studies.ground import GROUNDS
from studies.judged import Heard
from studies.results import Answer, Table, comes_to, number, paged, percent, signed, written
from studies.run import STUDIES, study_of
from study import DIRECTIONS, NAMES, app, chosen
from study_worlds import latent, row, run_of

RATES = [{"value": 0.2, "low": 0.1, "high": 0.35}, {"value": 0.4, "low": 0.4, "high": 0.6}]


def drawn(path: Path) -> None:
    with panels(path, 2) as axes:
        for k, axis in enumerate(axes):
            points(axis, [1, 2], RATES, f"line {k}", k)
            axis.set_title("both")
        axes[0].legend()


def an_answer() -> Answer:
    table = Table(title="Rates", columns=("route", "rate"), rows=[("map | direct", "41 %"), ("a\\b", "–")], note="So.")
    return Answer(
        findings=["It does.", "It does not."], tables=[table], data={"grounds": {"n": 2}}, draw=drawn, caption="Rates."
    )


# --- pages -----------------------------------------------------------------------------------------------------------


def test_a_cell_may_hold_what_separates_cells() -> None:
    lines = an_answer().tables[0].markdown().splitlines()
    assert lines[:2] == ["### Rates", ""] and lines[-1] == "So."
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:6]] == [3, 3, 3, 3]
    assert lines[4] == r"| map \| direct | 41 % |"


def test_a_page_begins_with_the_question_and_says_how_it_is_made_again() -> None:
    page = paged("Does it hold?", an_answer(), "post.svg", "python research/study.py post")
    assert page.startswith(
        "# Does it hold?\n\nIt does.\n\nIt does not.\n\n![Rates.](post.svg)\n\n*Rates.*\n\n### Rates\n"
    )
    assert "Made again by `python research/study.py post`" in page and page.endswith(".\n")
    assert page.index(r"map \| direct") < page.index("Made again")


def test_a_page_tells_what_the_index_beside_it_says_of_the_study(tmp_path: Path) -> None:
    assert comes_to("post", tmp_path) == ""
    (tmp_path / "index.md").write_text(
        "| study | asks | comes to |\n|---|---|---|\n| [P](post.md) | holds? | mostly |\n"
    )
    assert (comes_to("post", tmp_path), comes_to("data", tmp_path)) == ("mostly", "")
    assert paged("Does it?", an_answer(), "f", "c", "mostly").startswith(
        "# Does it?\n\n**In short:** mostly.\n\nIt does."
    )


@pytest.mark.parametrize("name", ["post", "data", "depth", "procrustes", "washout"])
def test_the_pages_of_studies_are_what_their_figures_say(name: str) -> None:
    folder = Path(__file__).parents[1] / "docs" / "results"
    told = json.loads((folder / f"{name}.json").read_text())
    page = paged(
        told["question"], lines.found(told["grounds"]), f"{name}.svg", f"python research/study.py {name}",
        comes_to(name, folder),
    )  # fmt: skip
    assert (folder / f"{name}.md").read_text() == page


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (percent({"value": 0.406, "low": 0.361, "high": 0.46}), "41 % [36, 46]"),
        (percent(None), "–"),
        (signed({"value": 0.153, "low": -0.02, "high": 0.186}), "+0.153 [-0.020, +0.186]"),
        (signed(None), "–"),
        (number(0.12345), "0.123"),
        (number(0.12345, 1), "0.1"),
        (number(float("nan")), "–"),
        (number(None), "–"),
    ],
)
def test_numbers_are_written_shortly_and_what_is_missing_is_a_dash(told: str, expected: str) -> None:
    assert told == expected


# --- answers on disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In the place of the answer to drift; keeps what it was asked."""
    asked: list[Any] = []

    def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
        asked.append((heard, seed))
        return an_answer()

    monkeypatch.setitem(sys.modules, "studies.answers.drift", SimpleNamespace(answer=answer))  # type: ignore[arg-type]
    return asked


def test_an_answer_is_a_page_a_figure_and_everything_behind_them(tmp_path: Path, answering: list[Any]) -> None:
    run_of(tmp_path / "work" / "drift" / "gemma-to-smollm2", [latent("1")], [row("1", "a", "An owl.")])
    page = written("drift", tmp_path / "work", tmp_path / "out", seed=5)
    ((heard, seed),) = answering
    assert list(heard) == ["gemma-to-smollm2"] and seed == 5
    assert heard["gemma-to-smollm2"].said["a"].texts == ("An owl.",) and heard["gemma-to-smollm2"].reading is None
    assert page == tmp_path / "out" / "drift.md" and "![Rates.](drift.svg)" in page.read_text()
    assert page.read_text().startswith(f"# {study_of('drift').question}\n")
    assert (tmp_path / "out" / "drift.svg").read_text().count("<svg") == 1
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert told["study"] == "drift" and told["grounds"] == {"n": 2}
    made = told["made"]["gemma-to-smollm2"]
    assert (made["features"], made["rows"], made["plan_digest"]) == (1, 1, "by hand")
    assert set(made) >= {"dragoman", "versions", "seeds", "background"}


def test_a_study_that_was_never_said_has_no_answer(tmp_path: Path) -> None:
    (tmp_path / "drift" / "gemma-to-smollm2").mkdir(parents=True)
    message = "nothing was said there yet; run python research/study.py drift without --finished first"
    with pytest.raises(Refusal, match=message):
        written("drift", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_nobody_knows_has_no_answer_either(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="study 'nonsense': known are post, procrustes"):
        written("nonsense", tmp_path, tmp_path / "out")


def test_every_direction_of_the_pair_has_a_name_on_the_page() -> None:
    assert set(results.NAMES) == set(GROUNDS)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_figure_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        drawn(tmp_path / name)
    one = (tmp_path / "one.svg").read_bytes()
    assert one == (tmp_path / "two.svg").read_bytes() and b"<dc:date>" not in one


def test_a_figure_that_could_not_be_drawn_leaves_nothing(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    with pytest.raises(ZeroDivisionError), panels(tmp_path / "a.svg", 1) as axes:
        axes[0].plot([1 / 0])
    assert not (tmp_path / "a.svg").exists() and not plt.get_fignums()


def test_several_rows_of_panels_are_given_as_rows(tmp_path: Path) -> None:
    with panels(tmp_path / "a.svg", 3, rows=2) as axes:
        assert axes.shape == (2, 3)
    with panels(tmp_path / "b.svg", 1) as axes:
        assert axes.shape == (1,)


def test_points_stand_at_their_values_with_their_own_intervals(tmp_path: Path) -> None:
    with panels(tmp_path / "a.svg", 1) as axes:
        points(axes[0], [1, 2], RATES, "a line", len(COLOURS) + 1)
        (drawn_,) = axes[0].containers
        line, _, (bars,) = drawn_
        assert list(line.get_ydata()) == [0.2, 0.4]
        assert [s[:, 1].tolist() for s in bars.get_segments()] == [
            pytest.approx([0.1, 0.35]),
            pytest.approx([0.4, 0.6]),
        ]
        assert (line.get_color(), line.get_marker()) == (COLOURS[1], MARKS[1])


def test_without_matplotlib_a_figure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Refusal, match=r"matplotlib is not installed; run: pip install 'dragoman\[studies\]'"):
        drawn(tmp_path / "a.svg")


# --- the command -----------------------------------------------------------------------------------------------------

Dragoman = Callable[..., Said]


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def test_the_command_knows_the_studies_and_directions_there_are() -> None:
    assert tuple(STUDIES) == NAMES and tuple(GROUNDS) == DIRECTIONS
    assert all(study.name == name and study.question.endswith("?") for name, study in STUDIES.items())


def test_all_are_chosen_by_one_word() -> None:
    assert chosen("all", "both") == (NAMES, DIRECTIONS)
    assert chosen("drift", "gemma-to-smollm2") == (("drift",), ("gemma-to-smollm2",))


@pytest.mark.parametrize(
    ("name", "direction", "message"),
    [
        ("nonsense", "both", "study 'nonsense': known are post, .*, trust; name one of these, or all"),
        ("post", "up", "direction 'up': known are smollm2-to-gemma, gemma-to-smollm2; name one of these, or both"),
    ],
)
def test_unknown_studies_and_directions_are_refused(name: str, direction: str, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        chosen(name, direction)


@pytest.mark.parametrize("words", [("nonsense",), ("post", "--direction", "up"), ("drift", "--finished")])
def test_a_refused_study_leaves_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, *where])
    assert isinstance(done.exception, Refusal) and not done.stdout and not list(tmp_path.iterdir())


def test_finished_rows_are_judged_without_a_model(tmp_path: Path, answering: list[Any]) -> None:
    run_of(tmp_path / "work" / "drift" / "smollm2-to-gemma", [latent("1")], [row("1", "a", "An owl.")])
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["drift", "--finished", *where])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'out' / 'drift.md'}\n") and len(answering) == 1


def test_what_was_said_but_not_read_is_refused_and_so_is_a_confidence_of_one_direction(tmp_path: Path) -> None:
    from studies.answers import trust
    from studies.judged import Heard, unread

    run = RunFolder.create(tmp_path / "run", {"plan_digest": "x", "conditions": [], "features": []})
    assert "have not been read by the sentence model; give the command again without --finished" in str(unread(run))
    with pytest.raises(Refusal, match="fitted on one direction of the pair and judged on the other"):
        trust.answer({"smollm2-to-gemma": Heard(run=run, reading=None)}, seed=0)
