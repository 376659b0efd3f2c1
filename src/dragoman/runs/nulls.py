"""Directions that mean nothing, said by the verbalizers of a run, in a folder of its own inside the run's.

In: how many, a crossing, verbalizers. Out: a run folder: random directions of the source's stream, carried and washed
as features are; where there is a map, besides what a map of rows that do not belong together would give. Refuses fewer
than agreement can be told beside, and what building a run refuses. Resumes as a run does.

The random directions depend on source, texts, number and seed alone: every verbalizer of a dictionary gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dragoman.core import Background, Directions, Refusal, Site
from dragoman.maps import Crossing, Moments
from dragoman.measures.fake import fake_dictionary
from dragoman.models.harvest import Reader
from dragoman.models.paired import FIRST
from dragoman.models.room import let_go
from dragoman.runs.build import RunBuilder
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.stats.agreement import FEWEST_ROWS
from dragoman.store import Cache, RunFolder, digest, read_arrays, write_arrays
from dragoman.store.runs import NULLS
from dragoman.verbalizers.protocol import AnyVerbalizer

MOST = 2000
RANDOM, SHUFFLED = "random directions", "shuffled map"
_READ = 200  # texts whose tokens the stream's covariance is of


def check_nulls(n: int, out: Path) -> None:
    """Refuse a number of nulls that is neither 0 nor enough, or not what the run's folder ``out`` holds already."""
    if n and not FEWEST_ROWS <= n <= MOST:
        why = f"a line is chosen on one half of them and told of on the other, which takes {FEWEST_ROWS} to {MOST}"
        raise Refusal(f"{n} nulls", why, "ask for 40, or 0 for none")
    if n and (out / NULLS / "manifest.json").exists():
        have = len(RunFolder.open(out / NULLS).manifest.get("features") or ())
        if have != n:
            instead = f"ask for {have}, or remove that folder to have {n} said"
            raise Refusal(f"{n} nulls", f"{out / NULLS} is of {have}", instead)


def say_nulls(
    run: RunFolder,
    n: int,
    crossing: Crossing,
    readings: Readings,
    verbalizers: Mapping[str, AnyVerbalizer],
    options: Options,
) -> None:
    """Have ``n`` random directions, and ``n`` of a shuffled map, said by a run's verbalizers, or what is left of them.

    ``verbalizers``: by key, "by" of the target, perhaps "native" of the source.
    """
    random, which = random_directions(readings, n, options.seed)
    backgrounds: dict[str, Background] = {"by": crossing.background}
    if "native" in verbalizers and crossing.source_background is not None:
        backgrounds["native"] = crossing.source_background
    builder = RunBuilder(directions=random, backgrounds=backgrounds)
    add = partial(builder.add, washout=options.washout, drawn=which)
    if crossing.map is not None or crossing.source == crossing.target:
        route = "identity" if crossing.source == crossing.target else "map"
        add("random", crossing.directions(random, "map"), route=route, null=RANDOM)
    if crossing.moments is not None and crossing.source != crossing.target:
        images = shuffled(crossing.moments, crossing.target, random, options.seed)
        add("shuffled", images, route="map", null=SHUFFLED)
    if "native" in backgrounds:
        add("random_native", random, route="identity", by="native", null=RANDOM)
    if builder.entries:
        talk = replace(readings.talk, kept=lambda _folder: None)  # what is said goes on into the run's own log
        builder.write(run.path / NULLS, verbalizers, options, talk, {"nulls": True})


def random_directions(readings: Readings, n: int, seed: int) -> tuple[Directions, str]:
    """``n`` directions with the covariance of the source's tokens in some of the texts, and a name for just these.

    Read once and kept: they are the same to the bit whenever they are asked for.
    """
    own, talk = replace(readings, target=readings.source), readings.talk
    texts = sorted(readings.texts.sentences, key=lambda text: digest("nulls", str(seed), text))[:_READ]
    key = own.key("nulls-1", texts, str(n), str(seed))

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with {own.source.model} for directions that mean nothing")
        reader = Reader.open(own.source, dtype=own.dtype, device=own.device)
        rows = reader.rows(texts, reader.typical(texts))
        late = rows.x[rows.position >= FIRST]
        del reader
        let_go(own.device)
        made, _ = fake_dictionary(late, np.full(n, 0.5), site=own.source, seed=seed, draw="covariance")
        write_arrays(path, {"unit": made.unit}, {"holds": "nulls"})

    arrays, _ = read_arrays(Cache(say=talk.say).get_or_make("nulls", key, make)[0])
    names = [f"null-{k}" for k in range(n)]
    return Directions.of(own.source, arrays["unit"], names, kind="random", origin=RANDOM), key


def shuffled(moments: Moments, target: Site, like: Directions, seed: int) -> Directions:
    """What a ridge map over rows that do not belong together makes of directions, under their names.

    Dealt at random, n rows x and y have sums of products of mean 0 and covariance Sxx (x) Syy / (n - 1), about normal
    (Hoeffding 1951): the image of a direction is then normal with covariance Syy, whichever direction and penalty.
    """
    syy = moments.syy + 1e-9 * np.trace(moments.syy) / moments.q * np.eye(moments.q)
    rows = np.random.default_rng([seed, 6]).normal(size=(len(like), moments.q)) @ np.linalg.cholesky(syy).T
    return Directions.of(target, rows, like.ids, kind="random", origin=SHUFFLED)
