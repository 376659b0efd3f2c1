import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import dragoman.core
import killed_study
from dragoman.core import Refusal
from dragoman.runs.plan import Plan
from dragoman.store import RunFolder

SCRIPT = Path(killed_study.__file__)
ENV = {**os.environ, "PYTHONPATH": str(Path(dragoman.core.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
PLAN = Plan(conditions=tuple(killed_study.conditions()), **killed_study.SETTINGS)


def start(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(log), str(seconds)]
    # A suite that runs in the background has Ctrl-C ignored, and its children would inherit that.
    ready = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True, preexec_fn=ready)


def ended(process: subprocess.Popen[str]) -> int:
    """Wait for it and close its pipe."""
    process.communicate(timeout=600)
    return process.returncode


def calls(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_a_call(process: subprocess.Popen[str], log: Path, before: int) -> None:
    deadline = time.monotonic() + 600
    while len(calls(log)) <= before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


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


def test_a_study_killed_ten_times_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path, uninterrupted: bytes) -> None:
    chance = random.Random(20)
    folder, log = tmp_path / "run", tmp_path / "log"
    rows = folder / "rows.jsonl"
    kills, sizes = 0, set()
    while kills < 10:
        done = recorded(folder) if rows.exists() else set()
        before = calls(log)
        process = start(folder, log, 0.012)
        wait_for_a_call(process, log, len(before))
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        assert ended(process) == -signal.SIGKILL, "the study ended before it could be killed"
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
    process = start(folder, log, 0)
    assert ended(process) == 0
    assert rows.read_bytes() == uninterrupted
    last = calls(log)[len(before) :]
    assert not done & set(last) and max(Counter(last).values()) == 1
    assert done | set(last) == {batch.seed for batch in PLAN.batches()}


def test_ctrl_c_leaves_a_folder_to_go_on_with_and_says_so(tmp_path: Path, uninterrupted: bytes) -> None:
    chance = random.Random(3)
    folder, log = tmp_path / "run", tmp_path / "log"
    for _ in range(3):
        before = len(calls(log))
        # Two seconds of work at least: on a loaded machine the signal may come late, and must still find it running.
        process = start(folder, log, 0.05)
        wait_for_a_call(process, log, before)
        time.sleep(chance.uniform(0.1, 0.3))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 130
        kept = (folder / "rows.jsonl").read_bytes()
        assert uninterrupted.startswith(kept) and (not kept or kept.endswith(b"\n"))
        count = kept.count(b"\n")
        assert f"{count} of 396 rows are kept" in said and "run the same command again" in said
        assert "Traceback" not in said
    done, before = recorded(folder), len(calls(log))
    assert done
    assert ended(start(folder, log, 0)) == 0
    assert (folder / "rows.jsonl").read_bytes() == uninterrupted
    assert not done & set(calls(log)[before:])


def test_a_second_process_on_the_same_run_is_refused_and_the_first_goes_on(
    tmp_path: Path, uninterrupted: bytes
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(folder, log, 0.01)
    wait_for_a_call(process, log, 0)
    with pytest.raises(Refusal, match="another process is writing this run"):
        killed_study.main(str(folder), str(tmp_path / "other-log"), "0")
    assert ended(process) == 0
    assert (folder / "rows.jsonl").read_bytes() == uninterrupted
    assert not (tmp_path / "other-log").exists()
