"""Do two lists of words agree, and does a table's own entry stand out? What lens words and steering are judged by.

In: word lists of the same features, or a table of numbers (row i, feature j). Out: tables, one number a feature, and
``Estimate``s. Refuses tables that are not square or hold no numbers. The null is always the same list, or the same row,
dealt to other features; in a table it stands off the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import Topics, t_interval
from dragoman.stats.lift import dealt_estimate, square

Doubles = NDArray[np.float64]
DEALT = "other features' (dealt)"
DEALT_WORDS = "other features' words (dealt)"


def overlap_table(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(n, N): how many words list i of the first and list j of the second share."""
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(w for some in (*first, *second) for w in some))}
    member = [np.zeros((len(lists), len(vocabulary)), dtype=np.float32) for lists in (first, second)]
    for table, lists in zip(member, (first, second), strict=True):
        for row, some in enumerate(lists):
            table[row, [vocabulary[w] for w in some]] = 1
    return (member[0] @ member[1].T).astype(np.int64)  # counts of words are exact in float32


def rank_auroc(table: NDArray[Any]) -> Doubles:
    """(n,): of each row of a square table, how often its own entry is above another one; ties count half.

    This is the AUROC of telling the own entry from the others; 0.5 is chance.

    Raises:
        Refusal: the table is not square, or has one row.
    """
    return np.diag(_ranks(table)).copy()


def overlap_estimate(table: NDArray[Any], topics: Topics = None, *, rng: np.random.Generator | None = None) -> Estimate:
    """Mean of the diagonal of a table of shared words (N, N), by features, beside other features' lists.

    Args:
        table: as ``overlap_table`` gives it, of the same features in the same order.
        topics: one a feature where they cluster; the interval is then over topics.
        rng: deals lists to features for p; always the same deals where left out.

    Returns:
        ``extra``: ``dealt``, the mean off the diagonal.

    Raises:
        Refusal: fewer than three features, or as the module says.
    """
    own, dealt = own_and_dealt(table)
    return dealt_estimate(
        square(table),
        own,
        topics,
        statistic="mean number of words that two lists of one feature share",
        null=DEALT_WORDS,
        rng=np.random.default_rng(0) if rng is None else rng,
        extra={"dealt": dealt},
    )


def rank_estimate(
    table: NDArray[Any], topics: Topics = None, *, statistic: str, rng: np.random.Generator | None = None
) -> Estimate:
    """Mean of ``rank_auroc`` of a table (N, N), by features, beside rows dealt to other features.

    Args:
        table: what each row (a direction, a description) does to each feature's words or activation.
        topics: one a feature where they cluster; the interval is then over topics.
        statistic: what is averaged.
        rng: deals rows to features for p; always the same deals where left out.

    Returns:
        ``extra``: ``dealt``, the mean of the entries off the diagonal, next to 0.5 by construction.

    Raises:
        Refusal: fewer than three features, or as the module says.
    """
    ranks = _ranks(square(table))
    own, dealt = own_and_dealt(ranks)
    return dealt_estimate(
        ranks,
        own,
        topics,
        statistic=statistic,
        null=DEALT,
        rng=np.random.default_rng(0) if rng is None else rng,
        extra={"dealt": dealt},
    )


def own_and_dealt(table: NDArray[Any]) -> tuple[Doubles, float]:
    """The diagonal of a square table, and the mean of what is off it."""
    table = _square(table)
    n = len(table)
    own = np.diag(table).astype(np.float64)
    return own, float((table.sum() - own.sum()) / (n * (n - 1)))


def estimate(own: NDArray[Any], dealt: float, *, statistic: str, null: str = DEALT) -> Estimate:
    """Mean over features with Student's interval, and the t test of its difference from what the null gives.

    Args:
        own: one value a feature; NaN where there is none, which is left out.
        dealt: mean of the null, kept as ``extra["dealt"]``.
        statistic: what is averaged.
        null: what it stands beside.

    Raises:
        Refusal: fewer than two features have a value.
    """
    own = np.asarray(own, dtype=np.float64)
    own = own[np.isfinite(own)]
    if len(own) < 2:
        raise Refusal(f"{statistic} of {len(own)} features", "one value has no spread", "judge at least two features")
    value, sd = float(own.mean()), float(own.std(ddof=1))
    low, high, _ = t_interval(value, sd, len(own))
    _, _, p = t_interval(value - dealt, sd, len(own))
    return Estimate(
        value=value,
        low=low,
        high=high,
        p=p,
        n=len(own),
        statistic=statistic,
        null=null,
        unit="features",
        method="Student's t over features; t test of the difference from the null's mean",
        extra={"dealt": dealt},
    )


def _ranks(table: NDArray[Any]) -> Doubles:
    """Of each entry of a square table, how often it is above another one of its row."""
    table = _square(table)
    return (rankdata(table, axis=1) - 1) / (len(table) - 1)


def _square(table: NDArray[Any]) -> Doubles:
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise Refusal(f"a table of shape {table.shape}", "own entries stand on the diagonal", "pass at least 2 x 2")
    if not np.isfinite(table).all():
        raise Refusal("a table", "it holds NaN or infinite numbers", "leave those features out")
    return table
