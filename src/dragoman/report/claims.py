"""A text in pieces, each with what the evidence says of it, and what a feature's claims come to.

In: a text, the claims that were checked of it. Out: pieces in the text's order, nothing left out; short labels; counts.
Refuses nothing: a claim whose words the text does not have marks nothing. Computes no number but counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dragoman.scores import ClaimStatus, FeatureClaims, FeatureConfidence, NoAnswer, Scores

ORDER = ("supported", "unchecked", "unsupported")  # as they are read on a terminal
UNSUPPORTED = "not supported by where it fires"
NO_ANSWER: Mapping[NoAnswer, str] = {
    "no line": "no line is safe",
    "below the line": "below the line",
    "row not measured": "its latent’s row was not measured",
    "row does not stand out": "its latent does not stand out",
}
_BREAK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a text; ``claim``: what was checked of it, None where nothing was."""

    text: str
    claim: ClaimStatus | None

    @property
    def status(self) -> str:
        """One of ``ORDER``."""
        return self.claim.status if self.claim else "unchecked"

    @property
    def chance(self) -> str:
        """``P 0.72``, and why there is no answer where there is none; "" where no calibration judged it."""
        if self.claim is None or self.claim.probability is None:
            return ""
        why = f": {NO_ANSWER[self.claim.unanswered]}" if self.claim.unanswered else ""
        return f"P {self.claim.probability:.2f}{'' if self.claim.answered else f', no answer{why}'}"

    @property
    def why(self) -> str:
        """The reason, with a word before it where the piece is not supported."""
        if self.claim is None:
            return ""
        why = f"{UNSUPPORTED}: {self.claim.why}" if self.claim.status == "unsupported" else self.claim.why
        return f"{chance_words(self.claim)}; {why}" if self.claim.probability is not None else why


def chance_words(claim: ClaimStatus) -> str:
    """``P(borne out by held-out documents) = 0.721``, and why there is no answer where there is none; else ""."""
    if claim.probability is None:
        return ""
    abstains = "" if claim.answered else f", no answer{_no_answer(claim)}"
    return f"P(borne out by held-out documents) = {claim.probability:.3f}{abstains}"


def _no_answer(claim: ClaimStatus) -> str:
    """The reason with its number; "" where scores do not tell it."""
    line, fakes = claim.figures.get("answer_line"), claim.figures.get("fakes_stand_out")
    match claim.unanswered:
        case None:
            return ""
        case "no line":
            return ": its calibration found no line from which answers are safe"
        case "below the line":
            return ": below the line" + ("" if line is None else f", {line:.3f}")
        case "row not measured":
            return ": how its latent stands out along its own row was not measured"
        case "row does not stand out":
            of = "" if fakes is None else f" ({fakes:.1%} of fake ones do)"
            return f": its latent does not stand out along its own row{of}"


def paragraphs(text: str, claims: Sequence[ClaimStatus] = ()) -> list[list[Piece]]:
    """The text's paragraphs in pieces: each claim's sentence a piece of its own, the rest as it stands between them."""
    spans, start = list[tuple[int, int, ClaimStatus]](), 0
    for claim in claims:
        at = text.find(claim.sentence, start) if claim.sentence else -1
        if at >= 0:
            start = at + len(claim.sentence)
            spans.append((at, start, claim))
    made, start = list[tuple[str, ClaimStatus | None]](), 0
    for at, end, claim in spans:
        made += [(text[start:at], None), (text[at:end], claim)]
        start = end
    made.append((text[start:], None))
    found: list[list[Piece]] = [[]]
    for stretch, claim in made:
        first, *others = _BREAK.split(stretch)
        found[-1].append(Piece(text=first, claim=claim))
        found += [[Piece(text=one, claim=claim)] for one in others]
    whole = [_trimmed([piece for piece in some if piece.text]) for some in found]
    return [some for some in whole if some]


def _trimmed(pieces: list[Piece]) -> list[Piece]:
    """Without white space at either end; nothing where that is all there is."""
    if not "".join(piece.text for piece in pieces).strip():
        return []
    while not pieces[0].text.strip():
        pieces = pieces[1:]
    while not pieces[-1].text.strip():
        pieces = pieces[:-1]
    first = Piece(text=pieces[0].text.lstrip(), claim=pieces[0].claim)
    pieces = [first, *pieces[1:]]
    return [*pieces[:-1], Piece(text=pieces[-1].text.rstrip(), claim=pieces[-1].claim)]


def by_support(text: str, claims: Sequence[ClaimStatus]) -> list[Piece]:
    """The same pieces without the blanks between them, supported ones first, else in the text's order."""
    pieces = [Piece(text=one.text.strip(), claim=one.claim) for some in paragraphs(text, claims) for one in some]
    return sorted((one for one in pieces if one.text), key=lambda one: ORDER.index(one.status))


def confidences_by_row(scores: Scores) -> dict[tuple[str, str], FeatureConfidence]:
    """(condition, feature) -> the confidence in its first text."""
    found = scores.confidence.per_feature if scores.confidence else {}
    return {(condition, one.feature): one for condition, some in found.items() for one in some}


def claims_by_row(scores: Scores) -> dict[tuple[str, str], FeatureClaims]:
    """Claims of each condition and feature."""
    return {(condition, one.feature): one for condition, some in scores.claims.items() for one in some}


def counted(claims: Iterable[FeatureClaims]) -> Counter[str]:
    """How many sentences have each status."""
    return Counter(one.status for each in claims for one in each.claims)
