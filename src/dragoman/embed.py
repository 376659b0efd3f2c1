"""Texts to unit vectors: what a sentence embedder does, and one made of word counts for tests.

In: texts. Out: (n, width) float32, rows of length one. Refuses texts without words. The real embedder is
``lm/embedder.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dragoman.core import Floats, Refusal

_WORD = re.compile(r"\w+")


@runtime_checkable
class Embedder(Protocol):
    """Places texts so that their cosine says how alike they are."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32, one unit row per text."""
        ...


def refuse_empty(texts: Sequence[str]) -> None:
    """Refuse a text without anything in it: it has no place among the others."""
    for row, text in enumerate(texts):
        if not text.strip():
            raise Refusal(f"text {row} of {len(texts)}", "it is empty, so it cannot be embedded", "leave that row out")


class HashEmbedder:
    """Bag of words: each word adds one to, or takes one from, the coordinate its hash names.

    Alike in words, not in meaning; the same on every machine (feature hashing, Weinberger et al. 2009).
    """

    def __init__(self, width: int = 256) -> None:
        """Rows of ``width`` coordinates."""
        self.width = width

    @property
    def name(self) -> str:
        """``word-hash-256``."""
        return f"word-hash-{self.width}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows; refuse a text without words."""
        refuse_empty(texts)
        out = np.zeros((len(texts), self.width), np.float64)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.lower()):
                number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
                out[row, (number >> 1) % self.width] += 1.0 if number & 1 else -1.0
        norms = np.linalg.norm(out, axis=1)
        if (norms == 0).any():
            row = int(np.flatnonzero(norms == 0)[0])
            raise Refusal(f"text {row} of {len(texts)}", "it has no words to count", "leave that row out")
        return (out / norms[:, None]).astype(np.float32)
