"""Files of an export as numbered lines, from a folder or over HTTP, never more in memory than one line.

In: a source's folder or address. Out: its batches, ``batch-N.jsonl`` or ``.jsonl.gz``, in the order of N; its records.
Refuses files above a size, gzip that unpacks beyond all measure, lines without end, torn gzip, links that lead out of
the folder, servers that answer with an error or without end, and exports whose batches never stop.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, public_address
from dragoman.store import refusing
from dragoman.store.http import BOUNDS, Answer, Bounds, Http, NoAnswer
from dragoman.store.texts import unpacked

_BATCH = re.compile(r"batch-(\d{1,9})\.jsonl(\.gz)?")
EACH = 512  # bytes that a row takes in memory beside its text
_PIECE = 1 << 16
_RATIO = 100
_SUSPECT = 8 << 20  # bytes: below, a file of one row over and over may well gain that much


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an export may take.

    Bytes: a file as it lies there (``packed``), the same ``unpacked``, one ``line`` of it, and all files of a kind
    unpacked (``whole``). ``kept``: bytes that labels may take in memory. ``batches``: files of a kind. ``seconds``:
    for all files of a kind from a server; ``bounds``: for one answer.
    """

    packed: int = 256 << 20
    unpacked: int = 1 << 30
    line: int = 16 << 20
    whole: int = 8 << 30
    kept: int = 1 << 30
    batches: int = 10_000
    seconds: float = 3600.0
    bounds: Bounds = BOUNDS

    def most(self, packed: int) -> int:
        """What so many packed bytes may unpack to: deflate can gain about 1000, exports gain 5 to 30."""
        return min(self.unpacked, max(_SUSPECT, _RATIO * packed))


LIMITS = Limits()


