"""Verdicts and evidence brought together: verdicts that know nothing refused, the rest fitted.

In: verdicts on sentences, what is known of the latents, the evidence's embedder. Out: a ``Calibration``. Refuses
verdicts of held-out documents that do not agree with the known answers, dictionaries of whose sentences hardly one is
borne out, and what fitting refuses.

A kind of sentence of which fewer than ten are borne out is left out by name: from so few nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

import numpy as np

from dragoman.calibration.draw import Truth
from dragoman.calibration.fitted import NullText, Sentences, components, fitted, reliability
from dragoman.calibration.inputs import WatchedLatents, concept
from dragoman.calibration.outcome import SentenceAbout, Verdicts, about, kappa, sentences_of
from dragoman.calibration.sizes import Sizes
from dragoman.calibration.texts import FAKE
from dragoman.confidence.calibration import KINDS, MADE, Calibration, Kind, KindOfSentence, On, RunIdentity, kind_of
from dragoman.core import Refusal, Talk
from dragoman.embed import Embedder
from dragoman.measures.claims import claims_of, token_of
from dragoman.measures.firing import quoted
from dragoman.scoring.sentences import Reference, TextInContext, sentence_evidence
from dragoman.store import digest

AGREEMENT = 0.4  # Cohen's kappa with the known answers below which nothing is calibrated
FEWEST_KNOWN = 30  # sentences by which that is told
REFERENCE = 64  # sentences of a kind that others are held against
FEWEST_RIGHT = 10  # sentences of a kind borne out, below which none of that kind is answered
AT_ONCE = 4096  # texts that are placed together


def calibrated(
    watched: WatchedLatents,
    found: Verdicts,
    identity: RunIdentity,
    sizes: Sizes,
    seed: int,
    when: str,
    texts: str,
    embedder: Embedder,
    talk: Talk,
) -> Calibration:
    """Gather evidence, refuse verdicts that know nothing, fit."""
    agreement, known = agreement_with_known(found, watched)
    if known < FEWEST_KNOWN or agreement < AGREEMENT:
        few = f"only {known} sentences have a known answer to hold the verdicts against ({FEWEST_KNOWN} at least)"
        low = f"the verdicts agree with {known} known answers by kappa {agreement:.2f} ({AGREEMENT:g} at least)"
        what = f"{what_of(identity.source, watched.on)} in held-out documents"
        raise Refusal(what, few if known < FEWEST_KNOWN else low, "read more texts")
    talk.say(f"held-out documents agree with {known} known answers by kappa {agreement:.2f}; gathering evidence")
    reference = Reference(sentences=_reference(found, watched, seed), embedder=embedder)
    own, nulls = gathered(found, watched, reference)
    kinds = kinds_of(own)
    for kind, one in kinds.items():
        no = "" if one.calibrated else f": too few to learn from ({FEWEST_RIGHT} at least), so none will be answered"
        talk.say(f"about {KINDS[kind]}: {one.right} of {one.n} sentences are borne out{no}")
    own, nulls = of_kinds(
        own, nulls, [kind for kind, one in kinds.items() if one.calibrated], what_of(identity.source, watched.on)
    )
    talk.say(f"fitting on {len(own.right)} sentences, and on {len(nulls)} texts of nulls")
    result = fitted(own, nulls, seed=seed)
    if watched.on != MADE and result.learnt is None and result.line.threshold is not None:
        talk.say("there are too few latents or fake ones to tell these apart by, so what is true of a fake is answered")
    judged_ones = {one.feature for one in found.own} & set(watched.latents)
    worth = reliability(
        result, own, features=len(judged_ones), kappa=agreement, known=known,
        left_out=len(watched.latents) - len(judged_ones), seed=seed,
    )  # fmt: skip
    return Calibration(
        version=version("dragoman"),
        identity=identity,
        on=watched.on,
        when=when,
        seed=seed,
        texts=texts,
        sizes=asdict(sizes),
        embedder=embedder.name,
        kinds=kinds,
        sentences={kind: tuple(some) for kind, some in reference.sentences.items()},
        right=result.right,
        with_nulls=result.with_nulls,
        learnt=result.learnt,
        slope=result.slope,
        offset=result.offset,
        spans=result.spans,
        line=result.line.threshold,
        reliability=worth,
    )


def agreement_with_known(found: Verdicts, watched: WatchedLatents) -> tuple[float, int]:
    """Kappa of the verdicts with the known answers, and over how many sentences.

    Own sentences and dealt ones alike, of those that name words; a theme may be right without naming the word, so
    themes count only where a verbalizer says nothing else.
    """
    truth = dict(watched.truth) | {concept(word): Truth(word=word) for word in watched.words}
    every = [(one, right) for some in (found.own, found.dealt) for one, right in some.items() if one.feature in truth]
    named = [pair for pair in every if pair[0].kind != "theme"] or every
    true = [names(truth[one.feature], one) for one, _ in named]
    return kappa([right for _, right in named], true), len(named)


def names(truth: Truth, one: SentenceAbout) -> bool:
    """Whether a sentence names a known answer; what one about the final token foretells of the next does not count."""
    if one.kind == "token":
        return truth.named_by("", token_of(one.sentence))
    return truth.named_by(one.sentence, quoted(one.sentence))


def what_of(source: str, on: On) -> str:
    """What is refused, where calibrating is."""
    return f"calibrating by where latents of {source} fire" if on != MADE else "calibrating by where words stand"


def _reference(found: Verdicts, watched: WatchedLatents, seed: int) -> dict[str, list[str]]:
    """Sentences of the latents' texts by kind, drawn by the seed."""
    kinds: dict[str, set[str]] = {}
    beside = set(map(concept, watched.words))
    for one in found.texts:
        if not one.null and about(one) not in beside:
            for claim in one.text.claims:
                kinds.setdefault(claim.kind, set()).add(claim.text)
    return {
        kind: sorted(some, key=lambda text: digest("reference", str(seed), text))[:REFERENCE]
        for kind, some in sorted(kinds.items())
    }


