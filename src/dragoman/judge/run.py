"""Judge a finished run: lift over other features, planted categories, paired differences, nulls, contexts.

In: a run folder with a ``native`` condition, planted categories or contexts, embedders. Out: the scores, as they are
kept in ``scores.json``. Refuses runs that have nothing to be judged by. Compares; never says a word itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal
from dragoman.embed import Embedder
from dragoman.judge.ceiling import ceiling
from dragoman.judge.contexts import detected
from dragoman.judge.nulls import adjusted, against_nulls, by_embedders, power_of_pairs
from dragoman.judge.said import Once, Said, dealt_to, first_samples
from dragoman.score import accuracy_estimate, lift_estimate, lift_per_feature, names_category, paired_difference
from dragoman.score.reconstruct import Reconstructor, reconstruction_scores
from dragoman.store import RunFolder

RULE = (
    "An explanation names its feature's planted category when the category's name or the name of one of its topics "
    "stands in the text as whole words, singular or plural, in any case."
)
PAIRS = (("plain", "washed"), ("procrustes_washed", "washed"), ("washed", "direct"))


def judge_run(
    run: RunFolder,
    embedder: Embedder,
    *,
    seed: int,
    also: Sequence[Embedder] = (),
    reconstructor: Reconstructor | None = None,
    directions: Directions | Mapping[str, Directions] | None = None,
) -> dict[str, Any]:
    """Scores of every condition against the run's natives, its nulls, its planted truth, contexts and a reconstructor.

    Args:
        run: the folder.
        embedder: compares texts.
        seed: of every resampling.
        also: further embedders: a lift that one of them alone sees is no lift.
        reconstructor: reads the texts back into vectors.
        directions: what it should find, at its site: one set for all conditions, or one for each.

    Raises:
        Refusal: neither natives nor planted categories nor contexts nor a reconstructor are there to judge by.
    """
    texts, contexts = first_samples(run.rows()), run.contexts
    embedder, also = Once(embedder), [Once(one) for one in also]
    info: Mapping[str, Mapping[str, Any]] = run.manifest.get("feature_info") or {}
    words: Mapping[str, Sequence[str]] = run.manifest.get("category_words") or {}
    if reconstructor is None and not judgeable(run):
        raise Refusal(
            f"{run.path}",
            "it has no native explanations and no planted categories, so there is nothing to judge by",
            "run explain with --native AV, score with --ar AR, or read the page as it is",
        )
    rng = np.random.default_rng(seed)
    order = list(texts.get("native") or info or run.manifest["features"])
    dealt = {c: dealt_to(said, order) for c, said in texts.items()}
    conditions = [c for c in run.manifest["conditions"] if c["name"] in texts]
    said = Said(
        texts=texts,
        dealt=dealt,
        told={c["name"]: c for c in conditions},
        category={f: i["category"] for f, i in info.items()},
    )
    similar = said.similarities(embedder)
    lifts = {c: dict(zip(dealt[c], lift_per_feature(s).tolist(), strict=True)) for c, s in similar.items()}
    hits = {c: _hits(told, info, words) for c, told in dealt.items()} if info else {}
    scores: dict[str, Any] = {
        "embedder": embedder.name,
        "seed": seed,
        "rule": RULE if info else None,
        "table": [_condition(c, said, similar.get(c["name"]), hits, rng) for c in conditions],
        "paired": [_paired(a, b, lifts, rng) for a, b in PAIRS if a in lifts and b in lifts],
        "per_feature": {
            c: _per_feature(told, texts[c], lifts.get(c, {}), hits.get(c, {})) for c, told in dealt.items()
        },
    }
    if similar:
        scores |= _compared(said, similar, embedder, also, scores["table"], seed=seed)
        scores["power"] = power_of_pairs([(a, b) for a, b in PAIRS if a in lifts and b in lifts], lifts, said)
    if top := ceiling(run.rows(), [c["name"] for c in conditions], embedder, seed=seed):
        scores["ceiling"] = top
    if contexts and (found := detected(said, contexts, embedder, seed=seed)):
        scores["detection"] = found
    if reconstructor is not None and directions is not None:
        scores["reconstruction"] = reconstruction_scores(
            run.rows(), directions, reconstructor, seed=seed, topics=said.category or None
        )
    return scores


def judgeable(run: RunFolder) -> bool:
    """Whether a run brings along what its texts can be judged by, a reconstructor aside."""
    native = any(row["condition"] == "native" for row in run.rows())
    return native or bool(run.manifest.get("feature_info")) or bool(run.contexts)


def _compared(
    said: Said,
    similar: Mapping[str, NDArray[np.float64]],
    embedder: Embedder,
    also: Sequence[Embedder],
    table: Sequence[Mapping[str, Any]],
    *,
    seed: int,
) -> dict[str, Any]:
    """Lifts against each null and by each embedder, and one p for each claim, adjusted for all of them."""
    lift = {row["condition"]: row["lift"] for row in table if row.get("lift")}
    values = {c: one["value"] for c, one in lift.items()}
    found = by_embedders(said, embedder.name, similar, also, values, seed=seed)
    p = {embedder.name: {c: one["p"] for c, one in lift.items()}}
    p |= {name: {c: one["centred"]["p"] for c, one in by.items()} for name, by in found["lifts"].items()}
    return {
        "nulls": against_nulls(said, similar, embedder, seed=seed),
        "embedders": found,
        "adjusted": adjusted(said.features, p),
    }


def _hits(
    said: Mapping[str, str], info: Mapping[str, Mapping[str, Any]], words: Mapping[str, Sequence[str]]
) -> dict[str, bool]:
    """Whether each text names the category planted in the feature it is dealt to."""
    return {f: names_category(text, words[info[f]["category"]]) for f, text in said.items() if f in info}


def _condition(
    condition: Mapping[str, Any],
    said: Said,
    similar: NDArray[np.float64] | None,
    hits: Mapping[str, Mapping[str, bool]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """One line of the table: lift with interval, p and null; share naming the category beside random directions'."""
    name = condition["name"]
    out: dict[str, Any] = {k: condition.get(k) for k in ("route", "washout", "verbalizer")} | {"condition": name}
    if similar is not None:
        # Features of one category succeed and fail together: where several share one, the interval is over categories.
        out["lift"] = asdict(lift_estimate(similar, said.groups(list(said.dealt[name])), rng=rng))
    if hits.get(name):
        named = list(hits[name].values())
        control = next((c for c in _controls(name) if c in hits), None)
        if control is not None:
            rate = asdict(accuracy_estimate(named, list(hits[control].values())))
            out["category"] = rate | {"random": rate["extra"]["random_rate"]}
        else:
            out["category"] = {"value": float(np.mean(named)), "n": len(named), "random": None}
    return out


