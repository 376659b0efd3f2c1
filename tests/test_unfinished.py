"""A run that is not finished is not scored: what is missing is said, and no scores are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragoman import Refusal, score, store
from dragoman.scoring import score_run
from dragoman.scoring.judged_run import JudgedRun
from dragoman.store import RunFolder
from report_fixture import build_run
from small_world import World, command

AGAIN = "run the same explain again to finish it"


def cut(run: RunFolder, keep: int) -> None:
    """Leave the first rows, as a process that was killed does."""
    with run.writing() as rows:
        rows.keep(keep)


def told(run: RunFolder, **changes: object) -> RunFolder:
    """The run with another manifest; None takes a part away."""
    manifest = store.read_json(run.path / "manifest.json") | changes
    store.write_json(run.path / "manifest.json", {k: v for k, v in manifest.items() if v is not None})
    return RunFolder.open(run.path)


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_a_run_without_rows_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run = build_run(tmp_path / "run", scored=False, info=False)
    if how == "empty":
        cut(run, 0)
    else:
        (run.path / "rows.jsonl").unlink()
    said = command(monkeypatch, capsys, "score", str(run.path))
    assert said.code == 1 and not said.out and f"run: it holds no explanation yet; {AGAIN}." in said.err
    with pytest.raises(Refusal, match="it holds no explanation yet"):
        score(run.path)
    assert not (run.path / "scores.json").exists()


def test_a_run_with_fewer_rows_than_its_plan_is_not_scored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", world.sae, "--by", world.av, "--source", str(world.source), "--features", "0,3,7", "--samples"]
    words += ["2", "--texts", str(world.root / "texts.txt"), "--max-new-tokens", "6", "-o", str(tmp_path / "run")]
    words += ["--reading", "writes"]
    assert command(monkeypatch, capsys, *words).code == 0
    run = RunFolder.open(tmp_path / "run")
    assert run.manifest["rows"] == len(run.rows()) == 6
    JudgedRun.of(run).refuse_unfinished()
    (run.path / "scores.json").unlink(missing_ok=True)  # what explain itself says of its sentences
    cut(run, 4)
    for whole in (run, told(run, rows=None)):  # an earlier version's manifest counts no rows
        with pytest.raises(Refusal, match=f"it holds 4 of its 6 explanations; {AGAIN}"):
            score_run(whole)
    assert not (run.path / "scores.json").exists()
    assert command(monkeypatch, capsys, *words).code == 0
    JudgedRun.of(RunFolder.open(run.path)).refuse_unfinished()


def test_a_manifest_that_counts_nothing_still_tells_a_condition_that_is_missing(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", scored=False, info=False)
    JudgedRun.of(run).refuse_unfinished()
    cut(run, 50)
    with pytest.raises(Refusal, match=f"it holds no explanation of condition washed yet; {AGAIN}"):
        JudgedRun.of(run).refuse_unfinished()


def test_a_page_of_a_run_that_is_not_finished_is_written_and_stderr_tells_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build_run(tmp_path / "run", scored=False, info=False)
    count = len(run.rows())
    for rows, wrong in ((count, ""), (count + 1, f"The run is not finished: it holds {count} of its {count + 1} exp")):
        told(run, rows=rows)
        said = command(monkeypatch, capsys, "report", str(run.path))
        assert said.code == 0 and said.out == f"page: {run.page}\n"
        assert (wrong in said.err) if wrong else not said.err
