"""Read once more the texts in which features fire most, for their activation at every token around.

In: the source's reader, the dictionary's encoder, where features fire most, the texts. Out: ``FiringTokens``. Refuses
what reading refuses.

While two models are read together, only tokens that end together are encoded, and of many a sample. Which documents a
feature fires in most is known when all are read; they are then read by the source alone. Documents are read in the
order of their lengths and names, so the same firings give the same activations whatever came before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats
from dragoman.maps.aligned import Firings
from dragoman.maps.firing_tokens import FiringTokens, gathered
from dragoman.maps.windows import AFTER, BEFORE, MANY
from dragoman.models.harvest import Progress, Reader, TokenRows

Encode = Callable[[Floats], Any]  # rows (n, d_model) -> sparse activations (n, M), a column for each id of the firings
Wanted = list[tuple[int, int, int]]  # feature's row, window, the character at which its strongest token ends


def read_firing_tokens(
    source: Reader,
    encode: Encode,
    firings: Firings,
    texts: Mapping[int, str],
    *,
    typical: float,
    batch_size: int = 32,
    max_tokens: int = 256,
    progress: Progress | None = None,
) -> FiringTokens:
    """Activations at all tokens of the windows in which features fire most.

    Args:
        source: the model the features are of.
        encode: gives the activations of the features of ``firings``.
        firings: what was kept while reading.
        texts: the documents by name.
        typical: median length of the source's rows; sinks are left out by it.
        batch_size: documents read together.
        max_tokens: of a document.
        progress: documents read, and all.

    Raises:
        Refusal: as the module says.
    """
    wanted = _wanted(firings)
    order = sorted(wanted, key=lambda name: (-len(texts[name]), name))
    documents = list[tuple[int, Sequence[int], Sequence[bool]]]()
    cells: dict[tuple[int, int], tuple[NDArray[np.int32], Floats]] = {}
    for start in range(0, len(order), batch_size):
        names = order[start : start + batch_size]
        read = [texts[name] for name in names]
        rows = source.rows(read, typical, batch_size=len(read), max_tokens=max_tokens)
        ends = source.ends(read, max_tokens=max_tokens)
        fired = encode(rows.x).tocsr()
        for k, name in enumerate(names):
            own, number = _rows_of(rows, k, ends[k])
            known = np.zeros(len(ends[k]), bool)
            known[number] = True
            documents.append((name, ends[k].tolist(), known.tolist()))
            cells |= _cells(fired[own].tocsc(), number, ends[k], wanted[name])
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    return gathered(firings, sorted(documents, key=lambda one: one[0]), cells)


def _wanted(firings: Firings) -> dict[int, Wanted]:
    """Of each document that is a feature's window, which windows it is."""
    found: dict[int, Wanted] = {}
    names, ends = firings.documents[:, :MANY], firings.ends[:, :MANY]
    for row, k in zip(*np.nonzero(names >= 0), strict=True):
        found.setdefault(int(names[row, k]), []).append((int(row), int(k), int(ends[row, k])))
    return found


def _rows_of(rows: TokenRows, document: int, ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A document's rows, and which of its tokens each is; of pieces that share an end the last is taken."""
    own = np.flatnonzero(rows.document == document)
    values, last = np.unique(rows.end[own][::-1], return_index=True)
    return own[len(own) - 1 - last], np.searchsorted(ends, values)


def _cells(
    fired: Any, number: NDArray[np.int64], ends: NDArray[np.int64], wanted: Wanted
) -> dict[tuple[int, int], tuple[NDArray[np.int32], Floats]]:
    """Of each window of a document the tokens at which its feature fires, and how much."""
    found = {}
    for row, k, end in wanted:
        column = slice(fired.indptr[row], fired.indptr[row + 1])
        which, strength = number[fired.indices[column]], fired.data[column]
        here = (strength > 0) & (ends[which] > end - BEFORE) & (ends[which] <= end + AFTER)
        order = np.argsort(which[here])
        found[row, k] = (which[here][order].astype(np.int32), strength[here][order].astype(np.float32))
    return found
