"""Judge a finished run: lift over other features, planted categories, paired differences, nulls, contexts.

In: a run with a ``native`` condition, planted categories or contexts, embedders. Out: its scores. Refuses runs that
have nothing to be judged by. Compares; never says a word itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal
from dragoman.embed import Embedder
from dragoman.records import ConditionEntry
from dragoman.scores import (
    FORMAT,
    BareRate,
    Ceiling,
    ConditionScores,
    FeatureScore,
    NamingRate,
    PairedDifference,
    Scores,
)
from dragoman.scoring.detection import detection_scores, lift_by_windows
from dragoman.scoring.judged_run import FEWEST, NATIVE, CachedEmbedder, JudgedRun
from dragoman.scoring.nulls import adjusted, against_nulls, by_embedders, power_of_pairs
from dragoman.scoring.reconstruction import Reconstructor, reconstruction_scores
from dragoman.stats.lift import (
    ceiling_estimate,
    doubly_centred_lift,
    lift_estimate,
    lift_per_feature,
    paired_difference,
    share_of_ceiling,
    similarity,
)
from dragoman.stats.planted import accuracy_estimate, names_category

RULE = (
    "An explanation names its feature's planted category when the category's name or the name of one of its topics "
    "stands in the text as whole words, singular or plural, in any case."
)
PAIRS = (("plain", "washed"), ("procrustes_washed", "washed"), ("washed", "direct"))  # differ in one thing each
FIRST, SECOND = 1, 2  # the samples that are drawn; sample 0 is greedy, and the same every time
Lifts = Mapping[str, Mapping[str, float]]  # condition -> feature -> lift
Hits = Mapping[str, Mapping[str, bool]]  # condition -> feature -> whether the text names the planted category


def judge_run(
    run: JudgedRun,
    embedder: Embedder,
    *,
    seed: int,
    also: Sequence[Embedder] = (),
    reconstructor: Reconstructor | None = None,
    directions: Directions | Mapping[str, Directions] | None = None,
) -> Scores:
    """Scores of every condition against the run's natives, its nulls, its planted truth, contexts and a reconstructor.

    Args:
        run: what is judged.
        embedder: compares texts.
        seed: of every resampling.
        also: further embedders: a lift that one of them alone sees is no lift.
        reconstructor: reads the texts back into vectors.
        directions: what it should find, at its site: one set for all conditions, or one for each.

    Raises:
        Refusal: neither natives nor planted categories nor contexts nor a reconstructor are there to judge by.
    """
    if reconstructor is None and not run.judgeable:
        raise Refusal(
            f"{run.folder.path}",
            "it has no native explanations and no planted categories, so there is nothing to judge by",
            "run explain with --native AV, score with --ar AR, or read the page as it is",
        )
    embedder, also = CachedEmbedder(embedder), [CachedEmbedder(one) for one in also]
    rng = np.random.default_rng(seed)
    similar = run.similarities(embedder)
    lifts = {c: dict(zip(run.dealt[c], lift_per_feature(s).tolist(), strict=True)) for c, s in similar.items()}
    hits = {c: _hits(run, texts) for c, texts in run.dealt.items()} if run.category else {}
    pairs = [(a, b) for a, b in PAIRS if a in lifts and b in lifts]
    table = tuple(_condition(run, entry, similar.get(name), hits, rng) for name, entry in run.entries.items())
    scores: dict[str, Any] = {
        "format": FORMAT,
        "embedder": embedder.name,
        "seed": seed,
        "rule": RULE if run.category else None,
        "table": table,
        "paired": tuple(_paired(a, b, lifts, rng) for a, b in pairs),
        "per_feature": {c: _per_feature(run, c, lifts.get(c, {}), hits.get(c, {})) for c in run.dealt},
    }
    if similar:
        lift = {row.condition: row.lift for row in table if row.lift is not None}
        found = by_embedders(run, embedder.name, similar, also, {c: one.value for c, one in lift.items()}, seed=seed)
        p = {embedder.name: {c: one.p for c, one in lift.items()}}
        p |= {name: {c: one.centred.p for c, one in by.items()} for name, by in found.lifts.items()}
        scores |= {"nulls": against_nulls(run, similar, embedder, seed=seed), "embedders": found}
        scores |= {"adjusted": adjusted(run.claims, p), "power": power_of_pairs(pairs, lifts, run)}
    if top := ceiling(run, embedder, seed=seed):
        scores["ceiling"] = top
    if run.contexts and (detection := detection_scores(run, embedder, seed=seed)):
        scores["detection"] = detection
    if run.contexts and not similar and (lifts_by := lift_by_windows(run, embedder, seed=seed)):
        scores["window_lift"] = lifts_by
    if reconstructor is not None and directions is not None:
        scores["reconstruction"] = reconstruction_scores(
            run.rows, directions, reconstructor, seed=seed, topics=run.category or None
        )
    return Scores(**scores)


def ceiling(run: JudgedRun, embedder: Embedder, *, seed: int) -> Ceiling | None:
    """How good a carried text could be: two drawn samples of the native verbalizer against each other.

    A condition's share takes its own first drawn sample against the same native one, so that both were drawn alike;
    conditions without drawn samples of all these features have none, and nothing is a share of a ceiling near 0. None
    where natives were not sampled three times or more.
    """
    drawn: dict[tuple[str, int], dict[str, str]] = {}
    for row in run.rows:
        if row.sample in (FIRST, SECOND):
            text = row.text if row.text.strip() else "(empty)"
            drawn.setdefault((row.condition, row.sample), {})[row.feature] = text
    one, other = drawn.get((NATIVE, FIRST), {}), drawn.get((NATIVE, SECOND), {})
    features = [name for name in one if name in other]
    if len(features) < FEWEST:
        return None
    place = {
        key: embedder.encode([texts[f] for f in features])
        for key, texts in drawn.items()
        if set(features) <= set(texts)
    }
    native = place[NATIVE, SECOND]
    own = similarity(place[NATIVE, FIRST], native)
    ceilings = doubly_centred_lift((own + own.T) / 2)
    share = {}
    for name in run.entries:
        if name != NATIVE and (name, FIRST) in place:
            lifts = doubly_centred_lift(similarity(place[name, FIRST], native))
            try:
                share[name] = share_of_ceiling(lifts, ceilings)
            except Refusal:
                continue  # the ceiling cannot be told from 0
    return Ceiling(ceiling=ceiling_estimate(own, np.random.default_rng(seed)), share=share)


def _hits(run: JudgedRun, texts: Mapping[str, str]) -> dict[str, bool]:
    """Whether each text names the category planted in the feature it is dealt to."""
    return {f: names_category(text, run.words[run.category[f]]) for f, text in texts.items() if f in run.category}


def _condition(
    run: JudgedRun, entry: ConditionEntry, similar: NDArray[np.float64] | None, hits: Hits, rng: np.random.Generator
) -> ConditionScores:
    """One line of the table: lift with interval, p and null; share naming the category beside random directions'."""
    name, found = entry.name, dict[str, Any]()
    if similar is not None:
        # Features of one category succeed and fail together: where several share one, the interval is over categories.
        found["lift"] = lift_estimate(similar, run.groups(list(run.dealt[name])), rng=rng)
    if hits.get(name):
        named, control = list(hits[name].values()), run.control_of(name)
        if control is not None and control in hits:
            rate = accuracy_estimate(named, list(hits[control].values()))
            found["category"] = NamingRate(**asdict(rate), random=rate.extra["random_rate"])
        else:
            found["category"] = BareRate(value=float(np.mean(named)), n=len(named), random=None)
    how = {"route": entry.route or None, "washout": entry.washout or None, "verbalizer": entry.verbalizer or None}
    return ConditionScores(condition=name, **how, **found)


def _paired(first: str, second: str, lifts: Lifts, rng: np.random.Generator) -> PairedDifference:
    """Mean difference of lift over the features both conditions have."""
    both = [f for f in lifts[first] if f in lifts[second]]
    a, b = (np.array([lifts[c][f] for f in both]) for c in (first, second))
    return PairedDifference(**asdict(paired_difference(a, b, rng)), what=f"{second} minus {first}")


def _per_feature(
    run: JudgedRun, condition: str, lifts: Mapping[str, float], hits: Mapping[str, bool]
) -> tuple[FeatureScore, ...]:
    """Lift and hit of each direction, under the id its rows carry."""
    texts, dealt = run.texts[condition], run.dealt[condition]
    own = {f: f for f in texts} if set(dealt) <= set(texts) else dict(zip(dealt, texts, strict=False))
    rows: list[FeatureScore] = []
    for feature in dealt:
        found: dict[str, Any] = {"feature": own[feature]}
        if feature in lifts:
            found["lift"] = lifts[feature]
        if feature in hits:
            found["names_category"] = hits[feature]
        rows.append(FeatureScore(**found))
    return tuple(rows)
