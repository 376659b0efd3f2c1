"""Whether two verbalizers agree about features more often than about nothing.

In: two conditions, of two runs or of one, said by different verbalizers. Out: an ``AgreementOverNulls``. Refuses
nothing: what is too little for a verdict is said in a sentence.

They agree about a feature where their texts of it are more alike than a line under which 95 % of null pairs lie. Nulls:
*dealt*, texts of two features that fire in no window together; and every null whose directions both were given, such as
random ones. Verbalizers that were taught on texts of one kind share habits: agreement is evidence only above nulls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.comparison.records import AgreementOnNull, AgreementOverNulls, FeatureAgreement
from dragoman.comparison.runs import Compared, shared_topics
from dragoman.core import Refusal, Talk
from dragoman.scoring.judged_run import ALONE, NATIVE, CachedEmbedder, JudgedRun
from dragoman.scoring.run import second_opinion
from dragoman.stats.agreement import FEWEST_FEATURES, FEWEST_ROWS, NullPairs, agreement

DEALT = "dealt"
MOST = 2000  # features whose texts are held against one another; of more, so many are drawn
_PAIRS = 2000  # dealt pairs of features in each half
_WORD = re.compile(r"\w")
_DIGITS = 5  # of a cosine: batches round the sixth
Doubles = NDArray[np.float64]
Texts = Mapping[str, Sequence[str]]  # samples by feature
Two = tuple[Compared, Compared]


def packaged_embedder(talk: Talk) -> CachedEmbedder:
    """The embedder that scores go by; words alone where it is not installed. ``talk``: how far reading texts is."""
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    bar = talk.towards("embedding texts")
    try:
        packaged_folder()
    except Refusal:
        return CachedEmbedder(second_opinion(talk.say), bar=bar)
    talk.say("opening the sentence embedder all-MiniLM-L6-v2, which tells how alike texts are")
    return CachedEmbedder(SentenceEmbedder(), bar=bar)


def agreement_of(
    runs: Two,
    names: tuple[str, str],
    features: Sequence[str],
    open_embedder: Callable[[], CachedEmbedder],
    *,
    numbers: tuple[int, int] = (0, 1),
    seed: int,
) -> AgreementOverNulls | None:
    """Agreement on features that both have texts of; None where one verbalizer said both.

    Args:
        runs: two, or one twice.
        names: the condition of each.
        features: that both have texts of.
        open_embedder: of what compares texts, asked where there are features enough.
        numbers: of the runs, as they are told.
        seed: of halves, draws and bootstrap; the order of runs and features decides nothing.
    """
    if _speaker(runs[0], names[0]) == _speaker(runs[1], names[1]):
        return None
    features, rng = sorted(features, key=lambda f: (len(f), f)), np.random.default_rng([seed, 5])
    if len(features) > MOST:
        features = [features[k] for k in np.sort(rng.choice(len(features), MOST, replace=False))]
    of_both = partial(AgreementOverNulls, first=numbers[0], second=numbers[1], n=len(features))
    if len(features) < FEWEST_FEATURES:
        few = f"no verdict: of features in both there are {len(features)}, and {FEWEST_FEATURES} are the fewest"
        return of_both(why=few)
    embedder = open_embedder()
    said = [_samples(r.run, c) for r, c in zip(runs, names, strict=True)]
    of_nothing = _of_nothing(runs, names)
    every = [(features, said), *((ids, both) for _, ids, both in of_nothing)]
    embedder.encode(sorted({text for ids, both in every for texts in both for name in ids for text in texts[name]}))
    first, second = (_places(texts, features, embedder) for texts in said)
    table, half = np.round(first @ second.T, _DIGITS), rng.permutation(len(features)) % 2
    together = _firing_together(runs, features)
    own, nulls = (
        np.diag(table).copy(),
        [_dealt(table, half, together, rng), *(_null(*one, embedder, rng) for one in of_nothing)],
    )
    usable, why = [one for one in nulls if one.enough], _missing(nulls)
    if not usable:
        return of_both(why=why)
    topics = shared_topics(runs, features) or _components(together)
    found = agreement(own, half, usable, topics=topics, rng=rng)
    numbers_of = {name: getattr(found, name) for name in AgreementOverNulls.model_fields if hasattr(found, name)}
    by_dealt = found.by_first if usable[0].name == DEALT else [None] * (1 + len(usable))
    each = [
        AgreementOnNull(
            null=one.name, pairs=len(one.values), lines=tuple(found.lines[one.name]), share=found.shares[one.name],
            by_dealt=by,
        )
        for one, by in zip(usable, by_dealt[1:], strict=True)
    ]  # fmt: skip
    by_feature = [
        FeatureAgreement(feature=f, likeness=float(own[k]), p=float(found.p[k]), agreed=bool(found.agreed[k]))
        for k, f in enumerate(features)
    ]
    return of_both(
        **numbers_of, embedder=embedder.name, null_share=found.shares[found.null], by_dealt=by_dealt[0],
        nulls=tuple(each), why=why, features=tuple(by_feature),
    )  # fmt: skip


def _speaker(one: Compared, condition: str) -> object:
    """What tells a condition's verbalizer from another."""
    return (one.manifest.get("verbalizers") or {}).get(NATIVE if condition == NATIVE else "by")


