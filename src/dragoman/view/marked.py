"""Texts in stretches to mark: words that no other text of the feature has, and what a feature fires on.

In: texts in pieces, windows, activations at their tokens, or shares of activation by word. Out: stretches in the text's
order, nothing left out. Refuses nothing. A mark says that a word differs, or carries activation, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dragoman.maps.words import WORD
from dragoman.records import TokenWindow
from dragoman.report.claims import Piece

LEVELS = (0.02, 0.1, 0.25, 0.5)  # least shares of the activation, for a word to be lit little, some, much, most
OF_LARGEST = (0.0, 0.25, 0.5, 0.75)  # shares of the feature's largest activation, above which a token is lit
_LONGEST = 20_000  # characters of a text whose words are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Part of a text; ``own``: whether its words stand in no other text."""

    text: str
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lit:
    """Part of a window; ``level``: 0 for none, else how many of ``LEVELS`` its share reaches.

    ``activation``: of a token, None where it is no token or nobody knows. ``strongest``: whether it is the window's.
    """

    text: str
    level: int
    activation: float | None = None
    strongest: bool = False

    @property
    def blanks(self) -> str:
        """The blanks before its word, which are not lit where there is one."""
        return self.text[: len(self.text) - len(self.text.lstrip())] if self.text.strip() else ""

    @property
    def word(self) -> str:
        """What stands behind them."""
        return self.text[len(self.blanks) :]


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


def lit(window: str, shares: Mapping[str, float]) -> list[Lit]:
    """A window whose words are lit by their share of the feature's activation, over all texts that were read."""
    made, at = list[Lit](), 0
    for start, end in _places(window, shares):
        share = shares.get(window[start:end].lower(), 0.0)
        if level := sum(share >= least for least in LEVELS):
            made += [Lit(text=window[at:start], level=0), Lit(text=window[start:end], level=level)]
            at = end
    return [one for one in [*made, Lit(text=window[at:], level=0)] if one.text]


def lit_tokens(windows: Sequence[tuple[str, TokenWindow]]) -> list[list[Lit]]:
    """Windows of one feature in tokens, lit by their share of the largest activation in any of them.

    Neighbours at which it is silent are one stretch.
    """
    largest = max((strength for _, one in windows for strength in one.fires), default=0.0)
    made = list[list[Lit]]()
    for text, one in windows:
        top, stretch = max(one.fires, default=0.0), list[Lit]()
        for token, strength in one.tokens(text):
            if strength:
                level = sum(strength > share * largest for share in OF_LARGEST)
                stretch.append(Lit(text=token, level=level, activation=strength, strongest=strength == top))
            elif stretch and not stretch[-1].level:
                stretch[-1] = Lit(text=stretch[-1].text + token, level=0)
            else:
                stretch.append(Lit(text=token, level=0))
        made.append(stretch)
    return made


def _places(window: str, shares: Mapping[str, float]) -> Iterable[tuple[int, int]]:
    """Where words stand, and those single marks that have a share of their own."""
    marks = {word for word, share in shares.items() if len(word) == 1 and not word.isalnum() and word.strip()}
    at = 0
    for found in WORD.finditer(window):
        yield from ((k, k + 1) for k in range(at, found.start()) if window[k] in marks)
        yield found.span()
        at = found.end()
    yield from ((k, k + 1) for k in range(at, len(window)) if window[k] in marks)
