"""Texts from tables and folders: the same texts whatever they are kept in, or one sentence."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dragoman
from dragoman import store
from dragoman.core import Refusal, Site
from dragoman.runs.texts import ENOUGH, Texts
from small_world import write_sae
from store_faults import one_sentence

TOLD = ["one, two", 'a "quoted" one', "two\nlines", "\u00e9\u4e00", " "]
KEPT = TOLD[:-1]


def rows(column: str = "text") -> str:
    return "".join(json.dumps({"n": n, column: text}) + "\n" for n, text in enumerate(TOLD))


def cells(column: str = "text", by: str = ",") -> str:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TOLD]
    return f"n{by}{column}\r\n" + "".join(f"{n}{by}{text}\r\n" for n, text in enumerate(quoted)) + "\r\n"


def table(path: Path, column: str = "text", texts: Any = TOLD, **how: Any) -> Path:
    pq.write_table(pa.table({"n": list(range(len(texts))), column: texts}), path, **how)
    return path


def test_the_same_texts_from_every_kind_of_file(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "a.jsonl").write_text(rows())
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + cells().encode())
    (tmp_path / "b.csv").write_text(cells(by=";"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(cells().encode()))
    for path in sorted(tmp_path.iterdir()):
        assert store.read_texts(path) == KEPT, path
        assert store.read_texts(path, most=2) == KEPT[:2]


def test_another_column_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows("body"))
    (tmp_path / "a.csv").write_text(cells("body"))
    table(tmp_path / "a.parquet", "body", pa.array([*TOLD, None]).dictionary_encode())
    for path in tmp_path.iterdir():
        assert store.read_texts(path, "body") == KEPT
        with pytest.raises(
            Refusal, match=r'(no column \'text\'|no string "text"), but n, body; .*--text-column'
        ) as error:
            store.read_texts(path)
        assert one_sentence(error)


def test_a_folder_is_read_file_by_file_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("third\n")
    (tmp_path / "b" / "1.jsonl").write_text('{"text": "second"}\n')
    table(tmp_path / "c.parquet", texts=["fourth", "fifth"])
    (tmp_path / "a.txt").write_text("first\n")
    for other in (".hidden.txt", "notes.md", "c.parquet.json"):
        (tmp_path / other).write_text("no text")
    (tmp_path / "within.txt").symlink_to(tmp_path / "a.txt")
    assert store.read_texts(tmp_path) == ["first", "second", "third", "fourth", "fifth", "first"]
    assert store.read_texts(tmp_path, most=3) == ["first", "second", "third"]


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret\n")
    for name, target, why in (
        ("a", outside / "secret.txt", "a link that leads out of its folder"),
        ("b", outside, "a link to a folder"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.txt").write_text("one\n")
        (folder / "z.txt").symlink_to(target)
        with pytest.raises(Refusal, match=why) as error:
            store.read_texts(folder)
        assert one_sentence(error)


@pytest.fixture
def usual_limit() -> Iterator[None]:
    """Of the csv module's cells, whatever a library that other tests loaded has made of it (scipy.io lifts it)."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("usual_limit")
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "", "it has no columns"),
        ("a.csv", "text\n", "there is no text in it"),
        ("a.csv", "n,text\n1,a,b\n", "row 1: it has 3 cells where the heading names 2 columns"),
        ("a.csv", 'n,text\n1,"a\n', "it is no CSV"),
        ("a.csv", f"text\n{'x' * 200_000}\n", "it is no CSV"),
        ("a.parquet", "PAR1 not a table PAR1", "it is not a whole Parquet file"),
        ("a.json", "{}", r"not read from '\.json' files; pass \.txt, \.jsonl, \.csv or \.parquet"),
        ("a.parquet.gz", "x", r"not read from '\.gz' files"),
        ("a.jsonl", '{"text": "\\ud800"}\n', r"row 1: it holds half a character"),
    ],
)
def test_tables_that_cannot_be_read_are_one_sentence(tmp_path: Path, name: str, content: str, why: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Refusal, match=why) as error:
        store.read_texts(tmp_path / name)
    assert one_sentence(error)