def _missing(nulls: Sequence[NullPairs]) -> str:
    """That dealt texts alone tell of chance, or that nothing does; "" where there are nulls of both kinds."""
    if any(one.enough for one in nulls[1:]):
        return ""
    most = max((len(one.values) for one in nulls[1:]), default=0)
    there = f"both said {f'only {most}' if most else 'no'} directions that mean nothing ({FEWEST_ROWS} are the fewest)"
    if not nulls[0].enough:
        return f"no verdict: {there}, and the features fire in the same windows"
    return f"{there}, so it stands beside dealt texts alone; rank SAE --by A --by B has such directions said"


def _samples(run: JudgedRun, condition: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in run.rows:
        if row.condition == condition:
            found.setdefault(row.feature, []).append(row.text)
    return found


def _places(texts: Texts, ids: Sequence[str], embedder: CachedEmbedder) -> Doubles:
    """Mean of each one's samples (n, width): the product of two is the mean cosine over pairs of samples.

    Texts without a word are like nothing, one another included.
    """
    said = {name: np.array([[bool(_WORD.search(text))] for text in texts[name]]) for name in ids}
    return np.stack([(embedder.encode(texts[name]) * said[name]).mean(axis=0, dtype=np.float64) for name in ids])


def _firing_together(runs: Iterable[Compared], features: Sequence[str]) -> NDArray[np.bool_]:
    """(n, n): whether two features fire in the same window of either run."""
    at: dict[str, list[int]] = {}
    for run in runs:
        for k, feature in enumerate(features):
            for window in run.run.contexts.get(feature, {}).get("firing", ()):
                at.setdefault(window, []).append(k)
    found = np.eye(len(features), dtype=bool)
    for some in at.values():
        found[np.ix_(some, some)] = True
    return found


def _components(together: NDArray[np.bool_]) -> list[int] | None:
    """Features that fire together, directly or through others; None where none or all do."""
    from scipy.sparse.csgraph import connected_components

    count, names = connected_components(together, directed=False)
    return names.tolist() if 1 < count < len(together) else None


def _dealt(table: Doubles, half: NDArray[Any], together: NDArray[np.bool_], rng: np.random.Generator) -> NullPairs:
    """Texts of two features of one half, either way round."""
    pairs = np.argwhere(np.triu(~together & (half[:, None] == half)))
    by_half = [pairs[half[pairs[:, 0]] == side] for side in (0, 1)]
    kept = np.concatenate([one[rng.permutation(len(one))[:_PAIRS]] for one in by_half])
    both = np.concatenate([kept, kept[:, ::-1]])
    return NullPairs(name=DEALT, values=table[both[:, 0], both[:, 1]], half=half[both[:, 0]], units=both)


def _of_nothing(runs: Two, names: tuple[str, str]) -> list[tuple[str, list[str], list[Texts]]]:
    """Null, ids, and texts by both, of the same directions that mean nothing."""
    first, second = (_said_of_nothing(run, name) for run, name in zip(runs, names, strict=True))
    found = list[tuple[str, list[str], list[Texts]]]()
    for name, drawn in sorted(first.keys() & second.keys()):
        one, other = first[name, drawn], second[name, drawn]
        ids = sorted(one.keys() & other.keys())
        if ids and (drawn or runs[0] is runs[1]):  # else two runs may have drawn others
            found.append((name, ids, [one, other]))
    return found


def _null(
    name: str, ids: Sequence[str], both: Sequence[Texts], embedder: CachedEmbedder, rng: np.random.Generator
) -> NullPairs:
    first, second = (_places(texts, ids, embedder) for texts in both)
    values = np.round((first * second).sum(axis=1), _DIGITS)
    return NullPairs(name=name, values=values, half=rng.permutation(len(ids)) % 2)


def _said_of_nothing(one: Compared, condition: str) -> dict[tuple[str, str], dict[str, list[str]]]:
    """(Null, as it was drawn) -> texts by the condition's verbalizer, washed alike; by its own route, if there are."""
    own, found = one.run.entries[condition], dict[tuple[str, str], dict[str, list[str]]]()
    for run in filter(None, (one.run, one.nulls)):
        for name, entry in sorted(run.entries.items(), key=lambda pair: pair[1].route == own.route):
            alike = entry.washout == own.washout or entry.null == ALONE
            if entry.null is not None and entry.verbalizer == own.verbalizer and alike:
                found[entry.null, str(entry.about.get("drawn", ""))] = _samples(run, name)
    return found
