"""Whether the latent that fires as a feature does is of its category: ``python bench/match.py``, on the embedded pair.

Every feature of one dictionary is matched with the latents of the other (``dragoman.runs.match``), on texts that the
pair's maps are read from. Both dictionaries have planted categories, which matching does not see: of features with one
that fire often, how many have a latent above chance, and of those whose latent has a category too, how many the same?
The null deals the matched latents among these features. Prints it by strength of the correlation, and writes
``bench/results/match.json``. Intervals are Wilson's over features, which are not independent where they fire together.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.core import Talk
from dragoman.runs.match import match
from dragoman.runs.texts import Texts
from dragoman.stats.intervals import wilson_interval
from dragoman.store import read_jsonl, write_json
from measured import machine_of

RESULTS = Path(__file__).parent / "results" / "match.json"
DICTIONARIES = ("tiny-sae", "tiny-latents"), ("tiny-gemma-sae", "tiny-gemma-latents")
STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.9)


def categories(latents: str) -> dict[str, str]:
    """The planted category of each latent that has one."""
    return {row["id"]: row["category"] for row in read_jsonl(tiny.data(latents))}


def share(same: np.ndarray) -> dict[str, Any]:
    """A rate with its interval."""
    low, high = wilson_interval(int(same.sum()), len(same))
    return {"n": len(same), "same": round(float(same.mean()), 3), "interval": [round(low, 3), round(high, 3)]}


def main() -> None:
    """Match, and judge by what was planted."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--most", type=int, default=2_500, help="texts that are read")
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--back", action="store_true", help="from Gemma to SmolLM2")
    args = parse.parse_args()
    (one, own), (other, theirs) = DICTIONARIES[::-1] if args.back else DICTIONARIES
    texts = Texts.of(np.random.default_rng(0).permutation(Texts().all)[: args.most].tolist())
    start = time.perf_counter()
    told = match(one, other, texts=texts, dtype=args.dtype, device=args.device, talk=Talk(say=print))
    of, of_other = categories(own), categories(theirs)
    planted = [m for m in told.matches if m.feature in of and m.often]
    above = [m for m in planted if m.above_chance]
    both = [m for m in above if m.latent in of_other]
    mine = np.array([of[m.feature] for m in both])
    found = np.array([of_other[m.latent] for m in both])
    r = np.array([m.r for m in both])
    dealt = np.random.default_rng(1).permutation(found)
    figures: dict[str, Any] = {
        "machine": machine_of(args.device, "real"), "from": told.source, "to": told.target, "texts": told.texts,
        "pairs": told.pairs, "line": told.line, "features": len(told.matches),
        "with_a_category_that_fire_often": len(planted), "above_chance": len(above),
        "without_a_category_above_chance": sum(m.above_chance for m in told.matches if m.feature not in of),
        "same_category": share(mine == found), "same_category_dealt": share(mine == dealt),
        "by_strength": {
            f"{low:g} to {high:g}": share((mine == found)[(r >= low) & (r < high)])
            for low, high in zip(STRENGTHS, (*STRENGTHS[1:], 1.01), strict=True)
            if ((r >= low) & (r < high)).any()
        },
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name}: {value}", flush=True)
    write_json(RESULTS.with_stem("match-back") if args.back else RESULTS, figures)


if __name__ == "__main__":
    main()
