"""A calibration: how likely held-out documents bear out each sentence of a text, on a person's own two models.

In: evidence on sentences. Out: probabilities with their reasons; JSON and back. Refuses files that hold anything else
or are of another version, and runs of another pair of sites, verbalizer, dictionary, route or washout.

Two steps read the same evidence: one fitted on features alone, one on features and nulls, of which nothing is right but
what is true of where a fake latent fires. The smaller of the two counts, scaled once more on sentences that neither had
seen. Kinds of sentences that held-out documents hardly ever bear out have no probability at all: there is nothing to
learn it from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.learnt import LearntTest, measured
from dragoman.confidence.model import REASONS, Doubles, Number, Step, expit
from dragoman.core import Refusal, is_format
from dragoman.records import Record
from dragoman.scores import NoAnswer
from dragoman.store import read_json, write_json

KIND = "dragoman calibration"
FORMAT = 2
On = Literal["latents", "made directions"]
MADE: On = "made directions"  # mean differences of words, made where vectors have no encoder that could fire
Kind = Literal["token", "words", "theme"]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
KINDS: Mapping[Kind, str] = {"token": "final tokens", "words": "words that stand out", "theme": "themes"}


class RunIdentity(Record):
    """What a calibration is of, and what a run must be of to be judged by it.

    ``source``, ``target``: sites. ``dictionary``: digest of its rows, "" of vectors without an encoder, whichever they
    are: a calibration for them is made of words, not of them. ``verbalizer``: its identity. ``map``: kind of
    crossing. ``routes``: of the readings, or the one route. ``washout``, ``samples``, ``temperature``,
    ``max_new_tokens``: as of ``explain``.
    """

    source: str
    target: str
    dictionary: str
    verbalizer: Mapping[str, Any]
    map: str
    routes: tuple[str, ...]
    washout: str
    samples: int
    temperature: float
    max_new_tokens: int


class Reliability(Record):
    """What the probabilities are worth on sentences of features that no fit had seen.

    ``n`` sentences of ``features``, ``right`` of them; ``ece`` beside ``ece_floor``, that of exact ones; ``auroc``.
    ``answered``: share that reaches the line, ``features_answered``: of features with one such sentence at least, None
    in files of before this was counted; ``error``: of those wrong; ``bound``: at most so many with 90 %
    confidence. ``nulls``: share of each null's texts with an answer that is not borne out; ``nulls_answered``: with
    any, since what is said of a fake latent may be true of where that one fires. ``kappa``: agreement of what held-out
    documents bear out with known answers, over ``known`` sentences. ``bins``: predicted, observed, how many.
    ``left_out``: latents drawn of whom no sentence could be checked.
    """

    n: Count
    features: Count
    right: Count
    ece: Share
    ece_floor: Share
    auroc: Share | None
    answered: Share
    features_answered: Share | None = None
    error: Share | None
    bound: Share | None
    nulls: Mapping[str, Share]
    nulls_answered: Mapping[str, Share]
    kappa: Annotated[float, Field(ge=-1, le=1)]
    known: Count
    bins: tuple[tuple[Share, Share, Count], ...]
    left_out: Count
    why: str = ""


class KindOfSentence(Record):
    """``n`` sentences of a kind were judged, ``right`` of them borne out; ``calibrated``: enough to learn from."""

    n: Count
    right: Count
    calibrated: bool


class SentencePrediction(Record):
    """One sentence's chance, None of a kind that is not calibrated.

    ``unanswered``: why there is no answer, the line before the latent; None where there is one, and without a chance.
    ``why``: what weighed most.
    """

    probability: float | None
    unanswered: NoAnswer | None
    why: Mapping[str, float]

    @property
    def answered(self) -> bool:
        """Whether it reaches the line, and its latent stands out as learnt ones do."""
        return self.probability is not None and self.unanswered is None


class Calibration(Record):
    """Fitted steps, what they are of, what they are worth.

    ``right``: of features alone; ``with_nulls``: of features and nulls. ``slope``, ``offset``: of the smaller's
    log-odds. ``spans``: evidence -> least and most that was seen, to which it is drawn in. ``line``: answers are given
    at or above it, None where no line was safe. ``kinds``: what was judged of each kind of sentence, and which of them
    are calibrated. ``learnt``: which latents' sentences may be answered, None where no test could be fitted.
    ``sentences``: by kind, those that others are held against; ``embedder``: which placed them.
    ``on``: what it was calibrated on, ``when``, with ``seed`` and ``texts`` (a digest). ``version``: of dragoman.
    """

    format: Literal[2] = FORMAT
    kind: Literal["dragoman calibration"] = KIND
    version: str
    identity: RunIdentity
    on: On
    when: str
    seed: Count
    texts: str
    sizes: Mapping[str, Count]
    embedder: str
    kinds: Mapping[Kind, KindOfSentence]
    sentences: Mapping[str, tuple[str, ...]]
    right: Step
    with_nulls: Step | None
    learnt: LearntTest | None
    slope: Number
    offset: Number
    spans: Mapping[str, tuple[Number, Number]]
    line: Share | None
    reliability: Reliability

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.on == MADE) != (not self.identity.dictionary):
            raise ValueError(f"it was calibrated on {self.on}, and its identity says otherwise")
        steps, worth = [step for step in (self.right, self.with_nulls) if step is not None], self.reliability
        lost = sorted({name for step in steps for name in step.names} - set(self.spans))
        if lost:
            raise ValueError(f"it has no span of {lost[0]}, which its steps read")
        if any(low > high for low, high in self.spans.values()):
            raise ValueError("the least of a span is above its most")
        if any(one.right > one.n for one in (worth, *self.kinds.values())):
            raise ValueError("more sentences are right than were judged")
        if worth.nulls.keys() != worth.nulls_answered.keys():
            raise ValueError("it does not tell both shares of every null")
        alone: list[Kind] = [
            kind for kind, one in self.kinds.items() if one.calibrated and not self.sentences.get(kind)
        ]
        if alone:
            raise ValueError(f"it has no sentences that others about {KINDS[alone[0]]} are held against")
        answers = any(one.calibrated for one in self.kinds.values())
        if self.line is not None and (not answers or worth.error is None or worth.bound is None):
            raise ValueError("it has a line, and does not say of what, or how many of the answers are wrong")
        return self

    def predict(self, rows: Sequence[Evidence]) -> list[SentencePrediction]:
        """One prediction a sentence; of a kind that is not calibrated none is answered, and has no probability.

        Raises:
            Refusal: none of the rows has any of the evidence it reads.
        """
        judged = {k: self.drawn_in(row) for k, row in enumerate(rows) if self.judges(row)}
        p = dict(zip(judged, self.probabilities(list(judged.values())).tolist(), strict=True)) if judged else {}
        may = [True] * len(rows) if self.learnt is None else self.learnt.passes(rows).tolist()
        made = [SentencePrediction(probability=None, unanswered=None, why={})] * len(rows)
        for k, chance in p.items():
            why = dict(islice(self.right.why(judged[k]).items(), REASONS))
            none = self._no_answer(chance, rows[k], may[k])
            made[k] = SentencePrediction(probability=chance, unanswered=none, why=why)
        return made

    def _no_answer(self, p: float, row: Evidence, stands_out: bool) -> NoAnswer | None:
        if self.line is None or p < self.line:
            return "no line" if self.line is None else "below the line"
        return None if stands_out else "row does not stand out" if measured(row) else "row not measured"

    def probabilities(self, drawn: Sequence[Evidence]) -> Doubles:
        """(n,) of evidence that was drawn in."""
        z = self.right.slope * self.right.log_odds(drawn) + self.right.offset
        if self.with_nulls is not None:
            other = self.with_nulls
            z = np.minimum(z, other.slope * other.log_odds(drawn) + other.offset)
        return expit(self.slope * z + self.offset)

    def drawn_in(self, row: Evidence) -> Evidence:
        """Evidence within what was seen when it was fitted: nothing is known of what lies beyond."""
        return {
            name: None if (value := row.get(name)) is None else min(max(value, low), high)
            for name, (low, high) in self.spans.items()
        }

    def judges(self, row: Evidence) -> bool:
        """Whether a sentence is of a kind that is calibrated."""
        kind = self.kinds.get(kind_of(row))
        return kind is not None and kind.calibrated

    @property
    def told(self) -> str:
        """What was calibrated, on what and when, and how much it answers: one line."""
        worth = self.reliability
        of_latents, of_words = (
            f"{worth.features} latents of this dictionary",
            f"{MADE}, not on latents ({worth.features} words),",
        )
        what = of_words if self.on == MADE else of_latents
        if self.line is None:
            return f"calibrated on {what} on {self.when}; answers nothing ({worth.why})"
        whose = " and ".join(KINDS[kind] for kind, one in self.kinds.items() if one.calibrated)
        answers = f"answers {worth.answered:.0%} of sentences about {whose} at <= 20 % error"
        share, features = worth.features_answered, "words" if self.on == MADE else "latents"
        of = "" if self.learnt is None else f"{1 - self.learnt.latents:.0%} of {self.learnt.n}"
        return "; ".join(
            [
                f"calibrated on {what} on {self.when}",
                answers,
                *([] if share is None else [f"{share:.0%} of the {features} have an answer"]),
                *([self.unanswered_kinds] if self.unanswered_kinds else []),
                *([f"none about latents that stand out no more than random directions ({of})"] if of else []),
            ]
        )

    @property
    def unanswered_kinds(self) -> str:
        """Which kinds of sentences have no answer, and how many of those judged were borne out; "" where none has."""
        none = [
            f"{KINDS[kind]} ({one.right} of {one.n} borne out)"
            for kind, one in self.kinds.items()
            if not one.calibrated
        ]
        return f"none about {' or '.join(none)}" if none else ""

    def refuse_another(self, found: RunIdentity, what: str) -> None:
        """Refuse to judge a run of another pair, dictionary, verbalizer, route or way of saying.

        ``found``: of the run, its verbalizer empty where it is not known yet; ``what``: how the file is called.

        Raises:
            Refusal: naming the first thing that differs.
        """
        own = self.identity
        if bool(own.dictionary) != bool(found.dictionary):
            kinds = "a dictionary's latents", "vectors without an encoder"
            of, other = kinds if own.dictionary else (f"{MADE}, not on latents", "a dictionary's latents")
            raise Refusal(f"{what}", f"it was calibrated on {of}, and this run is of {other}", _AGAIN)
        pairs: dict[str, tuple[Any, Any]] = {
            "the source": (own.source, found.source),
            "the target": (own.target, found.target),
            "the dictionary": (own.dictionary[:12], found.dictionary[:12]),
            "the map": (own.map, found.map),
            "the washout": (own.washout, found.washout),
            "the number of samples": (own.samples, found.samples),
            "the temperature": (own.temperature, found.temperature),
            "the most new tokens": (own.max_new_tokens, found.max_new_tokens),
        }
        if found.verbalizer:
            pairs["the verbalizer"] = _short(own.verbalizer), _short(found.verbalizer)
        for name, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise Refusal(f"{what}", f"{name} it was calibrated on is {mine}, and this run's is {theirs}", _AGAIN)
        other = sorted(set(found.routes) - set(own.routes))
        if other:
            why = f"it was calibrated by {' and '.join(own.routes)}, and this run goes by {other[0]}"
            raise Refusal(f"{what}", why, _AGAIN)

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            Refusal: the file is none, of another version, or damaged.
        """
        told = read_json(path)
        if not is_calibration(told):
            raise Refusal(f"{path}", "it is no calibration", "name a file that dragoman calibrate wrote")
        if not is_format(told.get("format"), FORMAT):
            why = f"it is a calibration of format {told.get('format')!r}, and this version reads {FORMAT}"
            raise Refusal(f"{path}", why, "calibrate again")
        return cls.of(told, str(path))


_AGAIN = "calibrate on what this run is of, or leave --confidence out"


def is_calibration(told: object) -> bool:
    """Whether what a file holds says that it is a calibration."""
    return isinstance(told, Mapping) and told.get("kind") == KIND


def kind_of(row: Evidence) -> Kind:
    """Of which kind the sentence is that evidence is about."""
    return "token" if row.get("of_token") else "words" if row.get("of_words") else "theme"


def _short(identity: Mapping[str, Any]) -> str:
    """A verbalizer's identity as a few characters that tell it from others."""
    from dragoman.store import digest, stable_json

    name = identity.get("name") or identity.get("ref") or "verbalizer"
    return f"{name} ({digest(stable_json(identity))[:8]})"
