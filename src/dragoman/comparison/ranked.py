"""Several verbalizers in one table: what each reaches beside its null, and which of them are told apart.

In: two or more run folders of one dictionary, a verbalizer each. Out: a ``Ranking``. Refuses what `runs` refuses of any
two of them, but for their targets, which may differ: each verbalizer reads through its own crossing.

The best mean of several is above the truth by chance alone, so no run is called best for it: p of every pair of runs by
every measure is adjusted as one family, and runs that are not told apart share a place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dragoman.comparison.agreement import agreement_of, packaged_embedder
from dragoman.comparison.paired import LEVEL, side_of
from dragoman.comparison.records import (
    AgreementOverNulls,
    Contrast,
    Missing,
    RankedCondition,
    RankedMeasure,
    Ranking,
    Rated,
)
from dragoman.comparison.runs import Compared, named_conditions, refuse_unlike, shared_topics
from dragoman.comparison.values import BOTH, MEASURES, Values, shared_values, values_of
from dragoman.core import Estimate, Refusal, Talk
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.scoring.measures import row_measures, single_words, text_measures
from dragoman.stats.intervals import Bootstrap, bootstrap_mean
from dragoman.stats.nulls import holm
from dragoman.stats.paired import TEST, paired_estimate
from dragoman.store import RunFolder
from dragoman.store.spans import shown

MOST_RUNS = 20
FEWER = ("flagged",)  # measures of which less is better
_DEALT = 4000  # features of which every text is held against every word
_NULLS = ("firing_word", "final_token", "lens_overlap")


def rank_runs(
    folders: Sequence[RunFolder], *, conditions: Sequence[str] = (), seed: int = 0, talk: Talk | None = None
) -> Ranking:
    """Rank runs of one dictionary by every measure that all of them have, on the features that all of them have.

    Args:
        folders: two or more.
        conditions: which are ranked; those that all runs have by default, else the only one of each.
        seed: of bootstrap and flips.
        talk: where progress goes.

    Raises:
        Refusal: as the module says.
    """
    if not 2 <= len(folders) <= MOST_RUNS:
        raise Refusal(f"a table over {len(folders)} runs", f"it takes 2 to {MOST_RUNS}", "name more, or fewer")
    runs = [Compared.of(folder) for folder in folders]
    for other in runs[1:]:
        refuse_unlike(runs[0], other, targets=False)
    asked = named_conditions(runs, conditions)
    _refuse_twice(runs)
    opened = cache(partial(packaged_embedder, talk or Talk()))
    found = [_Condition.of(runs, names, opened, seed=seed, at=at) for at, names in enumerate(asked)]
    p = [one.p for condition in found for by in condition.contrasts.values() for one in by.values()]
    adjusted = iter(holm(np.array(p)).tolist() if p else [])
    made = tuple(
        condition.record({m: [next(adjusted) for _ in by] for m, by in condition.contrasts.items()})
        for condition in found
    )
    return Ranking(
        source=str(runs[0].run.source),
        names=_names(runs),
        runs=tuple(side_of(one) for one in runs),
        targets=tuple(str(one.run.target) for one in runs),
        conditions=made,
        tests=len(p),
        method=f"holm over {len(p)} tests; {TEST} tests of every two runs",
        level=LEVEL,
        seed=seed,
    )


def _refuse_twice(runs: Sequence[Compared]) -> None:
    """Refuse a run beside itself or its copy: who is worse would be placed behind it twice, and p adjusted for both."""
    for first, second in combinations(runs, 2):
        if first.run.folder.plan == second.run.folder.plan:
            why = "it is the same run" if first.name == second.name else f"it is a copy of {first.name}"
            raise Refusal(f"{second.name} in a table", why, "name every run once")


def _names(runs: Sequence[Compared]) -> tuple[str, ...]:
    """What each verbalizer is called; where two are called alike, or one is not told, with the run's folder."""
    said = []
    for one in runs:
        who = (one.manifest.get("verbalizers") or {}).get("by") or {}
        said.append(str(who.get("checkpoint") or who.get("name") or ""))
    many, folders = Counter(said), [one.run.folder.path.name for one in runs]
    several = len(set(folders)) < len(folders)
    whole = [one.name for one in runs] if several else folders
    return tuple(
        shown(name) if name and many[name] == 1 else shown(f"{name} ({folder})" if name else folder)
        for name, folder in zip(said, whole, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """A condition of each run, measured; p is not adjusted yet.

    ``rated``: by measure, each run's mean and its bootstrap interval; ``used``: features by measure.
    """

    names: tuple[str, ...]
    n: int
    rated: Mapping[str, Sequence[tuple[float, Bootstrap]]]
    dealt: Mapping[str, Sequence[float | None]]
    contrasts: Mapping[str, Mapping[tuple[int, int], Estimate]]
    used: Mapping[str, Sequence[str]]
    missing: tuple[Missing, ...]
    over_nulls: tuple[AgreementOverNulls, ...]

    @classmethod
    def of(
        cls,
        runs: Sequence[Compared],
        names: tuple[str, ...],
        opened: Callable[[], CachedEmbedder],
        *,
        seed: int,
        at: int,
    ) -> _Condition:
        texts = [one.texts(name) for one, name in zip(runs, names, strict=True)]
        shared = [f for f in texts[0] if all(f in some for some in texts[1:])]
        if not shared:
            called = ", ".join(one.name for one in runs)
            raise Refusal(called, "they have no feature in common", "explain the same features in all")
        values = [values_of(one.run, one.scores, name) for one, name in zip(runs, names, strict=True)]
        rated, dealt, contrasts = dict[str, list[tuple[float, Bootstrap]]](), dict[str, list[float | None]](), {}
        used, missing = dict[str, Sequence[str]](), list[Missing]()
        for number, measure in enumerate(MEASURES):
            each = [one[measure] for one in values]
            some, why = common_of_all(each, shared)
            if why:
                missing.append(Missing(measure=measure, why=why))
                continue
            table, topics = np.array([[one.by[f] for f in some] for one in each]), shared_topics(runs, some)
            used[measure] = some
            rated[measure] = [_mean(row, topics, [seed, at, number, k]) for k, row in enumerate(table)]
            dealt[measure] = [_null(one, name, measure, some) for one, name in zip(runs, names, strict=True)]
            contrasts[measure] = {
                (i, j): paired_estimate(
                    table[i],
                    table[j],
                    np.random.default_rng([seed, at, number, i, j]),
                    statistic=f"mean paired difference: {MEASURES[measure][0]}",
                    topics=topics,
                )
                for i, j in combinations(range(len(runs)), 2)
            }
        pairs = [
            agreement_of((runs[i], runs[j]), (names[i], names[j]), shared, opened, numbers=(i, j), seed=seed)
            for i, j in combinations(range(len(runs)), 2)
        ]
        return cls(
            names=names, n=len(shared), rated=rated, dealt=dealt, contrasts=contrasts, used=used,
            missing=tuple(missing), over_nulls=tuple(one for one in pairs if one is not None),
        )  # fmt: skip

    def record(self, adjusted: Mapping[str, Sequence[float]]) -> RankedCondition:
        """With p as it was adjusted, in the order of the contrasts."""
        measures = []
        for measure, by in self.contrasts.items():
            pairs = [
                Contrast(**asdict(one), first=i, second=j, adjusted=p, holds=p <= LEVEL)
                for ((i, j), one), p in zip(by.items(), adjusted[measure], strict=True)
            ]
            means, fewer = [value for value, _ in self.rated[measure]], measure in FEWER
            sign = -1 if fewer else 1
            rated = [
                Rated(
                    run=k, value=value, low=drawn.low, high=drawn.high, n=drawn.units, unit=drawn.unit,
                    method=drawn.method, dealt=null, place=1 + _better(k, pairs, sign),
                )
                for k, ((value, drawn), null) in enumerate(zip(self.rated[measure], self.dealt[measure], strict=True))
            ]  # fmt: skip
            best = int(np.argmax(sign * np.array(means)))
            measures.append(
                RankedMeasure(
                    measure=measure,
                    features=len(self.used[measure]),
                    fewer=fewer,
                    best=best,
                    rated=tuple(rated),
                    contrasts=tuple(pairs),
                )
            )
        return RankedCondition(
            conditions=self.names, n=self.n, measures=tuple(measures), missing=self.missing, over_nulls=self.over_nulls
        )


def _better(run: int, pairs: Sequence[Contrast], sign: int) -> int:
    """How many runs are better than this one, and told apart from it."""
    count = 0
    for one in pairs:
        if one.holds and run in (one.first, one.second):
            gap = sign * (one.value if run == one.second else -one.value)  # of the other run less this one
            count += gap > 0
    return count


def common_of_all(each: Sequence[Values], features: Sequence[str]) -> tuple[list[str], str]:
    """The features that a measure ranks runs by, or why it cannot: as ``paired.common``, for any number of runs."""
    if absent := [(k, one.why) for k, one in enumerate(each, 1) if one.why]:
        if len(absent) == len(each) and len({why for _, why in absent}) == 1:
            return [], f"{BOTH}{absent[0][1]}"
        return [], "; ".join(f"of run {k}: {why}" for k, why in absent)
    return shared_values(each, features)


def _mean(row: NDArray[np.float64], topics: Sequence[str] | None, seed: Sequence[int]) -> tuple[float, Bootstrap]:
    return float(row.mean()), bootstrap_mean(row, rng=np.random.default_rng(seed), clusters=topics)


def _null(one: Compared, condition: str, measure: str, features: Sequence[str]) -> float | None:
    """What the same texts, or rows, reach when they are dealt to other features."""
    if measure not in _NULLS:
        return None
    some = features[:_DEALT]
    if measure == "lens_overlap":
        words = (one.run.folder.lens or {})[condition]
        found = row_measures({f: words[f] for f in some})
    else:
        single = single_words(one.run)
        found = text_measures({f: one.texts(condition)[f] for f in some}, single)
    return float(found[measure].extra["dealt"]) if measure in found else None
