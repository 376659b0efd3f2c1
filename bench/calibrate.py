"""Is the probability of a calibration worth what it says? Both directions of the embedded pair: ``bench/calibrate.py``.

Draws twice as many latents as are asked for, at random, calibrates on one half and judges the other, whose windows and
texts no fit has seen; nulls are halved alike. Planted categories are looked at once, at the end: how many sentences
about a topic are sure of latents that have none. A calibration fitted on one direction also judges the other
(``transfer``). Writes ``bench/results/calibrate.json``. Goes on where it was stopped; ``--latents 40 --documents 900``
rehearses. ``--device cuda`` is meant for full size, at which it has not been run yet.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "research"))

from dragoman.calibration.answers import calibrated, gathered, names  # noqa: E402
from dragoman.calibration.calibrate import work_of  # noqa: E402
from dragoman.calibration.outcome import sentences_of  # noqa: E402
from dragoman.calibration.sizes import Sizes  # noqa: E402
from dragoman.calibration.texts import CONCEPTS  # noqa: E402
from dragoman.confidence.fit import ece_estimate  # noqa: E402
from dragoman.core import Refusal, Talk  # noqa: E402
from dragoman.models.embedder import SentenceEmbedder  # noqa: E402
from dragoman.runs.options import Options  # noqa: E402
from dragoman.runs.texts import Texts  # noqa: E402
from dragoman.scoring.judged_run import CachedEmbedder  # noqa: E402
from dragoman.scoring.sentences import Reference, sentence_evidence  # noqa: E402
from dragoman.stats.intervals import wilson_interval  # noqa: E402
from dragoman.stats.roc import Outcomes, auroc_estimate  # noqa: E402
from dragoman.store import digest, write_json  # noqa: E402
from studies.ground import FAINT, GROUNDS  # noqa: E402

SINGLE = ("detection", "detection_centred", "detection_rank", "named_share", "words_held", "log_probability")
NEW_TOKENS = 110


def say(text):
    """One line of talk."""
    sys.stderr.write(text + "\n")


def halves(watched, found, seed):
    """The latents drawn in two halves, each with its own texts and nulls."""
    order = sorted(watched.latents, key=lambda name: digest("half", str(seed), name))
    parts = [set(order[k::2]) for k in range(2)]
    made = []
    for k, own in enumerate(parts):
        latents = tuple(name for name in watched.latents if name in own)
        ids = {s.feature: int(digest("null", s.feature)[:4], 16) % 2 for s in found.texts if s.null}
        mine = [
            s
            for s in found.texts
            if (s.null and (s.feature in own or ids[s.feature] == k and s.feature.startswith("fake")))
        ]
        mine += [
            s
            for s in found.texts
            if not s.null and (s.feature in own or s.condition == CONCEPTS or s.feature in watched.extra)
        ]
        judged = set(latents) | set(watched.extra) | set(watched.held_out) - set(watched.latents)
        own_ones, dealt = ({a: o for a, o in some.items() if a.feature in judged} for some in (found.own, found.dealt))
        made.append((replace(watched, latents=latents), replace(found, texts=mine, own=own_ones, dealt=dealt)))
    return made


def told(estimate, **more):
    """An estimate for JSON."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n, **more}


