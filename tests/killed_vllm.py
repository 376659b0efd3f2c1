"""A run said by vLLM, to be killed: ``python killed_vllm.py CHECKPOINT FOLDER``. Run by test_vllm.py."""

import sys
from pathlib import Path

import numpy as np

from dragoman.models.decode import Verbalizer
from dragoman.runs.plan import Condition, Plan, execute
from dragoman.store import RunFolder

ROWS, SAMPLES, BATCH = 24, 2, 4


def main(checkpoint: str, folder: str) -> None:
    """Run it, or go on with it."""
    by = Verbalizer(checkpoint, contract="kitft", engine="vllm")
    one = Condition(
        name="plain",
        vectors=np.random.default_rng(0).standard_normal((ROWS, by.width)).astype(np.float32),
        ids=tuple(map(str, range(ROWS))),
        labels=("",) * ROWS,
        verbalizer="by",
        site=by.site,
    )
    plan = Plan(conditions=(one,), batch_size=BATCH, samples=SAMPLES, seed=11, temperature=1.0, max_new_tokens=40)
    manifest = {"verbalizers": {"by": by.identity}, "plan_digest": plan.digest({"by": by})}
    sys.stdout.write(f"{execute(plan, RunFolder.create(Path(folder), manifest), {'by': by})}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
