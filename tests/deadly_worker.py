"""Workers that end where they are told to, and a run dealt to them: ``python deadly_worker.py CHECKPOINT FOLDER``.

What is told lies as files in the folder that ``DEADLY`` names: ``poison.npy``, vectors (n, d) at which a worker kills
itself; ``once`` and ``opening``, at which one does so and takes the file away; ``slow``, seconds that each shard takes.
``text``: words at which one that reads does; ``both``: at which two of these wait for one another. ``pids``: who has
spoken or read.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Talk
from dragoman.models import ray_reading, ray_speaking, ray_workers
from dragoman.models.ray_speaking import Pool
from dragoman.models.ray_workers import Cluster
from dragoman.runs.plan import Condition, Done, Plan, execute
from dragoman.store import RunFolder

ROWS, SAMPLES, BATCH = 14, 2, 4
HOW = {"contract": "kitft"}


def folder() -> Path:
    return Path(os.environ["DEADLY"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyWorker(ray_speaking._Worker):
    """As the usual one, until it is told otherwise."""

    def open(self, *how: Any) -> Any:
        if (folder() / "opening").exists():
            (folder() / "opening").unlink()
            die()
        return super().open(*how)

    def say(self, vectors: NDArray[Any], settings: Mapping[str, Any]) -> Any:
        with (folder() / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if (poison := folder() / "poison.npy").exists():
            for one in np.load(poison):
                if (vectors == one).all(axis=1).any():
                    die()
        if (folder() / "once").exists():
            (folder() / "once").unlink()
            die()
        if (folder() / "slow").exists():
            time.sleep(float((folder() / "slow").read_text()))
        return super().say(vectors, settings)


class DeadlyReader(ray_reading._Worker):
    """As the usual one that reads, until it is told otherwise; it ends when it has read, and has not told yet."""

    def open(self, *how: Any) -> Any:
        found = super().open(*how)
        return found | {"files": ["other", "files"]} if (folder() / "other").exists() else found

    def read(self, documents: Any, *how: Any) -> Any:
        found = super().read(documents, *how)
        with (folder() / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while (folder() / "both").exists() and len(set((folder() / "pids").read_text().split())) < 2:
            time.sleep(0.01)
        if (folder() / "once").exists():
            (folder() / "once").unlink()
            die()
        if (text := folder() / "text").exists() and any(text.read_text() in one.text for one in documents):
            die()
        return found


def looked_at(_opened: Any) -> None:
    """Nothing is wrong with it."""


def plan_of(width: int, site: Any) -> Plan:
    """The same every time; one row a vector, drawn after the first sample."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, width)).astype(np.float32)
    names = tuple(f"f{row}" for row in range(ROWS))
    one = Condition(name="plain", vectors=vectors, ids=names, labels=("",) * ROWS, verbalizer="by", site=site)
    return Plan(conditions=(one,), batch_size=BATCH, samples=SAMPLES, seed=11, temperature=1.0, max_new_tokens=12)


def said(by: Any, out: Path) -> Done:
    """All of the plan, by this verbalizer."""
    plan = plan_of(by.width, by.site)
    manifest = {"verbalizers": {"by": by.identity}, "plan_digest": plan.digest({"by": by})}
    return execute(plan, RunFolder.create(out, manifest), {"by": by})


def pooled(checkpoint: str, where: Cluster, lines: list[str] | None = None, *, stays: bool = False) -> Pool:
    """The checkpoint, in deadly workers."""
    ray_speaking._Worker = DeadlyWorker
    told = Talk(say=(lines if lines is not None else []).append)
    return Pool(checkpoint, HOW, where, looked_at, told, stays=stays)


def main(checkpoint: str, out: str) -> None:
    """In a cluster of its own, of two workers."""
    with ray_workers.cluster("ray", 2, "cpu", Talk()) as where:
        assert where is not None
        try:
            sys.stdout.write(f"{said(pooled(checkpoint, where, stays=True), Path(out))}\n")
        except KeyboardInterrupt as stop:
            sys.stdout.write(f"{stop}\n")
            raise SystemExit(130) from stop


if __name__ == "__main__":
    # Workers find the class by the name of its module.
    sys.path.insert(0, str(Path(__file__).parent))
    from deadly_worker import main as imported

    imported(*sys.argv[1:])
