"""gzip unpacked in pieces, as long as it stays in proportion: for files here and for what a server sends.

In: packed bytes, piece by piece. Out: what they unpack to, piece by piece; several members may follow each other.
Refuses torn and odd gzip, and contents far larger than the file warrants.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dragoman.core import Refusal

MAGIC = b"\x1f\x8b"
_PIECE = 1 << 16


def unpacked(name: str, pieces: Iterable[bytes], most: Callable[[int], int], *, plain: bool = False) -> Iterator[bytes]:
    """What packed pieces hold.

    Args:
        name: what a refusal calls the file.
        pieces: its bytes.
        most: how many bytes so many packed bytes may unpack to.
        plain: bytes that do not begin as gzip does are passed on as they are, rather than refused.

    Raises:
        Refusal: as the module says.
    """
    read, head = 0, b""
    coming = iter(pieces)
    for piece in coming:  # a slow server may send the first two bytes one by one
        head += piece
        if len(head) >= len(MAGIC):
            break
    if not head:
        return
    if not head.startswith(MAGIC):
        if not plain:
            raise Refusal(name, "Not a gzipped file, by its first bytes", "name it without .gz, or write it again")
        yield head
        yield from coming
        return
    stream = _Gunzip(name)
    for piece in _with(head, coming):
        read += len(piece)
        yield from stream.feed(piece, most(read))
    stream.finish()


class Pieces(io.RawIOBase):
    """Pieces of bytes as a file that is read from front to end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """Read nothing yet."""
        super().__init__()
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one piece goes; 0 at the end."""
        while not len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


class _Gunzip:
    """gzip in bounded pieces."""

    def __init__(self, name: str) -> None:
        self.name, self.done = name, 0
        self.stream = zlib.decompressobj(wbits=31)
        self.begun = self.ended = False  # this member; one before it

    def feed(self, piece: bytes, most: int) -> Iterator[bytes]:
        """What a piece unpacks to, at most so many bytes since the beginning."""
        out = b""
        # A full piece of output may leave more of it inside zlib with no input left to bring it out.
        while piece or len(out) == _PIECE:
            if self.ended and not self.begun:  # zeros may fill the file up behind a member
                piece = piece.lstrip(b"\0")
                if not piece:
                    return
            try:
                out = self.stream.decompress(piece, _PIECE)
            except zlib.error as error:
                raise _odd(self.name, error) from error
            self.begun = True
            self.done += len(out)
            if self.done > most:
                raise Refusal(
                    self.name,
                    f"it unpacks to more than {most >> 20} MB, far too many for its size",
                    "get the file from where it was published",
                )
            if out:
                yield out
            piece = self.stream.unconsumed_tail
            if self.stream.eof:  # another member may follow
                piece, out = self.stream.unused_data, b""
                self.stream, self.begun, self.ended = zlib.decompressobj(wbits=31), False, True

    def finish(self) -> None:
        """Refuse a member that did not end."""
        if self.begun:
            raise Refusal(self.name, "the gzip file is torn", "fetch or write the file again")


def _odd(name: str, error: zlib.error) -> Refusal:
    """Bytes whose check sum is wrong were damaged; others were never gzip."""
    said = str(error)
    why = "the gzip file is torn" if "check" in said and "header" not in said else "it is not whole gzip"
    return Refusal(name, f"{why} ({said})", "fetch or write the file again")
