"""Human text from packages: what readers take out of files, cutting, repeats, and parts that are disjoint by work."""

from __future__ import annotations

import base64
import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import pack
from passages import MOST, SHARES, Passage, Repeats, collect, cut, cut_code, dealt, drawn, fit, summary
from sources import SOURCES, Source
from unpack import READERS, works

PROSE = (
    "The keeper of the old light wrote in his book every evening, and what he wrote was about the sea and the ships "
    "that had gone by that day. He did not know that anyone would read it when he was gone, for he was a plain man."
)


def prose(number: int, sentences: int = 3) -> str:
    return " ".join(PROSE.replace("sea", f"sea number {k} of {number}") for k in range(sentences))


def source(kind: str, *files: str, **more: object) -> Source:
    return Source("box", "novel", "MIT", kind, files, **more)  # type: ignore[arg-type]


def read(folder: Path, kind: str, name: str, data: str | bytes) -> dict[str, list[str]]:
    file = folder / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return {work: [" ".join(p.split()) for p in some if p.strip()] for work, some in READERS[kind](file)}


def test_markup_is_left_out_and_prose_is_kept(tmp_path: Path) -> None:
    page = "<head><title>no</title></head><h1>no</h1><p>One <b>bold</b> word.</p><pre>no</pre><ul><li>Two &amp; a half"
    assert read(tmp_path, "html", "a.html", page) == {"": ["One bold word.", "Two & a half"]}
    roff = '.TH X 1\n.\\" no\n.SH NAME\nbox \\- a \\fBbold\\fP thing\n.PP\n'
    roff += '.BR box (1)\nholds\n.I "two words"\n.nf\nno\n.fi\n'
    assert read(tmp_path, "man", "a.1.gz", gzip.compress(roff.encode())) == {
        "": ["box - a bold thing", "box(1) holds two words"]
    }
    assert read(tmp_path, "man", "b.1", ".so man1/a.1\n") == {}
    pod = "=head1 NO\n\nUse C<< $a->b >> and L<perlvar|the B<variables>>.\n\n  no code\n"
    assert read(tmp_path, "pod", "a.pod", pod) == {"": ["Use $a->b and the variables."]}
    rst = "Title\n=====\n\n.. note:: no\n\nSee :ref:`the part <part>` and ``x``.\n\n    no\n"
    assert read(tmp_path, "rst", "a.rst", rst) == {"": ["See the part and x."]}
    assert read(tmp_path, "fortune", "a", "One.\n\t-- A\n%\nTwo.\n") == {"": ["One. -- A", "Two."]}
    assert read(tmp_path, "wml", "a.cfg", 'x=1\nmessage= _ "He said ""go""."\nname= _ "B"') == {"": ['He said "go". B']}
    assert read(tmp_path, "chat", "a.yml", "conversations:\n- - Hello\n  - Good day\n") == {"": ["Hello Good day"]}
    assert read(tmp_path, "text", "a.txt", "One\n%%%%\nTwo\n\nThree") == {"": ["One", "Two", "Three"]}


def digits(value: int) -> str:
    return base64.b64encode(bytes([value << 2 & 255, 0, 0]))[:1].decode()


def test_binary_books_and_dictionaries_are_read(tmp_path: Path) -> None:
    entries = b"about it\nant: a small beast\nbee: a small one that hums\n"
    (tmp_path / "d.dict.dz").write_bytes(gzip.compress(entries))
    index = f"00-info\tA\t{digits(9)}\nant\t{digits(9)}\t{digits(18)}\nbee\t{digits(27)}\t{digits(27)}\n"
    assert read(tmp_path, "dictd", "d.index", index) == {
        "ant": ["ant: a small beast"],
        "bee": ["bee: a small one that hums"],
    }

    books = [b"<verse osisID='a'>In the beginning.<verse eID='a'/>And then.", b"<w>Another</w> book."]
    packed = [zlib.compress(one) for one in books]
    (tmp_path / "ot.bzs").write_bytes(
        struct.pack("<III", 0, len(packed[0]), 0) + struct.pack("<III", len(packed[0]), len(packed[1]), 0)
    )
    found = read(tmp_path, "sword", "ot.bzz", b"".join(packed))
    assert found == {"ot0": ["In the beginning.", "And then."], "ot1": ["Another book."]}

    lines = [b"A line of the novel that goes on and on.", b"", *[b"Another line of it, no shorter at all."] * 4000]
    vector = b"".join(struct.pack(">II", 0x00040009, len(one)) + one for one in lines)
    database = b"".join(struct.pack(">I", len(v)) + zlib.compress(v) for v in (b"no strings", vector))
    (text,) = read(tmp_path, "r", "a.rdb", database).values()
    assert len(text) == 2 and text[0] == lines[0].decode() and text[1].count("Another line") == 4000


