"""Pieces dealt whole to workers, of which some end before they have answered, and taken in their order.

In: pieces, what was kept of some of them before, how far workers may be ahead; what became of each. Out: which piece is
worked on next, and all that was found, in order. Refuses a piece that ends every worker.

A piece is never cut: what is found of it would round otherwise. So whoever ends, and however many work, the same is
found of the same pieces, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from dragoman.core import Refusal

T = TypeVar("T")
TRIES = 3  # of a piece, each with another worker
INSTEAD = "look without --on what is wrong, or leave them out"


def places(mine: Iterable[str], texts: Sequence[str]) -> str:
    """Where those that are ``mine`` stand in ``texts``, in words."""
    mine = set(mine)
    return f"texts {', '.join(str(k) for k, text in enumerate(texts, 1) if text in mine)} (counted from 1)"


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A piece by its ``number``, which was ``lost`` so many times."""

    number: int
    lost: int = 0


class InOrder(Generic[T]):
    """Which piece is next, and what has been found. ``pieces``: what is worked on."""

    def __init__(
        self,
        pieces: Sequence[T],
        ahead: int,
        *,
        named: Callable[[T], str],
        kept: Callable[[T], Any] = lambda _piece: None,
        instead: str = INSTEAD,
    ) -> None:
        """Nothing is dealt yet.

        Args:
            pieces: to be worked on.
            ahead: so many are dealt, or found and not taken, at once: what memory there is for them.
            named: what a piece is called where it is refused.
            kept: what was found of a piece before, None where nothing was; asked when its turn comes.
            instead: what to do about a piece that is refused.
        """
        self.pieces, self._ahead, self._named, self._kept, self._instead = pieces, ahead, named, kept, instead
        self._waiting: list[Piece] = []  # a heap: first comes first
        self._found: dict[int, Any] = {}
        self._next = self._seen = 0

    @property
    def over(self) -> bool:
        """Whether everything is found and taken."""
        return self._next == len(self.pieces)

    @property
    def waiting(self) -> int:
        """How many pieces could be worked on now, and are not."""
        self._look()
        return len(self._waiting)

    def next(self) -> Piece | None:
        """A piece to be worked on; None where none waits, or those that wait are too far ahead."""
        self._look()
        return heappop(self._waiting) if self._waiting else None

    def said(self, piece: Piece, found: Any) -> None:
        """A piece was worked on."""
        self._found[piece.number] = found

    def lost(self, piece: Piece, why: str) -> str:
        """A piece's worker ended; what is done about it.

        Raises:
            Refusal: it was the third that this piece ended.
        """
        again = Piece(piece.number, piece.lost + 1)
        if again.lost == TRIES:
            ended = f"each of {TRIES} workers ended that was to read them ({why})"
            raise Refusal(self._named(self.pieces[piece.number]), ended, self._instead)
        heappush(self._waiting, again)
        return "what it was reading is dealt again"

    def whole(self) -> Iterator[Any]:
        """What was found of the next pieces, each once."""
        while self._next in self._found:
            self._next += 1
            yield self._found.pop(self._next - 1)

    def _look(self) -> None:
        """See to the pieces that have come near enough."""
        while self._seen < min(len(self.pieces), self._next + self._ahead):
            kept = self._kept(self.pieces[self._seen])
            if kept is None:
                heappush(self._waiting, Piece(self._seen))
            else:
                self._found[self._seen] = kept
            self._seen += 1
