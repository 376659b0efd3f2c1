"""A sheet for a million features by three verbalizers on 64 GPUs: ``python bench/sheet.py``; nothing is opened.

From figures that were measured elsewhere: tokens a second of a GPU (``bench/results/decode.json``), reading and sums
(``aligned_seconds`` of ``real_size.json``), opening weights (``explain_native_peak_gib`` there: its seconds are nearly
all opening, so what follows from them is the most it takes). Measured here: what this process takes to keep a row.
Features lie in dictionaries of 65,536, runs hold at most 20,000 (``contexts.json``), and each node of 8 GPUs runs a
command of its own with ``--on ray``, so nothing waits for a single driver. Not counted, as nobody measured them at that
size: sentences checked by the embedder, pages, and the network that brings weights to the nodes.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Explanation, Site
from dragoman.records import Card
from dragoman.runs.plan import Condition, Plan, execute
from dragoman.store import RunFolder, read_json

RESULTS = Path(__file__).parent / "results"
SHAPES = {"qwen": ("Qwen2.5-7B", 3584, 15.2e9), "gemma": ("Gemma-3-27B, text", 5376, 54.0e9)}
SOURCE_WIDTH = 3584
A_RUN, A_DICTIONARY, NODE = 20_000, 65_536, 8
TOKENS, READINGS, ROW_BYTES = 100, 2, 3000
ROWS = 20_000  # that are kept here, to be measured


class Scripted:
    """Says a hundred words of every vector at once."""

    def __init__(self, width: int) -> None:
        """``width``: of its vectors."""
        self.site, self.width, self.name = Site("m", 0), width, "scripted"
        self.identity: dict[str, object] = {"name": "scripted"}

    def verbalize(self, vectors: Any, **_: Any) -> list[Explanation]:
        """The same of each."""
        text = "a word of the text " * 20
        return [Explanation(text=text, raw=f"<explanation>{text}</explanation>", tokens=TOKENS) for _ in vectors]


def kept() -> float:
    """Seconds of this processor to keep a row, as ``execute`` does."""
    by, names = Scripted(8), tuple(map(str, range(ROWS)))
    vectors = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)
    cards = tuple(Card(route="direct", norm=1.0) for _ in names)
    one = Condition(name="fires", vectors=vectors, ids=names, labels=("",) * ROWS, verbalizer="by", cards=cards)
    plan = Plan(conditions=(one,), batch_size=2048)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run", {"plan_digest": plan.digest({"by": by})})
        start = time.process_time()
        execute(plan, folder, {"by": by})
        return (time.process_time() - start) / ROWS


def sheet(shape: str, features: int, verbalizers: int, gpus: int) -> dict[str, Any]:
    """Hours by what takes them, and what is left on the disk."""
    name, width, weights = SHAPES[shape]
    rate = read_json(RESULTS / "decode.json")[shape]["captured_full_tokens_per_s"]
    real = read_json(RESULTS / "real_size.json")
    opened_a_second = 4 * 69e9 / real["explain_native_peak_gib"]["seconds"]
    a_row = kept()
    nodes = max(1, gpus // NODE)
    runs = verbalizers * math.ceil(features / A_RUN)
    rows = features * READINGS * verbalizers
    seconds = {
        "decoding": rows * TOKENS / (gpus * rate),
        # Source and target, read once a dictionary and verbalizer, on one GPU of each node.
        "reading": verbalizers * math.ceil(features / A_DICTIONARY) * real["aligned_seconds"]["value"] / nodes,
        # Once a run, as all go through a fitted crossing.
        "opening": runs * weights / opened_a_second / nodes,
        "keeping rows": rows * a_row / nodes,
    }
    vectors = features * verbalizers * 4 * (2 * READINGS * width + SOURCE_WIDTH)
    return {
        "verbalizer": name,
        **{key: round(value / 3600, 2) for key, value in seconds.items()},
        "hours": round(sum(seconds.values()) / 3600, 2),
        "bottleneck": max(seconds, key=lambda key: seconds[key]),
        "run folders": runs,
        "rows": rows,
        "rows_gb": round(rows * ROW_BYTES / 1e9),
        "vectors_gb": round(vectors / 1e9),
        "microseconds a row": round(a_row * 1e6),
    }


def main() -> None:
    """Each shape, one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--verbalizers", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=64)
    args = parser.parse_args()
    for shape in SHAPES:
        print(json.dumps(sheet(shape, args.features, args.verbalizers, args.gpus)))


if __name__ == "__main__":
    main()
