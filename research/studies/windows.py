"""Windows of judging texts: where a latent fires, where it is silent, and where its nearest relatives fire instead.

In: ``Tokens`` that nothing was made from, ids, each latent's siblings. Out: texts. A latent with fewer than three
windows of a kind has none of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.maps.aligned import around
from studies.tokens import Tokens

FEWEST = 3
Windows = dict[str, dict[str, list[str]]]


def windows(
    tokens: Tokens,
    fired: Any,
    ids: Sequence[str],
    columns: Sequence[int],
    siblings: Mapping[str, Sequence[int]],
    *,
    many: int = 12,
    seed: int = 0,
) -> Windows:
    """Per latent "firing", "silent" and "hard" windows, one a document, at most ``many`` of each.

    Firing ones are drawn from all strengths, weakest to strongest alike; hard ones stand where a sibling fires in a
    document in which the latent does not.

    Args:
        tokens: of the judging texts.
        fired: (n, m) sparse activations at them.
        ids: of the latents.
        columns: of each latent in ``fired``.
        siblings: columns of each latent's relatives, nearest first.
        many: windows of a kind.
        seed: of every draw.
    """
    by_column = fired.tocsc()
    names, starts = np.unique(tokens.documents, return_index=True)
    found: Windows = {}
    for name, column in zip(ids, columns, strict=True):
        rng = np.random.default_rng([seed, column])
        rows, strength = _column(by_column, column)
        strongest = _one_each(tokens, rows, strength)
        order = strongest[np.argsort(-strength[np.searchsorted(rows, strongest)])]
        picked = order[np.unique(np.linspace(0, len(order) - 1, many).astype(int))] if len(order) else order
        mine = set(tokens.documents[rows].tolist())
        quiet = np.flatnonzero(~np.isin(names, list(mine)))
        quiet = rng.permutation(quiet)[:many]
        silent = [int(rng.integers(starts[k], starts[k + 1] if k + 1 < len(starts) else len(tokens))) for k in quiet]
        hard: list[int] = []
        for sibling in siblings.get(name, ()):
            theirs, how = _column(by_column, int(sibling))
            keep = ~np.isin(tokens.documents[theirs], list(mine))
            hard += _one_each(tokens, theirs[keep], how[keep]).tolist()
        hard = [hard[i] for i in rng.permutation(len(hard))[:many]]
        kinds = {"firing": picked.tolist(), "silent": silent, "hard": hard}
        found[name] = {
            kind: [_window(tokens, row) for row in some] if len(some) >= FEWEST else [] for kind, some in kinds.items()
        }
    return found


def _column(by_column: Any, column: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows at which a latent fires, in order, and how much."""
    part = slice(by_column.indptr[column], by_column.indptr[column + 1])
    order = np.argsort(by_column.indices[part])
    return by_column.indices[part][order].astype(np.int64), by_column.data[part][order]


def _one_each(tokens: Tokens, rows: NDArray[np.int64], strength: NDArray[Any]) -> NDArray[np.int64]:
    """Of each document the row at which the activation is largest."""
    order = np.lexsort((-strength, tokens.documents[rows]))
    _, first = np.unique(tokens.documents[rows][order], return_index=True)
    return rows[order[first]]


def _window(tokens: Tokens, row: int) -> str:
    return around(tokens.texts[int(tokens.documents[row])], int(tokens.ends[row]), before=200, after=60)
