"""Rows of two models at the same token ends, at as many blocks of each as are asked for, kept whole.

In: readers, texts, an encoder. Out: ``Tokens``. Refuses texts without a shared token end. For studies that fit many
maps on parts of the same rows; one map needs only the sums of ``models.aligned``, which hold no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dragoman.core import Floats, Refusal
from dragoman.dictionaries import Encoder
from dragoman.models.encoding import encoded
from dragoman.models.harvest import OUTLIER, Progress, Reader, TokenRows, median_norm, refuse_undefined, shared_ends
from dragoman.models.paired import FIRST

CHUNK = 256  # texts read at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """n tokens that end at the same character in both models.

    ``texts``: those that were read. ``documents``: (n,) index of the text, increasing. ``ends``: (n,) the character at
    which each token ends, increasing within a text. ``x``, ``y``: block -> (n, width) float32 of source and target.
    ``fired``: (n, d_sae) scipy sparse activations of the source's dictionary. ``left_out``: sinks, by count.
    """

    documents: NDArray[np.int64]
    ends: NDArray[np.int64]
    x: Mapping[int, Floats]
    y: Mapping[int, Floats]
    fired: Any
    left_out: int
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        """How many tokens."""
        return len(self.documents)

    def turned(self, encoder: Encoder, block: int) -> Tokens:
        """The same tokens with source and target changed: ``encoder`` reads what was the target, at ``block``."""
        return replace(self, x=self.y, y=self.x, fired=encoded(encoder, self.y[block]))

    def of(self, documents: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
        """Numbers of the rows that belong to some documents."""
        chosen = np.arange(self.documents.max() + 1)[documents]
        return np.flatnonzero(np.isin(self.documents, chosen))


def read_tokens(
    source: Reader,
    target: Reader,
    encoder: Encoder,
    texts: Sequence[str],
    *,
    source_blocks: Sequence[int] = (),
    target_blocks: Sequence[int] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Tokens:
    """Read texts at the readers' own blocks, which are always among those kept, and at others.

    Tokens before position 10 of either model are left out, and those longer than 5 times the median of the first chunk
    at any block; so are those that are not finite at some block.

    Raises:
        Refusal: no token end is shared, or more than 1 % of the rows of some texts are not finite.
    """
    sites = [replace(source.site, block=b) for b in dict.fromkeys((source.site.block, *source_blocks))]
    others = [replace(target.site, block=b) for b in dict.fromkeys((target.site.block, *target_blocks))]
    readers = [replace(source, site=s) for s in sites] + [replace(target, site=s) for s in others]
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], list[Floats]]] = []
    fired: list[csr_array] = []
    longest: list[float] = []
    left_out = 0
    for start in range(0, len(texts), CHUNK):
        piece = texts[start : start + CHUNK]
        every = [reader.rows(piece, np.inf, batch_size=batch_size) for reader in readers]
        for reader, rows in zip(readers, every, strict=True):
            refuse_undefined(rows.undefined, rows.seen, reader.site, reader.dtype)
        read = _at_all_blocks(every[: len(sites)]) + _at_all_blocks(every[len(sites) :])
        first, second = read[0], read[len(sites)]
        left, right = shared_ends(first, second)
        late = (first.position[left] >= FIRST) & (second.position[right] >= FIRST)
        left, right = left[late], right[late]
        if progress:
            progress(min(start + CHUNK, len(texts)), len(texts))
        if not len(left):
            continue
        rows = [r.x[left if k < len(sites) else right] for k, r in enumerate(read)]
        longest = longest or [OUTLIER * median_norm(x) for x in rows]
        odd = np.any([np.linalg.norm(x, axis=1) > most for x, most in zip(rows, longest, strict=True)], axis=0)
        left_out += int(odd.sum())
        document, end = first.document[left][~odd], first.end[left][~odd]
        order = np.lexsort((end, document))
        parts.append((start + document[order], end[order], [x[~odd][order] for x in rows]))
        fired.append(encoded(encoder, parts[-1][2][0]))
    if not parts:
        raise Refusal("these texts", "the two tokenizers share no token end late enough", "give longer running text")
    whole = [np.concatenate([rows[k] for *_, rows in parts]) for k in range(len(readers))]
    return Tokens(
        documents=np.concatenate([d for d, *_ in parts]),
        ends=np.concatenate([e for _, e, _ in parts]),
        x={site.block: whole[k] for k, site in enumerate(sites)},
        y={site.block: whole[len(sites) + k] for k, site in enumerate(others)},
        fired=csr_array(vstack(fired)),
        left_out=left_out,
        texts=tuple(texts),
    )


def _at_all_blocks(read: Sequence[TokenRows]) -> list[TokenRows]:
    """Rows of one model that every block has: those that are not finite each reading drops on its own."""
    if not any(rows.dropped for rows in read):
        return list(read)
    stride = 1 + max(int(rows.position.max(initial=0)) for rows in read)
    keys = [rows.document * stride + rows.position for rows in read]
    there = [np.isin(key, reduce(np.intersect1d, keys)) for key in keys]
    parts = ("x", "document", "end", "position")
    return [
        replace(rows, **{part: getattr(rows, part)[keep] for part in parts})
        for rows, keep in zip(read, there, strict=True)
    ]
