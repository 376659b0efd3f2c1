"""What the lines of a study are worth: every measure beside its dealt null, latent by latent, and differences of lines.

In: a run whose manifest holds its lines. Out: plain values. Refuses nothing of its own. Intervals are over latents
(Student's t); differences are paired over the latents that both lines have, or Welch's where they have none in common;
Holm's correction is over all differences of a direction within one measure.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dragoman.measures.firing import final_token, named_table, spoken_of
from dragoman.stats.intervals import t_interval
from dragoman.stats.nulls import holm
from studies.ground import FAINT
from studies.judged import Heard, Said
from studies.row_judge import summary

PerLatent = Mapping[str, float | None]
TITLES = {
    "cofiring": "co-firing AUROC",
    "cofiring_silent": "co-firing AUROC, silent tokens alone",
    "lens": "lens overlap of 20",
    "word": "quotes the firing word",
    "token": "quotes it as final token",
}
DOCUMENTS = "documents (control)"
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of one line: value per latent, the same of dealt rows, words or texts."""

    own: PerLatent
    dealt: Sequence[float | None]

    def told(self) -> dict[str, Any]:
        """Mean, interval, n, and the mean of the dealt ones."""
        return summary(self.own, self.dealt)


def judged(heard: Heard, *, seed: int = 0) -> dict[str, Any]:
    """Every line of one direction, the differences that its study asked for, and the choice it makes."""
    kept = heard.run.manifest["measured"]
    values = {name: line_of(heard, name, told, kept["one_word"]) for name, told in kept["lines"].items()}
    lines = {
        name: {key: value for key, value in told.items() if key != "rows"}
        | {"measures": {measure: one.told() for measure, one in values[name].items()}}
        for name, told in kept["lines"].items()
    }
    return {
        "lines": lines,
        "differences": differences(values, kept["pairs"]),
        "choices": [chosen(values, one["among"], one["against"], seed=seed) for one in kept["choose"]],
        "notes": kept.get("notes", {}),
    }


def line_of(heard: Heard, name: str, told: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Measured]:
    """All measures that a line has."""
    found: dict[str, Measured] = {}
    if rows := told.get("rows"):
        for measure in ("cofiring", "cofiring_silent", "lens"):
            own = dict(zip(rows["ids"], rows[measure], strict=True))
            found[measure] = Measured(own=own, dealt=rows[f"{measure}_dealt"])
    if said := heard.said.get(name):
        found |= text_measures(said, words)
        if (documents := document_measure(heard, said)) is not None:
            found[DOCUMENTS] = documents
    return found


def text_measures(said: Said, words: Mapping[str, str]) -> dict[str, Measured]:
    """Whether each text quotes the word its latent fires on, at all and as the final token; dealt to other words."""
    mine = [words[i] for i in said.features]
    tokens = np.array([final_token(text) or "" for text in said.texts], dtype=object)
    tables = {
        "word": np.asarray(named_table([spoken_of(text) for text in said.texts], mine), dtype=np.float64),
        "token": (tokens[:, None] == np.array(mine, dtype=object)[None, :]).astype(np.float64),
    }
    return {measure: _of_table(table, said.features, mine) for measure, table in tables.items()}


def document_measure(heard: Heard, said: Said) -> Measured | None:
    """Whether texts name the category of the documents in which a latent fires most, of latents that have one.

    It sees documents and not features: texts of tokens at which a latent is silent name it as often.
    """
    with_one = [k for k, i in enumerate(said.features) if heard.latents[i].selectivity >= FAINT]
    if not with_one:
        return None
    table = heard.table(said)[np.ix_(with_one, with_one)]
    kinds = [heard.categories(said)[k] for k in with_one]
    return _of_table(table, [said.features[k] for k in with_one], kinds)


def _of_table(table: NDArray[np.float64], ids: Sequence[str], kinds: Sequence[str]) -> Measured:
    """The diagonal, and row by row the mean over latents of another kind."""
    label = np.array(kinds, dtype=object)
    other = label[:, None] != label[None, :]
    dealt = [float(row[apart].mean()) if apart.any() else None for row, apart in zip(table, other, strict=True)]
    return Measured(own=dict(zip(ids, np.diag(table).tolist(), strict=True)), dealt=dealt)


def differences(values: Mapping[str, Mapping[str, Measured]], pairs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """First less second of every pair whose lines are there, by measure, with Holm's p over the pairs."""
    there = [(a, b) for a, b in pairs if a in values and b in values]
    found: list[dict[str, Any]] = [{"first": a, "second": b, "measures": {}} for a, b in there]
    for measure in TITLES:
        tested = []
        for (a, b), line in zip(there, found, strict=True):
            if measure in values[a] and measure in values[b]:
                gap = difference(values[a][measure].own, values[b][measure].own)
                if gap is not None:
                    line["measures"][measure] = gap
                    tested.append(gap)
        if tested:
            for gap, p in zip(tested, holm(np.array([gap["p"] for gap in tested])).tolist(), strict=True):
                gap |= {"holm": p, "holds": p <= LEVEL, "compared": len(tested)}
    return found


def difference(first: PerLatent, second: PerLatent) -> dict[str, Any] | None:
    """Mean of first less second with interval and two-sided p; None with fewer than two latents a side."""
    a, b = ({i: v for i, v in one.items() if v is not None} for one in (first, second))
    if shared := [i for i in a if i in b]:
        gaps = np.array([a[i] - b[i] for i in shared])
        if len(gaps) < 2:
            return None
        mean, spread = float(gaps.mean()), float(gaps.std(ddof=1))
        low, high, p = t_interval(mean, spread, len(gaps)) if spread > 0 else (mean, mean, float(mean == 0))
        return {"value": mean, "low": low, "high": high, "p": p, "n": len(gaps), "paired": True}
    left, right = np.array(list(a.values())), np.array(list(b.values()))
    return welch(left, right) if min(len(left), len(right)) > 1 else None


def welch(left: NDArray[np.float64], right: NDArray[np.float64]) -> dict[str, Any] | None:
    """Difference of two means with Welch's interval and p; None where neither side varies."""
    if np.ptp(left) == np.ptp(right) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of values that are nearly all alike on one side
        test: Any = stats.ttest_ind(left, right, equal_var=False)
    low, high = test.confidence_interval(0.95)
    told = {"value": float(left.mean() - right.mean()), "low": float(low), "high": float(high), "p": float(test.pvalue)}
    return told | {"n": [len(left), len(right)], "paired": False}


def chosen(
    values: Mapping[str, Mapping[str, Measured]], among: Sequence[str], against: str, *, seed: int
) -> dict[str, Any]:
    """The line whose texts name most firing words on one half of the latents, and what it gains on the other half."""
    ids = sorted(values[against]["word"].own, key=int)
    order = np.random.default_rng(seed).permutation(len(ids))
    halves = [[ids[k] for k in sorted(order[part::2])] for part in (0, 1)]
    rates = {name: float(np.mean([values[name]["word"].own[i] for i in halves[0]])) for name in among}  # type: ignore[misc]
    best = max(among, key=lambda name: rates[name])
    own, other = ({i: values[name]["word"].own[i] for i in halves[1]} for name in (best, against))
    return {
        "best": best,
        "against": against,
        "among": len(among),
        "chosen_on": len(halves[0]),
        "rate_there": rates[best],
        "gain": difference(own, other),
    }
