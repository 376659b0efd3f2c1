"""One gunzip for files and for what servers send: bounded, member after member, whatever the pieces."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal
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
