"""Do learnt latents stand out along their rows as no random direction does? ``python bench/learnt.py``.

Reads some of the packaged documents with each model of the embedded pair, at its dictionary's block, draws latents at
random, and makes fake ones that fire as often: random directions of the stream's covariance, and isotropic ones. The
test of ``dragoman calibrate`` is fitted on one half of the latents and on fakes of the covariance, counted, as there,
on a part of the documents; its lines let 10, 5, 2 and 1 % of other such fakes pass. Told of the other half of the
latents, of fakes counted on all documents, and of isotropic ones, which no fit saw. Control: one half of the latents
as if it were fakes. Writes ``bench/results/learnt.json``. ``--dictionary``, repeated, takes others of the two models,
such as those of ``training/other_blocks.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.calibration.constructed import read_rows
from dragoman.calibration.fitted import components
from dragoman.confidence.evidence import evidence
from dragoman.confidence.learnt import LearntTest, fit_learnt
from dragoman.core import Directions, Talk
from dragoman.dictionaries import open_dictionary
from dragoman.maps.along_row import along_rows
from dragoman.maps.direct import FLOOR, FiringSums
from dragoman.maps.moments import Moments
from dragoman.measures.fake import fake_dictionary
from dragoman.models.encoding import encoded
from dragoman.models.harvest import Reader
from dragoman.runs.progress import Paced
from dragoman.runs.readings import encoder_of
from dragoman.runs.texts import Texts
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.roc import auroc
from dragoman.store import write_json
from measured import machine_of

RESULTS = Path(__file__).parent / "results" / "learnt.json"
LINES = (0.1, 0.05, 0.02, 0.01)  # of fakes that pass
PART = 0.4  # of the documents, by which fakes are counted where the test is fitted
Rows = list[dict[str, float | None]]


def read(name: str, n: int, seed: int) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """A packaged dictionary, its stream's rows (T, p) in n documents, and whose they are (T,)."""
    dictionary, every = open_dictionary(name), Texts.of(None).all
    order = np.random.default_rng(seed).permutation(len(every))[:n]
    rows, whose = [], []

    def take(x: NDArray[Any], documents: NDArray[Any], _ends: NDArray[Any]) -> None:
        rows.append(np.asarray(x, np.float32))
        whose.append(np.asarray(documents))

    talk = Talk(bar=Paced(lambda text: print(text, file=sys.stderr, flush=True)).bar)
    read_rows(Reader.open(dictionary.site), [every[k] for k in order], take, talk.towards(f"documents of {name}"))
    return dictionary, np.concatenate(rows), np.concatenate(whose)


def standing(directions: Directions, f: Any, x: NDArray[Any], documents: NDArray[Any], floor: float = FLOOR) -> Rows:
    """What the test reads of each, as a run's windows and a calibration have it; nothing of those that fire rarely."""
    fired = FiringSums(directions.site, directions.ids, x.shape[1]).add(f, x, documents)
    often = {name for name, n in zip(fired.ids, fired.n_eff.tolist(), strict=True) if n >= floor}
    found = along_rows(directions, fired, Moments.of(x, x[:, :2]))
    known: list[dict[str, Any]] = [{f"row_{k}": v for k, v in one.items()} for n, one in found.items() if n in often]
    return [evidence(None, **one) for one in known]


def odds(test: LearntTest, rows: Rows) -> NDArray[Any]:
    """Log-odds (n,) of being learnt."""
    return test.step.slope * test.step.log_odds(rows) + test.step.offset


def passing(z: NDArray[Any], line: float) -> dict[str, Any]:
    """The share at or above a line, with Wilson's interval."""
    low, high = wilson_interval(int(np.sum(z >= line)), len(z))
    return {"value": float(np.mean(z >= line)), "low": low, "high": high, "n": len(z)}


def judged(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One dictionary's figures."""
    dictionary, x, documents = read(name, args.documents, args.seed)
    ids = np.sort(np.random.default_rng([args.seed, 1]).permutation(dictionary.d_sae)[: args.latents])
    f = encoded(encoder_of(dictionary), x, ids)
    rates = np.diff(f.tocsc().indptr) / len(x)
    kept = np.flatnonzero(rates * len(x) >= FLOOR)
    latents = standing(dictionary.rows().pick([str(k) for k in ids[kept]]), f.tocsc()[:, kept], x, documents)
    names = np.unique(documents)
    part = np.isin(documents, np.random.default_rng([args.seed, 2]).permutation(names)[: int(PART * len(names))])
    able = np.clip(rates[kept], 2 / part.sum(), 0.5)

    def fakes(draw: Any, seed: int, where: NDArray[Any]) -> Rows:
        made, encoder = fake_dictionary(x[part], able, site=dictionary.site, seed=seed, draw=draw)
        own, f = Directions.of(dictionary.site, made.unit, made.ids), encoded(encoder, x[where])  # type: ignore[arg-type]
        # On a part of the documents what fires often enough fires in fewer; a calibration counts all fakes there.
        return standing(own, f, x[where], documents[where], FLOOR * where.mean())

    whole = np.ones(len(x), bool)
    half = np.arange(len(latents)) % 2 == 0
    ours, others = ([row for row, mine in zip(latents, half, strict=True) if mine == side] for side in (True, False))
    groups = np.arange(len(ours))
    told = fit_learnt(ours, groups, fakes("covariance", 1, part), seed=args.seed)
    swapped = fit_learnt(ours, groups, others, seed=args.seed)
    if told is None or swapped is None:
        raise SystemExit("too few latents fire often enough: read more documents")
    test, drawn = told.test(0.0), odds(told.test(0.0), fakes("covariance", 2, part))
    pools = {"latents": others, "fakes": fakes("covariance", 3, whole), "isotropic fakes": fakes("isotropic", 4, whole)}
    z = {pool: odds(test, rows) for pool, rows in pools.items()}
    lines = {f"{share:g}": float(np.quantile(drawn, 1 - share)) for share in LINES}
    return {
        "site": str(dictionary.site),
        "tokens": len(x),
        "groups": int(components(f[:, kept]).max() + 1),
        "auroc": {pool: auroc(z["latents"], z[pool]) for pool in pools if pool != "latents"},
        "auroc_of_latents_against_latents": auroc(swapped.latents, swapped.fakes),
        "sharpness": {
            pool: float(np.mean([np.exp(r["row_sharpness"] or 0) for r in rows])) for pool, rows in pools.items()
        },
        "passing": {share: {pool: passing(some, line) for pool, some in z.items()} for share, line in lines.items()},
    }


def main() -> None:
    """Both dictionaries."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--dictionary", action="append", help="both packaged ones when left out")
    parse.add_argument("--documents", type=int, default=1000)
    parse.add_argument("--latents", type=int, default=1000, help="drawn of each dictionary; those that fire often stay")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, default=RESULTS)
    args = parse.parse_args()
    found = {Path(name).name: judged(name, args) for name in args.dictionary or ("tiny-sae", "tiny-gemma-sae")}
    write_json(args.out, {"documents": args.documents, "machine": machine_of("cpu", "real"), **found})
    for name, one in found.items():
        print(name, {k: round(v, 3) for k, v in one["auroc"].items()}, one["auroc_of_latents_against_latents"])
        for share, by in one["passing"].items():
            print(f"  line for {share} of fakes:", {pool: round(v["value"], 3) for pool, v in by.items()})


if __name__ == "__main__":
    main()