def test_parquet_columns_that_hold_no_text_are_refused_with_those_that_do(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [[1.0]], "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        Refusal, match=r"its column 'text' holds list<.*>, not text, and columns of text are body; name"
    ) as error:
        store.read_texts(tmp_path / "a.parquet")
    assert one_sentence(error)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        Refusal, match=r"Parquet needs pyarrow, which is not installed; run: pip install 'dragoman\[par"
    ):
        store.read_texts(path)


def test_a_refused_table_is_closed_while_its_refusal_lives(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", "body")
    (tmp_path / "a.csv").write_text("n,text\n1,a,b\n")
    for path in sorted(tmp_path.iterdir()):
        before = set(Path("/proc/self/fd").iterdir())
        with pytest.raises(Refusal) as kept:
            store.read_texts(path)
        assert set(Path("/proc/self/fd").iterdir()) == before and kept.value.what.startswith(str(path))


def test_texts_tell_what_they_were_read_as(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", "body")
    read = Texts.read(path, column="body", most=3)
    assert Texts.read(path, column="body", most=10**20).all == Texts.read(path, column="body").all
    assert read.own == tuple(KEPT[:3])
    assert read.settings == {"texts": str(path), "text_column": "body", "max_texts": 3}
    assert Texts.of(None).settings == {"texts": None}
    with pytest.raises(Refusal, match="a column of texts: no texts are named"):
        Texts.read(None, column="body")
    with pytest.raises(Refusal, match="a number of texts: no texts are named"):
        Texts.read(None, most=3)


def test_where_no_texts_are_given_nor_installed_ways_to_get_some_are_named_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    source, target = Site("org/a", 1), Site("org/b", 1)
    for places in ((source, target), (source, source)):
        with pytest.raises(Refusal, match=r"none are given, and those .* not here: the package dragoman-tiny") as error:
            Texts().refuse_few(*places, map="aligned")
        assert one_sentence(error) and f"(hf:ORG/NAME); {ENOUGH} paragraphs are enough" in error.value.instead
    Texts().refuse_few(source, target, map="post", route="direct", counted=True)

    write_sae(tmp_path / "sae")
    monkeypatch.setattr("dragoman.runs.common.speakers", lambda *_: pytest.fail("a verbalizer was opened"))
    monkeypatch.setattr("dragoman.runs.common.site_of_verbalizer", lambda *_, **__: target)
    monkeypatch.setattr("dragoman.runs.common.check_read", lambda *_, **__: None)  # these models are nowhere
    with pytest.raises(Refusal, match="texts for both models: none are given"):
        dragoman.explain(str(tmp_path / "sae"), by="org/av", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_columns_of_one_name_are_refused_and_a_field_within_another_column_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n,text\nfirst,1,second\n")
    twice = pa.Table.from_arrays([pa.array(["first"]), pa.array(["second"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(Refusal, match="2 of its columns are named 'text'") as error:
            store.read_texts(path)
        assert one_sentence(error)
    pq.write_table(pa.table({"a": [{"b": "of the struct"}], "a.b": ["told"]}), tmp_path / "dots.parquet")
    assert store.read_texts(tmp_path / "dots.parquet", "a.b") == ["told"]
    table(tmp_path / "view.parquet", texts=pa.array(TOLD, pa.string_view()))
    assert store.read_texts(tmp_path / "view.parquet") == KEPT


def test_names_in_capitals_are_read_and_in_a_folder_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("first\n")
    (tmp_path / "B.CSV.GZ").write_bytes(gzip.compress(cells().encode()))
    assert store.read_texts(tmp_path / "A.TXT") == ["first"]
    assert store.read_texts(tmp_path) == ["first", *KEPT]


@pytest.mark.parametrize("nothing", ["", " "])
def test_no_name_is_no_folder_of_texts(nothing: str) -> None:
    with pytest.raises(Refusal, match="it names nothing; name some with --texts") as error:
        Texts.read(nothing)
    assert one_sentence(error)
