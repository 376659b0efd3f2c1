"""What is known of one explanation before anybody checks it, as named numbers.

In: its direction's card, its samples, its health, and whatever else was measured. Out: ``Evidence``, name -> number or
None where it could not be had. Refuses infinite numbers. Nothing here may know the answer: no native text, no planted
category, no label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal

Evidence = dict[str, float | None]

# Sizes that span decades are read on a log scale; a zero norm or count is as good as this small.
LOGARITHMIC = frozenset({"n_eff", "norm", "tokens"})
SMALLEST = 1e-6

# What more of a number may do to the chance of being right: no less (1) or no more (-1). Known beforehand, it keeps a
# confidence fitted on few features from turning one of several that say the same against the others.
SIGNS: Mapping[str, int] = dict.fromkeys(
    (
        "agreement",
        "coverage",
        "coverage_over_dictionary",
        "coverage_over_random",
        "cycle",
        "cycle_over_dictionary",
        "detection",
        "detection_centred",
        "detection_cosine",
        "context_gap",
        "home_agreement",
        "home_margin",
        "kappa",
        "log_probability",
        "margin",
        "purity",
        "reconstruction",
        "reconstruction_source",
        "rel",
        "sample_agreement",
    ),
    1,
) | {"fallback": -1, "problems": -1, "reconstruction_rank": -1, "reconstruction_source_rank": -1}


def evidence(
    card: Mapping[str, Any] | None,
    *,
    samples: NDArray[Any] | None = None,
    problems: Sequence[str] = (),
    tokens: int | None = None,
    **more: float | None,
) -> Evidence:
    """Evidence on one explanation.

    Args:
        card: the direction's card; every number or yes-and-no on it is taken under its name (words are not),
            ``n_eff`` and ``norm`` as logarithms.
        samples: (m, e) unit embeddings of the explanations sampled for this direction: ``sample_agreement`` is their
            mean cosine, None below two.
        problems: health checks that failed: ``problems`` is how many.
        tokens: how many were decoded.
        **more: anything else by name, such as ``reconstruction``, ``log_probability``, ``fallback`` (phrases said), or
            the agreement of two routes' texts.
    """
    raw: dict[str, Any] = {k: v for k, v in (card or {}).items() if v is None or isinstance(v, int | float | np.number)}
    raw |= {"sample_agreement": sample_agreement(samples), "problems": len(problems), "tokens": tokens} | more
    return {name: _number(name, value) for name, value in raw.items()}


def sample_agreement(samples: NDArray[Any] | None) -> float | None:
    """Mean cosine over the pairs of unit rows (m, e); None below two rows."""
    if samples is None or len(samples) < 2:
        return None
    rows, m = np.asarray(samples, dtype=np.float64), len(samples)
    return float((np.sum(rows.sum(axis=0) ** 2) - np.sum(rows**2)) / (m * (m - 1)))


def percentiles(rows: Sequence[Evidence], reference: Sequence[Evidence]) -> list[Evidence]:
    """Each number as its place (0 to 1, ties at the middle) among the same number of ``reference`` rows.

    Coverage, margins and norms have another scale in every pair of models: what carries over is where a direction
    stands among its own dictionary's. The reference needs no outcomes; take the whole dictionary, or a random part of
    it. What is missing, or missing in all of the reference, stays None.
    """
    if not rows or not reference:
        raise Refusal(
            f"percentiles of {len(rows)} rows among {len(reference)}",
            "a place needs something to stand among",
            "pass at least one row of each",
        )
    names = {name for row in rows for name in row}
    known = {n: np.sort([v for row in reference if (v := row.get(n)) is not None]) for n in names}
    return [
        {
            name: None
            if value is None or not len(known[name])
            else float(
                (np.searchsorted(known[name], value, "left") + np.searchsorted(known[name], value, "right"))
                / (2 * len(known[name]))
            )
            for name, value in row.items()
        }
        for row in rows
    ]


def _number(name: str, value: Any) -> float | None:
    if value is None or math.isnan(value):
        return None
    number = float(value)
    if math.isinf(number):
        raise Refusal(f"evidence '{name}'", "it is infinite", "leave it out (None) where it could not be measured")
    return math.log(max(number, SMALLEST)) if name in LOGARITHMIC else number
