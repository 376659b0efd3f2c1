"""Judge a finished run: lift over other features and against each null, planted categories, differences, contexts.

In: a run with a ``native`` condition, planted categories or contexts, embedders. Out: its scores. Refuses runs that
have nothing to be judged by. Compares; never says a word itself.

Where a run has more features than can be compared with one another, every estimate is made on some drawn ones, and the
scores say so; what is told of single features is told of all, in time and memory that grow with the features alone.
One number is no conclusion: lifts stand against each null and by each embedder, all of them adjusted as one family, and
with their power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal
from dragoman.embed import Embedder
from dragoman.records import ConditionEntry
from dragoman.scores import (
    FORMAT,
    Adjusted,
    AdjustedTest,
    AgainstNull,
    BareRate,
    Ceiling,
    Compared,
    ConditionScores,
    Embedders,
    FeatureScore,
    LiftBy,
    NamingRate,
    PairedDifference,
    Power,
    Scores,
)
from dragoman.scoring.by_windows import detection_scores, lift_by_windows, own_detection, own_window_lift
from dragoman.scoring.judged_run import FEWEST, NATIVE, CachedEmbedder, JudgedRun
from dragoman.scoring.measures import with_measured
from dragoman.scoring.reconstruction import reconstruction_scores
from dragoman.stats.lift import (
    ceiling_estimate,
    doubly_centred_lift,
    lift_estimate,
    lift_per_feature,
    paired_difference,
    share_of_ceiling,
    similarity,
)
from dragoman.stats.nulls import against_each, against_others, holm
from dragoman.stats.planted import accuracy_estimate, names_category
from dragoman.stats.power import detectable, plan
from dragoman.store.files import uncollected

if TYPE_CHECKING:
    from dragoman.models.reconstruct import Reconstructor

RULE = (
    "An explanation names its feature's planted category when the category's name or the name of one of its topics "
    "stands in the text as whole words, singular or plural, in any case."
)
PAIRS = (  # differ in one thing each
    *(("plain", "washed"), ("procrustes_washed", "washed"), ("washed", "direct")),
    ("writes", "fires"),
)
FIRST, SECOND = 1, 2  # the samples that are drawn; sample 0 is greedy, and the same every time
Lifts = Mapping[str, Mapping[str, float]]  # condition -> feature -> lift
Hits = Mapping[str, Mapping[str, bool]]  # condition -> feature -> whether the text names the planted category
Doubles = NDArray[np.float64]
LEVEL = 0.05
_FINE = 9999  # deals of a p that is adjusted over many tests: the smallest must stay small after that


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
    few = run.compared(seed)
    scores = _judged(few, embedder, seed=seed, also=also)
    if few is not run:
        told = Compared(drawn=len(few.features), features=len(run.features))
        with uncollected():
            scores = scores.model_copy(update={"compared": told, **_of_all(run, scores, embedder)})
    if reconstructor is not None and directions is not None:
        among = None if few is run else few.texts
        found = reconstruction_scores(
            run.rows, directions, reconstructor, seed=seed, topics=run.category or None, among=among
        )
        scores = scores.model_copy(update={"reconstruction": found})
    return scores


def _judged(run: JudgedRun, embedder: Embedder, *, seed: int, also: Sequence[Embedder]) -> Scores:
    """Scores of a run whose features can all be compared with one another, a reconstructor aside."""
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
        scores["window_lift"] = {condition: one for condition, (one, _) in lifts_by.items()}
        scores["measured"] = with_measured({}, "window_lift", {c: each for c, (_, each) in lifts_by.items()})
    return Scores(**scores)


def _of_all(run: JudgedRun, scores: Scores, embedder: Embedder) -> dict[str, Any]:
    """What is told of single features, of all of them, in the parts that the scores of some drawn ones have."""
    lifts = run.own_lifts(embedder)
    hits = {c: _hits(run, texts) for c, texts in run.dealt.items()} if run.category else {}
    found: dict[str, Any] = {
        "per_feature": {c: _per_feature(run, c, lifts.get(c, {}), hits.get(c, {})) for c in run.dealt}
    }
    if scores.detection is not None:
        told = [row.condition for row in scores.detection.table if _has_own_ids(run, row.condition)]
        own = own_detection({c: run.dealt[c] for c in told}, run.contexts, embedder)
        found["detection"] = scores.detection.model_copy(update={"per_feature": own})
    if scores.window_lift:
        each = {c: own_window_lift(run, c, embedder) for c in scores.window_lift}
        found["measured"] = with_measured({}, "window_lift", each)
    return found


def _has_own_ids(run: JudgedRun, condition: str) -> bool:
    """Whether a condition's texts are of the features themselves, and not dealt to them."""
    return set(run.dealt[condition]) <= set(run.texts[condition])


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
