"""Ray itself, two workers on this machine: the single run's rows, byte for byte, whoever ends; ``make check-ray``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deadly_worker
import dragoman
from dragoman.core import Refusal, Site, Talk
from dragoman.dictionaries import open_dictionary
from dragoman.models import ray_reading, ray_speaking, ray_workers
from dragoman.models.decode import Verbalizer
from dragoman.models.ray_reading import ReadingPool
from dragoman.models.ray_speaking import Pool
from dragoman.models.ray_workers import Cluster, cluster
from dragoman.records import ENDED
from dragoman.runs.plan import Done
from dragoman.store import RunFolder
from dragoman.verbalizers.protocol import Call
from small_world import World
from tiny_checkpoints import CORPUS, save_checkpoint

ray = pytest.importorskip("ray", reason="ray is not installed: make check-ray")
pytestmark = pytest.mark.filterwarnings("default")  # of the libraries it brings
GREEDY: dict[str, Any] = {"temperature": 0.0, "seed": 0, "max_new_tokens": 4}
COUNT = deadly_worker.ROWS * deadly_worker.SAMPLES


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """Workers find what is written for them here; Ray's sockets want a shorter path than that of a test's folder."""
    short = tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)  # some of its processes outlive it
    with pytest.MonkeyPatch.context() as patch, short as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", str(Path(deadly_worker.__file__).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp("av") / "av", "llama"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What workers are told by; set before the cluster starts, which hands it on."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("told")
        patch.setenv("DEADLY", str(folder))
        patch.setattr(ray_speaking, "_Worker", ray_speaking._Worker)
        yield folder


@pytest.fixture(scope="module")
def two(told: Path) -> Iterator[Cluster]:
    with cluster("ray", 2, "cpu", Talk()) as where:
        assert where is not None
        yield where


@pytest.fixture(scope="module")
def single(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows as this process says them."""
    out = tmp_path_factory.mktemp("single") / "run"
    assert deadly_worker.said(Verbalizer(checkpoint, **deadly_worker.HOW), out) == Done(0, COUNT)
    return (out / "rows.jsonl").read_bytes()


def rows_of(out: Path) -> bytes:
    return (out / "rows.jsonl").read_bytes()


def spoke(told: Path) -> set[int]:
    found = {int(line) for line in (told / "pids").read_text().splitlines()}
    (told / "pids").unlink()
    return found


def test_the_cluster_is_this_machines_alone(two: Cluster) -> None:
    assert two.workers == 2
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}