def kinds_of(own: Sentences) -> dict[Kind, KindOfSentence]:
    """Of each kind how many were judged and are borne out, and whether these are enough."""
    kinds = np.array([kind_of(row) for row in own.evidence], dtype=object)
    found: dict[Kind, KindOfSentence] = {}
    for kind in KINDS:
        mine = own.right[kinds == kind]
        if len(mine):
            right = int(mine.sum())
            found[kind] = KindOfSentence(n=len(mine), right=right, calibrated=right >= FEWEST_RIGHT)
    return found


def of_kinds(
    own: Sentences, nulls: Sequence[NullText], kinds: Sequence[Kind], what: str = "calibrating"
) -> tuple[Sentences, list[NullText]]:
    """Those of these kinds alone; a null's text without one stays, as a text that no answer is given to.

    Raises:
        Refusal: there is no kind.
    """
    if not kinds:
        why = f"of no kind of sentence are {FEWEST_RIGHT} borne out by held-out documents"
        raise Refusal(what, why, "ask for more latents, or read more texts")
    kept = np.array([kind_of(row) in kinds for row in own.evidence], dtype=bool)
    rows = [row for row, one in zip(own.evidence, kept, strict=True) if one]
    mine = Sentences(evidence=rows, right=own.right[kept], feature=own.feature[kept], group=own.group[kept])
    return mine, [_of_kinds(text, kinds) for text in nulls]


def _of_kinds(text: NullText, kinds: Sequence[Kind]) -> NullText:
    kept = [k for k, row in enumerate(text.evidence) if kind_of(row) in kinds]
    return replace(text, evidence=[text.evidence[k] for k in kept], right=[text.outcomes[k] for k in kept])


def read_together(texts: Iterable[TextInContext], reference: Reference) -> None:
    """Place what evidence is made of in large batches; asked for sentence by sentence, batches hold one."""
    wanted: dict[str, None] = {}
    for text in texts:
        others = claims_of(text.other) if text.other else ()
        wanted |= dict.fromkeys(claim.text for claim in (*text.claims, *others))
        if text.windows is not None:
            wanted |= dict.fromkeys((*text.windows.firing, *text.windows.silent))
    every = list(wanted)
    for at in range(0, len(every), AT_ONCE):
        reference.embedder.encode(every[at : at + AT_ONCE])


def gathered(found: Verdicts, watched: WatchedLatents, reference: Reference) -> tuple[Sentences, list[NullText]]:
    """Evidence on the drawn latents' sentences that have a verdict, and on every null's.

    A null's sentences count as wrong, whatever documents say of the latent under whose name it stands; but a fake
    latent fires somewhere, and of it a sentence is right that held-out documents bear out.
    """
    group = dict(zip((*watched.latents, *watched.extra), components(watched.fired).tolist(), strict=True))
    most = max(group.values(), default=0) + 1
    number = {name: k for k, name in enumerate(watched.latents)}
    evidence, right, features, groups = [], [], [], []
    nulls: list[NullText] = []
    read_together((one.text for one in found.texts), reference)
    fakes = dict[str, int]()
    for one in found.texts:
        if one.null:
            name = about(one)
            mine = group[name] if name in group else fakes.setdefault(name, most + len(fakes))
            borne_out = [found.fakes.get(sentence, False) and one.null == FAKE for sentence in sentences_of(one)]
            rows = sentence_evidence(one.text, reference)
            nulls.append(NullText(null=one.null, group=mine, evidence=rows, right=borne_out))
        elif about(one) in number:
            for sentence, own in zip(sentences_of(one), sentence_evidence(one.text, reference), strict=True):
                if sentence in found.own:
                    evidence.append(own)
                    right.append(found.own[sentence])
                    features.append(number[about(one)])
                    groups.append(group[about(one)])
    whose = {"feature": np.array(features, np.int64), "group": np.array(groups, np.int64)}
    return Sentences(evidence=evidence, right=np.array(right, bool), **whose), nulls
