"""Windows of text in which a feature fires, and windows like them in which it does not.

In: ``Firings`` and the texts they were read from. Out: two lists of windows. Refuses texts among which a document is
missing.

Silent means: at none of the tokens that were kept. What stands in the first few tokens of a text, and in those left out
where a text has many, nobody looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from dragoman.core import Refusal
from dragoman.routes.firings import Firings
from dragoman.store import document_name

_WORD = re.compile(r"\S+")


def by_name(texts: Sequence[str]) -> dict[int, str]:
    """Texts by the names that firings know them by; made once, it serves many features."""
    return {document_name(text): text for text in texts}


def contexts(
    firings: Firings,
    texts: Sequence[str] | Mapping[int, str],
    feature: str | int,
    *,
    rng: np.random.Generator,
    before: int = 200,
    after: int = 60,
    many: int = 10,
) -> tuple[list[str], list[str]]:
    """What a feature fires on most, strongest first, and as many windows of documents in which it is silent.

    Args:
        firings: what was kept while reading.
        texts: those that were read, or ``by_name`` of them.
        feature: a watched one.
        rng: chooses the silent documents and the places in them.
        before: characters before the end of the token that it fires on most, which the window is cut around.
        after: characters after it.
        many: windows of either kind at most.

    Returns:
        (firing, silent): windows from word to word, so a little shorter than asked for, and never without the word
        that holds the token. The silent ones are as long as the firing ones, as far as their documents are (before +
        after where it never fires, and there are no others).

    Raises:
        Refusal: an unknown feature, or texts without one of its documents.
    """
    known = texts if isinstance(texts, Mapping) else by_name(texts)
    row = firings.at(feature)
    fires = [(int(n), int(e)) for n, e in zip(firings.documents[row], firings.ends[row], strict=True) if n >= 0]
    quiet = [(int(n), int(r)) for n, r in zip(firings.silent[row], firings.reach[row], strict=True) if n >= 0]
    missing = next((name for name, _ in [*fires, *quiet] if name not in known), None)
    if missing is not None:
        raise Refusal(
            f"document {missing:016x} of feature {feature}",
            f"it is not among these {len(known)} texts",
            "pass the texts that both models read",
        )
    windows = [around(known[name], end, before=before, after=after) for name, end in fires[:many]]
    lengths = [len(window) for window in windows] or [before + after] * many
    read = [known[name][:reach] for name, reach in quiet]
    return windows, [somewhere(_taken(read, n, rng), n, rng) for n in lengths[: len(quiet)]]


def _taken(read: list[str], length: int, rng: np.random.Generator) -> str:
    """One of the texts, at random among those long enough, else the longest; it is taken out."""
    enough = [k for k, text in enumerate(read) if len(text) >= length]
    chosen = int(rng.choice(enough)) if enough else max(range(len(read)), key=lambda k: len(read[k]))
    return read.pop(chosen)


def around(text: str, end: int, *, before: int, after: int) -> str:
    """The words of ``text`` between ``before`` characters ahead of ``end`` and ``after`` behind it.

    The word that ends at ``end``, or goes on there, is whole, unless it is itself longer than that (scripts without
    spaces are cut anywhere).
    """
    low, high = max(end - before, 0), min(end + after, len(text))
    words = [m.span() for m in _WORD.finditer(text)]
    own = next(((a, b) for a, b in words if a < end <= b), (max(end - 1, 0), end))
    start = min((a for a, _ in words if a >= low), default=low)
    stop = max((b for _, b in words if b <= high), default=high)
    start, stop = min(start, max(own[0], low)), max(stop, min(own[1], high))
    return text[start:stop].strip()


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
