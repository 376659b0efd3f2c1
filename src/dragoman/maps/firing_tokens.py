"""How much each feature fires at every token of the windows in which it fires most.

In: ``Firings``, the tokens of their documents with activations. Out: ``FiringTokens``, in memory or in a file, and from
it the tokens of a window. Refuses documents that were not read, and files that hold another thing.

A token is the text from the end of the token before it to its own end, in the source's tokenizer. Kept are the ends of
all tokens of a document once, and of a feature only where it fires: a window of 260 characters has at most as many
tokens. A token that was not read (the first of a text, a sink) has no activation, which is another thing than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal, frozen
from dragoman.maps.windows import AFTER, BEFORE, MANY, span_around
from dragoman.records import TokenWindow
from dragoman.store import Contents, write_arrays

if TYPE_CHECKING:
    from dragoman.maps.aligned import Firings

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
            start, stop = span_around(texts[int(name)], int(end), before=BEFORE, after=AFTER)
            made.append(tokens.window(row, k, int(name), start, stop))
    return made


def gathered(
    firings: Firings,
    documents: Sequence[tuple[int, Sequence[int], Sequence[bool]]],
    cells: Mapping[tuple[int, int], tuple[NDArray[np.int32], Floats]],
) -> FiringTokens:
    """What was read, put together.

    Args:
        firings: whose windows these are.
        documents: (name, ends of its tokens, whether each was read), by rising name.
        cells: (feature's row, window) -> tokens by number, and activations there.
    """
    counts = np.zeros(MANY * len(firings.ids) + 1, np.int64)
    order = sorted(cells)
    for row, k in order:
        counts[MANY * row + k + 1] = len(cells[row, k][0])
    none = [np.zeros(0, np.int32)]
    arrays = {
        "documents": np.array([name for name, _, _ in documents], np.int64),
        "starts": np.cumsum([0, *(len(ends) for _, ends, _ in documents)]),
        "ends": np.concatenate([*none, *(np.asarray(ends, np.int32) for _, ends, _ in documents)]),
        "read": np.concatenate([*none, *(np.asarray(read, np.uint8) for _, _, read in documents)]),
        "windows": np.cumsum(counts),
        "which": np.concatenate([*none, *(cells[at][0] for at in order)]),
        "strength": np.concatenate([*none, *(cells[at][1] for at in order)]),
    }
    return FiringTokens(ids=firings.ids, **{name: frozen(arrays[name], kind) for name, kind in _ARRAYS.items()})
