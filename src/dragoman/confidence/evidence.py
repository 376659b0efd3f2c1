"""What is known of explanations before anybody checks them, as named numbers: the evidence for a confidence.

In: a condition's rows with their cards and flags; where a sentence model places their texts; what a reconstructor made
of them; contexts of the features. Out: one ``Evidence`` for each feature, name -> number or None where it could not be
had; the words for each name. Refuses infinite numbers, and embeddings and outputs that are not one per row. Nothing
here knows an answer: no native text, no planted category, no label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Refusal
from dragoman.records import Card, Row
from dragoman.stats.roc import ContextEmbeddings, auroc

Evidence = dict[str, float | None]

# Sizes that span decades are read on a log scale; a zero norm or count is as good as this small.
LOGARITHMIC = frozenset({"n_eff", "norm", "tokens", "row_sharpness", "row_share"})
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
    "detection_rank": ("telling where it fires, among other texts' sentences", 1),
    "named_share": ("activation on the words it quotes", 1),
    "words_held": ("its quoted words where it fires, less where it is silent", 1),
    "one_word_share": ("activation on one word", 0),
    "lens_overlap": ("words that both rows write", 1),
    "lens_named": ("naming a word that its row writes", 1),
    "readings_agree": ("agreement of the two readings", 1),
    "of_token": ("it speaks of the final token", 0),
    "of_words": ("it quotes several words", 0),
    "by_firing": ("it is the reading of where it fires", 0),
    "row_sharpness": ("standing out along its row where it fires", 1),
    "row_cosine": ("its row beside where it fires", 1),
    "row_share": ("share of documents it fires in", 0),
}
WORDS: Mapping[str, str] = {name: words for name, (words, _) in _EVIDENCE.items()}
SIGNS: Mapping[str, int] = {name: sign for name, (_, sign) in _EVIDENCE.items() if sign}
Doubles = NDArray[np.float64]


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadBack:
    """What a reconstructor made of rows' texts, beside what it should have found.

    ``outputs``: (n, d) one per row. ``mean``: (d,) mean unit output over many texts, taken off. ``sought``: unit rows
    by feature at the reconstructor's site: what was injected, before any washout, or the dictionary's own.
    ``rivals``: a dictionary at the same site whose rows the sought one is ranked among, by id; None for no ranks.
    """

    outputs: NDArray[Any]
    mean: Doubles
    sought: Directions
    rivals: Directions | None = None


def gather_evidence(
    rows: Sequence[Row],
    texts: Floats,
    *,
    read_back: Mapping[str, ReadBack] | None = None,
    contexts: Mapping[str, ContextEmbeddings] | None = None,
    usual: Floats | None = None,
) -> dict[str, Evidence]:
    """Evidence on each feature's first sample, by feature in the order of the rows.

    Args:
        rows: of one condition, all samples.
        texts: (n, e) unit embeddings of the rows' texts.
        read_back: by name ("reconstruction" for the target's; "reconstruction_source"); each gives NAME, the centred
            cosine with what was sought, and NAME_rank, the logarithm of its place among the rivals.
        contexts: by feature, embedded with the same embedder: gives ``detection``, the AUROC of the text for firing
            against silent contexts, ``detection_cosine``, its cosine with the difference of their means, and of the
            contexts alone ``context_gap``, how much more alike firing ones are among themselves than to silent ones.
        usual: (e,) mean embedding of what this verbalizer says of anything: ``detection_centred`` is the cosine with
            that taken off the text, which removes its manner.

    Raises:
        Refusal: not one embedding or output per row.
    """
    for what, given in {"texts": texts, **{k: r.outputs for k, r in (read_back or {}).items()}}.items():
        if len(given) != len(rows):
            raise Refusal(f"{len(given)} {what} for {len(rows)} rows", "each row has one", "read the same rows")
    samples: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        samples.setdefault(row.feature, []).append(number)
    first = {name: min(numbers, key=lambda k: rows[k].sample) for name, numbers in samples.items()}
    cosines = {name: _cosines(back, first) for name, back in (read_back or {}).items()}
    gathered: dict[str, Evidence] = {}
    for place, name in enumerate(samples):
        row, text = rows[first[name]], np.asarray(texts[first[name]], dtype=np.float64)
        more: dict[str, float | None] = {"log_probability": row.log_probability}
        for key, (cosine, rank) in cosines.items():
            more |= {key: cosine[place], f"{key}_rank": rank[place]}
        more |= _detection(text, contexts.get(name) if contexts else None, usual)
        gathered[name] = evidence(
            row.card, samples=texts[samples[name]], problems=row.problems, tokens=row.tokens, **more
        )
    return gathered


def _cosines(back: ReadBack, first: Mapping[str, int]) -> tuple[list[float | None], list[float | None]]:
    """Centred cosine with what was sought, and log of its place among the rivals, per feature."""
    unit = back.outputs[list(first.values())].astype(np.float64)
    centred = unit / np.linalg.norm(unit, axis=1, keepdims=True) - back.mean
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    where = {name: k for k, name in enumerate(back.sought.ids)}
    own: list[float | None] = [
        float(p @ back.sought.unit[where[name]]) if name in where else None
        for name, p in zip(first, centred, strict=True)
    ]
    if back.rivals is None:
        return own, [None] * len(own)
    cosines = centred @ back.rivals.unit.T.astype(np.float64)
    at = {name: k for k, name in enumerate(back.rivals.ids)}
    place: list[float | None] = []
    for k, (name, cosine) in enumerate(zip(first, own, strict=True)):
        if cosine is None:
            place.append(None)
            continue
        # The feature's own row among the rivals is no rival of what was sought for it.
        others = np.delete(cosines[k], at[name]) if name in at else cosines[k]
        place.append(float(np.log(1 + np.sum(others > cosine))))
    return own, place


def _detection(text: Doubles, contexts: ContextEmbeddings | None, usual: Floats | None) -> dict[str, float | None]:
    names = ("detection", "detection_cosine", "detection_centred", "context_gap")
    if contexts is None:
        return dict.fromkeys(names)
    firing, silent = contexts.firing.astype(np.float64), contexts.silent.astype(np.float64)
    contrast = firing.mean(axis=0) - silent.mean(axis=0)
    contrast /= max(float(np.linalg.norm(contrast)), 1e-12)
    alike = (np.sum(firing.sum(axis=0) ** 2) - len(firing)) / (len(firing) * (len(firing) - 1))
    centred = None
    if usual is not None:
        own = text - usual
        centred = float(own @ contrast / max(float(np.linalg.norm(own)), 1e-12))
    gap = float(alike - np.mean(firing @ silent.T))
    return dict(zip(names, (auroc(firing @ text, silent @ text), float(text @ contrast), centred, gap), strict=True))
