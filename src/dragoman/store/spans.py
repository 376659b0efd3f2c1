"""Arrays that lie in a file, on disk or far away, read only as far as asked.

In: a source of bytes, where an array starts, its dtype and shape. Out: chosen rows, chosen columns, or all of it, in
memory. bfloat16 and float8 are widened to float32 without torch, exactly. Nothing is mapped, so a file that shrinks
while it is read is a `Refusal` and what is read does not stay resident. Refuses spans that are not there, and columns
that would cost most of a far file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store.files import opened

Span = tuple[int, memoryview]

_BLOCK = 8 << 20  # bytes read at once where a whole matrix must be passed through
_GAP = 4096  # two columns nearer than this are read together: the disk reads a page anyway
_MANY = 50_000  # single reads beyond this cost more than passing through the file
_DIMENSIONS = 8
_LARGEST = 1 << 53
FAR_LIMIT = 256 << 20  # bytes of a far file that one call may fetch


def shown(text: object, limit: int = 60) -> str:
    """Text out of a file as it may stand in a sentence: short, and without line ends or control characters."""
    plain = repr(str(text))[1:-1]
    return plain if len(plain) <= limit else plain[:limit] + "..."


def words_of(error: BaseException, limit: int = 200) -> str:
    """What an exception says, short and on one line; its kind where it says little."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    words = words if len(words) <= limit else words[:limit] + "..."
    # A KeyError's whole message is the key.
    bare = not words or isinstance(error, LookupError | AssertionError | AttributeError)
    return f"{type(error).__name__}: {words}" if bare and words else words or type(error).__name__


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first few names, for a sentence."""
    every = list(names)
    return ", ".join([shown(name, 40) for name in every[:most]] + (["..."] if len(every) > most else []))


def meant(word: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean 'direct'`` where one of the known words is nearly the one that was said, else ``otherwise``."""
    names = {name.casefold(): name for name in known}
    found = get_close_matches(word[:200].casefold(), names, n=1)
    return f"did you mean '{names[found[0]]}'" if found else otherwise


class Bytes(Protocol):
    """Bytes that can be read at any place: a file here, or one that a server sends in ranges."""

    @property
    def name(self) -> str:
        """What it is called where something is said of it."""
        ...

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    @property
    def far(self) -> bool:
        """Whether every byte crosses a network."""
        ...

    def fill(self, spans: Sequence[Span]) -> None:
        """Write the bytes from each start into its buffer, every buffer full."""
        ...


@runtime_checkable
class Matrix(Protocol):
    """An array that is read when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows ``(len(rows), ...)``."""
        ...

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of a 2-D array ``(shape[0], len(columns))``."""
        ...

    def whole(self) -> NDArray[Any]:
        """All of it."""
        ...


class Arrays(Protocol):
    """A file of named arrays."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names, sorted."""
        ...

    def array(self, name: str) -> Matrix:
        """One of them, not read yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A matrix that is had as a whole only: its rows and columns are chosen in memory."""

    shape: tuple[int, ...]

    def whole(self) -> NDArray[Any]:
        """All of it."""
        raise NotImplementedError

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows."""
        chosen = within(rows, self.shape, 0, str(self))
        return self.whole()[chosen]

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of a 2-D array."""
        chosen = columns_within(columns, self.shape, str(self))
        return self.whole()[:, chosen]


class LocalBytes:
    """A file on this machine; opened for each call, so that nothing is left open."""

    far = False

    def __init__(self, path: Path | str) -> None:
        """Note the size. Refused when there is no such file, it cannot be read, or it is a pipe or device."""
        self.path = Path(path)
        self.name = str(self.path)
        with opened(self.path) as file:
            self.size = os.fstat(file.fileno()).st_size

    def fill(self, spans: Sequence[Span]) -> None:
        """Read each span where it stands, whole or not at all. Refused when the file ends before a span does."""
        with opened(self.path) as file:
            for start, buffer in spans:
                done = 0
                while done < len(buffer):
                    got = os.preadv(file.fileno(), [buffer[done:]], start + done)
                    if not got:
                        why = f"it ends at byte {self.size}, before the array does"
                        raise Refusal(self.name, why, "fetch or write the file again")
                    done += got


