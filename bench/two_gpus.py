"""Two GPUs over Ray beside one: ``python bench/two_gpus.py --shape real --device cuda --scratch /dev/shm``.

A verbalizer of random weights at the shape of Qwen2.5-7B (15 GB, made once as ``checkpoints.py`` makes it, and kept in
``--scratch``) says ``--features`` vectors of ``--new`` tokens each, as ``explain`` has them said: into a run's folder,
row by row on the disk. First in one process on one GPU, then by workers, one a GPU (``--workers`` for others).

Each is a process of its own and says all of it three times. Steady: the faster of the second and third time, when
models are open and steps are captured. Whole: from the start of the process until the first rows are all on the disk,
with starting Ray, opening the model and capturing, as in a run that goes through a fitted crossing. ``two_gpu_ratio``
in ``bench/results/real_size.json`` (``--out``) is the ratio of the steady seconds; that of the whole ones is beside it.
``--shape tiny`` rehearses all of it on a CPU, with two workers. Some 3 minutes at the real shape.

What random weights say is nonsense, so the doctor does not look at them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import SHAPES, model_of, verbalizer_of
from dragoman.core import Talk
from dragoman.models.decode import Verbalizer
from dragoman.models.ray_speaking import Pool
from dragoman.models.ray_workers import cluster
from dragoman.runs.plan import MAX_NEW_TOKENS, Condition, Plan, execute
from dragoman.store import RunFolder
from measured import Record, machine_of

RESULTS = Path(__file__).parent / "results" / "real_size.json"
TIMES = 3
FEATURES = {"real": 2048, "tiny": 96}
NEW = {"real": MAX_NEW_TOKENS, "tiny": 12}


def unlooked(_opened: Any) -> None:
    """Nothing is asked of random weights."""


@contextmanager
def speaker(how: dict[str, Any]) -> Iterator[Any]:
    """The verbalizer, here or in workers."""
    opened: dict[str, Any] = {"dtype": how["dtype"], "device": how["device"]}
    if not how["workers"]:
        yield Verbalizer.open(how["ref"], **opened)
        return
    talk = Talk(say=lambda line: print(f"  {line}", flush=True))
    with cluster("ray", how["workers"], how["device"], talk) as where:
        assert where is not None  # noqa: S101
        pool = Pool(how["ref"], opened, where, unlooked, talk, stays=True)
        with pool.speaking():
            yield pool


def said(how: dict[str, Any]) -> None:
    """Say all of it some times; the last line printed tells when it was done, by a clock that all processes share."""
    out = Path(how["out"])
    shutil.rmtree(out, ignore_errors=True)
    done: list[float] = []
    with speaker(how) as by:
        vectors = np.random.default_rng(0).standard_normal((how["features"], by.width)).astype(np.float32)
        names = tuple(map(str, range(len(vectors))))
        one = Condition(name="rows", vectors=vectors, ids=names, labels=("",) * len(names), verbalizer="by")
        plan = Plan(conditions=(one,), batch_size=how["batch"] or by.together, max_new_tokens=how["new"])
        begun = time.monotonic()
        manifest = {"plan_digest": plan.digest({"by": by})}
        for turn in range(TIMES):
            begun = time.monotonic()
            execute(plan, RunFolder.create(out / str(turn), manifest), {"by": by})
            done.append(time.monotonic())
            print(f"  {turn + 1}: {done[-1] - begun:.2f} s", flush=True)
    print(json.dumps({"first": done[0], "steady": min(b - a for a, b in zip(done, done[1:], strict=False))}))


def made(shape: str, scratch: str, device: str) -> None:
    """The verbalizer, unless it is there."""
    model = SHAPES[shape].source
    verbalizer_of(model, model_of(model, SHAPES[shape].dtype, [Path(scratch)], device))


def process(how: dict[str, Any]) -> dict[str, float]:
    """The same in a process of its own; seconds, whole and steady."""
    start = time.monotonic()
    with subprocess.Popen([sys.executable, __file__, "--as", json.dumps(how)], stdout=subprocess.PIPE, text=True) as it:
        lines = []
        for line in it.stdout or ():
            lines.append(line)
            print(line, end="", flush=True)
    if it.returncode or not lines:
        raise SystemExit(f"it ended with {it.returncode}")
    told = json.loads(lines[-1])
    return {"whole": told["first"] - start, "steady": told["steady"]}


def main() -> None:
    """One GPU, then two."""
    if sys.argv[1:2] == ["--as"]:
        said(json.loads(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--make"]:
        made(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--features", type=int)
    parser.add_argument("--new", type=int, help="tokens of each")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    model, dtype = SHAPES[args.shape].source, SHAPES[args.shape].dtype
    how: dict[str, Any] = {
        "ref": f"{args.scratch / model.name}-av", "dtype": dtype, "device": args.device,
        "features": args.features or FEATURES[args.shape],
        "new": args.new or NEW[args.shape], "batch": 0 if args.shape == "real" else 16,
    }  # fmt: skip
    outs = [args.scratch / "two-gpus" / name for name in ("one", "workers")]
    # In a process of its own, so that this one holds no GPU.
    subprocess.run([sys.executable, __file__, "--make", args.shape, str(args.scratch), args.device], check=True)
    one = process(how | {"workers": 0, "out": f"{outs[0]}"})
    two = process(how | {"workers": args.workers, "out": f"{outs[1]}"})
    texts = [[row["raw"] for row in RunFolder.open(out / "0").rows()] for out in outs]
    Record(args.out, machine_of(args.device, args.shape)).put(
        "two_gpu_ratio", one["steady"] / two["steady"], whole_ratio=one["whole"] / two["whole"],
        features=how["features"], new_tokens=how["new"], workers=args.workers, one_seconds=one["steady"],
        workers_seconds=two["steady"], one_whole_seconds=one["whole"], workers_whole_seconds=two["whole"],
        same_texts=sum(a == b for a, b in zip(*texts, strict=True)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
