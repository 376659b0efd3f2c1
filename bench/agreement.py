"""Whether agreement of two verbalizers tells right texts from wrong ones: on two runs of the embedded pair.

The runs are made first, and hold directions that mean nothing::

    dragoman rank tiny-sae --by tiny-gemma-av --by tiny-smollm2-av --features random:200 -o runs/agreement
    python bench/agreement.py runs/agreement

For each reading of the first run beside the second's: agreement over nulls, and among features agreed on and not agreed
on the share of texts that name the planted category and that quote the one firing word, with Wilson intervals, and the
difference of both shares with a bootstrap interval over features; the same by the line of dealt texts alone, and the
AUROC of likeness. The embedder of agreement sees neither category nor words. Prints it, and writes
``bench/results/agreement.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.comparison.ranked import rank_runs
from dragoman.comparison.runs import Compared
from dragoman.dictionaries import open_dictionary
from dragoman.scoring.measures import of_one_text, single_words
from dragoman.stats.intervals import bootstrap, rate_interval
from dragoman.stats.planted import names_category
from dragoman.stats.roc import auroc
from dragoman.store import RunFolder, read_jsonl, write_json

RESULTS = Path(__file__).parent / "results" / "agreement.json"


def planted() -> dict[str, Sequence[str]]:
    """The words of each latent's category, of those that have one."""
    truth = open_dictionary("tiny-sae").truth
    words = {} if truth is None else truth.category_words
    return {one["id"]: words[one["category"]] for one in read_jsonl(tiny.data("tiny-latents"))}


def right_of(
    texts: Mapping[str, str], words: Mapping[str, Sequence[str]], single: Mapping[str, str]
) -> dict[str, dict[str, bool]]:
    """Of each feature's text whether it names the planted category, and whether it quotes the one firing word."""
    return {
        "category": {f: names_category(t, words[f]) for f, t in texts.items() if f in words},
        "firing word": {f: bool(of_one_text(t, single[f])[0]) for f, t in texts.items() if f in single},
    }


def split(right: Mapping[str, bool], agreed: Mapping[str, bool], likeness: Mapping[str, float]) -> dict[str, Any]:
    """Shares right among those agreed on and the others, their difference, and how well likeness tells them apart."""
    ids = sorted(right.keys() & agreed.keys())
    hits, same = (np.array([by[f] for f in ids], dtype=bool) for by in (right, agreed))
    found: dict[str, Any] = {}
    for name, rows in (("agreed", same), ("not agreed", ~same)):
        if rows.any():
            ends = rate_interval(hits[rows].astype(float))
            found[name] = {"n": int(rows.sum()), "right": round(float(hits[rows].mean()), 3), "interval": rounded(ends)}
    if same.any() and not same.all():

        def gap(rows: Any) -> float:
            mine, theirs = hits[rows][same[rows]], hits[rows][~same[rows]]
            return float(mine.mean() - theirs.mean()) if len(mine) and len(theirs) else float("nan")

        drawn = bootstrap(gap, len(ids), rng=np.random.default_rng(0))
        found["difference"] = round(gap(np.arange(len(ids))), 3)
        found["interval"] = rounded((drawn.low, drawn.high))
    if hits.any() and not hits.all():
        found["auroc of likeness"] = tells(np.array([likeness[f] for f in ids]), hits)
    return found


def tells(alike: Any, hits: Any) -> dict[str, Any]:
    """AUROC of right against wrong texts by likeness, bootstrapped over features."""

    def area(rows: Any) -> float:
        mine, theirs = alike[rows][hits[rows]], alike[rows][~hits[rows]]
        return auroc(mine, theirs) if len(mine) and len(theirs) else float("nan")

    drawn = bootstrap(area, len(hits), rng=np.random.default_rng(0))
    return {"n": len(hits), "value": round(area(np.arange(len(hits))), 3), "interval": rounded((drawn.low, drawn.high))}


def rounded(ends: Sequence[float]) -> list[float]:
    """The ends of an interval."""
    return [round(end, 3) for end in ends]


def main() -> None:
    """Rank, split by agreement, judge by what was planted."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("runs", type=Path, help="the folder that rank wrote two runs into")
    args = parse.parse_args()
    folders = [RunFolder.open(path) for path in sorted(args.runs.iterdir()) if (path / "manifest.json").exists()]
    words = planted()
    ranked, runs, figures = rank_runs(folders), [Compared.of(one) for one in folders], {}
    single = {
        f: word for run in runs for f, word in single_words(run.run).items()
    }  # who crosses counts where they fire
    for condition in ranked.conditions:
        (found,) = condition.over_nulls
        for line in (f"== {', '.join(condition.conditions)}", *found.lines):
            print(line)
        likeness = {one.feature: one.likeness for one in found.features}
        dealt = max(next(one for one in found.nulls if one.null == "dealt").lines)
        ways = {
            "agreed": {one.feature: one.agreed for one in found.features},
            "above the higher dealt line alone": {f: alike > dealt for f, alike in likeness.items()},
        }
        told: dict[str, Any] = found.model_dump(mode="json", exclude={"features"})
        for name, run, of in zip(ranked.names, runs, condition.conditions, strict=True):
            right = right_of(run.run.texts[of], words, single)
            told[name] = {
                kind: {way: split(hits, agreed, likeness) for way, agreed in ways.items()}
                for kind, hits in right.items()
            }
            for kind, by in told[name].items():
                print(f"{name}, {kind}: {by}")
        figures[", ".join(condition.conditions)] = told
    write_json(RESULTS, {"names": list(ranked.names), **figures})


if __name__ == "__main__":
    main()
