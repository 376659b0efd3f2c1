"""What a few texts, read before the others, settle of a reading: how long a row usually is, and what fires often.

In: two readers, texts, the SAE's encoder if there is one. Out: a ``Pilot``. Refuses more outliers than sinks explain.
Which texts are read goes by their digests, so that nothing depends on how the rest are batched or ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.models.encoding import Encodes
from dragoman.models.harvest import OUTLIER, Reader, lengths, median_norm
from dragoman.models.paired import ReadingOptions

SHARE = 0.05  # of pairs, left out as sinks at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """What the texts read beforehand settle: median norms by side, and how many of them each feature fires in."""

    typical: dict[str, float]
    documents: int
    fires: NDArray[np.int64]


def look_first(
    source: Reader,
    target: Reader,
    texts: Sequence[str],
    encoding: Encodes | None,
    options: ReadingOptions,
) -> Pilot:
    """Read a few texts with both models.

    Raises:
        Refusal: twice as many outliers as are allowed among pairs.
    """
    x, y = source.pilot(texts), target.pilot(texts)
    fires = np.zeros(encoding.encoder.d_sae if encoding is not None else 0, dtype=np.int64)
    late = x.position >= options.first
    if encoding is not None and late.any():
        fired, documents = encoding.sparse(x.x[late]), x.document[late]
        for document in np.unique(documents):
            fires += np.asarray(fired[np.flatnonzero(documents == document)].sum(axis=0)) > 0
    typical = {"source": median_norm(x.x), "target": median_norm(y.x)}
    for side, rows in (("source", x), ("target", y)):
        odd = odd_rows(rows.x[rows.position >= options.first], typical[side])
        refuse_outliers(int(odd.sum()), len(odd), f"tokens at the {side}", 2 * SHARE)
    return Pilot(typical=typical, documents=len(np.unique(x.document)), fires=fires)


def odd_rows(rows: Any, typical: float) -> NDArray[np.bool_]:
    """Rows without a direction or of a sink's length."""
    norms = lengths(rows)
    return (norms > OUTLIER * typical) | (norms == 0)


def refuse_outliers(out: int, seen: int, what: str, most: float) -> None:
    """Refuse to leave out more than the share ``most`` of what was seen."""
    if out > most * seen:
        raise Refusal(
            f"leaving out {out / seen:.1%} of {seen} {what} as sinks",
            f"sinks are rare, and above {most:.0%} something else is wrong",
            "check that both sides are read at the block that was meant",
        )
