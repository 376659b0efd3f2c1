"""Calls cut into shards and dealt to workers, of which some end before they have answered.

In: how many rows each call has, how many workers there are; what became of each shard. Out: the shards to be said, and
the answers of whole calls, in order. Refuses workers that end whatever they are given.

Calls are dealt whole, but for the last ones where they are too few for all workers: those are cut. A shard whose worker
ended is dealt again, twice; then by halves, until a single row is left that ends its workers. That row is answered with
no text and the problem ``records.ENDED``, and the others are said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from dragoman.core import Explanation, Refusal
from dragoman.records import ENDED

TRIES = 3  # of a shard before it is halved; a half has one, a single row two
# Workers that end without an answer in between: one row among 65,536 is found by 21, if nothing else is said meanwhile.
MOST_IN_A_ROW = 24
MOST_ENDED = 20  # rows of a run that end their workers: with more of them it is not the rows
AHEAD = 8  # shards a worker may be ahead of the first call that is not whole: what is lost with the driver


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of one call; ``tries`` are left."""

    call: int
    rows: range
    tries: int = TRIES


def cut(counts: Sequence[int], workers: int) -> list[Shard]:
    """Shards of calls of so many rows: whole calls, but for the last ones where they are fewer than workers."""
    whole = len(counts) // workers * workers
    left = len(counts) - whole
    parts = [1] * whole + [-(-workers // left)] * left if left else [1] * whole
    found = []
    for call, (count, most) in enumerate(zip(counts, parts, strict=True)):
        size = -(-count // min(most, max(count, 1))) or 1
        found += [Shard(call, range(at, min(at + size, count))) for at in range(0, count, size)]
    return found


class Deal:
    """Which shard is said next, and what has been answered.

    ``ended``: rows so far that no worker survived.
    """

    def __init__(self, counts: Sequence[int], workers: int) -> None:
        """``counts``: rows of each call."""
        self._counts, self._ahead = list(counts), AHEAD * workers
        self._waiting = [(one.call, one.rows.start, one) for one in cut(counts, workers)]  # a heap: first comes first
        self._found: dict[int, list[Explanation | None]] = {}
        self._lacking = dict(enumerate(counts))
        self._next = self._in_a_row = self.ended = 0

    @property
    def over(self) -> bool:
        """Whether all calls are answered and taken."""
        return self._next == len(self._counts)

    @property
    def waiting(self) -> int:
        """How many shards nobody says yet."""
        return len(self._waiting)

    def next(self) -> Shard | None:
        """A shard to be said; None where none waits, or those that wait are too far ahead."""
        if not self._waiting or (len(self._found) > self._ahead and self._waiting[0][0] > self._next):
            return None
        return heappop(self._waiting)[-1]

    def said(self, shard: Shard, answers: Sequence[Explanation]) -> None:
        """A shard was answered."""
        self._in_a_row = 0
        self._keep(shard, answers)

    def lost(self, shard: Shard, why: str) -> str:
        """A shard's worker ended; what is done about it.

        Raises:
            Refusal: too many have ended in a row, or too many rows end theirs.
        """
        self._in_a_row += 1
        if self._in_a_row > MOST_IN_A_ROW:
            raise self._refused(f"{self._in_a_row} workers ended one after another, whatever they had to say ({why})")
        rows, tries, middle = shard.rows, shard.tries - 1, len(shard.rows) // 2
        if tries:
            self._wait(Shard(shard.call, rows, tries))
            return f"its {_vectors(len(rows))} are dealt again"
        if middle:
            for part in (rows[:middle], rows[middle:]):
                self._wait(Shard(shard.call, part, 1 if len(part) > 1 else 2))
            return f"its {_vectors(len(rows))} are dealt again by halves"
        self.ended += 1
        if self.ended > MOST_ENDED:
            raise self._refused(f"{self.ended} vectors each ended every worker that was to say them ({why})")
        self._keep(shard, [Explanation(text="", raw="", problems=(ENDED, "empty"))])
        return "its one vector has ended every worker, and is left without a text"

    def whole(self) -> Iterator[list[Explanation]]:
        """Answers of the calls that are whole and next, each once."""
        while not self.over and not self._lacking[self._next]:
            found = self._found.pop(self._next, [])
            self._next += 1
            yield [one for one in found if one is not None]

    def _wait(self, shard: Shard) -> None:
        heappush(self._waiting, (shard.call, shard.rows.start, shard))

    def _keep(self, shard: Shard, answers: Sequence[Explanation]) -> None:
        if len(answers) != len(shard.rows):
            why = f"it gave {len(answers)} explanations for {len(shard.rows)} vectors"
            raise Refusal("a worker", why, "report this as a fault of dragoman")
        found = self._found.setdefault(shard.call, [None] * self._counts[shard.call])
        found[shard.rows.start : shard.rows.stop] = answers
        self._lacking[shard.call] -= len(answers)

    @staticmethod
    def _refused(why: str) -> Refusal:
        instead = "see with a few features and without --on what is wrong; rows that were said are kept"
        return Refusal("saying by workers", why, instead)


def _vectors(count: int) -> str:
    return "one vector" if count == 1 else f"{count} vectors"
