"""The post's whole experiment on the embedded pair: native, plain, washed, direct, random; Procrustes as its ablation.

In: features of the embedded SAE. Out: a run folder with rows. The map is fitted live on the sentences that
ship with the pair; the direct route's statistics ship too, unless asked for from scratch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dragoman import tiny
from dragoman.core import Directions, Talk
from dragoman.dictionaries import open_dictionary, random_directions
from dragoman.dictionaries.beside import read_truth
from dragoman.doctor import quick
from dragoman.maps import Crossing, LinearMap, fit_pooled
from dragoman.models.decode import Verbalizer
from dragoman.runs.build import RunBuilder
from dragoman.runs.crossings import by_texts
from dragoman.runs.identity import entry_of
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store import RunFolder
from dragoman.store.outputs import check_run

# Steps and their usual seconds on 2 cores, once the base weights are converted.
READ, OPEN, SAY, SCORE, SHOW = (
    "reading texts with both models",
    "opening both verbalizers",
    "putting the features into words",
    "scoring the words",
    "writing the page",
)
STEPS = {READ: 25.0, OPEN: 20.0, SAY: 60.0, SCORE: 25.0, SHOW: 2.0}
READINGS = {"fires on": "direct", "writes": "washed"}  # the two conditions that a feature's readings are here
LONGEST = 120  # tokens; the embedded verbalizers were trained on shorter texts, and their confidence was fitted at this


def listed(split: str = "report", ranks: int = 1) -> tuple[str, ...]:
    """Ids of the embedded SAE's listed features: the ``ranks`` most category-selective of each category in a split."""
    rows = [f for f in read_truth(tiny.data("tiny-truth")).features.values() if f["split"] == split]
    lowest = min(f["rank"] for f in rows)
    return tuple(f["id"] for f in rows if f["rank"] < lowest + ranks)


def demo_options(*, seed: int = 0, batch_size: int = 144) -> Options:
    """The post's map, washed on-shell."""
    return Options(map="post", route="map", seed=seed, batch_size=batch_size, max_new_tokens=LONGEST)


def experiment(
    features: tuple[str, ...],
    options: Options,
    out: Path,
    talk: Talk,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    from_scratch: bool = False,
) -> RunFolder:
    """All conditions over the features; resumable."""
    from dragoman.models.embedder import packaged_folder

    check_run(out)
    packaged_folder()  # the embedder that scores; what is not installed is told first
    talk.step(READ)
    dictionary = open_dictionary("tiny-sae")
    directions = dictionary.features(features).directions
    readings = Readings(source=tiny.SOURCE, target=tiny.TARGET, texts=Texts(), dtype=dtype, device=device, talk=talk)
    crossing, rows = by_texts(readings, seed=options.seed, direct_of=dictionary, from_scratch=from_scratch)
    turned, _ = fit_pooled(rows.x, rows.y, tiny.SOURCE, tiny.TARGET, seed=options.seed, method="procrustes")
    if crossing.map is None or crossing.source_background is None:
        raise RuntimeError("a crossing over texts has a map and both backgrounds")
    talk.step(OPEN)
    verbalizers = {
        "by": Verbalizer.open("tiny-gemma-av", dtype=dtype, device=device),
        "native": Verbalizer.open("tiny-smollm2-av", dtype=dtype, device=device),
    }
    quick(verbalizers.values())
    talk.step(SAY)
    backgrounds = {"by": crossing.background, "native": crossing.source_background}
    builder = RunBuilder(directions=directions, backgrounds=backgrounds)
    add_conditions(builder, crossing, turned, options)
    more = {
        "dictionary": entry_of(dictionary, directions),
        "settings": {"dtype": dtype, "device": device, "map": options.map, "washout": options.washout},
        "digests": dict(crossing.digests),
        "map_report": {made.method: made.report["held_out"] for made in (crossing.map, turned)},
        "about": {"left_out": {side: dict(counts) for side, counts in crossing.left_out.items()}},
    }
    truth = dictionary.truth.of(directions.ids) if dictionary.truth is not None else {}
    return builder.write(out, verbalizers, options, talk, more | truth)


def add_conditions(builder: RunBuilder, crossing: Crossing, turned: LinearMap, options: Options) -> None:
    """The post's conditions, the direct route, its ablation and random directions."""
    directions, washout = builder.directions, options.washout
    rng = np.random.default_rng(options.seed)
    noise = random_directions(tiny.SOURCE, directions.d_model, len(directions), rng)
    cards = dict(zip(directions.ids, crossing.cards(directions), strict=True))
    mapped, lost = crossing.directions(directions, "map"), crossing.directions(noise, "map")
    watched = often(directions, crossing)
    counted = crossing.directions(watched, "direct")
    ridge, null = "map (ridge)", "random directions"
    builder.add("native", directions, route="identity", washout=washout, by="native")
    builder.add("native_plain", directions, route="identity", washout="none", by="native")
    builder.add("plain", mapped, route=ridge, washout="none", cards=[cards[i] for i in mapped.ids])
    builder.add("washed", mapped, route=ridge, washout=washout, cards=[cards[i] for i in mapped.ids], keep_bare=True)
    builder.add("random_plain", lost, route=ridge, washout="none", null=null)
    builder.add("random_washed", lost, route=ridge, washout=washout, null=null)
    builder.add("procrustes_washed", turned.carry(directions), route="map (procrustes)", washout=washout)
    builder.add(
        "direct", counted, route="direct", washout=washout, cards=[cards[i] for i in counted.ids], keep_bare=True
    )


def often(directions: Directions, crossing: Crossing) -> Directions:
    """Those that fire in enough documents for the direct route; the table's n says how many."""
    return directions if crossing.direct is None else crossing.direct.frequent(directions)
