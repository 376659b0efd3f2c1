"""Is the probability of a calibration worth what it says? Both directions of the embedded pair: ``bench/calibrate.py``.

Draws twice as many latents as are asked for, at random, calibrates on one half and judges the other, whose windows and
texts no fit has seen; nulls are halved alike. Planted categories are looked at once, at the end: how many sentences
about a topic are sure of latents that have none, and how many are borne out of those that have one. A calibration
fitted on one direction also judges the other (``transfer``). Writes ``bench/results/calibrate.json``, and beside it
what each direction has come to as soon as it is known (``calibrate.DIRECTION.json``, and the calibration itself).
Models' readings and texts are kept, so that the same command goes on where it was stopped.

``--others FOLDER`` does the same for what nothing was developed on: the dictionaries of ``training/other_blocks.py``,
read by the same two verbalizers. They have no planted categories.

``--latents 40 --documents 900`` rehearses; ``--device cuda --at-once 2`` is meant for full size.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "research")]

from dragoman import tiny  # noqa: E402
from dragoman.calibration.answers import calibrated, gathered, names, of_kinds  # noqa: E402
from dragoman.calibration.calibrate import work_of  # noqa: E402
from dragoman.calibration.fitted import Sentences, components  # noqa: E402
from dragoman.calibration.inputs import WatchedLatents  # noqa: E402
from dragoman.calibration.outcome import Verdicts, sentences_of  # noqa: E402
from dragoman.calibration.sizes import Sizes  # noqa: E402
from dragoman.calibration.texts import CONCEPTS, NULLS, CalibrationText  # noqa: E402
from dragoman.confidence.calibration import KINDS, Calibration, Kind  # noqa: E402
from dragoman.confidence.fit import ece_estimate  # noqa: E402
from dragoman.core import Estimate, Refusal, Talk  # noqa: E402
from dragoman.models.embedder import SentenceEmbedder  # noqa: E402
from dragoman.models.resolve import folder_of  # noqa: E402
from dragoman.runs.options import Options  # noqa: E402
from dragoman.runs.progress import Paced  # noqa: E402
from dragoman.runs.texts import Texts  # noqa: E402
from dragoman.scoring.judged_run import CachedEmbedder  # noqa: E402
from dragoman.scoring.sentences import Reference, sentence_evidence  # noqa: E402
from dragoman.stats.intervals import wilson_interval  # noqa: E402
from dragoman.stats.roc import Outcomes, auroc_estimate  # noqa: E402
from dragoman.store import digest, write_json  # noqa: E402
from dragoman.verbalizers.protocol import UNSAID, HowOpened  # noqa: E402
from measured import machine_of  # noqa: E402
from studies.ground import FAINT, GROUNDS, SHARP, Ground  # noqa: E402

SINGLE = ("detection", "detection_centred", "detection_rank", "named_share", "words_held", "log_probability")
NEW_TOKENS = 110
DAY = "2026-01-01"  # written into calibrations, so that the same seed gives the same bytes
OTHERS = {"smollm2-17": "tiny-gemma-av", "gemma-9": "tiny-smollm2-av"}  # what other_blocks.py makes: who reads it
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A dictionary, the verbalizer that reads it and, where categories are planted, what each latent fires on."""

    name: str
    dictionary: str
    by: str
    planted: Ground | None = None

    def latents_with(self, low: float, high: float) -> set[str]:
        """Latents whose planted category has such a share of their firing."""
        latents = self.planted.latents.values() if self.planted else ()
        return {one.id for one in latents if low <= one.selectivity < high}


PAIR = {name: Setting(name=name, dictionary=one.dictionary, by=one.by, planted=one) for name, one in GROUNDS.items()}


def settings_of(args: argparse.Namespace) -> dict[str, Setting]:
    """Those asked for, by name."""
    every = PAIR
    if args.others is not None:
        every = {name: Setting(name=name, dictionary=str(args.others / name), by=by) for name, by in OTHERS.items()}
    if args.direction == "both":
        return every
    if args.direction not in every:
        raise SystemExit(
            f"--direction {args.direction} is none of {', '.join(every)}: --others names the folder of others"
        )
    return {args.direction: every[args.direction]}


