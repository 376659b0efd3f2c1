"""Texts to unit vectors: what an embedder does, and one made of words alone.

In: texts. Out: (n, width) float32, rows of length one. Refuses texts without words. Those that read meaning are in
``models/embedder.py``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


class LexicalEmbedder:
    """Words weighted by how rare they are: (1 + log count) times inverse document frequency over reference texts.

    The second opinion to a sentence model: it sees copied words and nothing else, so where it agrees the words
    themselves agree, and where a sentence model alone finds a lift the meaning does it. TF-IDF as in scikit-learn
    (``sublinear_tf``, smoothed idf) but for the vocabulary, which is a hash of ``width`` signed coordinates (Weinberger
    et al. 2009): words the reference lacks, invented quotations among them, count most instead of not at all. Fitted on
    nothing when there is no reference: all words then weigh the same.
    """

    def __init__(self, reference: Sequence[str] = (), *, width: int = 8192) -> None:
        """Weigh words by ``reference``: texts of the kind to be embedded, but not those, or general prose."""
        if width < 2:
            raise Refusal(f"{width} coordinates", "words need at least two", "ask for 8192")
        self.width = width
        counts = Counter(word for text in reference for word in set(_WORD.findall(text.lower())))
        self._texts = len(reference)
        self._rarity = {word: math.log((1 + self._texts) / (1 + n)) + 1 for word, n in counts.items()}
        told = "\n".join(f"{word}\t{n}" for word, n in sorted(counts.items()))
        self._digest = hashlib.blake2b(f"{self._texts}\n{told}".encode(), digest_size=4).hexdigest()

    @property
    def name(self) -> str:
        """``tf-idf-8192`` with the reference's size and digest, or ``tf-8192``."""
        return f"tf-idf-{self.width}-{self._texts}-{self._digest}" if self._texts else f"tf-{self.width}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows; refuse a text without words."""
        refuse_empty(texts)
        unseen = math.log(1 + self._texts) + 1
        out = np.zeros((len(texts), self.width), np.float64)
        for row, text in enumerate(texts):
            for word, count in Counter(_WORD.findall(text.lower())).items():
                sign, at = _place(word, self.width)
                out[row, at] += sign * (1 + math.log(count)) * self._rarity.get(word, unseen)
        return _unit(out)


def _place(word: str, width: int) -> tuple[float, int]:
    """Sign and coordinate of a word."""
    number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    return (1.0 if number & 1 else -1.0), (number >> 1) % width


def _unit(rows: NDArray[np.float64]) -> Floats:
    norms = np.linalg.norm(rows, axis=1)
    if (norms == 0).any():
        row = int(np.flatnonzero(norms == 0)[0])
        raise Refusal(f"text {row} of {len(rows)}", "it has no words to count", "leave that row out")
    return (rows / norms[:, None]).astype(np.float32)
