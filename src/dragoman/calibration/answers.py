"""Outcomes and evidence brought together: a judge that knows nothing refused, the rest fitted.

In: texts with outcomes, facts, an embedder. Out: a ``Calibration``. Refuses a source model that does not agree with the
known answers, and what fitting refuses.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from dragoman.calibration.cast import MADE
from dragoman.calibration.draw import Truth
from dragoman.calibration.fitted import NullText, Sentences, components, fitted, reliability
from dragoman.calibration.ground import Facts, concept
from dragoman.calibration.judged import Judged
from dragoman.calibration.outcome import AREA, Asked, kappa
from dragoman.calibration.sizes import Sizes
from dragoman.confidence.calibration import Calibration, Made
from dragoman.core import Refusal, Talk
from dragoman.embed import Embedder
from dragoman.measures.claims import token_of
from dragoman.measures.firing import quoted
from dragoman.scoring.sentences import Reference, sentence_evidence
from dragoman.store import digest

AGREEMENT = 0.4  # Cohen's kappa with the known answers below which nothing is calibrated
FEWEST_KNOWN = 30  # sentences by which that is told
REFERENCE = 64  # sentences of a kind that others are held against


def calibrated(
    facts: Facts,
    found: Judged,
    made: Made,
    sizes: Sizes,
    seed: int,
    when: str,
    texts: str,
    embedder: Embedder,
    talk: Talk,
) -> Calibration:
    """Gather evidence, refuse a judge that knows nothing, fit."""
    agreement, known = agreement_with_known(found, facts)
    if known < FEWEST_KNOWN or agreement < AGREEMENT:
        few = f"only {known} sentences have a known answer to hold it against ({FEWEST_KNOWN} at least)"
        low = f"its verdicts agree with {known} known answers by kappa {agreement:.2f} ({AGREEMENT:g} at least)"
        what = f"calibrating by what {made.source} makes of sentences"
        raise Refusal(what, few if known < FEWEST_KNOWN else low, "read more texts, or use a larger source model")
    talk.say(f"the source's model agrees with {known} known answers by kappa {agreement:.2f}; gathering evidence")
    reference = Reference(sentences=_reference(found, seed), embedder=embedder)
    own, nulls = gathered(found, facts, reference)
    talk.say(
        f"fitting on {len(own.right)} sentences, {int(own.right.sum())} of which pass, and {len(nulls)} texts of nulls"
    )
    result = fitted(own, nulls, seed=seed)
    drawn_latents = {one.feature for one in found.said if not one.null and one.feature in set(facts.latents)}
    judged_ones = {ask.feature for ask in found.outcomes if ask.feature in drawn_latents}
    worth = reliability(
        result, own, features=len(judged_ones), kappa=agreement, known=known, second=_second(found),
        left_out=len(facts.latents) - len(judged_ones), seed=seed,
    )  # fmt: skip
    return Calibration(
        version=version("dragoman"),
        made=made,
        on="latents",
        when=when,
        seed=seed,
        texts=texts,
        sizes=asdict(sizes),
        embedder=embedder.name,
        sentences={kind: tuple(some) for kind, some in reference.sentences.items()},
        right=result.right,
        with_nulls=result.with_nulls,
        slope=result.slope,
        offset=result.offset,
        spans=result.spans,
        line=result.line.threshold,
        reliability=worth,
    )


def agreement_with_known(found: Judged, facts: Facts) -> tuple[float, int]:
    """Kappa of the model's verdicts with the known answers, and over how many sentences.

    Own sentences and dealt ones alike, of those that name words; a theme may be right without naming the word, so
    themes count only where a verbalizer says nothing else.
    """
    truth = dict(facts.truth) | {concept(word): Truth(word=word) for word in facts.words}
    every = [(ask, one) for some in (found.outcomes, found.dealt) for ask, one in some.items() if ask.feature in truth]
    named = [pair for pair in every if pair[0].kind != "theme"] or every
    says = [one.right for _, one in named]
    true = [names(truth[ask.feature], ask) for ask, _ in named]
    return kappa(says, true), len(named)


def names(truth: Truth, ask: Asked) -> bool:
    """Whether a sentence names a known answer; what one about the final token foretells of the next does not count."""
    if ask.kind == "token":
        return truth.named_by("", token_of(ask.sentence))
    return truth.named_by(ask.sentence, quoted(ask.sentence))


def _second(found: Judged) -> float | None:
    """Kappa of the model's verdicts with those of words alone, at the same area."""
    asked = [one for one in found.outcomes if one in found.second]
    if not asked:
        return None
    return kappa([found.outcomes[one].right for one in asked], [found.second[one] >= AREA for one in asked])


def _reference(found: Judged, seed: int) -> dict[str, list[str]]:
    """Sentences of the latents' texts by kind, drawn by the seed."""
    kinds: dict[str, set[str]] = {}
    for one in found.said:
        if not one.null and one.condition != MADE:
            for claim in one.told.claims:
                kinds.setdefault(claim.kind, set()).add(claim.text)
    return {
        kind: sorted(some, key=lambda text: digest("reference", str(seed), text))[:REFERENCE]
        for kind, some in sorted(kinds.items())
    }


def gathered(found: Judged, facts: Facts, reference: Reference) -> tuple[Sentences, list[NullText]]:
    """Evidence on the drawn latents' sentences that have an outcome, and on every null's."""
    group = dict(zip((*facts.latents, *facts.extra), components(facts.fired).tolist(), strict=True))
    most = max(group.values(), default=0) + 1
    evidence, right, groups = [], [], []
    nulls: list[NullText] = []
    chosen, fakes = set(facts.latents), dict[str, int]()
    for one in found.said:
        if one.null:
            name = one.feature
            mine = group[name] if name in group else fakes.setdefault(name, most + len(fakes))
            nulls.append(NullText(null=one.null, group=mine, evidence=sentence_evidence(one.told, reference)))
        elif one.feature in chosen and one.condition != MADE:
            asks = [Asked(claim.text, claim.kind, one.feature) for claim in one.told.claims]
            if not any(ask in found.outcomes for ask in asks):
                continue
            for ask, own in zip(asks, sentence_evidence(one.told, reference), strict=True):
                evidence.append(own)
                right.append(found.outcomes[ask].right)
                groups.append(group[one.feature])
    return Sentences(evidence=evidence, right=np.array(right, bool), group=np.array(groups, np.int64)), nulls
