import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import killed_study
from dragoman.core import Refusal
from dragoman.runs.plan import Plan
from dragoman.store import RunFolder
from nursery import Nursery, wait_until

PLAN = Plan(conditions=tuple(killed_study.conditions()), **killed_study.SETTINGS)


def start(nursery: Nursery, folder: Path, log: Path, seconds: float) -> int:
    """The study in a process of its own, whose id is given."""
    return nursery.start([str(folder), str(log), str(seconds)], log=said_in(folder), SCRIPT="killed_study")


def said_in(folder: Path) -> Path:
    return folder.with_name("said")


def calls(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_a_call(process: int, log: Path, before: int) -> None:
    wait_until(lambda: len(calls(log)) > before or not Path(f"/proc/{process}").exists(), 600)


def recorded(folder: Path) -> set[int]:
    """Seeds of the batches whose rows are all on disk."""
    there = {(r["condition"], r["sample"], r["feature"]) for r in RunFolder.open(folder).rows()}
    return {batch.seed for batch in PLAN.batches() if there.issuperset(batch.keys)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    assert killed_study.main(str(folder / "run"), str(folder / "log"), "0") == 0
    seeds = [batch.seed for batch in PLAN.batches()]
    assert calls(folder / "log") == seeds and len(set(seeds)) == len(seeds)
    return (folder / "run" / "rows.jsonl").read_bytes()


def test_a_study_killed_ten_times_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, nursery: Nursery, uninterrupted: bytes
) -> None:
    chance = random.Random(20)
    folder, log = tmp_path / "run", tmp_path / "log"
    rows = folder / "rows.jsonl"
    kills, sizes = 0, set()
    while kills < 10:
        done = recorded(folder) if rows.exists() else set()
        before = calls(log)
        process = start(nursery, folder, log, 0.012)
        wait_for_a_call(process, log, len(before))
        time.sleep(chance.uniform(0, 0.06))
        os.kill(process, signal.SIGKILL)
        assert nursery.ended() == -signal.SIGKILL, "the study ended before it could be killed"
        kills += 1
        assert not done & set(calls(log)[len(before) :]), "a recorded batch was said again"
        whole = rows.read_bytes() if rows.exists() else b""
        assert uninterrupted.startswith(whole[: whole.rfind(b"\n") + 1])
        sizes.add(len(whole))
        # A kill seldom lands inside a write this short, so every second time tear the file as one would:
        # a line begun and not ended, or a batch of which only some rows arrived.
        if kills % 4 == 1:
            rows.write_bytes(whole + uninterrupted[len(whole) : len(whole) + chance.randint(1, 90)])
        elif kills % 4 == 3:
            rows.write_bytes(whole[: -chance.randint(1, 900)])
    assert len(sizes) > 5, "the kills were not at different points"
    done, before = recorded(folder), calls(log)
    assert 0 < len(done) < len(list(PLAN.batches()))
    start(nursery, folder, log, 0)
    assert nursery.ended() == 0
    assert rows.read_bytes() == uninterrupted
    last = calls(log)[len(before) :]
    assert not done & set(last) and max(Counter(last).values()) == 1
    assert done | set(last) == {batch.seed for batch in PLAN.batches()}


def test_ctrl_c_leaves_a_folder_to_go_on_with_and_says_so(
    tmp_path: Path, nursery: Nursery, uninterrupted: bytes
) -> None:
    chance = random.Random(3)
    folder, log = tmp_path / "run", tmp_path / "log"
    for _ in range(3):
        before = len(calls(log))
        # Two seconds of work at least: on a loaded machine the signal may come late, and must still find it running.
        process = start(nursery, folder, log, 0.05)
        wait_for_a_call(process, log, before)
        time.sleep(chance.uniform(0.1, 0.3))
        os.kill(process, signal.SIGINT)
        assert nursery.ended() == 130
        said = said_in(folder).with_suffix(".err").read_text()
        kept = (folder / "rows.jsonl").read_bytes()
        assert uninterrupted.startswith(kept) and (not kept or kept.endswith(b"\n"))
        count = kept.count(b"\n")
        assert f"{count} of 396 rows are kept" in said and "run the same command again" in said
        assert "Traceback" not in said
    done, before = recorded(folder), len(calls(log))
    assert done
    start(nursery, folder, log, 0)
    assert nursery.ended() == 0
    assert (folder / "rows.jsonl").read_bytes() == uninterrupted
    assert not done & set(calls(log)[before:])


def test_a_second_process_on_the_same_run_is_refused_and_the_first_goes_on(
    tmp_path: Path, nursery: Nursery, uninterrupted: bytes
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(nursery, folder, log, 0.01)
    wait_for_a_call(process, log, 0)
    with pytest.raises(Refusal, match="another process is writing this run"):
        killed_study.main(str(folder), str(tmp_path / "other-log"), "0")
    assert nursery.ended() == 0
    assert (folder / "rows.jsonl").read_bytes() == uninterrupted
    assert not (tmp_path / "other-log").exists()
