"""One calibrated probability for every explanation of a run, before anybody checks it.

In: a run, an embedder, kits of confidences, perhaps a reconstructor. Out: the part "confidence" of the scores. Refuses
what reading texts back refuses. Nothing here knows an answer: no native text, no planted category, no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dragoman.assess import ReadBack, assessed
from dragoman.core import Directions, Floats, Site, refuse_other_site
from dragoman.embed import Embedder
from dragoman.judge.contexts import embedded
from dragoman.judge.said import NOTHING, Once
from dragoman.score import Fallbacks, Judged, Kits
from dragoman.score.reconstruct import Reconstructor, mean_output
from dragoman.store import RunFolder

MANY = 30  # different texts that show a verbalizer's manner, which is then taken off before detection
CENTRED = 10  # different texts that show what all of them share; with fewer, a reconstruction cannot be centred
Rows = Sequence[Mapping[str, Any]]


def trusted(
    run: RunFolder,
    embedder: Embedder,
    kits: Kits,
    *,
    reconstructor: Reconstructor | None = None,
    directions: Directions | Mapping[str, Directions] | None = None,
    fallbacks: Fallbacks | None = None,
) -> dict[str, Any]:
    """Judge every explanation by the first kit whose evidence is there.

    Args:
        run: the folder; its ``contexts.json``, if there is one, gives ``detection`` and its kin.
        embedder: the one the kits were fitted with.
        kits: the confidences.
        reconstructor: at the target it gives ``reconstruction``, at the source ``reconstruction_source``, where there
            are ten different texts or more, on whose mean they are centred.
        directions: what it should find, at its site, as for ``judge_run``; the ranks are among these.
        fallbacks: the verbalizer's: gives ``fallback``.

    Returns:
        ``embedder``; ``kits``: name -> ``needs``, ``reads``, ``threshold``, ``fitted_on``, ``n``, ``right``, for those
        that spoke; ``per_feature``: condition -> rows of ``feature``, ``probability``, ``answered``, ``kit``, ``why``
        (rows of ``evidence`` and ``adds``). A feature for which no kit applies is left out, and so is its condition
        where that is so of all.
    """
    embedder, by_condition = Once(embedder), dict[str, list[dict[str, Any]]]()
    for row in run.rows():
        by_condition.setdefault(str(row["condition"]), []).append(row)
    contexts = embedded(run.contexts or {}, embedder)
    outputs = _outputs(by_condition, reconstructor) if reconstructor is not None and directions is not None else None
    distinct = list(dict.fromkeys(_text(r) for rows in by_condition.values() for r in rows if r["sample"] == 0))
    usual = embedder.encode(distinct).mean(axis=0) if len(distinct) >= MANY else None
    per_feature: dict[str, list[dict[str, Any]]] = {}
    spoke: set[str] = set()
    for condition, rows in by_condition.items():
        back = None
        if reconstructor is not None and outputs is not None:
            sought = directions if isinstance(directions, Directions) else (directions or {}).get(condition)
            back = _read_back(rows, outputs, sought, reconstructor.site, Site.parse(run.manifest["source"]))
        texts = embedder.encode([_text(row) for row in rows])
        features, evidence = assessed(rows, texts, read_back=back, contexts=contexts, usual=usual, fallbacks=fallbacks)
        told = [_told(f, one) for f, one in zip(features, kits.predict(evidence), strict=True) if one is not None]
        if told:
            per_feature[condition] = told
            spoke |= {row["kit"] for row in told}
    used = {kit.name: kit.told() for kit in kits.kits if kit.name in spoke}
    return {"embedder": embedder.name, "kits": used, "per_feature": per_feature}


def _text(row: Mapping[str, Any]) -> str:
    return row["text"].strip() or NOTHING


def _told(feature: str, one: Judged) -> dict[str, Any]:
    return {"feature": feature, **one.to_dict()}


def _outputs(by_condition: Mapping[str, Rows], reconstructor: Reconstructor) -> dict[str, Floats] | None:
    """What a reconstructor makes of every different first sample; None where there are too few to centre them."""
    distinct = list(dict.fromkeys(_text(r) for rows in by_condition.values() for r in rows if r["sample"] == 0))
    if len(distinct) < CENTRED:
        return None
    return dict(zip(distinct, reconstructor.reconstruct(distinct), strict=True))


def _read_back(
    rows: Rows, outputs: Mapping[str, Floats], sought: Directions | None, site: Site, source: Site
) -> dict[str, ReadBack] | None:
    """The evidence of one condition's texts read back, under the name of the reconstructor's place."""
    if sought is None:
        return None
    refuse_other_site("directions", sought.site, site)
    all_of_them = np.stack(list(outputs.values()))
    unread = np.full(all_of_them.shape[1:], np.nan, all_of_them.dtype)  # of later samples, which nobody asks for
    found = np.stack([outputs[_text(row)] if row["sample"] == 0 else unread for row in rows])
    back = ReadBack(outputs=found, mean=mean_output(all_of_them), sought=sought, rivals=sought)
    at_home = (site.model, site.block) == (source.model, source.block)
    return {"reconstruction_source" if at_home else "reconstruction": back}
