"""Does a carried row, added to the target's stream, raise the words that the feature's own row writes?

In: a run that holds lens words and its carried rows, the target's model. Out: an estimate by condition. Refuses runs
without either, or of which no condition has three features with words, and what reading and steering a model refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dragoman import tiny
from dragoman.core import Directions, Estimate, Refusal
from dragoman.measures.overlap import rank_auroc, rank_estimate
from dragoman.scoring.judged_run import FEWEST, JudgedRun
from dragoman.scoring.reconstruction import sought_directions
from dragoman.store import read_jsonl

if TYPE_CHECKING:
    from dragoman.models.harvest import Reader

STATISTIC = "how often a carried row raises the words of its own feature above those of another one (AUROC)"


def steerable(run: JudgedRun) -> dict[str, tuple[Directions, list[list[str]]]]:
    """Condition -> rows as they arrived, before washout, and the words that each feature's own row writes most.

    Raises:
        Refusal: no lens words are kept with the run, its rows are not, or no condition has three features with words.
    """
    what, lens = f"steering by {run.folder.path}", run.folder.lens
    if not lens:
        why = "it holds no lens words: its rows did not cross, or a lens could not be read"
        raise Refusal(what, why, "leave --steer out, or explain it again")
    rows, found = sought_directions(run, run.target), dict[str, tuple[Directions, list[list[str]]]]()
    for condition, by_feature in lens.items():
        own = rows if isinstance(rows, Directions) else rows.get(condition)
        if own is None or condition not in run.entries:
            continue
        there = [i for i in own.ids if i in run.texts[condition] and by_feature.get(i, {}).get("source")]
        if len(there) >= FEWEST:
            found[condition] = own.pick(there), [by_feature[i]["source"] for i in there]
    if not found:
        raise Refusal(what, f"no condition has {FEWEST} features with lens words", "leave --steer out")
    return found


def steering_scores(run: JudgedRun, reader: Reader, *, seed: int = 0) -> dict[str, tuple[Estimate, dict[str, float]]]:
    """Condition -> share of other features whose words a row raises less than its own feature's: mean, and by feature.

    Args:
        run: with lens words and rows.
        reader: the target's model, at the target's site.
        seed: of the deals behind p.

    Raises:
        Refusal: as the module says.
    """
    from dragoman.models.steer import steering_table

    asked, typical = steerable(run), reader.typical(_usual_texts(run))
    found = dict[str, tuple[Estimate, dict[str, float]]]()
    for condition, (rows, lists) in asked.items():
        there = _begun(reader, lists)  # a list of words that no token begins raises nothing
        if len(there) >= FEWEST:
            own, words = rows.pick(rows.ids[k] for k in there), [lists[k] for k in there]
            table = steering_table(reader, own.unit, words, median_norm=typical)
            mean = rank_estimate(table, statistic=STATISTIC, rng=np.random.default_rng(seed))
            found[condition] = mean, dict(zip(own.ids, rank_auroc(table).tolist(), strict=True))
    if not found:
        why = f"no condition has {FEWEST} features with words that the tokenizer of {run.target.model} begins"
        raise Refusal(f"steering by {run.folder.path}", why, "leave --steer out")
    return found


def _begun(reader: Reader, lists: Sequence[Sequence[str]]) -> list[int]:
    """Which lists hold a word that the tokenizer begins with a token of its own."""
    from dragoman.models.steer import first_tokens

    words = sorted({word for some in lists for word in some})
    tokens = first_tokens(reader.tokenizer, words)
    known = {word for word, token in zip(words, tokens, strict=True) if token is not None}
    return [k for k, some in enumerate(lists) if known.intersection(some)]


def with_steering(
    measures: Mapping[str, Mapping[str, Estimate]], steering: Mapping[str, Estimate]
) -> dict[str, dict[str, Estimate]]:
    """Measures by condition with ``steering`` among them."""
    return with_measure(measures, "steering", steering)


def with_measure(
    measures: Mapping[str, Mapping[str, Estimate]], name: str, estimates: Mapping[str, Estimate]
) -> dict[str, dict[str, Estimate]]:
    """Measures by condition with one more among them."""
    found = {condition: dict(by) for condition, by in measures.items()}
    for condition, one in estimates.items():
        found.setdefault(condition, {})[name] = one
    return found


def _usual_texts(run: JudgedRun) -> list[str]:
    """What the stream's usual length is read from: the run's own windows, else the packaged documents."""
    windows = [text for entry in run.contexts.values() for kind in ("firing", "silent") for text in entry.get(kind, ())]
    return windows or [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "map"]
