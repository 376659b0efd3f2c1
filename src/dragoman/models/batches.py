"""Some texts as a model takes them, and which rows of its stream are their tokens.

In: texts as tokens, padded on the right. Out: a ``Batch``: ids and mask, and for every row that is looked at its place,
its text and the character at which its token ends. Special tokens (no characters) and position 0 are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.models.encode import Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``ids``, ``mask``: (b, width) int64. ``row``, ``position``: (n,) int64, where in them the tokens are.

    ``document``, ``end``: (n,) index of the text, and the character at which the token ends. ``special`` tokens and
    ``first`` ones are counted. ``ends``: of each text, by its index, the characters at which its tokens end, rising,
    also of those that are left out.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    document: NDArray[np.int64]
    end: NDArray[np.int64]
    special: int
    first: int
    ends: dict[int, NDArray[np.int64]]

    @classmethod
    def of(cls, encoded: Encoded, chosen: Sequence[int], pad: int) -> Batch:
        """Those texts that are ``chosen``, in that order."""
        ids, offsets = [encoded.ids[i] for i in chosen], [encoded.spans[i] for i in chosen]
        width = max(1, *map(len, ids))  # an empty text has no tokens where a tokenizer adds none
        padded = torch.full((len(ids), width), pad)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for k, tokens in enumerate(ids):
            padded[k, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[k, : len(tokens)] = 1
        counts = [len(spans) for spans in offsets]
        begin, end = np.array([span for spans in offsets for span in spans], dtype=np.int64).reshape(-1, 2).T
        row = np.repeat(np.arange(len(chosen)), counts)
        position = np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)])
        content = end > begin
        kept = content & (position > 0)
        bounds = np.cumsum([0, *counts])
        return cls(
            ids=padded,
            mask=mask,
            row=torch.from_numpy(row[kept]),
            position=torch.from_numpy(position[kept]),
            document=np.repeat(np.asarray(chosen, np.int64), counts)[kept],
            end=end[kept],
            special=int((~content).sum()),
            first=int((content & (position == 0)).sum()),
            ends={
                document: np.unique(end[start:stop][content[start:stop]])
                for document, start, stop in zip(chosen, bounds[:-1], bounds[1:], strict=True)
            },
        )

    def pinned(self) -> Batch:
        """The same in memory that a device copies from while it computes; on the way there nothing waits."""
        there = {name: getattr(self, name).pin_memory() for name in ("ids", "mask", "row", "position")}
        return replace(self, **there)
