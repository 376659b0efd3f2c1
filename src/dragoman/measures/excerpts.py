"""A feature's firing windows dealt in two: those that a label may be made from, and those that it is judged by.

In: windows of text, the activations at their tokens. Out: numbers of windows; excerpts with marks around what fires.
Refuses nothing. The deal depends on the windows' words alone: windows that differ in capitals and spaces are on one
side. Each window of a feature is of a document of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from dragoman.records import TokenWindow
from dragoman.store import digest, form_of

OPEN, CLOSE = "<<", ">>"  # as delphi marks them
_LEAST = 0.5  # of a window's largest activation, for a token to be marked
_WORD = re.compile(r"(?<!\w)\w{2,30}(?!\w)")  # marked whole where a token of it is


def dealt_windows(firing: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of the windows to be shown, at most half, and of those held back, in order; blank ones are in neither."""
    forms: dict[str, list[int]] = {}
    for number, window in enumerate(firing):
        if form := form_of(window):
            forms.setdefault(form, []).append(number)
    order = sorted(forms, key=lambda form: digest("label or judge", form))
    half = len(order) // 2
    shown, held = (sorted(n for form in some for n in forms[form]) for some in (order[:half], order[half:]))
    return shown, held


def marked(text: str, window: TokenWindow) -> str:
    """A window in one line, with marks around the words at which the feature fires at least half as much as it does."""
    least, on, at = _LEAST * max(window.fires, default=0.0), [False] * len(text), 0
    for token, fires in window.tokens(text):
        if fires and fires >= least:
            on[at : at + len(token)] = [True] * len(token)
        at += len(token)
    for word in _WORD.finditer(text):
        if any(on[slice(*word.span())]):
            on[slice(*word.span())] = [True] * len(word[0])
    parts = list[str]()
    for lit, some in groupby(zip(text, on, strict=True), key=lambda one: one[1]):
        part = "".join(character for character, _ in some)
        own = part.strip() or ("line break" if "\n" in part else "blank")
        before, _, after = part.partition(part.strip()) if part.strip() else (" ", "", " ")
        parts.append(f"{before}{OPEN}{own}{CLOSE}{after}" if lit else part)
    return " ".join("".join(parts).split())