def _controls(name: str) -> tuple[str, ...]:
    """Which random condition stands beside a condition: one that was washed as it was."""
    bare = ("plain", "random_plain", "native_plain")
    return ("random_plain", "random_washed") if name in bare else ("random_washed", "random_plain")


def _paired(
    first: str, second: str, lifts: Mapping[str, Mapping[str, float]], rng: np.random.Generator
) -> dict[str, Any]:
    """Mean difference of lift over the features both conditions have."""
    both = [f for f in lifts[first] if f in lifts[second]]
    a, b = (np.array([lifts[c][f] for f in both]) for c in (first, second))
    return {"what": f"{second} minus {first}", **asdict(paired_difference(a, b, rng))}


def _per_feature(
    dealt: Mapping[str, str], said: Mapping[str, str], lifts: Mapping[str, float], hits: Mapping[str, bool]
) -> list[dict[str, Any]]:
    """Lift and hit of each direction, under the id its rows carry."""
    own = {f: f for f in said} if set(dealt) <= set(said) else dict(zip(dealt, said, strict=False))
    rows: list[dict[str, Any]] = []
    for feature in dealt:
        row: dict[str, Any] = {"feature": own[feature]}
        if feature in lifts:
            row["lift"] = lifts[feature]
        if feature in hits:
            row["names_category"] = hits[feature]
        rows.append(row)
    return rows