def test_works_are_files_entries_or_packages(tmp_path: Path) -> None:
    for name in ("doc/a1.txt", "doc/a2.txt", "doc/b1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    made = lambda **more: [name for name, _ in works(tmp_path, source("text", "**/*.txt", **more))]  # noqa: E731
    assert made() == ["box:doc/a1.txt", "box:doc/a2.txt", "box:doc/b1.txt"]
    assert made(named=r"([a-z])\d") == ["box:a", "box:b"]
    assert made(work="package") == ["box"]


def test_passages_are_cut_between_sentences_and_none_is_too_long() -> None:
    rng = np.random.default_rng(0)
    paragraphs = [prose(k, 2) for k in range(20)] + ["word " * (MOST + 1)]
    made = list(cut(paragraphs, rng))
    assert all(40 <= len(text.split()) <= MOST and text.endswith(("day.", "man.")) for text in made)
    assert " ".join(made) in " ".join(paragraphs)  # nothing lost between the first and the last
    code = list(cut_code("\n".join(f"    value_{k} = function(value_{k - 1})" for k in range(60)), rng))
    assert len(code) > 1 and all(text.splitlines()[0].startswith("    value_") for text in code)


@pytest.mark.parametrize(
    "text",
    [
        "too short to be one",
        "| 12 | 13.5 | 0.7 " * 30,
        "Anna Bert Carl Dora Emil Fritz Gert Hans Ida Jan " * 6,
        PROSE.replace("e", "ε") * 2,
        PROSE.upper() * 2,
    ],
)
def test_tables_lists_and_other_scripts_are_no_passages(text: str) -> None:
    assert fit(PROSE * 2, code=False) and not fit(text, code=False)


def test_passages_that_repeat_others_are_dropped() -> None:
    seen = Repeats()
    assert seen.new(prose(1)) and not seen.new(prose(1).replace("keeper", "reader")) and seen.new("word " * 3)


def packages(folder: Path) -> list[Source]:
    """Four novels and a handbook of unlike texts, by the reader of plain text."""
    rng = np.random.default_rng(5)
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)]
    for package, files in (("box", 9), ("tin", 1)):
        (folder / package).mkdir()
        (folder / package / "VERSION").write_text("1.0\n")
        for k in range(files):
            told = [" ".join(np.insert(rng.choice(words, 12), [3, 6, 9], ["the", "of", "and"])) for _ in range(120)]
            (folder / package / f"{k}.txt").write_text("\n\n".join(f"The {one} is in a book." for one in told))
    return [source("text", "*.txt"), Source("tin", "handbook", "GPL-2", "text", ("*.txt",), work="package")]


def test_parts_are_disjoint_by_work_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    some = packages(tmp_path)
    found = dealt(drawn(collect(tmp_path, some, 7), 100, 15, 7), 7)
    assert found == dealt(drawn(collect(tmp_path, some, 7), 100, 15, 7), 7)
    assert found != dealt(drawn(collect(tmp_path, some, 8), 100, 15, 8), 8)
    splits: dict[str, set[str]] = {}
    for one in found:
        splits.setdefault(one.work, set()).add(one.split)
    assert all(len(own) == 1 for own in splits.values())
    assert {one.split for one in found if one.register == "novel"} == set(SHARES)
    assert {one.split for one in found if one.register == "handbook"} == {"train"}  # one work cannot be in two parts
    novels = [one for one in found if one.register == "novel"]
    assert len(novels) == 100 and max(sum(one.work == w for one in novels) for w in splits) <= 15
    told = summary(found)
    assert told["packages"] == {
        "box 1.0": {"licence": "MIT", "share": False},
        "tin 1.0": {"licence": "GPL-2", "share": False},
    }
    assert told["passages"] == len(found) and isinstance(found[0], Passage)


def test_every_source_says_its_licence_and_has_a_reader() -> None:
    assert all(one.licence and one.kind in READERS and one.files for one in SOURCES)
    named: dict[str, set[str]] = {}
    for one in SOURCES:
        named.setdefault(one.register, set()).add(one.package)
    assert len(named) >= 20


def test_the_package_carries_what_may_be_shared_and_keeps_its_documents(tmp_path: Path) -> None:
    row = {"text": "a", "register": "novel", "work": "box:1", "package": "box", "version": "1", "licence": "MIT"}
    rows = [row | {"split": split, "share": share} for split in SHARES for share in (True, False)]
    pack.write_rows(rows, tmp_path / "passages.jsonl.gz")
    old = [{"split": "map", "category": "law", "topic": "juries", "text": "b"}]
    for _ in range(2):  # the second time, human rows of the first are replaced
        packed = pack.read_jsonl(tmp_path / "documents.jsonl.gz") if (tmp_path / "documents.jsonl.gz").exists() else old
        pack.write_with_human(packed, tmp_path / "passages.jsonl.gz", tmp_path)
    found = pack.read_jsonl(tmp_path / "documents.jsonl.gz")
    assert found[0] == old[0] and [one["split"] for one in found[1:]] == ["map", "direct", "judge", "test"]
    assert all(one["licence"] == "MIT" and one["category"] == "" for one in found[1:])
