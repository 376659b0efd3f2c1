"""Which criterion should choose a map's penalty: ``python research/penalty.py``.

Each of the three curves that ``choose_penalty`` draws over left-out documents (explained variance, mean cosine with
left-out direct directions, mean margin) has its own best penalty. For each, a map is fitted there over aligned tokens,
and every row of the dictionary is carried: does its image lie nearest its own direct row? From SmolLM2 the direct rows
are those that ship, of other texts than the map's; from Gemma they are of the same texts, which favours all three
alike. Writes ``bench/results/penalty.json``. The first run reads both models (a quarter of an hour on 2 cores), later
ones take a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Talk
from dragoman.maps.penalty import Calibration, choose_penalty, fit_map
from dragoman.store import write_json
from studies.ground import GROUNDS, Ground
from studies.library import Library
from studies.maps import identity

HERE = Path(__file__).parent


def measured(ground: Ground, library: Library) -> dict[str, Any]:
    """Penalty and share of identities kept, by criterion."""
    crossing = library.crossing(ground)
    aligned = library.aligned(ground, library.which(ground))
    if aligned.calibration is None or crossing.direct is None:
        raise SystemExit("these texts were read without the dictionary's encoder")
    choice = choose_penalty(aligned.folded, Calibration(directions=ground.rows, direct=aligned.calibration))
    curves = {"explained variance": choice.r2, "mean cosine": choice.cosine, "mean margin": choice.margin}
    found: dict[str, Any] = {}
    for name, curve in curves.items():
        if curve is None:
            continue
        penalty = choice.grid[int(np.argmax(curve))]
        made = fit_map(aligned.folded, ground.source, ground.target, penalty=penalty, allow_underdetermined=True)
        found[name] = {"lam_rel": penalty, **identity(made.carry(ground.rows), crossing.direct)}
    return found


def main() -> None:
    """Measure both directions, print, write."""
    library = Library(talk=Talk(say=lambda text: print(text, file=sys.stderr)))
    found = {name: measured(ground, library) for name, ground in GROUNDS.items()}
    write_json(HERE.parent / "bench" / "results" / "penalty.json", found)
    for name, by in found.items():
        print(name)
        for criterion, one in by.items():
            print(
                f"  best {criterion:20} penalty {one['lam_rel']:.2g}: {one['top1']:.3f} of {one['n']} rows keep their "
                f"identity among {one['among']} (chance {1 / one['among']:.5f}), cosine {one['cosine']:.3f}"
            )


if __name__ == "__main__":
    main()
