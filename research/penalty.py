"""Which criterion should choose a map's penalty: ``python research/penalty.py``.

Each of the three curves that ``choose_penalty`` draws (explained variance and co-firing over left-out documents, lens
words that images keep) has its own best penalty. For each, and for the rule that chooses, a map is fitted there over
aligned tokens, and every row of the dictionary is carried: does its image lie nearest its own direct row, and how many
of its lens words does it keep? From SmolLM2 the direct rows are those that ship, of other texts than the map's; from
Gemma they are of the same texts, which favours all alike. Writes ``bench/results/penalty.json``. The first run reads
both models (half an hour on 2 cores), later ones take minutes.
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
    overlap = library.lenses(ground).shared
    calibration = Calibration(directions=ground.rows, direct=aligned.calibration, overlap=overlap)
    choice = choose_penalty(aligned.folded, calibration)
    curves = {"explained variance": choice.r2, "co-firing": choice.cofiring, "lens words": choice.overlap}
    best = {name: choice.grid[int(np.argmax(curve))] for name, curve in curves.items() if curve is not None}
    found: dict[str, Any] = {}
    for name, penalty in (best | {"the rule": choice.lam_rel}).items():
        made = fit_map(aligned.folded, ground.source, ground.target, penalty=penalty, allow_underdetermined=True)
        carried = made.carry(ground.rows)
        kept = float(overlap(ground.rows.unit, carried.unit).mean())
        found[name] = {"lam_rel": penalty, "lens_words": kept, **identity(carried, crossing.direct)}
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
                f"identity among {one['among']} (chance {1 / one['among']:.5f}) and {one['lens_words']:.2f} lens words"
            )


if __name__ == "__main__":
    main()
