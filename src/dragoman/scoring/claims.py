"""The sentences of a run's texts, each with whether where its feature fires bears it out.

In: a run, an embedder. Out: the part "claims" of the scores; confidences, held back where a theme is not borne out.
Refuses what reading the run and embedding refuse. Nothing here knows an answer: no native text, no category, no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.measures.claims import (
    FEWEST,
    FEWEST_DEALT,
    Claim,
    Elsewhere,
    Windows,
    check_claims,
    claims_of,
    declines,
    label_of,
)
from dragoman.scores import FORMAT, ConfidenceScores, FeatureClaims, FeatureConfidence, Scores
from dragoman.scoring.judged_run import BLOCK, CachedEmbedder, JudgedRun, blocks_of, drawn_of
from dragoman.store import RunFolder
from dragoman.store.files import uncollected
from dragoman.store.scored import scores_of

AT_ONCE = 4096  # texts of a call
FEW = 64  # features that a sentence is held against in a run of many, as a run keeps windows of so many others
Say = Callable[[str], None]
Claims = Mapping[str, tuple[FeatureClaims, ...]]


def claim_scores(run: JudgedRun, embedder: Embedder, *, seed: int = 0) -> dict[str, tuple[FeatureClaims, ...]]:
    """Condition -> each feature's first text, sentence by sentence.

    Conditions none of whose features were watched are left out; of the others, a feature that was not watched has
    sentences that are unchecked. What a sentence is compared with: theme sentences of the same condition's other
    features, and where other features fire: those nobody asked for, which the run keeps for that, or all others where
    these are too few. Of a run of more than ``MOST_COMPARED`` features sentences and features are ``FEW`` drawn ones.
    """
    many = run.many
    often = [f for f, entry in run.contexts.items() if len(known_windows(entry).firing) >= FEWEST]
    asked = {feature for texts in run.texts.values() for feature in texts}
    unasked = [f for f in often if f not in asked]
    names = unasked if len(unasked) >= FEWEST_DEALT else often
    rivals = {f: known_windows(run.contexts[f]) for f in (_few(names, seed) if many else names)}
    watched = {c: texts for c, texts in run.texts.items() if c in run.entries and run.contexts.keys() & texts.keys()}
    said = {c: _Said.of(texts, embedder, seed if many else None) for c, texts in watched.items()}
    elsewhere, near = Elsewhere(rivals.values()), CachedEmbedder(embedder)
    found: dict[str, list[FeatureClaims]] = {condition: [] for condition in said}
    features = list(dict.fromkeys(f for texts in watched.values() for f in texts))
    # Of many features a block is told of in all conditions before the next one, so that its windows are placed once.
    for block in blocks_of(features, BLOCK if many else len(features)):
        near = CachedEmbedder(embedder) if many else near
        windows = {f: rivals.get(f) or known_windows(run.contexts[f]) for f in block if f in run.contexts}
        for condition, own in said.items():
            there = [f for f in (block if many else own.claims) if f in own.claims]
            here = [windows[f] for f in there if f in windows]
            with uncollected():
                _read_together(near, here, list(rivals.values()), [own.themes[f] for f in there])
                for feature in there:
                    others = elsewhere
                    if feature in rivals:
                        others = Elsewhere(some for f, some in rivals.items() if f != feature)
                    checked = check_claims(
                        own.claims[feature],
                        windows.get(feature, Windows(firing=(), silent=())),
                        others=others,
                        dealt=own.dealt_to(feature),
                        embedder=near,
                    )
                    told = FeatureClaims(feature=feature, label=label_of(checked), claims=checked)
                    found[condition].append(told)
    return {condition: tuple(some) for condition, some in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What one condition says, sentence by sentence.

    ``claims``: by feature; ``themes``: those about a theme. ``first``: the first of these of features, by which others'
    are judged; ``at``: their numbers by what they say; ``rows``: where they lie, where that is found once.
    """

    claims: Mapping[str, Sequence[Claim]]
    themes: Mapping[str, Sequence[str]]
    first: Mapping[str, str]
    at: Mapping[str, Set[int]]
    rows: NDArray[np.float64] | None

    @classmethod
    def of(cls, texts: Mapping[str, str], embedder: Embedder, seed: int | None) -> _Said:
        """Of texts by feature; ``seed``: draws whose sentences others are judged by, all when None."""
        claims = {feature: claims_of(text) for feature, text in texts.items()}
        themes = {
            f: [claim.text for claim in own if claim.kind == "theme" and not declines(claim.text)]
            for f, own in claims.items()
        }
        first, at, rows = {f: some[0] for f, some in themes.items() if some}, dict[str, set[int]](), None
        if seed is not None:
            first = {f: first[f] for f in _few(list(first), seed)}
            rows = CachedEmbedder(embedder).encode(list(first.values())).astype(np.float64)
        for k, text in enumerate(first.values()):
            at.setdefault(text, set()).add(k)
        return cls(claims=claims, themes=themes, first=first, at=at, rows=rows)

    def dealt_to(self, feature: str) -> Sequence[str] | NDArray[np.float64]:
        """Theme sentences of other features that say something else than the feature's own."""
        out = set[int]().union(*(self.at.get(text, ()) for text in self.themes[feature]))
        if self.rows is not None:  # its own first one is among those that say the same
            return self.rows[[k for k in range(len(self.first)) if k not in out]] if out else self.rows
        return [text for k, text in enumerate(self.first.values()) if k not in out]


