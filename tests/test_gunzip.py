"""One gunzip for files and for what servers send: bounded, member after member, whatever the pieces."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal
from dragoman.store import texts
from dragoman.store.texts import Pieces, unpacked


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def whole(pieces: Iterable[bytes], most: int = 1 << 20, *, plain: bool = False) -> bytes:
    return b"".join(unpacked("f.gz", pieces, lambda _read: most, plain=plain))


@given(st.lists(st.binary(max_size=3000), max_size=4), st.integers(1, 700), st.integers(0, 9))
def test_members_and_padding_come_out_whatever_the_pieces(parts: list[bytes], size: int, zeros: int) -> None:
    packed = b"".join(gzip.compress(part, mtime=0) + bytes(zeros) for part in parts)
    assert whole(cut(packed, size)) == b"".join(parts)
    with io.BufferedReader(Pieces(unpacked("f.gz", cut(packed, size), lambda _read: 1 << 20))) as file:
        assert file.read() == b"".join(parts)


def test_what_is_no_gzip_is_passed_on_or_refused() -> None:
    assert whole(cut(b"plain text", 1), plain=True) == b"plain text"
    assert whole([], plain=True) == whole([]) == whole([b""]) == b""
    with pytest.raises(Refusal, match="f.gz: Not a gzipped file"):
        whole([b"plain text"])


PACKED = gzip.compress(b"hello\n" * 100, mtime=0)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (PACKED[:-9], "the gzip file is torn; fetch"),
        (PACKED[:-3], "the gzip file is torn; fetch"),
        (PACKED[:-8] + bytes(8), r"the gzip file is torn \(CRC check failed.*\)"),
        (PACKED[:-4] + bytes(4), r"the gzip file is torn \(Incorrect length of data produced\)"),
        (PACKED + b"xyz", r"it is not whole gzip \(Not a gzipped file.*\)"),
        (b"\x1f\x8b" + bytes(40), "it is not whole gzip"),
        (gzip.compress(bytes(2 << 20)), "it unpacks to more than 1 MB, far too many for its size"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_damage_is_one_sentence(packed: bytes, why: str, size: int) -> None:
    with pytest.raises(Refusal, match=f"^f.gz: {why}"):
        whole(cut(packed, size))


HEAD = b"\x1f\x8b\x08%c" + bytes(6)


@pytest.mark.parametrize(
    "packed",
    [
        PACKED + bytes(2 << 20),
        PACKED + HEAD % 8 + b"n" * (2 << 20),
        PACKED + HEAD % 16 + b"n" * (2 << 20),
        PACKED + gzip.compress(b"", mtime=0) * 100_000,
        PACKED + HEAD % 0 + b"\x00\x00\x00\xff\xff" * (2 << 18),
    ],
    ids=["zeros", "name", "comment", "members", "blocks"],
)
def test_what_unpacks_to_nothing_ends(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_NOTHING", 1 << 20)
    pieces = iter(cut(packed, 1 << 16))
    with pytest.raises(Refusal, match="^f.gz: 1 MB of it unpack to nothing; get the file from where it was published"):
        whole(pieces)


def test_what_unpacks_to_something_may_be_long() -> None:
    once = random.Random(0).randbytes(1 << 20)
    packed = gzip.compress(once, 1, mtime=0) * 18
    assert whole(cut(packed, 1 << 16), 1 << 30) == once * 18
