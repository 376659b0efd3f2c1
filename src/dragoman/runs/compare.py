"""Two runs compared, and several verbalizers in one table, as a caller in Python asks for it.

In: ``Run``s or their folders. Out: a ``Comparison``. Refuses what ``dragoman.comparison`` refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dragoman.comparison import compare_runs
from dragoman.comparison.ranked import rank_runs
from dragoman.comparison.records import Comparison, Ranking
from dragoman.core import Talk
from dragoman.runs.given import conditions_of, path_of, several_of, talk_of
from dragoman.runs.options import check_seed
from dragoman.runs.run import Run
from dragoman.store import RunFolder


def compare(
    a: Run | str | Path, b: Run | str | Path, *, conditions: Sequence[str] = (), seed: int = 0, talk: Talk | None = None
) -> Comparison:
    """Compare two settings feature by feature: every measure that both runs can carry, A less B, all tests counted.

    Args:
        a: a run, or its folder.
        b: another of the same dictionary and target; the same one, where two of its conditions are compared.
        conditions: which go together, "NAME" of both or "NAME_A=NAME_B"; those that both have when empty.
        seed: of bootstrap and permutations.
        talk: where progress goes.

    Raises:
        Refusal: the runs are not finished, are of different dictionaries or targets, or share no feature or condition.
    """
    check_seed(seed)
    asked = conditions_of(conditions)
    return compare_runs(_folder(a, "a"), _folder(b, "b"), conditions=asked, seed=seed, talk=talk_of(talk))


def rank(
    runs: Sequence[Run | str | Path], *, conditions: Sequence[str] = (), seed: int = 0, talk: Talk | None = None
) -> Ranking:
    """Several verbalizers in one table: every measure that all runs have, on the features that all have.

    Args:
        runs: runs of one dictionary, or their folders, a verbalizer each; their targets may differ.
        conditions: which are ranked; those that all runs have when empty.
        seed: of bootstrap and permutations.
        talk: where progress goes.

    Raises:
        Refusal: fewer than two runs, or the runs are not finished, are of different dictionaries or share no feature.
    """
    check_seed(seed)
    asked, every = conditions_of(conditions), several_of(runs, "runs", "pass a list of runs, or of their folders")
    return rank_runs([_folder(one, "runs") for one in every], conditions=asked, seed=seed, talk=talk_of(talk))


def _folder(run: Run | str | Path, name: str) -> RunFolder:
    return run.folder if isinstance(run, Run) else RunFolder.open(path_of(run, name, "pass a run, or its folder"))
