"""Texts of a data set on the hub: which files, of which commit, and no more of them than is asked for."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dragoman.core import Refusal, Site
from dragoman.runs.texts import ENOUGH, Texts
from dragoman.store import hub as hub_questions
from dragoman.store.datasets import MOST, DatasetRef, dataset_texts, pinned
from range_server import Served, serving
from store_faults import one_sentence

COMMIT = "c" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A hub on the loopback address, with a cache folder of its own."""
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
        hub_questions._COMMITS.clear()
        yield served
        hub_questions._COMMITS.clear()


def parquet(texts: list[str], column: str = "text", **how: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"other": ["z" * 400 + str(n) for n in range(len(texts))], column: texts}), out, **how)
    return out.getvalue()


def lines(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({column: text}) + "\n" for text in texts).encode()


def put(hub: Served, path: str, content: bytes, *, revision: str = "main", repo: str = "org/data") -> None:
    hub.files[f"/datasets/{repo}/resolve/{revision}/{path}"] = content


def read(ref: str, most: int = MOST, column: str | None = None) -> tuple[list[str], str]:
    texts, at = dataset_texts(DatasetRef.parse(ref), column, most)
    return texts, str(at)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:org/data", ("org/data", None, None, None)),
        ("hf:org/data@v1.0:train", ("org/data", "v1.0", "train", None)),
        ("hf:org/data@refs/convert/parquet:en/train:body", ("org/data", "refs/convert/parquet", "en/train", "body")),
    ],
)
def test_a_reference_is_taken_apart_and_written_again(text: str, parts: tuple[str | None, ...]) -> None:
    ref = DatasetRef.parse(text)
    assert (ref.repo, ref.revision, ref.split, ref.column) == parts and str(ref) == text


@pytest.mark.parametrize(
    "text", ["hf:data", "hf:org/data:", "hf:org/data@", "hf:a/b/c", "hf:org/data::x", "hf:o/d@a/b"]
)
def test_other_words_are_no_reference(text: str) -> None:
    with pytest.raises(Refusal, match="it names no data set of the hub; write hf:ORG/NAME") as error:
        Texts.of(text)
    assert one_sentence(error)


def test_the_hub_s_own_parquet_is_read_and_pinned(hub: Served) -> None:
    put(hub, "default/train/0000.parquet", parquet(["one", "two"]), revision="refs/convert/parquet")
    put(hub, "default/train/0001.parquet", parquet(["three"]), revision="refs/convert/parquet")
    put(hub, "default/test/0000.parquet", parquet(["held out"]), revision="refs/convert/parquet")
    put(hub, "train.jsonl", lines(["of the main branch"]))
    sha = hub.commit("org/data", "refs/convert/parquet")
    texts, at = read("hf:org/data")
    assert texts == ["one", "two", "three"] and at == f"hf:org/data@{sha}:default/train:text"
    assert read("hf:org/data:test")[0] == ["held out"]
    assert read("hf:org/data@main")[0] == ["of the main branch"]


def test_what_was_read_once_is_kept_and_found_without_the_hub(hub: Served) -> None:
    put(hub, "train.jsonl", lines(["one", "two"]))
    hub.commits[("org/data", "main")] = COMMIT
    texts, at = read("hf:org/data")
    hub_questions._COMMITS.clear()
    hub.fault = lambda path, _: 500
    asked = hub.requests
    assert read(at) == (texts, at) and hub.requests == asked
    with pytest.raises(Refusal, match="the hub cannot be reached") as error:
        read("hf:org/data")
    assert one_sentence(error) and "--repo-type dataset" in str(error.value)


def test_a_branch_that_moves_gives_other_texts_and_the_pin_the_same(hub: Served) -> None:
    put(hub, "train.jsonl", lines(["old"]))
    hub.commits[("org/data", "main")] = "1" * 40
    texts, at = read("hf:org/data")
    put(hub, "train.jsonl", lines(["new"]))
    hub.commits[("org/data", "main")] = "2" * 40
    hub_questions._COMMITS.clear()
    assert texts == ["old"] and read("hf:org/data")[0] == ["new"] and read(at)[0] == ["old"]


def test_no_more_is_fetched_than_is_asked_for(hub: Served) -> None:
    many = [f"text {n} " + "x" * 300 for n in range(8_000)]
    put(hub, "big.parquet", parquet(many, row_group_size=500, compression="none", use_dictionary=False))
    put(hub, "big.jsonl", lines(many), repo="org/lines")
    put(hub, "big.jsonl.gz", gzip.compress(lines(many), 0), repo="org/packed")
    for repo, share in (("data", 0.2), ("lines", 0.5), ("packed", 0.5)):
        before = hub.sent
        texts, _ = read(f"hf:org/{repo}", most=600)
        assert texts == many[:600]
        size = sum(hub.size(name) for name in hub.files if name.startswith(f"/datasets/org/{repo}/"))
        assert hub.sent - before < share * size, repo