def halves(watched: WatchedLatents, found: Verdicts, seed: int) -> list[tuple[WatchedLatents, Verdicts]]:
    """The latents drawn in two halves, each with its own texts and nulls; those that fire together stay together.

    Known answers that were not drawn, and concepts, are in both: no fit reads them. Fake latents are dealt by name.
    """
    parts = dealt_halves(watched, seed)
    known = set(watched.extra) | set(watched.held_out) - set(watched.latents)
    made: list[tuple[WatchedLatents, Verdicts]] = []
    for k in range(2):
        own = parts[k]

        def mine(one: CalibrationText, own: set[str] = own, k: int = k) -> bool:
            if one.feature in own:
                return True
            if one.null:
                return one.feature not in watched.latents and int(digest("null", one.feature)[:4], 16) % 2 == k
            return one.condition == CONCEPTS or one.feature in watched.extra

        judged = own | known
        verdicts = [{a: o for a, o in some.items() if a.feature in judged} for some in (found.own, found.dealt)]
        latents = tuple(name for name in watched.latents if name in own)
        texts = [one for one in found.texts if mine(one)]
        found_here = replace(found, texts=texts, own=verdicts[0], dealt=verdicts[1])
        made.append((_for_half(watched, latents, own), found_here))
    return made


def dealt_halves(watched: WatchedLatents, seed: int) -> tuple[set[str], set[str]]:
    """Two halves as equal as can be; groups of latents that fire together are dealt, the largest first."""
    groups: dict[int, list[str]] = {}
    together = components(watched.fired)[: len(watched.latents)].tolist()
    for name, group in zip(watched.latents, together, strict=True):
        groups.setdefault(group, []).append(name)
    parts = (set[str](), set[str]())
    for some in sorted(groups.values(), key=lambda some: (-len(some), digest("half", str(seed), some[0]))):
        min(parts, key=len).update(some)
    return parts


def _for_half(watched: WatchedLatents, latents: tuple[str, ...], own: set[str]) -> WatchedLatents:
    """What is watched, with the columns of ``fired`` that are of these latents and the known ones."""
    every = (*watched.latents, *watched.extra)
    kept = [k for k, name in enumerate(every) if name in own or name in set(watched.extra)]
    return replace(watched, latents=latents, fired=watched.fired.tocsc()[:, kept])


def stated(estimate: Estimate, **more: Any) -> Json:
    """An estimate for JSON."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n, **more}


def rate(hits: int, n: int) -> Json:
    """A rate with Wilson's interval; None of nothing."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = wilson_interval(int(hits), int(n))
    return {"value": hits / n, "low": low, "high": high, "n": int(n)}


def selective(score: NDArray[Any], right: NDArray[np.bool_], share: float) -> Json:
    """Share right among the surest, with its interval."""
    count = max(round(share * len(score)), 1)
    surest = np.argsort(-np.asarray(score), kind="stable")[:count]
    return rate(int(right[surest].sum()), count)


