"""Texts in stretches to mark: words that no other text of the feature has.

In: texts in pieces. Out: stretches in the text's order, nothing left out. Refuses nothing. A mark says that a word
differs, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dragoman.maps.words import WORD
from dragoman.report.claims import Piece

_LONGEST = 20_000  # characters of a text whose words are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Part of a text; ``own``: whether its words stand in no other text."""

    text: str
    own: bool


def words_in(text: str) -> frozenset[str]:
    """A text's words, in small letters."""
    return frozenset(found[0].casefold() for found in WORD.finditer(text[:_LONGEST]))


def stretches(text: str, others: frozenset[str] | None) -> list[Stretch]:
    """A text in stretches; ``others``: words of the texts it is compared with, None where there is none."""
    if others is None or len(text) > _LONGEST:
        return [Stretch(text=text, own=False)] if text else []
    spans = list[tuple[int, int]]()
    for found in WORD.finditer(text):
        if found[0].casefold() in others:
            continue
        # Neighbouring words are marked together, with the space between them.
        if spans and text[spans[-1][1] : found.start()].isspace():
            spans[-1] = (spans[-1][0], found.end())
        else:
            spans.append(found.span())
    made, at = list[Stretch](), 0
    for start, end in spans:
        made += [Stretch(text=text[at:start], own=False), Stretch(text=text[start:end], own=True)]
        at = end
    return [one for one in [*made, Stretch(text=text[at:], own=False)] if one.text]


def compared(
    paragraphs: Sequence[Sequence[Piece]], others: frozenset[str] | None
) -> list[list[tuple[Piece, list[Stretch]]]]:
    """Paragraphs whose pieces stand with their stretches."""
    return [[(piece, stretches(piece.text, others)) for piece in some] for some in paragraphs]


def others_of(texts: Sequence[str]) -> list[frozenset[str] | None]:
    """For each text the words of all others; None where no other says anything."""
    words = [words_in(text) for text in texts]
    made: list[frozenset[str] | None] = []
    for k in range(len(words)):
        rest = [one for j, one in enumerate(words) if j != k and one]
        made.append(frozenset().union(*rest) if rest else None)
    return made