@pytest.mark.parametrize(
    ("files", "asked", "expected"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002-abc1.parquet"], "", "default/train"),
        (["train-01-of-02.csv", "train-02-of-02.csv"], "", "default/train"),
        (["en/train/0000.parquet", "default/train/0000.parquet"], "", "default/train"),
        (["a/partial-train/0000.parquet"], "", "a/train"),
        (["mine.jsonl", "README.txt"], "", "default/mine"),
        (["train.jsonl", "test.jsonl", "validation.csv"], "", "default/train"),
        (["train.jsonl", "test.jsonl", "validation.csv"], ":validation", "default/validation"),
        (["en/train.csv", "de/train.csv"], ":de/train", "de/train"),
    ],
)
def test_splits_are_told_by_the_files(hub: Served, files: list[str], asked: str, expected: str) -> None:
    for path in files:
        put(hub, path, b"")
    assert pinned(DatasetRef.parse(f"hf:org/data{asked}")).ref.split == expected


@pytest.mark.parametrize(
    ("files", "asked", "why"),
    [
        (["weights.bin", "data.json"], "", "no file of it ends in .txt, .jsonl, .csv or .parquet"),
        (["train.jsonl"], ":trian", "it has no split 'trian', but default/train; did you mean 'train'"),
        (["en/train.csv", "de/train.csv"], "", "it has de/train, en/train; name one: hf:org/data:de/train"),
        (["data/train-00001-of-00002.parquet"], "", "its 1 files are named as parts of 2, and are not one of each"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv"], "", "are named as parts of 1 and of 2, and are not"),
        (["a.csv", "b.csv"], "", "it has default/a, default/b; name one: hf:org/data:default/a"),
    ],
)
def test_splits_that_are_not_there_are_refused_with_those_that_are(
    hub: Served, files: list[str], asked: str, why: str
) -> None:
    for path in files:
        put(hub, path, b"")
    with pytest.raises(Refusal, match=why) as error:
        read(f"hf:org/data{asked}")
    assert one_sentence(error)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_hub_gives_to_nobody_is_one_sentence(hub: Served, status: int) -> None:
    hub.fault = lambda path, _: status
    with pytest.raises(Refusal, match="the hub has no such repository, or it is gated; check the id") as error:
        read("hf:org/data")
    assert one_sentence(error)


def test_odd_files_of_the_hub_are_refused_and_nothing_of_them_is_kept(hub: Served, tmp_path: Path) -> None:
    put(hub, "train.parquet", b"PAR1 not a table PAR1")
    put(hub, "train.jsonl", b'{"text": "one"}\n[]\n', repo="org/lines")
    put(hub, "train.jsonl", b"\n", repo="org/empty")
    put(hub, "train.jsonl", lines(["one"], "body"), repo="org/named")
    for repo, why in (
        ("data", "hf:org/data/train.parquet: it is not a whole Parquet file"),
        ("lines", "hf:org/lines/train.jsonl, line 2: it is not a JSON object"),
        ("empty", "there is no text in it"),
        ("named", r'row 1: it has no string "text", but body'),
    ):
        with pytest.raises(Refusal, match=why) as error:
            read(f"hf:org/{repo}")
        assert one_sentence(error)
    assert not [path for path in (tmp_path / "cache" / "texts").iterdir() if not path.name.startswith(".")]
    assert read("hf:org/named", column="body")[0] == ["one"]
    with pytest.raises(Refusal, match="the reference names another"):
        read("hf:org/named:train:body", column="text")
    with pytest.raises(Refusal, match='has no string "", but body'):  # an empty word is no word, and not the usual one
        read("hf:org/named", column="")


def test_texts_of_a_data_set_are_both_models_texts(hub: Served) -> None:
    put(hub, "train.jsonl", lines([f"text {n}" for n in range(50)]))
    hub.commits[("org/data", "main")] = COMMIT
    made = Texts.read("hf:org/data", most=20)
    assert made.sentences == made.openings == [f"text {n}" for n in range(20)]
    assert made.settings == {
        "texts": f"hf:org/data@{COMMIT}:default/train:text",
        "text_column": "text",
        "max_texts": 20,
    }
    assert ENOUGH <= MOST
    few = Texts.read("hf:org/data", most=3)
    with pytest.raises(Refusal, match="hf:org/data@c.*: it holds 3 texts"):
        few.refuse_few(Site("a", 1), Site("b", 1), map="aligned")
