"""What is known of one explanation before anybody checks it, as named numbers.

In: its direction's card, its samples, its flags, and whatever else was measured. Out: ``Evidence``, name -> number or
None where it could not be had; the words for each name. Refuses infinite numbers. Nothing here may know the answer: no
native text, no planted category, no label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.records import Card

Evidence = dict[str, float | None]

# Sizes that span decades are read on a log scale; a zero norm or count is as good as this small.
LOGARITHMIC = frozenset({"n_eff", "norm", "tokens"})
SMALLEST = 1e-6
MISSING = " is missing"  # after a name: that it could not be had counts by itself

# Every piece of evidence, what the page calls it, and what more of it may do to the chance of being right: no less (1),
# no more (-1), either (0). A sign known beforehand keeps a confidence fitted on few features from turning one of
# several numbers that say the same against the others.
_EVIDENCE: Mapping[str, tuple[str, int]] = {
    "coverage": ("coverage", 1),
    "coverage_over_random": ("coverage against random", 1),
    "coverage_over_dictionary": ("coverage in the dictionary", 1),
    "kappa": ("kappa", 1),
    "rel": ("reliability", 1),
    "cycle": ("round trip", 1),
    "cycle_over_dictionary": ("round trip in the dictionary", 1),
    "purity": ("purity", 1),
    "n_eff": ("effective documents", 0),
    "agreement": ("agreement", 1),
    "margin": ("margin", 1),
    "home_agreement": ("agreement at home", 1),
    "home_margin": ("margin at home", 1),
    "norm": ("length", 0),
    "sample_agreement": ("agreement of its samples", 1),
    "log_probability": ("how readily it was said", 1),
    "problems": ("flags on the text", -1),
    "tokens": ("length of the text", 0),
    "detection": ("telling where it fires", 1),
    "detection_cosine": ("nearness to where it fires", 1),
    "detection_centred": ("nearness to where it fires, less what all texts share", 1),
    "context_gap": ("how alike the places are where it fires", 1),
    "reconstruction": ("what was read back at the target", 1),
    "reconstruction_rank": ("rank of what was read back at the target", -1),
    "reconstruction_source": ("what was read back at the source", 1),
    "reconstruction_source_rank": ("rank of what was read back at the source", -1),
    "arrived": ("whether the vector arrived at all", 0),
}
WORDS: Mapping[str, str] = {name: words for name, (words, _) in _EVIDENCE.items()}
SIGNS: Mapping[str, int] = {name: sign for name, (_, sign) in _EVIDENCE.items() if sign}


def evidence_words(name: str) -> str:
    """What a piece of evidence is called, also one that is missing; a name nobody knows stands for itself."""
    bare = name.removesuffix(MISSING)
    return WORDS.get(bare, bare) + (" (not measured)" if bare != name else "")


def evidence(
    card: Card | None,
    *,
    samples: NDArray[Any] | None = None,
    problems: Sequence[str] = (),
    tokens: int | None = None,
    **more: float | None,
) -> Evidence:
    """Evidence on one explanation.

    Args:
        card: the direction's card; every number on it is taken under its name (words are not), ``n_eff`` and ``norm``
            as logarithms.
        samples: (m, e) unit embeddings of the explanations sampled for this direction: ``sample_agreement`` is their
            mean cosine, None below two.
        problems: health checks that failed: ``problems`` is how many.
        tokens: how many were decoded.
        **more: anything else by name, such as ``reconstruction`` or ``log_probability``.
    """
    raw: dict[str, float | None] = {}
    if card is not None:
        raw |= {name: value for name, value in card if name in WORDS}
    raw |= {"sample_agreement": sample_agreement(samples), "problems": len(problems), "tokens": tokens} | more
    return {name: _number(name, value) for name, value in raw.items()}


def sample_agreement(samples: NDArray[Any] | None) -> float | None:
    """Mean cosine over the pairs of unit rows (m, e); None below two rows."""
    if samples is None or len(samples) < 2:
        return None
    rows, m = np.asarray(samples, dtype=np.float64), len(samples)
    return float((np.sum(rows.sum(axis=0) ** 2) - np.sum(rows**2)) / (m * (m - 1)))


def _number(name: str, value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    number = float(value)
    if math.isinf(number):
        raise Refusal(f"evidence '{name}'", "it is infinite", "leave it out (None) where it could not be measured")
    return math.log(max(number, SMALLEST)) if name in LOGARITHMIC else number
