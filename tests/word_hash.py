"""An embedder for tests: bag of words, each adding one to, or taking one from, the coordinate its hash names.

Alike in words, not in meaning; the same on every machine (feature hashing, Weinberger et al. 2009).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from dragoman.core import Floats, Refusal
from dragoman.embed import refuse_empty


class HashEmbedder:
    def __init__(self, width: int = 256) -> None:
        self.width = width

    @property
    def name(self) -> str:
        return f"word-hash-{self.width}"

    def encode(self, texts: Sequence[str]) -> Floats:
        refuse_empty(texts)
        out = np.zeros((len(texts), self.width))
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
                out[row, (number >> 1) % self.width] += 1.0 if number & 1 else -1.0
        norms = np.linalg.norm(out, axis=1)
        if (norms == 0).any():
            raise Refusal(
                f"text {int(np.flatnonzero(norms == 0)[0])} of {len(texts)}", "it has no words", "leave it out"
            )
        return (out / norms[:, None]).astype(np.float32)
