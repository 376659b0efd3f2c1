"""Phrases a verbalizer falls back on when its vector tells it nothing.

In: the text of an explanation. Out: names of the fallbacks it holds, in the table's order. Refuses nothing.
A fallback is a sign that a vector was read as empty or not read at all; it is no proof, so texts are flagged, kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Smell:
    """``name``: the flag. ``pattern``: what to look for. ``whose``: who does it, and when."""

    name: str
    pattern: re.Pattern[str]
    whose: str


_SCRIPT = r"(?:Chinese|Japanese|Korean|CJK|East[ -]Asian|Hangul)"
_SIGN = r"(?:characters?|keywords?|symbols?|glyphs?|ideographs?|ideograms?|logograms?|kanji|hanzi)"

SMELLS = (
    Smell(
        name='fallback "e.g."',
        pattern=re.compile(r"\bfinal token\W{1,4}e\.g\.", re.IGNORECASE),
        whose="the published Gemma-3-27B verbalizer, at BOS, newlines and turn starts, and for bare decoder directions",
    ),
    Smell(
        name="describes a CJK character",
        pattern=re.compile(rf"\b{_SCRIPT}(?:[ -]\w+)?[ -]{_SIGN}\b|\b(?:kanji|hanzi)\b", re.IGNORECASE),
        whose="any verbalizer whose vector was not injected: it reads the marker's own embedding",
    ),
    Smell(
        name="the end of text",
        pattern=re.compile(r"\bthe end of text\b", re.IGNORECASE),
        whose="verbalizers that meet a vector without content",
    ),
)


def fallbacks(text: str) -> tuple[str, ...]:
    """Names of the fallback phrases in a text, each once, in the order of ``SMELLS``."""
    return tuple(smell.name for smell in SMELLS if smell.pattern.search(text))
