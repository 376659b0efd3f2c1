"""One number is no conclusion: lifts against each null and by each embedder, all of them adjusted, and their power.

In: a run, embedders, lifts. Out: the parts "nulls", "embedders", "adjusted" and "power" of the scores. Refuses what the
tests refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.scores import Adjusted, AdjustedTest, AgainstNull, Embedders, LiftBy, Power
from dragoman.scoring.judged_run import JudgedRun
from dragoman.stats.lift import similarity
from dragoman.stats.multiple import holm
from dragoman.stats.nulls import against_each, against_others
from dragoman.stats.power import detectable, plan

Doubles = NDArray[np.float64]
LEVEL = 0.05
_FINE = 9999  # deals of a p that is adjusted over many tests: the smallest must stay small after that


def against_nulls(
    run: JudgedRun, similar: Mapping[str, Doubles], embedder: Embedder, *, seed: int
) -> dict[str, dict[str, AgainstNull]]:
    """Condition -> null -> lift, centred, top1 and mrr, for every condition that a claim is made of."""
    found: dict[str, dict[str, AgainstNull]] = {}
    for place, condition in enumerate(c for c in run.claims if c in similar):
        features = list(run.dealt[condition])
        native = embedder.encode([run.dealt["native"][f] for f in features])
        nulls = {n: similarity(embedder.encode(texts), native) for n, texts in run.nulls_for(condition).items()}
        rng = np.random.default_rng([seed, 1, place])
        each = against_each(similar[condition], nulls, topics=run.groups(features), rng=rng)
        found[condition] = {
            null: AgainstNull(lift=one.lift, centred=one.centred, top1=one.top1, mrr=one.mrr)
            for null, one in each.items()
        }
    return found


def by_embedders(
    run: JudgedRun,
    first: str,
    similar: Mapping[str, Doubles],
    also: Sequence[Embedder],
    lifts: Mapping[str, float],
    *,
    seed: int,
) -> Embedders:
    """Lift of each condition by each further embedder, and whether its sign is the first embedder's.

    Args:
        run: the run's texts.
        first: name of the embedder that made ``similar``.
        similar: its similarities, for which conditions have some.
        also: the further ones.
        lifts: mean lift by condition by the first embedder.
        seed: of the deals.
    """
    further: dict[str, dict[str, LiftBy]] = {}
    for number, embedder in enumerate(also):
        rng = np.random.default_rng([seed, 2, number])
        further[embedder.name] = {}
        for condition, s in run.similarities(embedder).items():
            topics = run.groups(list(run.dealt[condition]))
            one = against_others(s, topics=topics, rng=rng, permutations=_FINE)
            further[embedder.name][condition] = LiftBy(lift=one.lift, centred=one.centred)
    agree = {
        c: all(bool(np.sign(by[c].centred.value) == np.sign(lifts[c])) for by in further.values())
        for c in run.claims
        if c in similar
    }
    values = {first: lifts} | {e: {c: one.centred.value for c, one in by.items()} for e, by in further.items()}
    return Embedders(names=(first, *further), lifts=further, agree=agree, summary=_summary(agree, values))


def adjusted(conditions: Sequence[str], p: Mapping[str, Mapping[str, float]]) -> Adjusted | None:
    """Holm's p of every condition by every embedder, as one family; ``p``: embedder -> condition -> p."""
    tests = [(c, e, by[c]) for e, by in p.items() for c in conditions if c in by]
    if not tests:
        return None
    found = holm(np.array([one for _, _, one in tests])).tolist()
    return Adjusted(
        method="holm",
        level=LEVEL,
        tests=tuple(
            AdjustedTest(condition=c, embedder=e, p=raw, adjusted=mended, holds=mended <= LEVEL)
            for (c, e, raw), mended in zip(tests, found, strict=True)
        ),
    )


def power_of_pairs(
    pairs: Sequence[tuple[str, str]], lifts: Mapping[str, Mapping[str, float]], run: JudgedRun
) -> tuple[Power, ...]:
    """Features the next study needs to find each paired difference, and the difference that this one could find."""
    found: list[Power] = []
    for first, second in pairs:
        both = [f for f in lifts[first] if f in lifts[second]]
        gap = np.array([lifts[second][f] - lifts[first][f] for f in both])
        try:
            needed = plan(gap, clusters=run.groups(both))
        except Refusal:
            continue  # too few features, or no difference or spread to plan by
        independent = max(3, int(len(both) / needed.design_effect))
        least = detectable(independent, sd=needed.sd)
        found.append(Power(what=f"{second} minus {first}", **asdict(needed), detectable=least))
    return tuple(found)


def _summary(agree: Mapping[str, bool], values: Mapping[str, Mapping[str, float]]) -> str:
    """Whether the embedders agree in sign, and where they do not; ``values``: embedder -> condition -> lift."""
    if not agree or len(values) < 2:
        return ""
    apart = [c for c, same in agree.items() if not same]
    if not apart:
        return f"the embedders agree in sign on {', '.join(agree)}"
    where = [f"{c} ({', '.join(f'{e} {by[c]:+.3f}' for e, by in values.items())})" for c in apart]
    return f"the embedders disagree in sign on {'; '.join(where)}"
