"""Shards without workers: all rows come back in order, whoever ends when; a row that ends everyone is found."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import Refusal, Site
from dragoman.core import Explanation
from dragoman.models.shards import AHEAD, MOST_ENDED, TRIES, Deal, Shard, cut
from dragoman.records import ENDED
from dragoman.runs.build import refuse_ended
from dragoman.runs.plan import Condition, Done, Plan, execute
from dragoman.store import RunFolder
from dragoman.verbalizers.protocol import Call
from verbalizer_doubles import ScriptedVerbalizer

SITE = Site("m", 1)


def explained(shard: Shard) -> list[Explanation]:
    return [Explanation(text=f"{shard.call}/{row}", raw="") for row in shard.rows]


def dealt(counts: list[int], workers: int, poison: set[str], chance: random.Random, often: float = 0.0) -> list[str]:
    """What workers answer that end at poison, and ``often`` of the time at anything, and answer in any order."""
    deal, busy, found = Deal(counts, workers), list[Shard](), list[str]()
    while not deal.over:
        while len(busy) < workers and (shard := deal.next()) is not None:
            busy.append(shard)
        shard = busy.pop(chance.randrange(len(busy)))
        if poison & {one.text for one in explained(shard)} or chance.random() < often:
            deal.lost(shard, "killed")
        else:
            deal.said(shard, explained(shard))
        found += [",".join(one.problems) or one.text for call in deal.whole() for one in call]
    return found


def test_calls_are_dealt_whole_but_for_the_last_ones_that_are_too_few() -> None:
    assert cut([5, 5, 5, 2], 2) == [Shard(0, range(5)), Shard(1, range(5)), Shard(2, range(5)), Shard(3, range(2))]
    assert cut([5, 5, 4], 2)[2:] == [Shard(2, range(2)), Shard(2, range(2, 4))]
    assert [len(one.rows) for one in cut([2048], 2)] == [1024, 1024]
    assert [len(one.rows) for one in cut([1], 4)] == [1] and cut([], 3) == []
    assert [len(one.rows) for one in cut([64] * 33, 64)] == [32] * 66


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5), st.integers(0, 2**32))
def test_every_row_comes_back_once_and_in_order_with_those_that_end_everyone_marked(
    counts: list[int], workers: int, seed: int
) -> None:
    chance = random.Random(seed)
    rows = [f"{call}/{row}" for call, count in enumerate(counts) for row in range(count)]
    poison = set(chance.sample(rows, min(len(rows), chance.randrange(3))))
    assert dealt(counts, workers, poison, chance) == [f"{ENDED},empty" if row in poison else row for row in rows]


def test_workers_that_end_by_chance_cost_no_row() -> None:
    found = dealt([6] * 9, 3, set(), random.Random(1), often=0.2)
    assert found == [f"{call}/{row}" for call in range(9) for row in range(6)]


def test_who_is_far_ahead_waits_for_the_first() -> None:
    deal = Deal([1] * 100, 2)
    first = deal.next()
    assert first is not None
    ahead = 0
    while (shard := deal.next()) is not None:
        deal.said(shard, explained(shard))
        ahead += 1
    assert AHEAD <= ahead <= 3 * AHEAD and not list(deal.whole())
    deal.lost(first, "killed")
    assert (again := deal.next()) == Shard(0, range(1), TRIES - 1)
    deal.said(again, explained(again))
    assert len(list(deal.whole())) == ahead + 1


def test_workers_that_end_whatever_they_are_given_end_the_run() -> None:
    every = {f"{call}/{row}" for call in range(40) for row in range(64)}
    with pytest.raises(Refusal, match=r"workers ended one after another, whatever they had to say \(killed\)"):
        dealt([64] * 40, 2, every, random.Random(0))
    some = {f"{call}/7" for call in range(40)}
    with pytest.raises(Refusal, match=f"{MOST_ENDED + 1} vectors each ended every worker"):
        dealt([64] * 40, 2, some, random.Random(0))


class Dealer(ScriptedVerbalizer):
    """Deals its calls to workers of which none survives some vectors."""

    deadly: float = 0.0

    def answers(self, calls: list[Call]) -> object:
        deal = Deal([call.count for call in calls], 2)
        while not deal.over:
            shard = deal.next()
            assert shard is not None
            vectors = calls[shard.call].vectors(shard.rows)
            if (vectors[:, 0] == self.deadly).any():
                deal.lost(shard, "killed")
            else:
                deal.said(shard, self.verbalize(vectors, **calls[shard.call].settings))
            yield from deal.whole()


def test_a_row_that_ended_everyone_is_kept_without_text_and_tried_again(tmp_path: Path) -> None:
    vectors = np.arange(1, 21, dtype=np.float32).reshape(10, 2)
    one = Condition(name="c", vectors=vectors, ids=tuple("abcdefghij"), labels=("",) * 10, verbalizer="by", site=SITE)
    plan = Plan(conditions=(one,), batch_size=4)

    def run(name: str, deadly: float) -> tuple[Done, bytes]:
        by = Dealer(SITE, 2, lambda row: f"said {row[0]:g}")
        by.deadly = deadly
        folder = RunFolder.create(tmp_path / name, {"plan_digest": plan.digest({"by": by})})
        return execute(plan, folder, {"by": by}), (folder.path / "rows.jsonl").read_bytes()

    done, whole = run("whole", -1)
    assert done == Done(0, 10)
    done, rows = run("run", 9)
    assert done == Done(0, 10)
    ours, theirs = rows.splitlines(), whole.splitlines()
    assert [at for at in range(10) if ours[at] != theirs[at]] == [4] and f'"{ENDED}", "empty"'.encode() in ours[4]
    assert run("run", 9) == (Done(10, 0), rows)
    with pytest.raises(Refusal, match="^feature e: every worker that was to say them ended; their rows have no text"):
        refuse_ended(RunFolder.open(tmp_path / "run"))
    assert run("run", -1) == (Done(10, 0), whole)
    assert refuse_ended(RunFolder.open(tmp_path / "run")).path == tmp_path / "run"