def judge(
    made: Calibration, watched: WatchedLatents, found: Verdicts, embedder: CachedEmbedder, setting: Setting, seed: int
) -> Json:
    """What a calibration is worth on latents that it was not fitted on."""
    reference = Reference(sentences=made.sentences, embedder=embedder)
    every, all_nulls = gathered(found, watched, reference)
    kinds: list[Kind] = [kind for kind, one in made.kinds.items() if one.calibrated]
    own, nulls = of_kinds(every, all_nulls, kinds)
    rng, right = np.random.default_rng(seed), own.right
    predicted = made.predict(own.evidence)
    p = np.array([one.probability for one in predicted], dtype=np.float64)
    answered = np.array([one.answered for one in predicted], dtype=bool)
    outcomes = Outcomes.of(p, right, clusters=own.group)
    ece = ece_estimate(outcomes, rng=rng, bins=max(2, min(10, len(p) // 20)))
    by_null: dict[str, list[bool]] = {null: [] for null in NULLS}
    wrongly: dict[str, list[bool]] = {null: [] for null in NULLS}
    for text in nulls:
        sure = [one.answered for one in made.predict(text.evidence)]
        by_null[text.null].append(any(sure))
        wrongly[text.null].append(any(s and not r for s, r in zip(sure, text.outcomes, strict=True)))
    single = pieces(own)
    best = max(single, key=lambda piece: (selective(single[piece], right, 0.8)["value"], piece))
    return {
        "n": len(p),
        "latents": len(set(own.group.tolist())),
        "kinds": kinds,
        "right": rate(int(right.sum()), len(p)),
        "ece": stated(ece),
        "ece_floor": ece.extra["if_calibrated"],
        "ece_above_floor": ece.value - ece.extra["if_calibrated"],
        "auroc": stated(auroc_estimate(outcomes, rng=rng)) if 0 < right.sum() < len(right) else None,
        "auroc_firing_word": firing_word(made, watched, found, reference, rng),
        "nulls_confident": {null: rate(sum(some), len(some)) for null, some in by_null.items()},
        "nulls_confident_and_not_borne_out": {null: rate(sum(some), len(some)) for null, some in wrongly.items()},
        "answered": rate(int(answered.sum()), len(p)),
        "answered_of_all_sentences": rate(int(answered.sum()), len(every.right)),
        "features_answered": features_answered(own, answered, watched, found),
        "error_among_answered": rate(int((~right[answered]).sum()), int(answered.sum())),
        "accuracy_at_80": selective(p, right, 0.8),
        "accuracy_at_50": selective(p, right, 0.5),
        "accuracy_at_100": selective(p, right, 1.0),
        "best_single": {
            "evidence": best,
            "accuracy_at_80": selective(single[best], right, 0.8),
            "accuracy_at_50": selective(single[best], right, 0.5),
        },
        "sure_topics_of_topicless": topics(made, watched, found, reference, setting) if setting.planted else None,
    }


def features_answered(own: Sentences, answered: NDArray[np.bool_], watched: WatchedLatents, found: Verdicts) -> Json:
    """Of the latents that any sentence was judged of, how many have one answered, and how many of these a wrong one."""
    judged = {one.feature for one in found.own} & set(watched.latents)
    some = set(own.feature[answered].tolist())
    wrong = set(own.feature[answered & ~own.right].tolist())
    return {"with_one": rate(len(some), len(judged)), "with_a_wrong_one": rate(len(wrong), len(some))}


def pieces(own: Sentences) -> dict[str, NDArray[np.float64]]:
    """Single pieces of evidence that sentences could be ordered by instead; what is missing comes last."""
    found: dict[str, NDArray[np.float64]] = {}
    for name in SINGLE:
        held = [row.get(name) for row in own.evidence]
        values = np.array([-np.inf if value is None else value for value in held], dtype=np.float64)
        if np.isfinite(values).any():
            found[name] = values
    return found


def firing_word(
    made: Calibration, watched: WatchedLatents, found: Verdicts, reference: Reference, rng: np.random.Generator
) -> Json | None:
    """AUROC of P for naming the word, of sentences that name words about one-word latents that were not fitted on.

    Those not drawn count too; of the others, only those that the fit did not see are here.
    """
    p, right, whose = list[float](), list[bool](), list[str]()
    for one in found.texts:
        truth = watched.truth.get(one.feature)
        if one.null or one.condition == CONCEPTS or truth is None or truth.word is None:
            continue
        chances = made.predict(sentence_evidence(one.text, reference))
        for ask, chance in zip(sentences_of(one), chances, strict=True):
            if ask.kind != "theme" and chance.probability is not None:
                p.append(chance.probability)
                right.append(names(truth, ask))
                whose.append(one.feature)
    if len(p) < 10 or len(set(right)) < 2:
        return None
    return stated(auroc_estimate(Outcomes.of(p, right, clusters=whose), rng=rng), latents=len(set(whose)))


def topics(made: Calibration, watched: WatchedLatents, found: Verdicts, reference: Reference, of: Setting) -> Json:
    """Theme sentences at P >= .5 of latents without a topic; a theme without a probability is not sure."""
    sure, n, chosen = 0, 0, set(watched.latents) & of.latents_with(0, FAINT)
    for one in found.texts:
        if one.feature in chosen and not one.null and one.condition != CONCEPTS:
            chances = made.predict(sentence_evidence(one.text, reference))
            for claim, chance in zip(one.text.claims, chances, strict=True):
                if claim.kind == "theme":
                    n += 1
                    sure += chance.probability is not None and chance.probability >= 0.5
    return rate(sure, n)


def borne_out(watched: WatchedLatents, found: Verdicts, of: Setting) -> Json:
    """By kind, sentences that held-out documents bear out: of all latents drawn, of those with and without a topic."""
    groups = {"all": set(watched.latents)}
    if of.planted:
        groups |= {"with a topic": of.latents_with(SHARP, 2), "without": of.latents_with(0, FAINT)}
    own = {one: right for one, right in found.own.items() if one.feature in set(watched.latents)}
    told: Json = {}
    for group, ids in groups.items():
        kinds = {
            kind: [right for one, right in own.items() if one.kind == kind and one.feature in ids] for kind in KINDS
        }
        told[group] = {kind: rate(sum(some), len(some)) for kind, some in kinds.items()}
    return told


@dataclass
class Direction:
    """One direction: what was read and said of it, and the calibration of one half."""

    setting: Setting
    args: argparse.Namespace
    say: Callable[[str], None]

    def prepare(self) -> tuple[Json, Json | None]:
        """Read, say, check, fit on one half and judge the other; figures, and the calibration as JSON."""
        args, began = self.args, time.monotonic()
        setting, self.embedder = self.setting, CachedEmbedder(SentenceEmbedder(device=args.device))
        talk = Talk(say=self.say, bar=Paced(self.say).bar)
        sizes = Sizes(
            latents=2 * args.latents, documents=args.documents, known=args.known, nulls=args.nulls, paired=args.paired,
            dealt=args.dealt,
        )  # fmt: skip
        options = Options(max_new_tokens=NEW_TOKENS, seed=args.seed, batch_size=args.batch_size)
        how = HowOpened(dtype=args.dtype, device=args.device, engine="auto", compiled=False)
        work = work_of(setting.dictionary, setting.by, Texts.of(None), sizes, options, UNSAID, how, talk)
        watched, found = work.inputs.watched, work.verdicts
        first, self.second = halves(watched, found, args.seed)
        read = time.monotonic()
        told: Json = {"borne_out": borne_out(watched, found, setting)}
        told["seconds"] = {"reading, saying and checking": round(read - began)}
        self.say(f"read, said and checked in {read - began:.0f} s; fitting")
        try:
            made = calibrated(*first, work.identity, sizes, args.seed, DAY, work.texts, self.embedder, talk)
        except Refusal as refusal:
            return self._kept(told | {"refused": str(refusal)}), None
        made.save(beside(args.out, f"{setting.name}.calibration"))
        worth = {
            "line": made.line,
            "told": made.told,
            "kinds": {kind: one.to_json() for kind, one in made.kinds.items()},
        }
        told["calibration"] = made.reliability.to_json() | worth
        told["judged"] = judge(made, *self.second, self.embedder, setting, args.seed)
        told["seconds"] |= {"evidence, fit and judging": round(time.monotonic() - read)}
        return self._kept(told), made.to_json()

    def transfer(self, other: Json) -> Json:
        """The other direction's calibration, judging this one."""
        made = Calibration.of(other, "the other direction's calibration")
        try:
            return judge(made, *self.second, self.embedder, self.setting, self.args.seed)
        except Refusal as refusal:
            return {"refused": str(refusal)}

    def _kept(self, told: Json) -> Json:
        kept = beside(self.args.out, self.setting.name)
        write_json(kept, told)
        self.say(f"kept in {kept}")
        return told


def beside(out: Path, what: str) -> Path:
    """A file of its own beside the results."""
    return out.with_name(f"{out.stem}.{what}.json")


def say(name: str, text: str) -> None:
    """One line of talk, with the direction it is of and the time."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}: {text}\n")
    sys.stderr.flush()


def child(setting: Setting, args: argparse.Namespace, end: Any) -> None:
    """A direction in a process of its own: its figures, then what it makes of the other's calibration."""
    direction = Direction(setting, args, partial(say, setting.name))
    end.send(direction.prepare())
    other = end.recv()
    end.send(None if other is None else direction.transfer(other))


def at_once(chosen: Mapping[str, Setting], args: argparse.Namespace) -> dict[str, Json]:
    """All directions side by side."""
    for model in tiny.MODELS:
        folder_of(model)  # unpacked once, not by both
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Any] = {}
    for name, setting in chosen.items():
        ends[name], theirs = context.Pipe()
        context.Process(target=child, args=(setting, args, theirs)).start()
        theirs.close()  # so that a child that dies is noticed
    found = {name: received(end, ({"failed": "its process ended"}, None)) for name, end in ends.items()}
    for name, end in ends.items():
        with contextlib.suppress(BrokenPipeError):
            end.send(_other(name, found))
    return {name: with_transfer(found[name][0], received(end, None)) for name, end in ends.items()}


def received(end: Any, otherwise: Any) -> Any:
    """What a child sends; ``otherwise`` of one that ended without."""
    try:
        return end.recv()
    except EOFError:
        return otherwise


def one_by_one(chosen: Mapping[str, Setting], args: argparse.Namespace) -> dict[str, Json]:
    """All directions, one after the other."""
    directions = {name: Direction(one, args, partial(say, name)) for name, one in chosen.items()}
    found = {name: one.prepare() for name, one in directions.items()}
    told: dict[str, Json] = {}
    for name, one in directions.items():
        other = _other(name, found)
        told[name] = with_transfer(found[name][0], None if other is None else one.transfer(other))
    return told


def with_transfer(told: Json, transferred: Json | None) -> Json:
    """A direction's figures, and the other's calibration judged on it, where there is one."""
    return told if transferred is None else told | {"transfer": transferred}


def _other(name: str, found: Mapping[str, tuple[Json, Json | None]]) -> Json | None:
    return next((made for other, (_, made) in found.items() if other != name and made is not None), None)


def main() -> None:
    """Calibrate on one half, judge the other, both ways; then each by the other's."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--direction", choices=[*PAIR, *OTHERS, "both"], default="both")
    parse.add_argument("--others", type=Path, default=None, help="the folder that training/other_blocks.py wrote")
    parse.add_argument("--latents", type=int, default=600, help="judged, and as many calibrated on")
    parse.add_argument("--documents", type=int, default=6000, help="two thirds evidence, one third outcome")
    parse.add_argument("--known", type=int, default=60)
    parse.add_argument("--nulls", type=int, default=240, help="half of each to fit, half to judge")
    parse.add_argument("--paired", type=int, default=600)
    parse.add_argument("--dealt", type=int, default=1)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--dtype", default=None, help="bfloat16 on CUDA, else float32, where nothing is said")
    parse.add_argument("--batch-size", type=int, default=None)
    parse.add_argument("--at-once", type=int, default=1, choices=(1, 2), help="directions side by side")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, default=HERE / "results" / "calibrate.json")
    args = parse.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = settings_of(args)
    found = at_once(chosen, args) if args.at_once > 1 else one_by_one(chosen, args)
    sizes = {name: getattr(args, name) for name in ("latents", "documents", "known", "nulls", "paired", "seed")}
    write_json(args.out, {"sizes": sizes, "machine": f"{machine_of(args.device, 'real')}, {args.dtype}", **found})
    sys.stdout.write(args.out.read_text() + "\n")


if __name__ == "__main__":
    main()
