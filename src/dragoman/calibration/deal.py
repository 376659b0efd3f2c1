"""Documents dealt once: those that the crossing and the evidence are made from, and those held out from both.

In: texts, a seed. Out: two lists in their order. Refuses nothing. A document's part depends on its words and the seed
alone, and of texts that differ in capitals and spaces alone one is kept, so that the same document is never in both,
however often it comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dragoman.store import digest, form_of

EVIDENCE = 2 / 3  # of the documents


def place(text: str, seed: int) -> float:
    """A number from 0 to 1 that the words and the seed decide."""
    return int(digest("calibration", str(seed), text)[:13], 16) / 16**13


def dealt(texts: Sequence[str], most: int, seed: int) -> tuple[list[str], list[str]]:
    """Evidence's documents and the outcome's, of at most ``most`` different ones, drawn by the seed."""
    forms: dict[str, str] = {}
    for text in texts:
        form = form_of(text)
        forms[form] = min(forms.get(form, text), text)
    distinct = [text for form, text in forms.items() if form]
    chosen = set(sorted(distinct, key=lambda text: digest("drawn", str(seed), text))[:most])
    kept = [text for text in distinct if text in chosen]
    return [t for t in kept if place(t, seed) < EVIDENCE], [t for t in kept if place(t, seed) >= EVIDENCE]
