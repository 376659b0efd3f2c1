"""How much each feature fires at every token of the windows in which it fires most.

In: while two models are read, the source's activations at all tokens of a batch of documents, and what firings are
kept. Out: ``FiringTokens``, in memory or in a file, and from it the tokens of a window. Refuses documents that were not
read, and files that hold another thing.

A token is the text from the end of the token before it to its own end, in the source's tokenizer. Kept are the ends of
all tokens of a document once, and of a feature only where it fires: a window of 260 characters has at most as many
tokens. A token that was not read (the first of a text, a sink) has no activation, which is another thing than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack

from dragoman.core import Floats, Refusal, frozen
from dragoman.maps.windows import AFTER, BEFORE, MANY, sentences_around, span_around
from dragoman.records import TokenWindow
from dragoman.store import Contents, write_arrays

if TYPE_CHECKING:
    from dragoman.maps.aligned import Firings, FiringsTally

_ARRAYS = {
    "documents": np.int64,
    "starts": np.int64,
    "ends": np.int32,
    "read": np.uint8,
    "windows": np.int64,
    "which": np.int32,
    "strength": np.float32,
}
_FILE = Contents(
    called="activations of tokens",
    holds="activations of tokens",
    arrays={
        "documents": "d",
        "starts": "s",
        "ends": "t",
        "read": "t",
        "windows": "w",
        "which": "e",
        "strength": "e",
    },
    words={"ids": list},
)
_DIGITS = 5  # of an activation, as it is told


_Cell = Floats  # (2, n): tokens by number, and activations there; numbers this small are exact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fired:
    """Activations (n, M) >= 0, scipy sparse, with the documents and character ends (n,) of their rows."""

    fired: Any
    documents: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiringTokens:
    """Activations at the tokens of the windows around which M features fire most.

    ``ids``: M feature ids. ``documents`` (D,): names, rising. ``starts`` (D + 1,): where each one's tokens begin among
    ``ends`` (T,), the characters at which tokens end, and ``read`` (T,), whether the token was read. ``windows``
    (10 M + 1,): where the k-th window of feature m begins, at 10 m + k, among ``which`` (E,), tokens of its document by
    number, and ``strength`` (E,) float32 > 0, how much it fires there.
    """

    ids: tuple[str, ...]
    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int32]
    read: NDArray[np.uint8]
    windows: NDArray[np.int64]
    which: NDArray[np.int32]
    strength: Floats

    def __post_init__(self) -> None:
        """Refuse arrays that do not lead into one another."""
        for name, arrays, count, last in (
            ("documents", self.starts, len(self.documents), len(self.ends)),
            ("windows", self.windows, MANY * len(self.ids), len(self.which)),
        ):
            if len(arrays) != count + 1 or arrays[0] != 0 or arrays[-1] != last or (np.diff(arrays) < 0).any():
                raise Refusal("activations of tokens", f"their {name} do not fit together", "make them again")

    def window(self, row: int, k: int, document: int, start: int, stop: int) -> TokenWindow:
        """The tokens of characters ``start`` to ``stop`` of a document, and the k-th window's activations at them.

        Raises:
            Refusal: the document was not read.
        """
        at = int(np.searchsorted(self.documents, document))
        if at == len(self.documents) or self.documents[at] != document:
            raise Refusal(f"document {document:016x}", "its tokens were not read", "make the reading again")
        first, last = int(self.starts[at]), int(self.starts[at + 1])
        ends = self.ends[first:last]
        here = np.flatnonzero((ends > start) & (ends <= stop))
        entry = slice(int(self.windows[MANY * row + k]), int(self.windows[MANY * row + k + 1]))
        fires = dict(zip(self.which[entry].tolist(), self.strength[entry].tolist(), strict=True))
        place = [(n, fires[int(t)]) for n, t in enumerate(here) if int(t) in fires]
        return TokenWindow(
            ends=tuple(int(end) - start for end in ends[here]),
            at=tuple(n for n, _ in place),
            fires=tuple(float(f"{strength:.{_DIGITS}g}") for _, strength in place),
            unread=tuple(n for n, t in enumerate(here) if not self.read[first + int(t)]),
        )

    def save(self, path: Path) -> None:
        """Write to one file."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        write_arrays(path, arrays, {"holds": "activations of tokens", "ids": list(self.ids)})

    @classmethod
    def load(cls, path: Path) -> FiringTokens:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        try:
            made = {name: frozen(arrays[name], kind) for name, kind in _ARRAYS.items()}
            return cls(ids=tuple(words["ids"]), **made)
        except Refusal as refusal:
            raise Refusal(f"{path}", refusal.why, refusal.instead) from refusal


