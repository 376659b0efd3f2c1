"""What streaming pairs costs in memory at the size of the real models: ``python bench/moments.py [--pairs 200000]``.

Random rows of widths 3,584 and 5,376 (Qwen2.5-7B and Gemma-3-27B) go through the stream that ``models.aligned`` uses,
in five folds of documents and batches of 2,048, as they would come from the models. Prints seconds and the peak of the
process (VmHWM) after reading and after leaving one fold out, and writes ``bench/results/moments.json``. Sums do not
grow with the number of pairs.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np

from dragoman.maps.moments import MomentStream
from dragoman.store import write_json

HERE = Path(__file__).parent
P, Q, BATCH, PER_DOCUMENT = 3584, 5376, 2048, 64
LIMIT_GB = 4.0


def peak() -> float:
    """The most this process has held, in GB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1e6 if found else float("nan")


def main() -> None:
    """Stream, measure, write."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--pairs", type=int, default=10_240)
    parse.add_argument("--product", choices=("float32", "float64"), default="float32")
    args = parse.parse_args()
    rng = np.random.default_rng(0)
    before, start = peak(), time.perf_counter()
    stream = MomentStream(P, Q, product=getattr(np, args.product))
    for first in range(0, args.pairs, BATCH):
        count = min(BATCH, args.pairs - first)
        x = rng.standard_normal((count, P), dtype=np.float32)
        y = rng.standard_normal((count, Q), dtype=np.float32)
        stream.add(x, y, (first + np.arange(count)) // PER_DOCUMENT)
    folded = stream.finish()
    read, seconds = peak(), time.perf_counter() - start
    left = folded.without(0)
    told = {
        "pairs": args.pairs,
        "widths": [P, Q],
        "product": args.product,
        "seconds": seconds,
        "imports_gb": before,
        "peak_reading_gb": read,
        "peak_leaving_a_fold_out_gb": peak(),
        "counted": left.count + folded.folds[0].count,
        "limit_gb": LIMIT_GB,
    }
    write_json(HERE / "results" / "moments.json", told)
    print(f"{args.pairs:,} pairs of widths {P:,} and {Q:,} in {seconds:.0f} s ({args.product} products)")
    print(
        f"peak {read:.2f} GB while reading, {told['peak_leaving_a_fold_out_gb']:.2f} GB with one fold left out; ",
        end="",
    )
    print("within" if max(read, peak()) <= LIMIT_GB else "ABOVE", f"{LIMIT_GB:g} GB")


if __name__ == "__main__":
    main()
