"""What is written is there whole or not at all, and digests tell contents apart."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import store
from dragoman.core import Estimate, Refusal
from dragoman.scores import FeatureScore
from dragoman.store import files
from store_faults import forbidden, full, one_sentence

TEXT = st.text(alphabet=st.characters(codec="utf-8"))


# --- digests ---------------------------------------------------------------------------------------------------------


def test_digest_tells_where_one_part_ends() -> None:
    assert store.digest("ab", "c") != store.digest("a", "bc") != store.digest("abc")
    assert store.digest("a") != store.digest(b"a")


@given(st.lists(TEXT), st.lists(TEXT))
def test_digest_is_equal_only_for_equal_parts(one: list[str], other: list[str]) -> None:
    assert (store.digest(*one) == store.digest(*other)) == (one == other)


def test_digest_of_arrays_counts_dtype_shape_and_values_but_not_memory_order() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert store.digest(a) == store.digest(np.asfortranarray(a))
    assert len({store.digest(x) for x in (a, a.reshape(3, 2), a.astype(np.float64), a + 1)}) == 4


def test_digest_of_a_folder_counts_names_and_contents_and_not_its_own_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store.write_text(tmp_path / name / "a.txt", "x")
        store.write_text(tmp_path / name / "sub" / "b.txt", "y")
    before = store.digest(tmp_path / "one")
    assert before == store.digest(tmp_path / "two")
    (tmp_path / "two" / "a.txt").rename(tmp_path / "two" / "c.txt")
    assert before != store.digest(tmp_path / "two")
    store.write_text(tmp_path / "one" / "sub" / "b.txt", "z")
    assert before != store.digest(tmp_path / "one")


def test_digest_refuses_object_arrays() -> None:
    with pytest.raises(Refusal, match="object array"):
        store.digest(np.array([{}], dtype=object))


def test_large_files_are_read_side_by_side_and_told_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{k}" for k in range(5)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]) * (10 - k))
    alone = [store.file_sha256(path) for path in paths]
    assert store.of_each(store.file_sha256, paths) == alone
    monkeypatch.setattr(files, "_LARGE", 1)
    threads = set[str]()

    def told(path: Path) -> str:
        threads.add(threading.current_thread().name)
        return store.file_sha256(path)

    assert store.of_each(told, paths) == alone and threading.current_thread().name not in threads
    paths[3].unlink()
    with pytest.raises(Refusal, match="3"):
        store.of_each(store.file_sha256, paths)
    assert store.of_each(store.file_sha256, []) == []


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc" * 1000)
    published = hashlib.sha256(b"abc" * 1000).hexdigest()
    assert store.file_sha256(path) == published


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_the_old_file_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "scores.json"
    store.write_json(path, {"lift": 1})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(Refusal, match="full disk") as error:
            store.write_json(path, {"lift": 2})
    assert one_sentence(error)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.replacing(tmp_path / "page.html") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_forbidden_places_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_json(tmp_path / "manifest.json", {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", forbidden)
        for read in (store.read_json, store.read_text, store.file_sha256, store.fingerprint):
            with pytest.raises(Refusal, match=r"unreadable folder or file \(Permission denied\)") as error:
                read(tmp_path / "manifest.json")
            assert one_sentence(error)
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(Refusal, match="unwritable folder"):
        store.write_text(tmp_path / "page.html", "x")


def test_json_keeps_order_and_says_null_for_numbers_that_are_not_there(tmp_path: Path) -> None:
    estimate = Estimate(np.float64("nan"), 0.0, float("inf"), 1.0, 3, "lift", "none", "features", "t")
    store.write_json(tmp_path / "s.json", {"z": estimate, "a": (np.int64(1), np.arange(2)), 7: Path("x")})
    back = store.read_json(tmp_path / "s.json")
    assert list(back) == ["z", "a", "7"]
    assert back["z"]["value"] is None and back["z"]["high"] is None and back["z"]["n"] == 3
    assert back["a"] == [1, [0, 1]] and back["7"] == "x"


def test_garbage_is_not_json(tmp_path: Path) -> None:
    store.write_text(tmp_path / "m.json", "{")
    with pytest.raises(Refusal, match="it is not JSON"):
        store.read_json(tmp_path / "m.json")


# --- JSON of any size -------------------------------------------------------------------------------------------------

_LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4))
def test_json_written_piece_by_piece_is_what_it_is_in_one_go(value: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as place:
        store.write_json(Path(place) / "a.json", value)
        found = (Path(place) / "a.json").read_bytes()
    whole = json.dumps(store.plain(value), indent=2, ensure_ascii=False)
    try:
        assert found == f"{whole}\n".encode()
    except UnicodeEncodeError:
        assert found == f"{json.dumps(store.plain(value), indent=2)}\n".encode()


def test_records_are_written_with_the_fields_that_were_set(tmp_path: Path) -> None:
    some = (FeatureScore(feature="1", lift=0.5), FeatureScore(feature="2", lift=float("nan"), names_category=True))
    store.write_json(tmp_path / "a.json", {"lifts": {"plain": some}, "one": some[0], "none": ()})
    told = [{"feature": "1", "lift": 0.5}, {"feature": "2", "lift": None, "names_category": True}]
    assert store.read_json(tmp_path / "a.json") == {"lifts": {"plain": told}, "one": told[0], "none": []}
