"""What is known of each sentence of a text before anybody checks it: the evidence for a calibration.

In: a text with its card, where its feature fires, what its rows write, the other reading's text; sentences of other
texts to hold it against. Out: one ``Evidence`` a sentence. Refuses what the embedder refuses. Nothing here looks at
what a calibration calls right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dragoman.confidence.evidence import Evidence, evidence
from dragoman.core import Floats
from dragoman.embed import Embedder
from dragoman.measures.claims import Claim, Windows, claims_of, token_of
from dragoman.measures.firing import WORD, variants
from dragoman.records import Card, Reading, Row
from dragoman.stats.roc import FEWEST, ContextEmbeddings, detection_table

CARD = (
    "agreement",
    "margin",
    "home_agreement",
    "home_margin",
    "coverage_over_dictionary",
    "cycle_over_dictionary",
    "rel",
)
_MOST = 8  # sentences of a text that are judged


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInContext:
    """One text and what is known around it.

    ``reading``: which of a feature's two it is, if one. ``windows``: where the feature fires, as a run keeps it.
    ``lens``: the words that the feature's own row writes, and those that the carried one does. ``other``: the text of
    the feature's other reading, "" where there is none.
    """

    row: Row
    reading: Reading | None = None
    windows: Windows | None = None
    lens: tuple[Sequence[str], Sequence[str]] | None = None
    other: str = ""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The sentences that are judged."""
        return claims_of(self.row.text)[:_MOST]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Sentences of other texts by kind, which a sentence is held against; ``embedder`` places all of them."""

    sentences: Mapping[str, Sequence[str]]
    embedder: Embedder
    _rows: dict[str, Floats] = field(default_factory=dict, repr=False)

    def rows(self, kind: str) -> Floats | None:
        """Where those of a kind lie; None where there are none."""
        if kind not in self._rows and self.sentences.get(kind):
            self._rows[kind] = self.embedder.encode(list(self.sentences[kind]))
        return self._rows.get(kind)


def sentence_evidence(text: TextInContext, reference: Reference) -> list[Evidence]:
    """Evidence on each of the text's sentences, in their order."""
    known = _contexts(text.windows, reference.embedder)
    shared: Evidence = {"log_probability": text.row.log_probability, "by_firing": _flag(text.reading)}
    shared |= {"one_word_share": _largest(text.windows), "lens_overlap": _overlap(text.lens)}
    along = None if text.windows is None else text.windows.along_row
    shared |= {f"row_{name}": value for name, value in (along or {}).items()}
    card = text.row.card
    bare = None if card is None else Card(**{name: getattr(card, name) for name in CARD})
    found = []
    for claim in text.claims:
        more: dict[str, Any] = shared | _kind(claim) | _placed(claim, text, known, reference) | _worded(claim, text)
        made = evidence(bare, problems=text.row.problems, **more)
        found.append({name: value for name, value in made.items() if name not in ("tokens", "sample_agreement")})
    return found


def _contexts(windows: Windows | None, embedder: Embedder) -> ContextEmbeddings | None:
    if windows is None or min(len(windows.firing), len(windows.silent)) < FEWEST:
        return None
    return ContextEmbeddings.of(embedder.encode(list(windows.firing)), embedder.encode(list(windows.silent)))


def _flag(reading: Reading | None) -> float | None:
    return None if reading is None else float(reading == "fires")


def _largest(windows: Windows | None) -> float | None:
    return None if windows is None or not windows.words else float(max(windows.words.values()))


def _overlap(lens: tuple[Sequence[str], Sequence[str]] | None) -> float | None:
    return None if lens is None else float(len(set(lens[0]) & set(lens[1])))


def _kind(claim: Claim) -> dict[str, float]:
    return {"of_token": float(claim.kind == "token"), "of_words": float(claim.kind == "words")}


def _placed(
    claim: Claim, text: TextInContext, known: ContextEmbeddings | None, reference: Reference
) -> dict[str, float | None]:
    """What the embedder tells: of the feature's windows, of other texts' sentences, of the other reading."""
    names = ("detection", "detection_cosine", "detection_centred", "detection_rank", "context_gap", "readings_agree")
    found: dict[str, float | None] = dict.fromkeys(names)
    own = reference.embedder.encode([claim.text])[0].astype(np.float64)
    rivals = reference.rows(claim.kind)
    if known is not None:
        firing, silent = known.firing.astype(np.float64), known.silent.astype(np.float64)
        contrast = firing.mean(axis=0) - silent.mean(axis=0)
        contrast /= max(float(np.linalg.norm(contrast)), 1e-12)
        area = float(detection_table(own[None], [known])[0, 0])
        alike = (np.sum(firing.sum(axis=0) ** 2) - len(firing)) / (len(firing) * (len(firing) - 1))
        found |= {"detection": area, "detection_cosine": float(own @ contrast)}
        found["context_gap"] = float(alike - np.mean(firing @ silent.T))
        if rivals is not None:
            bare = own - rivals.mean(axis=0, dtype=np.float64)
            found["detection_centred"] = float(bare @ contrast / max(float(np.linalg.norm(bare)), 1e-12))
            areas = detection_table(rivals, [known])[:, 0]
            found["detection_rank"] = float(np.mean(areas < area) + np.mean(areas == area) / 2)
    if text.other:
        same = [one.text for one in claims_of(text.other) if one.kind == claim.kind]
        if same:
            found["readings_agree"] = float(np.max(reference.embedder.encode(same).astype(np.float64) @ own))
    return found


def _worded(claim: Claim, text: TextInContext) -> dict[str, float | None]:
    """What the words it quotes are worth: of the activation, in windows, among those that the feature's row writes."""
    quotes = token_of(claim.text) if claim.kind == "token" else claim.quoted
    words = {w for said in quotes for w in WORD.findall(said.lower())} | {q for q in quotes if not WORD.search(q)}
    found: dict[str, float | None] = dict.fromkeys(("named_share", "words_held", "lens_named"))
    forms = {word: variants(word) for word in words}
    if words and text.windows is not None:
        shares = text.windows.words
        if shares:
            found["named_share"] = max(sum(shares.get(one, 0.0) for one in own) for own in forms.values())
        firing, silent = text.windows.spoken["firing"], text.windows.spoken["silent"]
        if firing and silent:
            held = [_held(own, firing) - _held(own, silent) for own in forms.values()]
            found["words_held"] = float(np.mean(held))
    if text.lens is not None:
        written = {word.strip().lower() for word in text.lens[0]}
        said = words or set(WORD.findall(claim.text.lower()))
        found["lens_named"] = float(any(variants(word) & written for word in said))
    return found


def _held(forms: Set[str], windows: Sequence[frozenset[str]]) -> float:
    return sum(not forms.isdisjoint(window) for window in windows) / len(windows)