def test_workers_that_are_killed_cost_no_row(
    checkpoint: str, two: Cluster, told: Path, single: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    (told / "opening").touch()
    pool = deadly_worker.pooled(checkpoint, two, lines)
    assert not (told / "opening").exists() and "another one opens it" in lines[0]
    (told / "once").touch()
    assert deadly_worker.said(pool, tmp_path / "run") == Done(0, COUNT)
    assert rows_of(tmp_path / "run") == single
    assert not (told / "once").exists() and len(spoke(told)) > 1
    assert len(lines) == 2 and lines[1].endswith("its 4 vectors are dealt again")
    assert capfd.readouterr() == ("", "")


def test_a_vector_that_ends_every_worker_is_found_and_the_others_are_said(
    checkpoint: str, two: Cluster, told: Path
) -> None:
    lines: list[str] = []
    pool = deadly_worker.pooled(checkpoint, two, lines, stays=True)
    vectors = deadly_worker.plan_of(pool.width, pool.site).conditions[0].vectors
    np.save(told / "poison.npy", vectors[1:2])
    calls = [Call(count=n, vectors=lambda rows: vectors[rows.start : rows.stop], **GREEDY) for n in (2, 1)]
    (first, second), (again,) = pool.answers(calls)
    assert again == first and second.problems == (ENDED, "empty")
    assert [line.rsplit(": ", 1)[1] for line in lines].count("its 2 vectors are dealt again") == 2
    (told / "poison.npy").unlink()
    assert [first] == list(Verbalizer(checkpoint, **deadly_worker.HOW).verbalize(vectors[:1], max_new_tokens=4))
    (told / "pids").unlink()


def test_a_verbalizer_that_no_worker_survives_opening_is_refused(
    checkpoint: str, two: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(ray_speaking._Worker):
        def open(self, *how: Any) -> Any:
            raise MemoryError("no more")

    monkeypatch.setattr(ray_speaking, "_Worker", Dies)
    why = r"3 workers ended, one after another, while they opened it \(MemoryError: no more\)"
    with pytest.raises(Refusal, match=why):
        Pool(checkpoint, {}, two, deadly_worker.looked_at, Talk())


def start(log: Path, *words: str) -> subprocess.Popen[str]:
    """A process whose Ctrl-C is as in a terminal; it talks into a file, as Ray's own processes outlive it a while."""
    ready = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with log.open("w") as out:
        how: dict[str, Any] = {"stdout": out, "stderr": out, "text": True, "start_new_session": True}
        return subprocess.Popen([sys.executable, *words], preexec_fn=ready, **how)


def workers_of(marker: str) -> list[int]:
    """Workers that were started with this in their environment."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (one / "environ").read_bytes(), (one / "cmdline").read_bytes()
            if marker.encode() in told[0] and b"DeadlyWorker" in told[1]:
                found.append(int(one.name))
    return found


def test_a_driver_that_is_killed_leaves_no_worker_and_goes_on_to_the_same_rows(
    checkpoint: str, single: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once by kill -9, once by Ctrl-C, which goes to all processes of a terminal; then it goes on to the end."""
    monkeypatch.setenv("DEADLY", str(tmp_path))
    (tmp_path / "slow").write_text("0.5")
    words = (deadly_worker.__file__, checkpoint, str(tmp_path / "run"))
    rows, log, count = tmp_path / "run" / "rows.jsonl", tmp_path / "log", 0
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        one = start(log, *words)
        while one.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") <= count):
            time.sleep(0.01)
        assert workers_of(f"DEADLY={tmp_path}\0")
        if how == signal.SIGKILL:
            one.kill()
        else:
            os.killpg(one.pid, how)
        assert one.wait(300) == code, log.read_text()
        kept = rows.read_bytes()
        count = kept.count(b"\n")
        assert single.startswith(kept) and 0 < count < COUNT
        while workers_of(f"DEADLY={tmp_path}\0"):  # after kill -9 they take some seconds to see that it is gone
            time.sleep(0.1)
    said = log.read_text()
    assert f"interrupted: {count} of {COUNT} rows are kept" in said and "Traceback" not in said
    (tmp_path / "slow").unlink()
    assert start(log, *words).wait(300) == 0
    assert f"Done(reused={count}, made={COUNT - count}" in log.read_text() and rows.read_bytes() == single


def test_explain_on_ray_writes_the_single_runs_folder(
    world: World, two: Cluster, told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative path; with a feature that no worker survives; and gone on with by the other way."""
    monkeypatch.chdir(world.root)
    monkeypatch.setattr(ray_speaking, "_Worker", deadly_worker.DeadlyWorker)

    def explained(name: str, **how: Any) -> dict[str, bytes]:
        opened = open_dictionary(world.sae, site=Site(str(world.root / "llama"), 1))
        usual: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 4, "samples": 1, "texts": world.root / "texts.txt"}
        dragoman.explain(opened, by="av", out=tmp_path / name, features=["0", "3", "7", "11", "19"], **usual, **how)
        files = [path for path in (tmp_path / name).iterdir() if path.is_file() and path.name != "log.txt"]
        return {path.name: path.read_bytes() for path in files}

    whole = explained("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
        patch.setattr("dragoman.runs.readings.open_both", None)  # workers read as well
        assert explained("ray", on="ray", workers=2) == whole and spoke(told)
    np.save(told / "poison.npy", RunFolder.open(tmp_path / "single").vectors()[0]["writes"][2:3])
    sentence = "^feature 7: every worker that was to say them ended; their rows have no text, and all others are kept"
    with pytest.raises(Refusal, match=sentence):
        explained("poison", on="ray", workers=2)
    # Everything else that is of the run is there all the same, as of the one that went well.
    assert {path.name for path in (tmp_path / "poison").iterdir()} - {"log.txt"} == whole.keys()
    (told / "poison.npy").unlink()
    spoke(told)
    assert explained("poison") == whole


READ = [f"{' '.join(CORPUS)[7 * (i % 40) : 7 * (i % 40) + 60 + i]} number {i}" for i in range(150)]


def test_a_crossing_read_by_workers_is_the_single_ones_to_the_byte(
    world: World, two: Cluster, told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends; a batch that ends everyone is named, and what was read before it is not read again."""
    monkeypatch.setattr(ray_reading, "_Worker", deadly_worker.DeadlyReader)
    said: list[str] = []

    def fitted(name: str, **how: Any) -> dict[str, bytes]:
        monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / name.partition("-")[0]))
        opened = open_dictionary(world.sae, site=world.source)
        made = dragoman.fit_crossing(opened, world.target, texts=READ, talk=Talk(say=said.append), **how)
        made.save(tmp_path / f"{name}.crossing")
        files = [path for path in (tmp_path / f"{name}.crossing").rglob("*") if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    ray_too: dict[str, Any] = {"on": "ray", "workers": 2}
    whole = fitted("single")
    (told / "both").touch()
    assert fitted("ray", **ray_too) == whole
    assert len((told / "pids").read_text().splitlines()) == 5 and len(spoke(told)) == 2
    said.clear()
    (told / "once").touch()
    assert fitted("killed", **ray_too) == whole and not (told / "once").exists()
    assert [line for line in said if "ended" in line][0].endswith("what it was reading is dealt again")
    assert len((told / "pids").read_text().splitlines()) == 6 and len(spoke(told)) >= 2
    (told / "both").unlink()
    shortest = min(range(150), key=lambda i: len(READ[i]))
    (told / "text").write_text(READ[shortest])
    why = rf"^texts (\d+, )*{shortest + 1}(, \d+)* \(counted from 1\): each of 3 workers ended that was to read them"
    with pytest.raises(Refusal, match=why):
        fitted("poison", **ray_too)
    (told / "text").unlink()
    spoke(told)
    assert fitted("poison") == whole and "going on after 4 batches of texts that were read before" in said
    # What is there already needs nobody.
    monkeypatch.setattr(ray_reading, "_Worker", None)
    assert fitted("ray-again", **ray_too) == whole and not (told / "pids").exists()


def test_workers_that_would_read_otherwise_are_refused(
    world: World, two: Cluster, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_reading, "_Worker", deadly_worker.DeadlyReader)
    (told / "other").touch()
    how: dict[str, Any] = {
        "how": {"dtype": "float32", "device": "cpu"},
        "where": two,
        "talk": Talk(),
        "texts": (),
        "most": 1,
    }
    with pytest.raises(Refusal, match="its files of model .* are others than those here; give all nodes the same"):
        ReadingPool(world.source, world.target, **how)
    (told / "other").unlink()
    monkeypatch.setattr(ray_workers, "_versions", lambda: {"dragoman": "0", "torch": "0", "transformers": "0"})
    with pytest.raises(Refusal, match="it has dragoman .*, and here is 0; install the same there"):
        ReadingPool(world.source, world.target, **how)
    with pytest.raises(Refusal, match="there is no such folder here"):
        ReadingPool(Site("./nowhere", 1), world.target, **how)


def test_workers_of_other_versions_and_other_files_are_refused(
    checkpoint: str, two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "av"
    shutil.copytree(checkpoint, own)
    pool = Pool(str(own), deadly_worker.HOW, two, deadly_worker.looked_at, Talk())
    (own / "model.safetensors").touch()
    assert len(pool.verbalize(np.ones((1, pool.width)), max_new_tokens=2)) == 1  # touched, and still the same
    told = (own / "nla_meta.yaml").read_text()
    (own / "nla_meta.yaml").write_text(told + "\n# changed\n")
    with pytest.raises(Refusal, match="its files of verbalizer .* are others than those that were looked at"):
        pool.verbalize(np.ones((1, pool.width)))
    monkeypatch.setattr(ray_workers, "_versions", lambda: {"dragoman": "0", "torch": "0", "transformers": "0"})
    with pytest.raises(Refusal, match="it has dragoman .*, and here is 0; install the same there"):
        Pool(checkpoint, deadly_worker.HOW, two, deadly_worker.looked_at, Talk())


def test_what_a_worker_refuses_is_refused_here(two: Cluster, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="there is no such folder here"):
        Pool("./nowhere", {}, two, deadly_worker.looked_at, Talk())


def test_gpus_that_the_cluster_lacks_and_a_cluster_that_is_not_there_are_refused(two: Cluster) -> None:
    with pytest.raises(Refusal, match="^--on ray, 1 workers: there are 0 GPUs for them"):  # noqa: SIM117
        with cluster("ray", None, "cuda", Talk()):
            pass
    with pytest.raises(Refusal, match="^--on ray, 999 workers: there are 2 processors for them"):  # noqa: SIM117
        with cluster("ray", 999, "cpu", Talk()):
            pass
