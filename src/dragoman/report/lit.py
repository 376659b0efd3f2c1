"""Windows of text lit by what a feature fires on: token by token where a run keeps that, else word by word.

In: windows, activations at their tokens, or shares of activation by word. Out: stretches in the text's order, nothing
left out. Refuses nothing. Light tells of activation, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dragoman.maps.words import WORD
from dragoman.records import TokenWindow

LEVELS = (0.02, 0.1, 0.25, 0.5)  # least shares of the activation, for a word to be lit little, some, much, most
OF_LARGEST = (0.0, 0.25, 0.5, 0.75)  # shares of the feature's largest activation, above which a token is lit


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
