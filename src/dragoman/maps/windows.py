"""Windows cut from a text: around the token a feature fires on, or anywhere.

In: a text, the character at which a token ends. Out: the words around it. Refuses nothing.
"""

from __future__ import annotations

import re

import numpy as np

MANY, BEFORE, AFTER = 10, 200, 60  # windows of a feature; characters of one before the end of its token, and after it
SENTENCE = 240  # characters of a sentence that are told on either side of a window
_WORD = re.compile(r"\S+")
_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]|[\r\n]+\s*")


def around(text: str, end: int, *, before: int, after: int) -> str:
    """The words of ``text`` between ``before`` characters ahead of ``end`` and ``after`` behind it.

    The word that ends at ``end``, or goes on there, is whole, unless it is itself longer than that (scripts without
    spaces are cut anywhere).
    """
    start, stop = span_around(text, end, before=before, after=after)
    return text[start:stop]


def span_around(text: str, end: int, *, before: int, after: int) -> tuple[int, int]:
    """Where those words begin and end in the text."""
    low, high = max(end - before, 0), min(end + after, len(text))
    words = [m.span() for m in _WORD.finditer(text)]
    own = next(((a, b) for a, b in words if a < end <= b), (max(end - 1, 0), end))
    start = min((a for a, _ in words if a >= low), default=low)
    stop = max((b for _, b in words if b <= high), default=high)
    start, stop = min(start, max(own[0], low)), max(stop, min(own[1], high))
    found = text[start:stop]
    start += len(found) - len(found.lstrip())
    return start, start + len(found.strip())


def sentences_around(text: str, start: int, stop: int) -> tuple[str, str]:
    """What of the first and the last sentence of ``text[start:stop]`` stands before and after it, cut at words."""
    low, high = max(start - SENTENCE, 0), min(stop + SENTENCE, len(text))
    ends = [m.end() for m in _END.finditer(text[low:start])]
    begin = low + ends[-1] if ends else low
    if not ends and low:
        first, space, _ = text[low:start].partition(" ")
        begin = low + len(first) + 1 if space else start
    found = next((m for m in _END.finditer(text[stop - 1 : high] + " ")), None)
    end = min(stop - 1 + found.end(), high) if found else high
    if not found and high < len(text):
        end = stop + len(text[stop:high].rpartition(" ")[0])
    return text[min(begin, start) : start], text[stop : max(end, stop)].rstrip()


def somewhere(text: str, length: int, rng: np.random.Generator) -> str:
    """Words of ``text`` that are about ``length`` characters together, from a random place; all of a shorter text."""
    spans = [m.span() for m in _WORD.finditer(text)]
    if len(text) <= length or not spans:
        return text.strip()
    place = int(rng.integers(len(text) - length + 1))
    start = min((a for a, _ in spans), key=lambda a: abs(a - place))
    stop = min((b for _, b in spans if b > start), key=lambda b: abs(b - start - length))
    if stop - start > 2 * length:  # a script without spaces
        return text[place : place + length].strip()
    return text[start:stop]
