"""What a run's texts say of features, and its rows write of them, without a label: each beside its dealt null.

In: a run whose contexts tell on which words features fire, or which holds the lens words of rows. Out: estimates by
condition. Refuses nothing: what fewer than three features have is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate
from dragoman.measures.firing import WORD, final_token, named_table, names_word, one_word, spoken_of
from dragoman.measures.overlap import estimate, overlap_estimate, overlap_table
from dragoman.scores import FeatureMeasures
from dragoman.scoring.judged_run import FEWEST, JudgedRun

WORDS = "other features' firing words (dealt)"


def measure_scores(run: JudgedRun) -> dict[str, dict[str, Estimate]]:
    """Condition -> measure -> estimate over features.

    ``firing_word``: share of texts that quote the one word that has at least 0.7 of the feature's activation, of the
    features that have one; ``final_token``: share that call it the final token; ``lens_overlap``: of the twenty words
    that a feature's row writes most, how many the carried row writes as well. Dealt: the same texts or rows against
    other features with another word. ``run``: each of its features is compared with every other, see
    ``JudgedRun.compared``.
    """
    single, lens = single_words(run), run.folder.lens or {}
    found: dict[str, dict[str, Estimate]] = {}
    for condition, texts in run.texts.items():
        if condition not in run.entries:
            continue
        of_texts = text_measures({f: t for f, t in texts.items() if f in single}, single)
        own = of_texts | row_measures({f: words for f, words in lens.get(condition, {}).items() if f in texts})
        if own:
            found[condition] = own
    return found


def single_words(run: JudgedRun) -> dict[str, str]:
    """The one word of each feature that has one, which is no mark."""
    return {
        feature: word
        for feature, entry in run.contexts.items()
        if (word := one_word(entry.get("words") or {})) is not None and WORD.fullmatch(word)
    }


def of_one_text(text: str, word: str) -> tuple[float, float]:
    """Of one text and its feature's word, each 0 or 1: it quotes the word, and calls it the final token."""
    return float(names_word(spoken_of(text), word)), float(final_token(text) == word)


def text_measures(texts: Mapping[str, str], single: Mapping[str, str]) -> dict[str, Estimate]:
    """``firing_word`` and ``final_token`` of these texts; nothing where their features have fewer than three words.

    ``single``: the one word of each of their features.
    """
    words = [single[feature] for feature in texts]
    if len(set(words)) < FEWEST:
        return {}
    named = named_table([spoken_of(text) for text in texts.values()], words)
    tokens = [final_token(text) for text in texts.values()]
    last = np.array([[token == word for word in words] for token in tokens])
    return {
        "firing_word": _naming(named, words, "share of texts that quote the firing word"),
        "final_token": _naming(last, words, "share of texts that call the firing word the final token"),
    }


def _naming(table: NDArray[np.generic], words: Sequence[str], statistic: str) -> Estimate:
    """Own entries on the diagonal; dealt ones are those of features with another word."""
    label, values = np.array(words), np.asarray(table, dtype=np.float64)
    dealt = float(values[label[:, None] != label[None, :]].mean())
    return estimate(np.diag(values), dealt, statistic=statistic, null=WORDS)


def row_measures(lens: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Estimate]:
    """``lens_overlap`` of these features' lens words; nothing of fewer than three features."""
    if len(lens) < FEWEST:
        return {}
    table = overlap_table([one["carried"] for one in lens.values()], [one["source"] for one in lens.values()])
    return {"lens_overlap": overlap_estimate(table)}


def with_measured(
    measured: Mapping[str, Sequence[FeatureMeasures]], name: str, values: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[FeatureMeasures, ...]]:
    """Single features' measures by condition, with those of one more measure among them.

    Args:
        measured: what there is.
        name: of the measure.
        values: condition -> feature -> its own.
    """
    found = {condition: {one.feature: one for one in some} for condition, some in measured.items()}
    for condition, by_feature in values.items():
        own = found.setdefault(condition, {})
        for feature, value in by_feature.items():
            one = own.get(feature, FeatureMeasures(feature=feature))
            own[feature] = one.model_copy(update={name: value})
    return {condition: tuple(by.values()) for condition, by in found.items()}
