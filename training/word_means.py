"""Words whose mean activation lies nearest to a vector: a baseline of readers, and what one arm is told with a vector.

In: the words at positions, a site's activations there. Out: ``WordMeans``; three words in a sentence (``listed``), or
with their cosines in a line before the answer (``told``), by which a reader may know how far a vector is from any word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as f

from latents import Words
from sites import Statistics

SPOKEN_OFTEN = 20  # positions a word has to have for a mean of its own
COUNT = 3


@dataclass(frozen=True, slots=True, eq=False)
class WordMeans:
    """``unit`` (m, d): of each word the mean of activations as readers get them (``normal``), at unit length."""

    names: tuple[str, ...]
    unit: torch.Tensor

    @classmethod
    def of(cls, words: Words, statistics: Statistics, x: torch.Tensor, rows: np.ndarray) -> WordMeans:
        """Of the words that stand often enough at ``rows`` of activations x (n, d)."""
        at, counts = words.at[rows], np.bincount(words.at[rows], minlength=len(words.names))
        often = np.flatnonzero(counts >= SPOKEN_OFTEN)
        kept = [int(i) for i in often if words.names[i].isalpha() and len(words.names[i]) > 2]
        sums = torch.zeros(len(words.names), x.shape[1], device=x.device)
        for start in range(0, len(rows), 1 << 16):
            some = slice(start, start + (1 << 16))
            normal = statistics.normal(x[torch.as_tensor(rows[some], device=x.device)])
            sums.index_add_(0, torch.as_tensor(at[some], device=x.device), normal)
        return cls(tuple(words.names[i] for i in kept), f.normalize(sums[kept], dim=1))

    def nearest(self, x: torch.Tensor) -> list[list[tuple[str, float]]]:
        """Of each row of x (n, d) the nearest words with their cosines, nearest first."""
        out = list[list[tuple[str, float]]]()
        for start in range(0, len(x), 4096):
            like = f.normalize(x[start : start + 4096].float().to(self.unit.device), dim=1) @ self.unit.T
            best = like.topk(min(COUNT, len(self.names)), dim=1)
            for cosines, ids in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                out.append([(self.names[i], c) for i, c in zip(ids, cosines, strict=True)])
        return out

    def told(self, x: torch.Tensor) -> list[str]:
        """A line for each row of x: its nearest words, each with its cosine in hundredths."""
        return ["Near: " + ", ".join(f"{w} {100 * c:.0f}" for w, c in some) + "\n" for some in self.nearest(x)]

    def sentences(self, x: torch.Tensor) -> list[str]:
        """The nearest words of each row of x in a sentence."""
        return [listed([w for w, _ in some]) for some in self.nearest(x)]


def listed(words: Sequence[str]) -> str:
    """Words in a sentence of words."""
    return "Words such as " + ", ".join(f'"{w}"' for w in words) + " stand out."
