"""JSON and rows read part by part are what they are read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal
from dragoman.records import Row
from dragoman.store import streams
from dragoman.store.rowfile import RowFile, each_row
from dragoman.store.streams import JsonStream, json_stream
from viewed_run import make_run

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def parts(stream: JsonStream) -> Any:
    """Everything that stands there, by members and items."""
    if stream.holds() == "{":
        return {key: parts(stream) for key in stream.members()}
    if stream.holds() == "[":
        return [parts(stream) for _ in stream.items()]
    return stream.value()


@given(VALUES, st.sampled_from([None, 2]), st.integers(1, 9))
def test_json_in_parts_is_json_whole(value: Any, indent: int | None, chunk: int) -> None:
    import io

    before, streams._CHUNK = streams._CHUNK, chunk
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        assert parts(JsonStream(io.StringIO(text), "it")) == value
    finally:
        streams._CHUNK = before


@pytest.mark.parametrize("text", ["", "{", '{"a"', '{"a": 1', '{"a": 1,}', "[1 2]", "{1: 2}", '["a', "nope", "[1}"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(Refusal, match="it is not the JSON that was expected"), json_stream(path) as stream:
        parts(stream)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(Refusal, match="it is not UTF-8"), json_stream(path) as stream:
        parts(stream)


def test_rows_with_their_places_are_the_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    path, file = run.path / "rows.jsonl", RowFile(run.path / "rows.jsonl", run.plan)
    placed = list(each_row(path, run.plan))
    assert [one.fields for one in placed] == run.rows()
    for one in placed:
        for check in (True, False):
            row = file.row(one.number, one.start, one.size, check=check)
            assert row.model_copy(update={"digest": ""}) == Row.of(one.fields, "it")
    file.close()


def test_a_torn_last_line_is_not_yet_a_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    path = run.path / "rows.jsonl"
    whole = len(run.rows())
    path.write_bytes(path.read_bytes()[:-5])
    assert len(list(each_row(path, run.plan))) == whole - 1


def test_a_row_that_was_changed_or_moved_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    path = run.path / "rows.jsonl"
    placed = list(each_row(path, run.plan))
    file = RowFile(path, run.plan)
    with pytest.raises(Refusal, match="it was changed, moved"):
        file.row(placed[1].number, placed[0].start, placed[0].size)
    file.close()
    path.write_bytes(path.read_bytes().replace(b"general", b"GENERAL", 1))
    with pytest.raises(Refusal, match="it was changed, moved"):
        list(each_row(path, run.plan))


def test_half_a_character_is_read_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    run.append([{**run.rows()[0], "sample": 9, "text": "half \ud800 of one"}])
    *_, last = each_row(run.path / "rows.jsonl", run.plan)
    file = RowFile(run.path / "rows.jsonl", run.plan)
    assert file.row(last.number, last.start, last.size, check=False).text == "half \ud800 of one"
    file.close()
