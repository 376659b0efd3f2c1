"""Everything known of a condition's explanations before anybody checks them, as evidence for a confidence.

In: a condition's rows; where a sentence model places their texts; what a reconstructor made of them; contexts of the
features. Out: features and one ``Evidence`` each. Refuses embeddings and outputs that are not one per row. Nothing here
knows an answer: no native text, no planted category, no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Refusal
from dragoman.score.detection import Contexts
from dragoman.score.evidence import Evidence, evidence
from dragoman.score.fallback import Fallbacks
from dragoman.score.roc import auroc

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


def assessed(
    rows: Sequence[Mapping[str, Any]],
    texts: Floats,
    *,
    read_back: Mapping[str, ReadBack] | None = None,
    contexts: Mapping[str, Contexts] | None = None,
    usual: Floats | None = None,
    fallbacks: Fallbacks | None = None,
) -> tuple[list[str], list[Evidence]]:
    """Evidence on each feature's first sample.

    Args:
        rows: of one condition, all samples, as in ``rows.jsonl``.
        texts: (n, e) unit embeddings of the rows' texts.
        read_back: by name ("reconstruction" for the target's; "reconstruction_source"); each gives NAME, the centred
            cosine with what was sought, and NAME_rank, the logarithm of its place among the rivals.
        contexts: by feature, embedded with the same embedder: gives ``detection``, the AUROC of the text for firing
            against silent contexts, ``detection_cosine``, its cosine with the difference of their means, and of the
            contexts alone ``context_gap``, how much more alike firing ones are among themselves than to silent ones.
        usual: (e,) mean embedding of what this verbalizer says of anything: ``detection_centred`` is the cosine with
            that taken off the text, which removes its manner.
        fallbacks: the verbalizer's: gives ``fallback``, how many of its phrases the text uses.

    Raises:
        Refusal: not one embedding or output per row.
    """
    for what, found in {"texts": texts, **{k: r.outputs for k, r in (read_back or {}).items()}}.items():
        if len(found) != len(rows):
            raise Refusal(f"{len(found)} {what} for {len(rows)} rows", "each row has one", "read the same rows")
    samples: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        samples.setdefault(str(row["feature"]), []).append(number)
    first = {name: min(numbers, key=lambda k: rows[k]["sample"]) for name, numbers in samples.items()}
    found = {name: _found(back, first) for name, back in (read_back or {}).items()}
    features = list(samples)
    out: list[Evidence] = []
    for place, name in enumerate(features):
        row, said = rows[first[name]], np.asarray(texts[first[name]], dtype=np.float64)
        more: dict[str, float | None] = {"log_probability": row.get("log_probability")}
        for key, (cosine, rank) in found.items():
            more |= {key: cosine[place], f"{key}_rank": rank[place]}
        more |= _detected(said, contexts.get(name) if contexts else None, usual)
        if fallbacks is not None:
            more["fallback"] = len(fallbacks.said(row["text"]))
        out.append(
            evidence(
                row["card"],
                samples=texts[samples[name]],
                problems=row["problems"],
                tokens=row["tokens"],
                **more,
            )
        )
    return features, out


def _found(back: ReadBack, first: Mapping[str, int]) -> tuple[list[float | None], list[float | None]]:
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


def _detected(said: Doubles, contexts: Contexts | None, usual: Floats | None) -> dict[str, float | None]:
    names = ("detection", "detection_cosine", "detection_centred", "context_gap")
    if contexts is None:
        return dict.fromkeys(names)
    firing, silent = contexts.firing.astype(np.float64), contexts.silent.astype(np.float64)
    contrast = firing.mean(axis=0) - silent.mean(axis=0)
    contrast /= max(float(np.linalg.norm(contrast)), 1e-12)
    alike = (np.sum(firing.sum(axis=0) ** 2) - len(firing)) / (len(firing) * (len(firing) - 1))
    centred = None
    if usual is not None:
        own = said - usual
        centred = float(own @ contrast / max(float(np.linalg.norm(own)), 1e-12))
    gap = float(alike - np.mean(firing @ silent.T))
    return dict(zip(names, (auroc(firing @ said, silent @ said), float(said @ contrast), centred, gap), strict=True))
