"""Does a feature fire on what its own model writes from the texts about it? And what was written.

In: a run that holds its dictionary's rows, the dictionary, the source's model. Out: passages by condition and feature,
each with the feature's largest activation on it; an estimate by condition. Refuses runs of many features or of none
with a text, dictionaries without an encoder or other than the one that was explained, and what reading refuses.

Generation score of Paulo et al., "Automatically Interpreting Millions of Features" (2024, arXiv 2410.13928), of first
samples. A text is right here when its feature fires more on what is written from it than other features do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dragoman.core import Directions, Estimate, Refusal
from dragoman.dictionaries import READ_AS, Dictionary, open_dictionary
from dragoman.measures.overlap import rank_estimate
from dragoman.records import SOURCE_ROWS
from dragoman.scores import FeatureGenerated, Passage
from dragoman.scoring.judged_run import FEWEST, JudgedRun
from dragoman.scoring.reconstruction import sought_directions

if TYPE_CHECKING:
    from dragoman.models.harvest import Reader
    from dragoman.models.language import Judge

STATISTIC = "how often a feature fires more on passages written from its own text than another feature does (AUROC)"
PASSAGES, TOKENS = 3, 40  # written from each text, and the most of one
MOST = 2000  # features of a run: each is written from three times in every condition
_LONGEST = 400  # characters of a passage that are kept
_SAME = 1e-3  # how far apart the rows explained and the dictionary's may be
Generated = dict[str, tuple[FeatureGenerated, ...]]


def generative(run: JudgedRun) -> tuple[Dictionary, dict[str, dict[str, str]]]:
    """The run's dictionary, and condition -> feature -> text to write from, of the conditions that claims are made of.

    Raises:
        Refusal: as the module says; no model is opened for it.
    """
    what = f"generation by {run.folder.path}"
    texts = {name: {i: text for i, text in run.texts[name].items() if text.strip()} for name in run.claims}
    texts = {name: by for name, by in texts.items() if by}
    features = list(dict.fromkeys(i for by in texts.values() for i in by))
    if not features:
        raise Refusal(what, "it holds no text about a feature", "leave --generate out")
    if len(features) > MOST:
        why = f"its {len(features)} features would each be written from, and {MOST} are the most"
        raise Refusal(what, why, "explain fewer in a run of their own, or leave --generate out")
    told, settings = (run.folder.manifest.get(part) or {} for part in ("dictionary", "settings"))
    ref = told.get("ref") if isinstance(told, Mapping) else None
    if not isinstance(ref, str):
        raise Refusal(what, "it does not name its dictionary", "leave --generate out")
    how = {word: settings[word] for word in READ_AS if isinstance(settings, Mapping) and settings.get(word) is not None}
    opened = open_dictionary(ref, site=run.source, **how)
    opened.check_encoder()
    _refuse_another(run, opened, features)
    if told.get("files") != opened.fingerprint():
        raise Refusal(what, f"the files of {opened.name} are not those that it explained", "explain it again")
    return opened, texts


def _refuse_another(run: JudgedRun, opened: Dictionary, features: list[str]) -> None:
    """Refuse a dictionary whose rows are not those that were explained."""
    what = f"generation by {run.folder.path}"
    rows = sought_directions(run, run.source)
    if not isinstance(rows, Directions) or not set(features) <= set(rows.ids):
        raise Refusal(what, f"its {SOURCE_ROWS} rows are not those of its features", "leave --generate out")
    if wrong := next((i for i in features if not i.isdecimal()), None):
        raise Refusal(what, f"feature '{wrong}' is no number of a dictionary", "leave --generate out")
    chosen = opened.features(None if opened.indices else features).directions
    known = set(chosen.ids)
    there = [i for i in features if i in known]
    own, found = rows.pick(there).unit, chosen.pick(there).unit
    if len(there) < len(features) or own.shape != found.shape or np.abs(own - found).max() > _SAME:
        raise Refusal(what, f"{opened.name} holds other rows now than it explained", "explain it again")


def generation_scores(
    run: JudgedRun,
    asked: tuple[Dictionary, dict[str, dict[str, str]]],
    reader: Reader,
    judge: Judge,
    *,
    seed: int = 0,
    progress: Any = None,
) -> tuple[Generated, dict[str, Estimate]]:
    """Condition -> what was written of each feature; condition -> the estimate, of those with three features.

    Args:
        run: whose texts are written from.
        asked: as ``generative`` gives it.
        reader: the source's model, at the source.
        judge: the same model, to write.
        seed: of the draws, and of the deals behind p.
        progress: passages written, and all, condition by condition.
    """
    from dragoman.models.language import passage_peaks

    dictionary, texts = asked
    encoder, generated, found = dictionary.need_encoder(), Generated(), dict[str, Estimate]()
    for condition, by in texts.items():
        ids = list(by)
        passages = judge.write_from(list(by.values()), n=PASSAGES, tokens=TOKENS, seed=seed, progress=progress)
        peaks = passage_peaks(passages, reader, encoder, [int(i) for i in ids])
        generated[condition] = tuple(
            FeatureGenerated(
                feature=name,
                passages=tuple(
                    Passage(text=text[:_LONGEST], peak=round(float(peak), 5))
                    for text, peak in zip(some, own[:, k], strict=True)
                ),
            )
            for k, (name, some, own) in enumerate(zip(ids, passages, peaks, strict=True))
        )
        if len(ids) >= FEWEST:
            table = np.stack([own.mean(axis=0) for own in peaks])
            found[condition] = rank_estimate(table, statistic=STATISTIC, rng=np.random.default_rng(seed))
    return generated, found
