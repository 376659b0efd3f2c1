"""Texts: read from each kind of file, or one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dragoman import store
from dragoman.core import Refusal
from store_faults import one_sentence


def test_texts_are_read_from_each_kind_of_file(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": t}) + "\n" for t in ("one\u2028still one", "two", " "))
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028still one\r\n\n  two \n".encode())
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.txt", "a.jsonl", "a.jsonl.gz"):
        assert store.read_texts(tmp_path / name) == ["one\u2028still one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b"", "there is no text in it"),
        ("a.txt", b"\n  \n", "there is no text in it"),
        ("a.jsonl", b'{"text": ""}\n', "there is no text in it"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}\n', 'row 2: it has no string "text"'),
        ("a.jsonl", b'{"text": "x"}\n{"te', "line 2: it is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: it is not a JSON object"),
        ("a.txt", b"\xff\xfe\x00", "it is not UTF-8"),
        ("a.txt.gz", gzip.compress(b"hello\n" * 100, mtime=0)[:-9], "the gzip file is torn"),
        ("a.jsonl.gz", b"not gzip", "Not a gzipped file"),
        ("a.pdf", b"x", r"not read from '\.pdf' files"),
    ],
)
def test_texts_that_cannot_be_read_are_one_sentence(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match=why) as error:
        store.read_texts(tmp_path / name)
    assert one_sentence(error)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt.gz"])
def test_a_refused_file_is_closed_while_its_refusal_lives(tmp_path: Path, name: str) -> None:
    content = b'{"text": "a"}\n[]\n{"text": "b"}\n' if "jsonl" in name else b"a\n\xff\nb\n"
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(Refusal) as kept:
        store.read_texts(tmp_path / name)
    assert set(Path("/proc/self/fd").iterdir()) == before and kept.value.what.startswith(str(tmp_path / name))
