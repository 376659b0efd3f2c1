"""Lines and JSON lines, plain or gzipped; gzip in pieces, for files here and for what a server sends; lists of texts.

In: paths, open files, or packed bytes piece by piece. Out: lists of objects, lines; what the bytes unpack to. Refuses
broken gzip, gzip that unpacks beyond all measure or, megabytes long, to nothing, lines without end, lines that are not
JSON objects, naming the line; texts with half a character, and too few texts that differ.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any

from dragoman.core import Refusal
from dragoman.store.files import digest, opened, refusing

_PIECE = 1 << 16  # bytes
_MAGIC = b"\x1f\x8b"
_LINE = 32 << 20  # characters of one line
_RATIO = 200  # deflate can gain about 1000; text gains 3 to 10, and tables of it perhaps 50
_SUSPECT = 64 << 20  # bytes: below, a file of one line over and over may well gain that much
_NOTHING = 16 << 20  # packed bytes without one that unpacks; gzip goes through zeros and long headers one by one


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Objects of a ``.jsonl`` or ``.jsonl.gz`` file, one a line; blank lines are passed over."""
    path = Path(path)
    with opened(path) as raw, closing(objects(f"{path}", raw, packed_size(path))) as rows:
        return list(rows)


def objects(name: str, raw: IO[bytes], packed: int | None = None) -> Generator[dict[str, Any]]:
    """Objects of an open file, one a line. ``packed``: see `lines`."""
    with closing(lines(name, raw, packed)) as told:
        for number, line in told:
            where = f"{name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Refusal(where, "it is not JSON", "mend the line or make the file again") from error
            if not isinstance(row, dict):
                raise Refusal(where, "it is not a JSON object", "write one object a line")
            yield row


def packed_size(path: Path) -> int | None:
    """How many bytes a gzip file has, by its name; None of any other."""
    with refusing("reading", path):
        return path.stat().st_size if path.suffix.lower() == ".gz" else None


def refuse_halves(text: str, what: str) -> None:
    """Refuse half a character (a lone surrogate, half of a pair that JSON escapes): no tokenizer has it.

    Raises:
        Refusal: there is one; ``what`` says where, and the sentence names its code.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        why = f"it holds half a character (U+{code:04X}, at {error.start})"
        raise Refusal(what, why, "write it whole, or leave it out") from None


def listed_texts(given: object, instead: str) -> tuple[str, ...]:
    """Texts in the order they are given; ``instead``: what to pass where they are refused.

    Raises:
        Refusal: it is no sequence (a set has no order, and a generator gives them once), or holds other than texts.
    """
    if not isinstance(given, Sequence):
        raise Refusal(f"texts of type {type(given).__name__}", "texts are read in order and more than once", instead)
    if not given or not all(isinstance(text, str) and text for text in given):
        raise Refusal("texts", "they are no list of texts with words in them", instead)
    return tuple(given)


def refuse_alike(texts: Sequence[str], least: int, why: str, what: str = "") -> None:
    """Refuse fewer than ``least`` different texts; those that differ in capitals and spaces alone count as one.

    Cheap, so that it can be asked before any model is opened.

    Args:
        texts: what is there; blank ones count for nothing.
        least: how many different ones are needed.
        why: what for, a clause.
        what: where they are from, for the sentence: a file.

    Raises:
        Refusal: there are too few.
    """
    forms = {form_of(text) for text in texts} - {""}
    if len(forms) < least:
        count = f"{len(texts)} text{'' if len(texts) == 1 else 's'}"
        if len(forms) < len(texts):
            count = f"{len(forms)} different texts among {len(texts)}" if len(forms) > 1 else f"{count} without a word"
        if len(forms) == 1 and len(texts) > 1:
            count = f"1 text, repeated {len(texts)} times"
        what, why = (what, f"it holds {count}, and {why}") if what else (count, why)
        raise Refusal(what, why, f"give at least {least} different texts")


def form_of(text: str) -> str:
    """A text without its capitals and with single spaces: texts of one form count as one; "" without a word."""
    return " ".join(text.split()).casefold()


def document_name(text: str) -> int:
    """63 bits of a text's digest: the same number in every shard, and for every text that is the same."""
    return int(digest(text)[:16], 16) >> 1