def read_bytes(source: Bytes, start: int, length: int) -> bytes:
    """One span as bytes."""
    out = bytearray(length)
    if length:
        source.fill([(start, memoryview(out))])
    return bytes(out)


def coalesced(wanted: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Half-open intervals, sorted, with neighbours at most ``gap`` apart made one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(wanted):
        if out and start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


# Numbers numpy has no word for, by safetensors' names: how they are stored, and how they become float32.


def _from_bfloat16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32: shift it into place."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _e4m3(byte: int) -> float:
    """float8 E4M3FN: bias 7, no infinity, only the all-ones magnitude is not a number (OCP 8-bit floating point)."""
    sign, exponent, mantissa = (-1.0 if byte & 0x80 else 1.0), (byte >> 3) & 0xF, byte & 7
    if byte & 0x7F == 0x7F:
        return math.copysign(math.nan, sign)
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


_E4M3 = np.array([_e4m3(byte) for byte in range(256)], dtype=np.float32)
# float8 E5M2 is the upper half of a float16.
_E5M2 = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)
WIDENED = {
    "BF16": ("<u2", _from_bfloat16),
    "F8_E4M3": ("u1", lambda bits: _E4M3[bits]),
    "F8_E5M2": ("u1", lambda bits: _E5M2[bits]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """An array of ``shape`` at ``offset`` of ``source``.

    ``dtype``: how its numbers are stored; ``kind``: a name of `WIDENED` when numpy cannot say it. ``fortran``: columns
    lie together rather than rows. ``name`` is for what is said of it.
    """

    source: Bytes
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    name: str = ""
    kind: str = ""
    fortran: bool = False

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def whole(self) -> NDArray[Any]:
        """All of it, in memory. Refused when it lies far away and is large."""
        self._affordable(self.nbytes, "reading it")
        out = np.empty(self.shape, self.dtype, order="F" if self.fortran else "C")
        if out.size:
            self.source.fill([(self.offset, _buffer(out.T if self.fortran else out))])
        return self._widened(out)

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows, ``(len(rows), ...)``; nothing else of a C-ordered array is read."""
        chosen = within(rows, self.shape, 0, str(self))
        if self.fortran and len(self.shape) == 2:
            return np.ascontiguousarray(self._across(chosen, self.shape[::-1]).T)
        if self.fortran and len(self.shape) > 2:
            return self.whole()[chosen]
        return self._along(chosen, self.shape)

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of a 2-D array, ``(shape[0], len(columns))``, a few megabytes of the file at a time."""
        chosen = columns_within(columns, self.shape, str(self))
        if self.fortran:
            return np.ascontiguousarray(self._along(chosen, self.shape[::-1]).T)
        return self._across(chosen, self.shape)

    def _along(self, chosen: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[Any]:
        """Entries of the slowest axis: each is one span."""
        out = np.empty((len(chosen), *shape[1:]), self.dtype)
        step = math.prod(shape[1:]) * self.dtype.itemsize
        self._affordable(out.nbytes, "reading the rows")
        if step:
            self.source.fill([(self.offset + int(i) * step, _buffer(out[k])) for k, i in enumerate(chosen)])
        return self._widened(out)

    def _across(self, chosen: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[Any]:
        """Entries of the fastest axis of ``shape``: little pieces of every row, or block after block of whole rows."""
        size, count, width = self.dtype.itemsize, shape[0], shape[1]
        out = np.empty((count, len(chosen)), self.dtype)
        if not out.size:
            return self._widened(out)
        pieces = coalesced([(int(c), int(c) + 1) for c in chosen], _GAP // size)
        taken = sum(end - start for start, end in pieces)
        through = 2 * taken >= width or count * len(pieces) > (512 if self.source.far else _MANY)
        if through:
            pieces, taken = [(0, width)], width
        self._affordable(count * taken * size, f"reading {len(chosen)} columns of it, which lie across the file,")
        where = _places(chosen, pieces)
        for first, last in _blocks(count, taken * size):
            block = np.empty((last - first, taken), self.dtype)
            if through:
                self.source.fill([(self.offset + first * width * size, _buffer(block))])
            else:
                self.source.fill(list(self._pieces(block, first, pieces, width)))
            out[first:last] = block[:, where]
        return self._widened(out)

    def _pieces(self, block: NDArray[Any], first: int, pieces: Sequence[tuple[int, int]], width: int) -> Iterator[Span]:
        """The spans of some rows' pieces, to lie side by side in ``block``."""
        size = self.dtype.itemsize
        for row in range(len(block)):
            at = 0
            for start, end in pieces:
                place = self.offset + ((first + row) * width + start) * size
                yield place, _buffer(block[row, at : at + end - start])
                at += end - start

    def _affordable(self, cost: int, doing: str) -> None:
        """Refuse to fetch most of a large far file by ranges."""
        if self.source.far and cost > FAR_LIMIT:
            why = f"{doing} would fetch {cost / 1e6:,.0f} MB over the network"
            raise Refusal(f"{self}", why, "download the file once and name the local copy")

    def _widened(self, read: NDArray[Any]) -> NDArray[Any]:
        """As numbers that this machine computes with."""
        if self.kind:
            return WIDENED[self.kind][1](read)
        return native(read)

    def __str__(self) -> str:
        """What and where."""
        return f"array '{shown(self.name)}' of {self.source.name}" if self.name else self.source.name


def _buffer(array: NDArray[Any]) -> memoryview:
    """A contiguous array's memory, to be written into."""
    return array.reshape(-1).view(np.uint8).data


def _blocks(count: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together take about a block."""
    step = max(1, _BLOCK // max(row_bytes, 1))
    for first in range(0, count, step):
        yield first, min(count, first + step)


def _places(chosen: NDArray[np.int64], pieces: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Where each chosen column lies when the pieces stand side by side."""
    starts = np.array([start for start, _ in pieces])
    before = np.concatenate([[0], np.cumsum([end - start for start, end in pieces])[:-1]])
    which = np.searchsorted(starts, chosen, side="right") - 1
    return before[which] + chosen - starts[which]


def native(read: NDArray[Any]) -> NDArray[Any]:
    """In this machine's byte order."""
    return read if read.dtype.isnative else read.astype(read.dtype.newbyteorder("="))


def bounded(shape: Sequence[int]) -> bool:
    """Whether a file may claim an array of this shape: few axes, and not endless where one of them is empty.

    Where one side is 0, the file's size says nothing of the others.
    """
    return len(shape) <= _DIMENSIONS and (0 not in shape or math.prod(max(side, 1) for side in shape) <= _LARGEST)


def within(
    chosen: Sequence[int] | NDArray[np.integer], shape: Sequence[int], axis: int, what: str
) -> NDArray[np.int64]:
    """Rows (``axis`` 0) or columns of an array as integers; refuse any that are not there."""
    out = np.asarray(chosen, dtype=np.int64)
    count = shape[axis] if shape else 0
    if out.size and (int(out.min()) < 0 or int(out.max()) >= count):
        raise Refusal(f"{'columns' if axis else 'rows'} of {what}", f"it has {count}", f"ask for 0 to {count - 1} only")
    return out


def columns_within(columns: Sequence[int] | NDArray[np.integer], shape: Sequence[int], what: str) -> NDArray[np.int64]:
    """Columns of a 2-D array as integers; refuse other arrays, and any that are not there."""
    if len(shape) != 2:
        raise Refusal(f"columns of {what}", f"its shape is {shown(tuple(shape))}", "ask for columns of a 2-D array")
    return within(columns, shape, 1, what)
