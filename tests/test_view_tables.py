"""A selection as CSV, JSON lines and Parquet: all of its texts, and none that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.core import Refusal
from dragoman.exports import tables
from viewed_run import HOSTILE_ID, client_of, make_run, viewed

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = make_run(tmp_path_factory.mktemp("tables") / "run", 12)
    made.append([{**made.rows()[0], "feature": "9", "sample": 2, "text": '=HYPERLINK("http://x")'}])
    return made


@pytest.fixture(scope="module")
def client(run: Any) -> Iterator[Any]:
    view = viewed(run)
    yield client_of(view)
    view.close()


def test_json_lines_hold_every_text_as_it_is(client: Any, run: Any) -> None:
    told = [json.loads(line) for line in client.get("/run/table.jsonl").text.splitlines()]
    wanted = {
        (row["feature"], row["condition"], row["sample"]): row["text"] for row in run.rows() if row["kind"] == "feature"
    }
    assert {(row["feature"], row["condition"], row["sample"]): row["text"] for row in told} == wanted
    assert told[0]["card_coverage"] == pytest.approx(0.3)
    assert told[0]["short"] == "About beekeeping"


def test_a_selection_is_all_of_it_and_nothing_else(client: Any) -> None:
    told = [
        json.loads(line) for line in client.get("/run/table.jsonl?status=differs&condition=writes").text.splitlines()
    ]
    assert {row["feature"] for row in told} == {"3", "7", "11"}
    assert {row["condition"] for row in told} == {"writes"}
    assert client.get("/run/table.jsonl?q=nothingofthekind").text == ""


def test_csv_reads_back_and_runs_nothing(client: Any) -> None:
    csv.field_size_limit(1 << 20)
    answer = client.get("/run/table.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="run.csv"'
    told = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert list(told[0]) == list(tables.COLUMNS)
    assert len(told) == 12 * 4 - 2 + 1
    assert not [
        cell
        for row in told
        for cell in (row["text"], row["label"], row["short"])
        if cell.startswith(("=", "+", "-", "@"))
    ]
    assert '\'=HYPERLINK("http://x")' in [row["text"] for row in told]
    hostile = next(row for row in told if row["feature"] == HOSTILE_ID)
    assert hostile["text"].startswith("</p></article><script>")


def test_parquet_has_the_same_rows_with_their_types(client: Any) -> None:
    pa = pytest.importorskip("pyarrow.parquet", reason="run: pip install 'dragoman[view]'")
    table = pa.read_table(io.BytesIO(client.get("/run/table.parquet").content))
    lines = [json.loads(line) for line in client.get("/run/table.jsonl").text.splitlines()]
    assert table.column_names == list(tables.COLUMNS)
    assert table.column("text").to_pylist() == [row["text"] for row in lines]
    assert table.column("confidence").to_pylist() == [row["confidence"] for row in lines]
    assert str(table.schema.field("answered").type) == "bool"


def test_parquet_without_its_library_is_refused_with_the_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(Refusal, match=r"pyarrow, which is not installed; run: pip install 'dragoman\[parquet\]'"):
        tables.write_parquet(tmp_path / "table.parquet", ())
    assert not list(tmp_path.iterdir())