def _few(names: Sequence[str], seed: int) -> list[str]:
    """At most ``FEW`` of the names, at random, in their own order."""
    return drawn_of(names, FEW, np.random.default_rng([seed, 9]))


def _read_together(
    embedder: Embedder, own: Sequence[Windows], others: Sequence[Windows], themes: Iterable[Sequence[str]]
) -> None:
    """Place what sentences are judged by in large batches; asked for feature by feature, batches hold a few texts."""
    texts = [text for windows in own for text in (*windows.firing, *windows.silent)]
    texts += [text for windows in others for text in windows.firing[:FEWEST]]
    texts += [text for some in themes for text in some]
    for at in range(0, len(texts), AT_ONCE):
        embedder.encode(texts[at : at + AT_ONCE])


def known_windows(entry: Mapping[str, Any]) -> Windows:
    """One feature's entry of the run's contexts; windows without a word tell nothing and are left out."""
    firing, silent = ([window for window in entry[kind] if window.strip()] for kind in ("firing", "silent"))
    return Windows(firing=firing, silent=silent, words=entry.get("words"), along_row=entry.get("along_row"))


def add_claims(folder: RunFolder, say: Say, *, device: str = "cpu", embedder: Embedder | None = None) -> None:
    """Put the sentences' statuses into the run's scores, beside what was scored before.

    ``embedder``: the packaged one, where somebody has opened it. Nothing is done where it is not known where features
    fire. Told, and not done either: there is no sentence embedder, or what was scored before is of another version,
    with which nothing is mixed.
    """
    run = JudgedRun.of(folder)
    if not run.contexts:
        return
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    try:
        packaged_folder()
    except Refusal:
        say("no sentence is checked against where its feature fires: the sentence embedder is not installed")
        return
    try:
        scores = scores_of(folder) or Scores(format=FORMAT)
    except Refusal as refusal:
        say(f"no sentence is checked against where its feature fires: {refusal}")
        return
    say("checking each sentence against where its feature fires")
    claims = claim_scores(run, SentenceEmbedder(device=device) if embedder is None else embedder)
    folder.write_scores(scores.model_copy(update={"claims": claims}))


def held_back(confidences: ConfidenceScores, claims: Claims) -> ConfidenceScores:
    """Confidences without an answer where a text tells a theme that is not borne out, or declines to tell one.

    The probability is of the theme's category. A text with one theme sentence borne out keeps its answer.
    """
    unborne = {(condition, one.feature) for condition, rows in claims.items() for one in rows if _unborne(one)}

    def kept(condition: str, one: FeatureConfidence) -> FeatureConfidence:
        return one.model_copy(update={"answered": False}) if (condition, one.feature) in unborne else one

    per_feature = {c: tuple(kept(c, one) for one in rows) for c, rows in confidences.per_feature.items()}
    return confidences.model_copy(update={"per_feature": per_feature})


def _unborne(one: FeatureClaims) -> bool:
    themes = [claim for claim in one.claims if claim.kind == "theme"]
    statuses = {claim.status for claim in themes}
    if themes and all(declines(claim.sentence) for claim in themes):
        return True
    return "unsupported" in statuses and "supported" not in statuses