def lines(name: str, raw: IO[bytes], packed: int | None = None) -> Generator[tuple[int, str]]:
    """Numbered lines that hold something; only newlines end a line, not the other separators of Unicode.

    To be closed, and the file by who opened it: where a line is refused, the refusal's traceback would keep it open
    until somebody collects it.

    Args:
        name: what a refusal calls the file.
        raw: the file.
        packed: how many bytes it has, if it is gzip, which may hold only so many times more; None of plain text.
    """
    for number, line in enumerate(whole_lines(name, raw, packed), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def whole_lines(name: str, raw: IO[bytes], packed: int | None = None) -> Generator[str]:
    """All lines, blank ones too, each with a newline at its end; UTF-8. Arguments as of `lines`."""
    file = raw if packed is None else io.BufferedReader(_contents(name, raw, packed))
    try:
        with TextIOWrapper(file, encoding="utf-8-sig") as text:
            for number, line in enumerate(iter(lambda: text.readline(_LINE), ""), 1):
                if len(line) == _LINE:
                    why = f"it is longer than {_LINE >> 20} million characters"
                    raise Refusal(f"{name}, line {number}", why, "pass a file of lines")
                yield line
    except UnicodeDecodeError as error:
        raise Refusal(name, f"it is not UTF-8 text ({error.reason})", "save it as UTF-8") from error


def _contents(name: str, raw: IO[bytes], packed: int) -> Pieces:
    """The contents of a gzip file, as long as they stay in proportion to it."""
    most = max(_SUSPECT, _RATIO * packed)
    return Pieces(unpacked(name, iter(lambda: raw.read(_PIECE), b""), lambda _read: most))


def unpacked(name: str, pieces: Iterable[bytes], most: Callable[[int], int], *, plain: bool = False) -> Iterator[bytes]:
    """What packed pieces hold, piece by piece; several members of gzip may follow each other.

    Args:
        name: what a refusal calls the file.
        pieces: its bytes.
        most: how many bytes so many packed bytes may unpack to.
        plain: bytes that do not begin as gzip does are passed on as they are, rather than refused.

    Raises:
        Refusal: torn and odd gzip, contents far larger than the file warrants, and much gzip of nothing.
    """
    coming, head = iter(pieces), b""
    for piece in coming:  # a slow server may send the first two bytes one by one
        head += piece
        if len(head) >= len(_MAGIC):
            break
    if head.startswith(_MAGIC):
        yield from _gunzipped(name, chain([head], coming), most)
        return
    if head and not plain:
        raise Refusal(name, "Not a gzipped file, by its first bytes", "name it without .gz, or write it again")
    yield from chain([head], coming)


def _gunzipped(name: str, pieces: Iterable[bytes], most: Callable[[int], int]) -> Iterator[bytes]:
    """What pieces of gzip hold."""
    read = done = used = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for piece in pieces:
            read += len(piece)
            if read - used > _NOTHING:
                why = f"{_NOTHING >> 20} MB of it unpack to nothing"
                raise Refusal(name, why, "get the file from where it was published")
            yield piece

    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(Pieces(counted()))) as file:
            while out := file.read1(_PIECE):
                done, used = done + len(out), read
                if done > most(read):
                    why = f"it unpacks to more than {most(read) >> 20} MB, far too many for its size"
                    raise Refusal(name, why, "get the file from where it was published")
                yield out
    except EOFError as error:
        raise Refusal(name, "the gzip file is torn", "fetch or write the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        # Bytes whose checksum or length is wrong were damaged; others were never gzip.
        damaged = str(error).startswith(("CRC", "Incorrect length"))
        why = "the gzip file is torn" if damaged else "it is not whole gzip"
        raise Refusal(name, f"{why} ({error})", "fetch or write the file again") from error


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
