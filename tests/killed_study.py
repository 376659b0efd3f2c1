"""A study to be killed: ``python killed_study.py FOLDER LOG SECONDS_PER_BATCH``.

Writes one line to LOG for every batch it begins to verbalize: the batch's seed. Run by test_kill.py.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Explanation, Interrupted, Site
from dragoman.records import Card
from dragoman.runs.plan import Condition, Done, Plan, execute
from dragoman.store import RunFolder

SITES = {"own": Site("small", 3), "foreign": Site("large", 5)}
SETTINGS: dict[str, Any] = {"batch_size": 4, "samples": 3, "seed": 11, "temperature": 0.7, "max_new_tokens": 50}


class Talker:
    """Says something that depends on the vector, its place in the batch and the batch's seed."""

    def __init__(self, name: str, log: Path, seconds: float) -> None:
        self.site, self.name, self.identity = SITES[name], name, {"name": name}
        self._log, self._seconds = log, seconds

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{seed}\n".encode())
        os.close(handle)
        time.sleep(self._seconds)
        rng = np.random.default_rng(seed)
        said = []
        for vector in vectors:
            words = " ".join(f"{x:.4f}" for x in vector + temperature * rng.standard_normal(len(vector)))
            text = f"{self.name}: {words} – ß\n\nup to {max_new_tokens}"
            said.append(Explanation(text, f"<explanation>{text}</explanation>", tokens=int(rng.integers(9, 90))))
        return said


def run(folder: RunFolder, conditions: Any, verbalizers: Any, progress: Any = None, **settings: Any) -> Done:
    """A plan of these conditions, executed."""
    return execute(Plan(conditions=tuple(conditions), **settings), folder, verbalizers, progress)


def conditions() -> list[Condition]:
    """Three, of different sizes and widths, two of them for one verbalizer."""
    rng = np.random.default_rng(0)
    made = []
    for name, key, n, width in (
        ("native", "own", 42, 5),
        ("plain", "foreign", 57, 7),
        ("random_plain", "foreign", 33, 7),
    ):
        ids = tuple(f"{name}-{i}" for i in range(n))
        made.append(
            Condition(
                name=name,
                vectors=rng.standard_normal((n, width)).astype(np.float32),
                ids=ids,
                labels=("",) * n,
                verbalizer=key,
                kind="random" if name.startswith("random") else "feature",
                cards=tuple(Card(kappa=i / 7) for i in range(n)) if name == "plain" else (),
                site=SITES[key],
            )
        )
    return made


def main(folder: str, log: str, seconds: str) -> int:
    """Run it, or go on with it; 130 after Ctrl-C."""
    talkers = {name: Talker(name, Path(log), float(seconds)) for name in SITES}
    try:
        run(RunFolder.create(folder, {"plan_digest": "plan"}), conditions(), talkers, **SETTINGS)
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
