import errno
import os
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import killed_study
from dragoman.core import Directions, Explanation, Interrupted, Refusal, Site
from dragoman.records import Card
from dragoman.runs import plan as study
from dragoman.store import RunFolder
from killed_study import SETTINGS, SITES, Talker, conditions
from killed_study import run as run_plan


def talkers(folder: Path) -> dict[str, Talker]:
    return {name: Talker(name, folder / "log", 0) for name in SITES}


def new_run(folder: Path) -> RunFolder:
    return RunFolder.create(folder / "run", {"plan_digest": "plan"})


def one(**changes: Any) -> study.Condition:
    values: dict[str, Any] = {
        "name": "plain",
        "vectors": np.eye(3, dtype=np.float32),
        "ids": ("1", "2", "3"),
        "labels": ("", "", ""),
        "verbalizer": "own",
    }
    return study.Condition(**{**values, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    run_plan(new_run(folder), conditions(), talkers(folder), **SETTINGS)
    return (folder / "run" / "rows.jsonl").read_bytes()


def test_rows_say_what_was_asked_of_whom(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run_plan(run, conditions(), talkers(tmp_path), **SETTINGS) == study.Done(reused=0, made=396)
    rows = run.rows()
    groups = [list(g) for _, g in groupby(conditions(), key=lambda c: c.verbalizer)]
    order = [(c.name, s, i) for group in groups for s in range(3) for c in group for i in c.ids]
    assert [(r["condition"], r["sample"], r["feature"]) for r in rows] == order
    by_condition = {r["condition"]: r for r in rows}
    assert list(rows[0]) == [
        *(
            "feature",
            "label",
            "kind",
            "condition",
            "sample",
            "text",
            "raw",
            "problems",
            "tokens",
            "log_probability",
            "card",
        ),
    ]
    assert by_condition["native"]["text"].startswith("own") and by_condition["plain"]["text"].startswith("foreign")
    assert by_condition["random_plain"]["kind"] == "random" and by_condition["native"]["kind"] == "feature"
    assert by_condition["plain"]["card"] == {"kappa": 8.0} and by_condition["native"]["card"] is None
    assert len({r["text"] for r in rows}) == len(rows)  # every sample was drawn anew


def test_a_row_says_how_probable_its_text_was_and_nothing_where_nobody_counted() -> None:
    said = Explanation("bees", "bees", tokens=2, log_probability=-1.23456789)
    assert one().row(0, 0, said)["log_probability"] == -1.2346
    assert one().row(0, 0, Explanation("bees", "bees"))["log_probability"] is None
    assert said == Explanation("bees", "bees", tokens=2, log_probability=-1.2345678), "rounding is no other text"


def test_a_finished_run_is_not_said_again(tmp_path: Path, whole: bytes) -> None:
    run_plan(new_run(tmp_path), conditions(), talkers(tmp_path), **SETTINGS)
    before = (tmp_path / "log").read_bytes()
    assert run_plan(new_run(tmp_path), conditions(), talkers(tmp_path), **SETTINGS) == study.Done(reused=396, made=0)
    assert (tmp_path / "log").read_bytes() == before
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == whole


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_rows_torn_at_any_byte_are_made_whole_again(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, share: float
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    run = new_run(folder)
    cut = whole[: int(share * len(whole))]
    (run.path / "rows.jsonl").write_bytes(cut)
    done = run_plan(run, conditions(), talkers(folder), **SETTINGS)
    assert (run.path / "rows.jsonl").read_bytes() == whole
    assert done.reused <= cut.count(b"\n") < done.reused + 4 or done.made == 0  # at most one batch is said again


def test_a_row_draws_the_same_whatever_was_asked_before_it(tmp_path: Path) -> None:
    run_plan(new_run(tmp_path), conditions(), talkers(tmp_path), **SETTINGS)
    alone = RunFolder.create(tmp_path / "alone", {"plan_digest": "x"})
    run_plan(alone, conditions()[1:2], talkers(tmp_path), **SETTINGS)
    assert alone.rows() == [r for r in new_run(tmp_path).rows() if r["condition"] == "plain"]


def test_another_seed_draws_otherwise(tmp_path: Path, whole: bytes) -> None:
    run = new_run(tmp_path)
    run_plan(run, conditions(), talkers(tmp_path), **{**SETTINGS, "seed": 12})
    assert (run.path / "rows.jsonl").read_bytes() != whole


def test_progress_counts_rows_per_condition_from_where_it_stopped(tmp_path: Path, whole: bytes) -> None:
    run = new_run(tmp_path)
    (run.path / "rows.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    told: list[tuple[str, int, int]] = []
    run_plan(run, conditions(), talkers(tmp_path), progress=lambda *now: told.append(now), **SETTINGS)
    assert told[:4] == [("native", 4, 126), ("plain", 0, 171), ("random_plain", 0, 99), ("native", 8, 126)]
    assert told[-1] == ("random_plain", 99, 99)
    for name in ("native", "plain", "random_plain"):
        counts = [done for n, done, _ in told if n == name]
        assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (lambda rows: [*rows, rows[-1]], 397),
        (lambda rows: [rows[1], rows[0], *rows[2:]], 1),
        (lambda rows: rows[:10] + rows[11:], 11),
        (lambda rows: [*rows[:6], rows[6].replace(b"own", b"one"), *rows[7:]], 7),
    ],
)
def test_changed_rows_are_refused_and_left_alone(
    tmp_path: Path, whole: bytes, change: Callable[[list[bytes]], list[bytes]], at: int
) -> None:
    run = new_run(tmp_path)
    other = b"".join(change(whole.splitlines(keepends=True)))
    (run.path / "rows.jsonl").write_bytes(other)
    with pytest.raises(Refusal, match=f"rows.jsonl, line {at}: it was changed, moved, or is of another run"):
        run_plan(run, conditions(), talkers(tmp_path), **SETTINGS)
    assert (run.path / "rows.jsonl").read_bytes() == other
    assert not (tmp_path / "log").exists()


def test_rows_of_another_run_are_refused_whatever_their_keys(tmp_path: Path) -> None:
    """As when they were made with another washout: the same features, conditions and samples, other vectors."""
    other = RunFolder.create(tmp_path / "other", {"plan_digest": "another washout"})
    run_plan(other, conditions(), talkers(tmp_path), **SETTINGS)
    run = new_run(tmp_path)
    shutil.copy(other.path / "rows.jsonl", run.path / "rows.jsonl")
    before = (tmp_path / "log").read_bytes()
    with pytest.raises(Refusal, match=r"rows.jsonl, line 1: it was changed, moved, or is of another run"):
        run_plan(run, conditions(), talkers(tmp_path), **SETTINGS)
    assert (tmp_path / "log").read_bytes() == before


@pytest.mark.parametrize(("asked", "at"), [(slice(0, 1), 127), (slice(1, 3), 1)])
def test_rows_of_another_plan_under_the_same_name_are_refused(tmp_path: Path, asked: slice, at: int) -> None:
    run_plan(new_run(tmp_path), conditions(), talkers(tmp_path), **SETTINGS)
    with pytest.raises(Refusal, match=f"rows from {at} on: they are not the rows this plan makes there"):
        run_plan(new_run(tmp_path), conditions()[asked], talkers(tmp_path), **SETTINGS)


def test_a_full_disk_stops_the_study_whole_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    run, real, calls = new_run(tmp_path), os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Refusal, match="full disk"):
            run_plan(run, conditions(), talkers(tmp_path), **SETTINGS)
    kept = (run.path / "rows.jsonl").read_bytes()
    assert kept and whole.startswith(kept) and kept.endswith(b"\n")
    assert run_plan(run, conditions(), talkers(tmp_path), **SETTINGS).reused == kept.count(b"\n")
    assert (run.path / "rows.jsonl").read_bytes() == whole


def test_ctrl_c_inside_a_batch_loses_that_batch_only(tmp_path: Path, whole: bytes) -> None:
    run, said = new_run(tmp_path), talkers(tmp_path)

    class Stops(Talker):
        def verbalize(self, vectors: Any, **named: Any) -> list[Explanation]:
            if len((tmp_path / "log").read_text().splitlines()) == 5:
                raise KeyboardInterrupt
            return super().verbalize(vectors, **named)

    stopping = {**said, "own": Stops("own", tmp_path / "log", 0)}
    (tmp_path / "log").touch()
    with pytest.raises(Interrupted, match=r"20 of 396 rows are kept in .*run; run the same command again"):
        run_plan(run, conditions(), stopping, **SETTINGS)
    assert len(run.rows()) == 20
    run_plan(run, conditions(), said, **SETTINGS)
    assert (run.path / "rows.jsonl").read_bytes() == whole


def test_a_verbalizer_of_another_site_is_refused(tmp_path: Path) -> None:
    swapped = {"own": talkers(tmp_path)["foreign"]}
    with pytest.raises(Refusal, match="condition 'plain' at small:3: it is needed at large:5"):
        run_plan(new_run(tmp_path), [one(site=SITES["own"])], swapped)
    with pytest.raises(Refusal, match=r"verbalizer 'own' is not among \['foreign'\]"):
        run_plan(new_run(tmp_path), [one()], {"foreign": swapped["own"]})


def test_a_verbalizer_that_loses_a_row_is_refused(tmp_path: Path) -> None:
    class Loses(Talker):
        def verbalize(self, vectors: Any, **named: Any) -> list[Explanation]:
            return super().verbalize(vectors, **named)[1:]

    with pytest.raises(Refusal, match="gave 2 explanations for 3 vectors"):
        run_plan(new_run(tmp_path), [one()], {"own": Loses("own", tmp_path / "log", 0)})
    assert new_run(tmp_path).rows() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ids": ("1", "2")}, "do not go with 2 ids"),
        ({"labels": ()}, "3 ids and 0 labels"),
        ({"vectors": np.ones(3)}, r"shape \(3,\)"),
        ({"cards": (Card(),)}, "1 cards for 3 vectors"),
        ({"ids": ("1", "2", "1")}, "an id is there twice"),
        ({"vectors": np.full((3, 3), np.nan)}, "NaN or infinite"),
    ],
)
def test_conditions_that_do_not_fit_together_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        one(**changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"samples": 2}, "2 samples at temperature 0: greedy decoding says the same thing every time"),
        ({"samples": 0}, "each must be at least 1"),
        ({"batch_size": 0}, "each must be at least 1"),
        ({"conditions": ()}, "every condition needs a name of its own"),
        ({"conditions": (one(), one())}, "every condition needs a name of its own"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        study.Plan(**{"conditions": (one(),), **changes})


def test_the_first_of_several_samples_is_greedy_and_the_others_are_drawn(tmp_path: Path) -> None:
    heats: list[float] = []

    class Listens(Talker):
        def verbalize(self, vectors: Any, **named: Any) -> list[Explanation]:
            heats.append(named["temperature"])
            return super().verbalize(vectors, **named)

    said = {"own": Listens("own", tmp_path / "log", 0)}
    run = new_run(tmp_path)
    run_plan(run, [one()], said, samples=3, temperature=0.7)
    assert heats == [0.0, 0.7, 0.7]
    greedy = RunFolder.create(tmp_path / "greedy", {"plan_digest": "plan"})
    run_plan(greedy, [one()], said)
    assert [r["text"] for r in run.rows()[:3]] == [r["text"] for r in greedy.rows()]
    heats.clear()
    run_plan(RunFolder.create(tmp_path / "drawn", {"plan_digest": "plan"}), [one()], said, temperature=0.7)
    assert heats == [0.7], "a single sample is drawn at what was asked"


def test_a_condition_takes_ids_labels_kind_and_site_from_directions() -> None:
    directions = Directions.of(Site("m", 1), 2 * np.eye(3), [5, 6, 7], labels=["a", "b", "c"], kind="random")
    condition = study.Condition.of("plain", directions, "own")
    assert (condition.ids, condition.labels) == (("5", "6", "7"), ("a", "b", "c"))
    assert condition.kind == "random" and condition.site == Site("m", 1)
    np.testing.assert_array_equal(condition.vectors, np.eye(3))
    washed = study.Condition.of("washed", directions, "own", vectors=np.ones((3, 3)), cards=[Card(n_eff=1.0)] * 3)
    np.testing.assert_array_equal(washed.vectors, np.ones((3, 3)))
    assert not washed.vectors.flags.writeable and washed.cards[0].n_eff == 1.0


def test_a_plans_digest_changes_with_everything_that_decides_a_row(tmp_path: Path) -> None:
    said = talkers(tmp_path)
    base: dict[str, Any] = {"batch_size": 8, "samples": 1, "seed": 0, "temperature": 0.5, "max_new_tokens": 9}
    plans = [study.Plan(conditions=(one(),), **base)]
    plans += [study.Plan(conditions=(one(),), **{**base, key: value + 1}) for key, value in base.items()]
    for change in (
        {"name": "washed"},
        {"vectors": 2 * np.eye(3)},
        {"ids": ("1", "2", "4")},
        {"labels": ("", "", "x")},
        {"kind": "random"},
        {"cards": (Card(norm=1.0), Card(norm=2.0), Card(norm=3.0))},
        {"cards": (Card(norm=1.0), Card(norm=2.0), Card(norm=4.0))},
    ):
        plans.append(study.Plan(conditions=(one(**change),), **base))
    digests = [plan.digest(said) for plan in plans]
    digests += [plans[0].digest({"own": said["foreign"]}), plans[0].digest(said, "version 2")]
    assert len(set(digests)) == len(digests)
    assert study.Plan(conditions=(one(),), **base).digest(talkers(tmp_path)) == digests[0]


def test_the_script_that_is_killed_says_what_these_tests_say(tmp_path: Path, whole: bytes) -> None:
    assert killed_study.main(str(tmp_path / "run"), str(tmp_path / "log"), "0") == 0
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == whole