def rate(hits, n):
    """A rate with Wilson's interval; None of nothing."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = wilson_interval(int(hits), int(n))
    return {"value": hits / n, "low": low, "high": high, "n": int(n)}


def selective(score, right, share):
    """Share right among the surest, with its interval."""
    count = max(round(share * len(score)), 1)
    surest = np.argsort(-np.asarray(score), kind="stable")[:count]
    return rate(int(right[surest].sum()), count)


def judge(made, watched, found, embedder, topicless, seed):
    """What a calibration is worth on latents that it was not fitted on."""
    reference = Reference(sentences=made.sentences, embedder=embedder)
    own, nulls = gathered(found, watched, reference)
    rng, right = np.random.default_rng(seed), own.right
    predicted = made.predict(own.evidence)
    p = np.array([one.probability for one in predicted])
    answered = np.array([one.answered for one in predicted])
    outcomes = Outcomes.of(p, right, clusters=own.group)
    bins = max(2, min(10, len(p) // 20))
    ece = ece_estimate(outcomes, rng=rng, bins=bins)
    by_null = {}
    for text in nulls:
        by_null.setdefault(text.null, []).append(any(one.answered for one in made.predict(text.evidence)))
    single = {}
    for name in SINGLE:
        values = np.array([-np.inf if row.get(name) is None else row[name] for row in own.evidence], dtype=float)
        if np.isfinite(values).any():
            single[name] = values
    best = max(single, key=lambda name: selective(single[name], right, 0.8)["value"])
    every = selective(p, right, 1.0)
    return {
        "n": len(p),
        "latents": len(set(own.group.tolist())),
        "right": rate(int(right.sum()), len(p)),
        "ece": told(ece, floor=ece.extra["if_calibrated"], above_floor=ece.value - ece.extra["if_calibrated"]),
        "auroc": told(auroc_estimate(outcomes, rng=rng)) if 0 < right.sum() < len(right) else None,
        "auroc_firing_word": firing_word(made, watched, found, reference, rng),
        "nulls_confident": {name: rate(sum(some), len(some)) for name, some in by_null.items()},
        "answered": rate(int(answered.sum()), len(p)),
        "error_among_answered": rate(int((~right[answered]).sum()), int(answered.sum())),
        "accuracy_at_80": {"confidence": selective(p, right, 0.8), best: selective(single[best], right, 0.8)},
        "accuracy_at_50": {"confidence": selective(p, right, 0.5), best: selective(single[best], right, 0.5)},
        "accuracy_at_100": every,
        "sure_topics_of_topicless": topics(made, watched, found, reference, topicless),
    }


def firing_word(made, watched, found, reference, rng):
    """AUROC of P for naming the word, of sentences that name words about one-word latents that were not fitted on."""
    p, right, whose = [], [], []
    for one in found.texts:
        truth = watched.truth.get(one.feature)
        if one.null or one.condition == CONCEPTS or truth is None or truth.word is None:
            continue
        asks = sentences_of(one)
        for ask, chance in zip(asks, made.predict(sentence_evidence(one.text, reference)), strict=True):
            if ask.kind != "theme":
                p.append(chance.probability)
                right.append(names(truth, ask))
                whose.append(one.feature)
    if len(p) < 10 or len(set(right)) < 2:
        return None
    return told(auroc_estimate(Outcomes.of(p, right, clusters=whose), rng=rng), latents=len(set(whose)))


def topics(made, watched, found, reference, topicless):
    """Theme sentences at P >= .5 of latents without a topic."""
    sure, n, chosen = 0, 0, set(watched.latents) & topicless
    for one in found.texts:
        if one.feature in chosen and not one.null and one.condition != CONCEPTS:
            chances = made.predict(sentence_evidence(one.text, reference))
            for claim, chance in zip(one.text.claims, chances, strict=True):
                if claim.kind == "theme":
                    n += 1
                    sure += chance.probability >= 0.5
    return rate(sure, n)


def main():
    """Calibrate on one half, judge the other, both ways; then each by the other's."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--direction", choices=[*GROUNDS, "both"], default="both")
    parse.add_argument("--latents", type=int, default=600, help="judged, and as many calibrated on")
    parse.add_argument("--documents", type=int, default=10_000)
    parse.add_argument("--known", type=int, default=60)
    parse.add_argument("--nulls", type=int, default=120, help="half of each to fit, half to judge")
    parse.add_argument("--paired", type=int, default=600)
    parse.add_argument("--dealt", type=int, default=1)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--batch-size", type=int, default=None)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, default=HERE / "results" / "calibrate.json")
    args = parse.parse_args()
    sizes = Sizes(
        latents=2 * args.latents, documents=args.documents, known=args.known, nulls=args.nulls, paired=args.paired,
        dealt=args.dealt,
    )  # fmt: skip
    talk, embedder = Talk(say=say), CachedEmbedder(SentenceEmbedder(device=args.device))
    names_of = list(GROUNDS) if args.direction == "both" else [args.direction]
    options = Options(max_new_tokens=NEW_TOKENS, seed=args.seed, batch_size=args.batch_size)
    how = {"dtype": args.dtype, "device": args.device, "engine": "auto"}
    told_of, made_of, second = {}, {}, {}
    for name in names_of:
        ground = GROUNDS[name]
        work = work_of(ground.dictionary, ground.by, Texts.of(None), sizes, options, {}, how, talk)
        first, second[name] = halves(work.inputs.watched, work.verdicts, args.seed)
        try:
            made = calibrated(*first, work.identity, sizes, args.seed, "bench", work.texts, embedder, talk)
        except Refusal as refusal:
            told_of[name] = {"refused": str(refusal)}
            continue
        topicless = {one.id for one in ground.latents.values() if one.selectivity < FAINT}
        made_of[name] = made
        told_of[name] = {
            "calibration": made.reliability.to_json() | {"line": made.line},
            "judged": judge(made, *second[name], embedder, topicless, args.seed),
        }
    for fitted, made in made_of.items():
        for name in made_of:
            if name != fitted:
                topicless = {one.id for one in GROUNDS[name].latents.values() if one.selectivity < FAINT}
                told_of[name]["transfer"] = judge(made, *second[name], embedder, topicless, args.seed)
    write_json(
        args.out, {"sizes": {k: getattr(args, k) for k in ("latents", "documents", "known", "nulls")}, **told_of}
    )
    sys.stdout.write(args.out.read_text() + "\n")


if __name__ == "__main__":
    main()
