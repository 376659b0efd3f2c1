"""Does a carried direction fire where its feature fires? A score of a crossing that needs no text and no label.

In: directions at the target, the target's rows at tokens that nothing was fitted on, and where each feature fires in
the source at the same tokens. Out: one AUROC a direction. Refuses shapes that do not fit.

A direction is read off the stream by the best linear read-out for it, ``(y - mean) S^-1 d`` with S the target's
covariance: as a covector a bare direction would also see whatever overlaps it. Positives are the tokens at which the
feature fires. Negatives are half tokens at which it is silent and half, where siblings are given, those at which a
feature with a similar row fires and it does not; a random direction reads 0.5 on both, a topic reads the first alone.
Negatives stand as late in their texts as positives do (streams grow with position, and so would any score).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, frozen
from dragoman.stats.roc import auroc

Doubles = NDArray[np.float64]
LEAST = 10  # firing tokens: fewer give no AUROC worth the name
MOST = 2000  # tokens of a kind that are looked at
SHRINK = 1e-3  # of the mean variance, added to the covariance: some dimensions hardly vary
BINS = 8  # of how late in its text a token stands


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitening:
    """A stream's ``mean`` (q,) and the inverse of its shrunk covariance, ``precision`` (q, q), float64.

    Shrinking by a thousandth of the mean variance keeps the inverse from resting on dimensions that do not vary; the
    Ledoit-Wolf estimate comes to about the same where there are a hundred times as many rows as dimensions.
    """

    mean: Doubles
    precision: Doubles

    @classmethod
    def of(cls, rows: NDArray[Any], *, shrink: float = SHRINK) -> Self:
        """Of rows (n, q).

        Raises:
            Refusal: fewer rows than two, or no variance.
        """
        rows = np.asarray(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((rows.shape[1], rows.shape[1]))
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192].astype(np.float64) - mean
            covariance += part.T @ part
        return cls.of_covariance(mean, covariance / max(len(rows) - 1, 1), shrink=shrink)

    @classmethod
    def of_covariance(cls, mean: Doubles, covariance: Doubles, *, shrink: float = SHRINK) -> Self:
        """Of a mean (q,) and a covariance (q, q).

        Raises:
            Refusal: there is no variance.
        """
        spread = float(np.trace(covariance)) / len(covariance)
        if not spread > 0:
            raise Refusal("whitening", "the rows do not vary", "read more text")
        shrunk = covariance + shrink * spread * np.eye(len(covariance))
        return cls(mean=frozen(mean, np.float64), precision=frozen(np.linalg.inv(shrunk), np.float64))


def cofiring(
    directions: NDArray[Any],
    y: NDArray[Any],
    fired: Any,
    documents: NDArray[Any],
    *,
    whitening: Whitening,
    columns: NDArray[np.int64] | None = None,
    siblings: NDArray[np.int64] | None = None,
    rng: np.random.Generator,
) -> Doubles:
    """AUROC (n,) of each direction at telling tokens where its feature fires; NaN below ten such tokens.

    Args:
        directions: (n, q) at the target; length does not matter, sign does.
        y: (T, q) the target's rows, documents together and in order.
        fired: (T, M) the source's activations at the same tokens, scipy sparse.
        documents: (T,) whose they are.
        whitening: of the target's stream.
        columns: (n,) each direction's feature in ``fired``; 0 to n - 1 when None.
        siblings: (n, h) columns of features with similar rows, for hard negatives.
        rng: draws tokens where there are more than two thousand.

    Raises:
        Refusal: shapes that do not fit.
    """
    columns = np.arange(len(directions)) if columns is None else np.asarray(columns)
    if len(columns) != len(directions) or fired.shape[0] != len(y) or len(documents) != len(y):
        raise Refusal(
            f"{len(directions)} directions, rows {y.shape} and activations {fired.shape}",
            "each direction has a feature, each row a token",
            "pass those of the same tokens",
        )
    tokens = telling_tokens(fired, documents, columns=columns, siblings=siblings, rng=rng)
    reads = whitening.precision @ np.asarray(directions, dtype=np.float64).T
    shift = whitening.mean @ reads
    found = np.full(len(directions), np.nan)
    for k, (rows, firing) in enumerate(zip(tokens.rows, tokens.firing, strict=True)):
        if firing:
            scores = y[rows].astype(np.float64) @ reads[:, k] - shift[k]
            found[k] = auroc(scores[:firing], scores[firing:])
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TellingTokens:
    """Tokens at which each of n features is told from others.

    ``rows``: n arrays of token numbers, those at which it fires first; ``firing``: how many these are, 0 where it fires
    too rarely to be told.
    """

    rows: tuple[NDArray[np.int64], ...]
    firing: tuple[int, ...]


def telling_tokens(
    fired: Any,
    documents: NDArray[Any],
    *,
    columns: NDArray[np.int64],
    siblings: NDArray[np.int64] | None = None,
    most: int = MOST,
    rng: np.random.Generator,
) -> TellingTokens:
    """Draw the tokens that ``cofiring`` looks at, at most ``most`` of a kind: they are the same for any directions.

    Args: as of ``cofiring``.
    """
    by_column, late = fired.tocsc(), lateness(documents)
    rows: list[NDArray[np.int64]] = []
    firing: list[int] = []
    for k, column in enumerate(columns):
        fires = _rows(by_column, int(column))
        others = np.zeros(0, dtype=np.int64)
        if len(fires) >= LEAST:
            near = None if siblings is None else siblings[k]
            others = _negatives(by_column, fires, near, len(documents), late, most, rng)
        if len(others) < LEAST:
            rows.append(others[:0])
            firing.append(0)
            continue
        fires = fires if len(fires) <= most else rng.choice(fires, most, replace=False)
        rows.append(np.concatenate([fires, others]))
        firing.append(len(fires))
    return TellingTokens(rows=tuple(rows), firing=tuple(firing))


def lateness(documents: NDArray[Any]) -> NDArray[np.int64]:
    """(T,): in which of eight parts of equal size a token's place within its document's rows falls."""
    _, first, where = np.unique(documents, return_index=True, return_inverse=True)
    place = np.arange(len(documents)) - first[where]
    edges = np.quantile(place, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, place, side="right")


def _rows(by_column: Any, column: int) -> NDArray[np.int64]:
    part = slice(by_column.indptr[column], by_column.indptr[column + 1])
    rows = by_column.indices[part][by_column.data[part] > 0]
    return np.sort(rows).astype(np.int64)


def _negatives(
    by_column: Any,
    fires: NDArray[np.int64],
    siblings: NDArray[np.int64] | None,
    tokens: int,
    late: NDArray[np.int64],
    most: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Tokens at which the feature is silent, as late as those at which it fires; half of them a sibling's, if any."""
    wanted = min(most, max(len(fires), 200))
    share = np.bincount(late[fires], minlength=BINS) / len(fires)
    silent = np.ones(tokens, dtype=bool)
    silent[fires] = False
    hard = np.zeros(0, dtype=np.int64)
    if siblings is not None and len(siblings):
        theirs = np.unique(np.concatenate([_rows(by_column, int(s)) for s in siblings]))
        hard = _as_late(theirs[silent[theirs]], late, share, wanted // 2, rng)
    easy = _as_late(np.flatnonzero(silent), late, share, wanted - len(hard), rng)
    return np.concatenate([hard, easy])


def _as_late(
    pool: NDArray[np.int64], late: NDArray[np.int64], share: Doubles, wanted: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """About ``wanted`` of the pool, spread over the parts of texts as ``share`` says."""
    chosen = []
    for part, portion in enumerate(share):
        mine = pool[late[pool] == part]
        take = min(round(portion * wanted), len(mine))
        if take:
            chosen.append(rng.choice(mine, take, replace=False))
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