def token_windows(firings: Firings, tokens: FiringTokens, texts: Mapping[int, str], feature: str) -> list[TokenWindow]:
    """The tokens of the windows that ``contexts`` cuts of a feature, in their order.

    ``texts``: by the names that firings know them by.

    Raises:
        Refusal: the tokens are of other features, or their documents were not read.
    """
    if tokens.ids != firings.ids:
        raise Refusal("activations of tokens", "they are of other features than the firings", "make them again")
    row, made = firings.at(feature), list[TokenWindow]()
    for k, (name, end) in enumerate(zip(firings.documents[row, :MANY], firings.ends[row, :MANY], strict=True)):
        if name >= 0:
            text = texts[int(name)]
            start, stop = span_around(text, int(end), before=BEFORE, after=AFTER)
            before, after = sentences_around(text, start, stop)
            window = tokens.window(row, k, int(name), start, stop)
            made.append(window.model_copy(update={"before": before, "after": after}))
    return made


class TokenTally:
    """Tokens of the windows that are among the strongest so far.

    A document that is not among a feature's ten strongest when it is read never will be. Windows that others displaced
    are forgotten now and then, so that a quarter more than stay are held, and the tokens of their documents.
    """

    def __init__(self, features: int) -> None:
        """Nothing read yet of so many features."""
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._documents: dict[int, NDArray[np.int32]] = {}  # ends of tokens; less than none where one was not read
        self._most = 5 * MANY * features // 4

    def add(
        self, kept: FiringsTally, names: Sequence[int], parts: Sequence[Fired], ends: Sequence[NDArray[Any]]
    ) -> None:
        """Take the tokens of a batch of documents.

        Args:
            kept: firings, which have taken these documents already.
            names: the documents'.
            parts: activations at their tokens, in any number of pieces.
            ends: of each document, the characters at which its tokens end, rising; also of those in no piece.
        """
        wanted = kept.strongest_of(names, MANY)
        for name, own in zip(names, ends, strict=True):
            if name not in wanted:
                continue
            fired, number = _of_document(parts, name, own)
            marked = -own.astype(np.int32)
            marked[number] *= -1
            self._documents[name] = marked
            for row, end in wanted[name]:
                self._cells[row, name] = _cell(fired, number, own, row, end)
        if len(self._cells) > self._most:
            self._forget(kept.strongest_of(list(self._documents), MANY))

    def _forget(self, wanted: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        stay = {(row, name) for name, some in wanted.items() for row, _ in some}
        self._cells = {at: cell for at, cell in self._cells.items() if at in stay}
        self._documents = {name: own for name, own in self._documents.items() if name in wanted}

    def finish(self, firings: Firings) -> FiringTokens:
        """What was kept, of the firings that are kept in the end."""
        counts, cells = np.zeros(MANY * len(firings.ids) + 1, np.int64), list[_Cell]()
        for row, k in zip(*np.nonzero(firings.documents[:, :MANY] >= 0), strict=True):
            cells.append(self._cells[int(row), int(firings.documents[row, k])])
            counts[MANY * row + k + 1] = cells[-1].shape[1]
        there = firings.documents[:, :MANY]
        names = np.unique(there[there >= 0])
        marked = [self._documents[int(name)] for name in names]
        every = np.concatenate([np.zeros(0, np.int32), *marked])
        which, strength = np.concatenate([np.zeros((2, 0), np.float32), *cells], axis=1)
        arrays = {
            "documents": names,
            "starts": np.cumsum([0, *map(len, marked)]),
            "ends": np.abs(every),
            "read": every > 0,
            "windows": np.cumsum(counts),
            "which": which,
            "strength": strength,
        }
        return FiringTokens(ids=firings.ids, **{name: frozen(arrays[name], kind) for name, kind in _ARRAYS.items()})


def _of_document(parts: Sequence[Fired], name: int, ends: NDArray[Any]) -> tuple[csc_array, NDArray[np.int64]]:
    """A document's activations (n, M), and which of its tokens each row is; of pieces that share an end the last."""
    own = [(part, np.flatnonzero(part.documents == name)) for part in parts]
    fired = csr_array(vstack([part.fired[rows] for part, rows in own]))
    at = np.concatenate([part.ends[rows] for part, rows in own])
    values, last = np.unique(at[::-1], return_index=True)
    columns = csc_array(fired[len(at) - 1 - last])
    columns.sort_indices()
    return columns, np.searchsorted(ends, values)


def _cell(fired: csc_array, number: NDArray[np.int64], ends: NDArray[Any], row: int, end: int) -> _Cell:
    """The tokens around an end at which a feature fires, and how much."""
    column = slice(fired.indptr[row], fired.indptr[row + 1])
    which, strength = number[fired.indices[column]], fired.data[column]
    here = (strength > 0) & (ends[which] > end - BEFORE) & (ends[which] <= end + AFTER)
    return np.array([which[here], strength[here]], dtype=np.float32)
