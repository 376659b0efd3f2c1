"""Everything known of a condition's explanations before anybody checks them, as evidence for a confidence.

In: a condition's rows; where a sentence model places their texts; what a reconstructor made of them; contexts of the
features. Out: one ``Evidence`` for each feature. Refuses embeddings and outputs that are not one per row. Nothing here
knows an answer: no native text, no planted category, no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import Evidence, evidence
from dragoman.core import Directions, Floats, Refusal
from dragoman.records import Row
from dragoman.stats.detection import ContextEmbeddings
from dragoman.stats.roc import auroc

Doubles = NDArray[np.float64]


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
