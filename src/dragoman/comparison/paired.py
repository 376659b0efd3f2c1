"""Two settings, feature by feature: every measure that both runs can carry, its difference tested, all tests counted.

In: two run folders, perhaps conditions of them. Out: a ``Comparison``. Refuses what `runs` refuses. A measure that a
run was not scored for, or was scored for by other things, is named as missing, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from dragoman.comparison.agreement import agreement_of, packaged_embedder
from dragoman.comparison.records import (
    Agreement,
    Comparison,
    ConditionPair,
    Difference,
    FeaturePair,
    Missing,
    Side,
)
from dragoman.comparison.runs import (
    Compared,
    differing,
    paired_conditions,
    refuse_unlike,
    shared_features,
    shared_topics,
)
from dragoman.comparison.values import BOTH, MEASURES, Values, shared_values, values_of
from dragoman.core import Estimate, Talk
from dragoman.embed import Embedder
from dragoman.report.opened import Manifest
from dragoman.scoring.judged_run import EMPTY, FEWEST, CachedEmbedder
from dragoman.scoring.run import second_opinion
from dragoman.stats.lift import lift_estimate
from dragoman.stats.nulls import holm
from dragoman.stats.paired import TEST, paired_estimate
from dragoman.store import RunFolder

LEVEL = 0.05
MOST = 2000  # features whose texts are compared each with each; of more, so many are drawn
_TOGETHER = 256  # texts that are placed at once
_WORD = re.compile(r"\w")
Two = tuple[Mapping[str, Values], Mapping[str, Values]]


def compare_runs(
    first: RunFolder, second: RunFolder, *, conditions: Sequence[str] = (), seed: int = 0, talk: Talk | None = None
) -> Comparison:
    """Compare two runs of one dictionary and target, or two conditions of one run, by every measure both have.

    Args:
        first: A.
        second: B, which is taken from A.
        conditions: which go together, ``NAME`` of both or ``NAME_A=NAME_B``; those that both have by default.
        seed: of bootstrap and flips.
        talk: where progress goes.

    Raises:
        Refusal: as the module says.
    """
    a = Compared.of(first)
    b = a if second is first else Compared.of(second)
    refuse_unlike(a, b, targets=True)
    asked = paired_conditions(a, b, conditions)
    shared = [shared_features(a, b, pair) for pair in asked]
    embedder, found = second_opinion(lambda _said: None), list[_Pair]()
    opened = cache(partial(packaged_embedder, talk or Talk()))
    for at, (pair, features) in enumerate(zip(asked, shared, strict=True)):
        found.append(_Pair.of(a, b, pair, features, seed=seed, at=at))
    tests = [one.p for pair in found for one in pair.estimates.values()]
    adjusted = iter(holm(np.array(tests)).tolist() if tests else [])
    pairs = tuple(pair.record(embedder, opened, adjusted=[next(adjusted) for _ in pair.estimates]) for pair in found)
    return Comparison(
        source=str(a.run.source),
        target=str(a.run.target),
        a=side_of(a),
        b=side_of(b),
        differing=differing(a, b),
        pairs=pairs,
        tests=len(tests),
        method=f"holm over {len(tests)} tests; {TEST} tests",
        level=LEVEL,
        seed=seed,
    )


def side_of(one: Compared) -> Side:
    """A run as a comparison tells of it."""
    about = Manifest.of(one.manifest, f"{one.name}/manifest.json").about
    verbalizers = one.manifest.get("verbalizers") or {}
    names = {name: (who.get("checkpoint") or who.get("name")) for name, who in verbalizers.items()}
    features = {feature for texts in one.run.texts.values() for feature in texts}
    told = one.manifest.get("features") or features
    return Side(
        run=one.name,
        plan=one.run.folder.plan,
        verbalizers=names,
        features=len(told),
        map_doubt=about.map if about else None,
    )


def common(a: Values, b: Values, features: Sequence[str]) -> tuple[list[str], str]:
    """The features that a measure compares two runs by, or why it cannot.

    Args:
        a: the measure in one run.
        b: in the other.
        features: that both have texts of.
    """
    if a.why or b.why:
        if a.why == b.why:
            return [], f"{BOTH}{a.why}"
        if a.why and b.why:
            return [], f"{BOTH}A: {a.why}; B: {b.why}"
        return [], f"of A: {a.why}" if a.why else f"of B: {b.why}"
    return shared_values([a, b], features)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two conditions, measured, their tests not adjusted yet; ``used``: features by measure."""

    a: Compared
    b: Compared
    names: tuple[str, str]
    features: Sequence[str]
    values: Two
    estimates: Mapping[str, Estimate]
    used: Mapping[str, Sequence[str]]
    missing: tuple[Missing, ...]
    seed: int

    @classmethod
    def of(
        cls, a: Compared, b: Compared, names: tuple[str, str], features: Sequence[str], *, seed: int, at: int
    ) -> _Pair:
        first = values_of(a.run, a.scores, names[0])
        second = first if a is b and names[0] == names[1] else values_of(b.run, b.scores, names[1])
        estimates, used, missing = dict[str, Estimate](), dict[str, Sequence[str]](), list[Missing]()
        for number, measure in enumerate(MEASURES):
            some, why = common(first[measure], second[measure], features)
            if why:
                missing.append(Missing(measure=measure, why=why))
                continue
            one, other = (np.array([v[measure].by[f] for f in some]) for v in (first, second))
            estimates[measure] = paired_estimate(
                one,
                other,
                np.random.default_rng([seed, at, number]),  # whatever else is missing changes nothing
                statistic=f"mean paired difference, A less B: {MEASURES[measure][0]}",
                topics=shared_topics((a, b), some),
            )
            for name, among in (("over_a", first[measure].among), ("over_b", second[measure].among)):
                estimates[measure].extra.update({} if among is None else {name: len(among)})
            used[measure] = some
        return cls(
            a=a, b=b, names=names, features=features, values=(first, second), estimates=estimates, used=used,
            missing=tuple(missing), seed=seed,
        )  # fmt: skip

    def record(
        self, embedder: Embedder, opened: Callable[[], CachedEmbedder], *, adjusted: Sequence[float]
    ) -> ConditionPair:
        texts = [
            [one.texts(name)[f] for f in self.features] for one, name in zip((self.a, self.b), self.names, strict=True)
        ]
        likeness = _likeness(texts[0], texts[1], embedder)
        order = np.argsort(likeness, kind="stable")
        keep = {measure: set(some) for measure, some in self.used.items()}
        differences = [
            Difference(
                **asdict(one),
                measure=measure,
                a=one.extra["first"],
                b=one.extra["second"],
                features=len(self.used[measure]),
                adjusted=p,
                holds=p <= LEVEL,
            )
            for (measure, one), p in zip(self.estimates.items(), adjusted, strict=True)
        ]
        return ConditionPair(
            a=self.names[0],
            b=self.names[1],
            n=len(self.features),
            only_a=len(self.a.texts(self.names[0])) - len(self.features),
            only_b=len(self.b.texts(self.names[1])) - len(self.features),
            differences=tuple(differences),
            missing=self.missing,
            agreement=_agreement(
                texts[0], texts[1], embedder, shared_topics((self.a, self.b), self.features), self.seed
            ),
            features=tuple(
                FeaturePair(
                    feature=self.features[k],
                    likeness=float(likeness[k]),
                    a=_numbers(self.values[0], keep, self.features[k]),
                    b=_numbers(self.values[1], keep, self.features[k]),
                )
                for k in map(int, order)
            ),
            over_nulls=agreement_of((self.a, self.b), self.names, self.features, opened, seed=self.seed),
        )