@dataclass(slots=True)
class _Budget:
    """What the files of one kind have taken so far; refuses more than the limits."""

    name: str
    limits: Limits
    begun: float = field(default_factory=time.monotonic)
    files: int = 0
    unpacked: int = 0

    def take(self, *, files: int = 0, unpacked: int = 0) -> None:
        """So many files, or bytes unpacked, more."""
        self.files, self.unpacked, limits = self.files + files, self.unpacked + unpacked, self.limits
        if self.files > limits.batches:
            raise self._refusal(f"it has more than {limits.batches} batches")
        if self.unpacked > limits.whole:
            raise self._refusal(f"its batches unpack to more than {limits.whole >> 20} MB")

    def clocked(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pieces from a server passed on while there is time for the export."""
        for piece in pieces:
            if time.monotonic() - self.begun > self.limits.seconds:
                raise self._refusal(f"its batches did not end within {self.limits.seconds:.0f} s")
            yield piece

    def _refusal(self, why: str) -> Refusal:
        return Refusal(self.name, why, "fetch the folder yourself, look at it, and pass that")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source's files lie: a folder, or an address without a trailing slash."""

    base: Path | str
    limits: Limits = LIMITS

    @property
    def name(self) -> str:
        """What it is called where something is said of it."""
        return public_address(f"{self.base}")

    def batches(self, kind: str) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
        """(name, numbered lines) of each batch of ``explanations``, ``features`` or ``activations``.

        Over HTTP there is no listing: batches are asked for from 0 until the server says there is no such file.
        """
        budget = _Budget(f"{kind} of {self.name}", self.limits)
        if isinstance(self.base, Path):
            for path in batch_files(self.base / kind):
                budget.take(files=1)
                yield str(path), self._lines(str(path), self._local(path), budget)
            return
        http, before = Http(self.limits.bounds), b""
        try:
            while True:
                budget.take(files=1)
                url = f"{self.base}/{kind}/batch-{budget.files - 1}.jsonl.gz"
                name, seen = public_address(url), sha256()
                found = self._remote(http, url)
                if found is None:
                    return
                yield name, self._lines(name, budget.clocked(_hashed(found, seen)), budget)
                if seen.digest() == before:
                    why = "the server sends the same bytes as for the batch before it"
                    raise Refusal(name, why, "it answers whatever is asked, so fetch the folder yourself and pass that")
                before = seen.digest()
        finally:
            http.close()

    def lines(self, file: str) -> tuple[str, Iterator[tuple[int, bytes]]] | None:
        """(name, numbered lines) of one file of the source, or None when it is not there."""
        if isinstance(self.base, Path):
            path = self.base / file
            budget = _Budget(str(path), self.limits)
            return (str(path), self._lines(str(path), self._local(path), budget)) if path.is_file() else None
        url = f"{self.base}/{file}"
        name = public_address(url)
        budget = _Budget(name, self.limits)
        found = self._remote(Http(self.limits.bounds), url, alone=True)
        return None if found is None else (name, self._lines(name, budget.clocked(found), budget))

    def _local(self, path: Path) -> Iterator[bytes]:
        """A file's bytes, piece by piece."""
        with refusing("reading", path):
            inside = path.resolve().is_relative_to(Path(self.base).resolve())
            size = path.stat().st_size
            if not inside:
                raise Refusal(f"{path}", "it is a link that leads out of the export", "copy the file into the folder")
            if size > self.limits.packed:
                raise _too_large(str(path), self.limits.packed)
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece

    def _remote(self, http: Http, url: str, *, alone: bool = False) -> Iterator[bytes] | None:
        """A file's bytes as the server sends them, or None when it has no such file; opened here, read later.

        ``alone``: nothing else is asked of these connections, so they are closed with the file.
        """
        coming = self._answered(http, url, alone=alone)
        return coming if next(coming) else None

    def _answered(self, http: Http, url: str, *, alone: bool) -> Iterator[bytes]:
        """First whether there is such a file (something, or nothing), then its bytes."""
        try:
            with http.get(url) as answer:
                if answer.status in (403, 404):  # a bucket that hides its listing says 403 instead
                    yield b""
                    return
                self._check(answer, url)
                yield b"there"
                yield from answer.pieces(_PIECE)
        except NoAnswer as error:
            why = f"it cannot be read ({error.why})"
            raise Refusal(public_address(url), why, "check the address, or fetch the folder and pass that") from error
        finally:
            if alone:
                http.close()

    def _check(self, answer: Answer, url: str) -> None:
        """The answer is a file that is not too large, as far as its headers tell."""
        if answer.status != 200:
            why = f"the server answers {answer.status}"
            raise Refusal(public_address(url), why, "try again later, or fetch it yourself")
        stated = answer.headers.get("content-length", "")
        with suppress(ValueError):  # more digits than Python reads, and no number
            if int(stated) <= self.limits.packed:
                return
        if stated.isdigit():
            raise _too_large(public_address(url), self.limits.packed)

    def _lines(self, name: str, pieces: Iterable[bytes], budget: _Budget) -> Iterator[tuple[int, bytes]]:
        """Numbered lines that hold something, unpacked when they are gzip (by their first bytes, not their name)."""
        number, rest = 0, bytearray()  # which grows in place: a long line is not copied with every piece
        for piece in unpacked(name, self._bounded(name, pieces), self.limits.most, plain=True):
            budget.take(unpacked=len(piece))
            *ends, begun = piece.split(b"\n")
            for end in ends:
                number, line, rest = number + 1, bytes(rest + end), bytearray()
                if line.strip():
                    yield number, line
            rest += begun
            if len(rest) > self.limits.line:
                why = f"it is longer than {self.limits.line >> 20} MB"
                raise Refusal(f"{name}, line {number + 1}", why, "an export has one row a line; get the file again")
        if rest.strip():
            yield number + 1, bytes(rest)

    def _bounded(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a file that is not too large."""
        packed = 0
        for piece in pieces:
            packed += len(piece)
            if packed > self.limits.packed:
                raise _too_large(name, self.limits.packed)
            yield piece


def batch_files(folder: Path) -> list[Path]:
    """A folder's batches, in the order of their numbers; none when there is no such folder."""
    with refusing("reading", folder):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    # A pipe of that name would be waited on for ever.
    found = [(int(name[1]), path) for path in inside if (name := _BATCH.fullmatch(path.name)) and not path.is_fifo()]
    return [path for _, path in sorted(found)]


def _hashed(pieces: Iterable[bytes], seen: Any) -> Iterator[bytes]:
    """Pieces passed on, and taken down in a running digest."""
    for piece in pieces:
        seen.update(piece)
        yield piece


def _too_large(name: str, most: int) -> Refusal:
    return Refusal(name, f"it is larger than {most >> 20} MB", "no batch of an export is that large; check the address")
