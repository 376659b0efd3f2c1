"""Which sentences held-out documents bear out, by the rules by which a run's own sentences are checked.

In: texts; what is known of each latent from documents that no evidence was made of; an embedder other than the
evidence's. Out: ``Verdicts``: by sentence, whether it is borne out. Refuses what the embedder refuses.

The rules are those of ``measures.claims.check_claims``, and no model judges: enough of the source's activation is on
the token that a sentence names; at least half of the words it quotes stand out; a theme tells windows where the latent
fires from silent ones, better than other latents' sentences do, and is nearer to them than to where others fire. A
sentence that cannot be checked has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from dragoman.calibration.inputs import WatchedLatents, concept
from dragoman.calibration.texts import FAKE, CalibrationText
from dragoman.core import Talk
from dragoman.embed import Embedder
from dragoman.measures.claims import FEWEST, Claim, Windows, check_claims, declines
from dragoman.scoring.claims import known_windows
from dragoman.store import digest

OTHERS = 64  # latents whose windows a sentence is compared with
DEALT = 200  # theme sentences of others that a theme is compared with


@dataclass(frozen=True, slots=True)
class SentenceAbout:
    """A sentence of a ``kind``, about a latent or a concept."""

    sentence: str
    kind: str
    feature: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """``texts``; of their sentences, and of ``dealt`` ones of others, whether held-out documents bear them out.

    ``fakes``: of sentences about fake latents, which fire somewhere as well.
    """

    texts: Sequence[CalibrationText]
    own: Mapping[SentenceAbout, bool]
    dealt: Mapping[SentenceAbout, bool]
    fakes: Mapping[SentenceAbout, bool] = field(default_factory=dict)


def verdicts(
    texts: Sequence[CalibrationText], watched: WatchedLatents, embedder: Embedder, *, dealt: int, seed: int, talk: Talk
) -> Verdicts:
    """Check the sentences of every latent and concept, and of others about those whose answer is known.

    Args:
        texts: of latents, concepts and nulls; of nulls, those of fake latents alone are checked, where these fire.
        watched: what is known of the latents and concepts.
        embedder: places themes and windows; any but the evidence's.
        dealt: sentences of other latents about each whose answer is known, of each kind.
        seed: of what is drawn.
        talk: where progress goes.
    """
    own, fake = dict[str, dict[Claim, None]](), dict[str, dict[Claim, None]]()
    for one in texts:
        if not one.null:
            own.setdefault(about(one), {}).update(dict.fromkeys(one.text.claims))
        elif one.null == FAKE and one.feature in watched.held_out:
            fake.setdefault(one.feature, {}).update(dict.fromkeys(one.text.claims))
    own = {feature: claims for feature, claims in own.items() if feature in watched.held_out}
    fake = {feature: claims for feature, claims in fake.items() if feature not in own}
    known = [*watched.truth, *(concept(word) for word in watched.words)]
    latents = {
        feature: list(claims) for feature, claims in own.items() if feature not in set(map(concept, watched.words))
    }
    others = dealt_sentences(latents, [f for f in known if f in watched.held_out], dealt, seed=seed)
    talk.say(f"checking {sum(map(len, own.values()))} sentences by documents that no evidence was made of")
    windows = {name: known_windows(entry) for name, entry in watched.held_out.items()}
    order = sorted(watched.latents, key=lambda name: digest("others", str(seed), name))
    elsewhere = [name for name in order if name in windows and len(windows[name].firing) >= FEWEST][: OTHERS + 1]
    themes = {f: _themes(some)[:2] for f, some in own.items()}
    drawn = sorted(themes, key=lambda name: digest("themes", str(seed), name))
    of_own, of_others, of_fakes = (dict[SentenceAbout, bool]() for _ in range(3))
    features = list(dict.fromkeys((*own, *others, *fake)))
    for k, feature in enumerate(features):
        apart = [windows[name] for name in elsewhere if name != feature][:OTHERS]
        sentences = [*own.get(feature, fake.get(feature, ())), *others.get(feature, ())]
        themes_of = _of_others(themes, drawn, feature)
        checked = _borne_out(feature, sentences, windows[feature], others=apart, dealt=themes_of, embedder=embedder)
        for claim, verdict in checked.items():
            found = of_fakes if feature in fake else of_own if claim in own.get(feature, ()) else of_others
            found[_sentence(claim, feature)] = verdict
        talk.towards("sentences")(k + 1, len(features))
    return Verdicts(texts=texts, own=of_own, dealt=of_others, fakes=of_fakes)


def about(one: CalibrationText) -> str:
    """The latent or the concept that a text is about."""
    return one.concept or one.feature


def sentences_of(one: CalibrationText) -> list[SentenceAbout]:
    """The sentences of a text, in their order."""
    return [_sentence(claim, about(one)) for claim in one.text.claims]


def _sentence(claim: Claim, feature: str) -> SentenceAbout:
    return SentenceAbout(claim.text, claim.kind, feature)


def _borne_out(feature: str, claims: Sequence[Claim], windows: Windows, **how: Any) -> dict[Claim, bool]:
    statuses = check_claims(claims, windows, **how)
    return {
        claim: one.status == "supported"
        for claim, one in zip(claims, statuses, strict=True)
        if one.status != "unchecked"
    }


def _themes(claims: Iterable[Claim]) -> list[str]:
    return [claim.text for claim in claims if claim.kind == "theme" and not declines(claim.text)]


def _of_others(themes: Mapping[str, Sequence[str]], order: Sequence[str], feature: str) -> list[str]:
    """Theme sentences of others, taken in this order."""
    mine = set(themes.get(feature, ()))
    every = (text for name in order if name != feature for text in themes[name] if text not in mine)
    return list(islice(every, DEALT))


def dealt_sentences(
    own: Mapping[str, Sequence[Claim]], features: Iterable[str], n: int, *, seed: int
) -> dict[str, list[Claim]]:
    """For each of ``features``, ``n`` sentences of each kind of other latents; ``own``: latent -> its sentences."""
    found: dict[str, list[Claim]] = {name: [] for name in features}
    for kind in ("theme", "words", "token"):
        able = {name: [claim for claim in claims if claim.kind == kind] for name, claims in own.items()}
        names = sorted((f for f, some in able.items() if some), key=lambda f: digest("dealt", str(seed), kind, f))
        at = {name: k for k, name in enumerate(names)}
        for feature, taken in found.items():
            mine = {claim.text for claim in own.get(feature, ())}
            start = at.get(feature, int(digest("dealt", str(seed), kind, feature)[:8], 16))
            others = (names[(start + step) % len(names)] for step in range(1, len(names)))
            left = (next((c for c in able[name] if c.text not in mine), None) for name in others if name != feature)
            taken += [claim for claim in left if claim is not None][:n]
    return found


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's (1960) agreement of two yes-or-no judges beyond chance; 0 where either always says the same."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if not len(a):
        return 0.0
    agree, chance = float(np.mean(a == b)), float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return 0.0 if chance >= 1 else (agree - chance) / (1 - chance)