def _numbers(values: Mapping[str, Values], keep: Mapping[str, set[str]], feature: str) -> dict[str, float]:
    return {measure: values[measure].by[feature] for measure, some in keep.items() if feature in some}


def _likeness(first: Sequence[str], second: Sequence[str], embedder: Embedder) -> NDArray[np.float64]:
    """Cosine (n,) of each pair of texts; 1 for texts that are the same to the letter."""
    found = [
        (_rows(embedder, first[k : k + _TOGETHER]) * _rows(embedder, second[k : k + _TOGETHER])).sum(axis=1)
        for k in range(0, len(first), _TOGETHER)
    ]
    same = np.array([one == other for one, other in zip(first, second, strict=True)])
    return np.where(same, 1.0, np.round(np.concatenate(found), 6))


def _rows(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float64]:
    """Unit rows; a text without a word is placed as one that says so."""
    return embedder.encode([text if _WORD.search(text) else EMPTY for text in texts]).astype(np.float64)


def _agreement(
    first: Sequence[str], second: Sequence[str], embedder: Embedder, topics: Sequence[str] | None, seed: int
) -> Agreement:
    n, rng = len(first), np.random.default_rng([seed, len(MEASURES)])
    likeness = None
    if n >= FEWEST:
        drawn = np.sort(rng.choice(n, MOST, replace=False)).tolist() if n > MOST else list(range(n))
        rows = [_rows(embedder, [texts[k] for k in drawn]) for texts in (first, second)]
        likeness = lift_estimate(rows[0] @ rows[1].T, _of(topics, drawn), rng=rng)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    return Agreement(n=n, same=same, likeness=likeness, embedder=embedder.name)


def _of(topics: Sequence[str] | None, drawn: Sequence[int]) -> list[str] | None:
    """Topics of those drawn; None where they no longer cluster."""
    some = None if topics is None else [topics[k] for k in drawn]
    return some if some is not None and 1 < len(set(some)) < len(some) else None
