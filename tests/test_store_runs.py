"""Rows and run folders: gone on with after a kill, and never with two writers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import store
from dragoman.core import Estimate, Refusal
from dragoman.store import Rows, RunFolder
from dragoman.store.apart import lens_apart, windows_apart
from dragoman.store.runs import FORMAT, read_whole_rows
from store_faults import ENV, forbidden, full, one_sentence

ROWS_WITHOUT_A_DIGEST = b'{"feature": "11", "text": "a", "tokens": 11}\n'
CONTEXTS = {"1": {"firing": ["here"], "silent": ["not here"], "words": {"here": 0.5}}}
LENS = {"writes": {"1": {"source": ["a"], "carried": ["b"]}}}
ROWS = [{"feature": str(i), "text": "α" * (i % 5) + "\n", "tokens": i} for i in range(12)]


def written(path: Path) -> bytes:
    rows = Rows(path)
    rows.append(ROWS[:5])
    rows.append(ROWS[5:])
    rows.close()
    return path.read_bytes()


@given(st.data())
def test_rows_cut_at_any_byte_reopen_as_the_whole_ones_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    whole = written(path)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    count = whole[:cut].count(b"\n")
    assert read_whole_rows(path) == ROWS[:count]  # a reader leaves the torn line where it is
    assert path.stat().st_size == cut
    rows = Rows(path)
    assert rows.read() == ROWS[:count]
    rows.append(ROWS[count:])
    rows.close()
    assert path.read_bytes() == whole


@given(st.text())
def test_rows_keep_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    rows = Rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")
    rows.append([{"text": text}, {"text": "\ud800" + text}])
    assert rows.read() == [{"text": text}, {"text": "\ud800" + text}]
    rows.close()


def test_a_torn_line_longer_than_any_buffer_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = written(path)
    path.write_bytes(whole + b'{"text": "' + b"x" * (3 << 20))
    Rows(path).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("wrote", [0, 7])
def test_a_disk_that_fills_up_while_appending_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: int
) -> None:
    path = tmp_path / "rows.jsonl"
    whole = written(path)
    rows = Rows(path)
    real = os.write
    calls: list[int] = []

    def write(handle: int, content: bytes) -> int:
        calls.append(len(content))
        if wrote and len(calls) == 1:
            return real(handle, bytes(content)[:wrote])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(Refusal, match="full disk") as error:
            rows.append(ROWS)
    assert one_sentence(error) and calls
    assert path.read_bytes() == whole
    rows.append(ROWS[:1])
    assert rows.read() == [*ROWS, ROWS[0]]
    rows.close()


def test_a_failed_sync_takes_the_rows_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    whole = written(path)
    rows = Rows(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Refusal, match="full disk"):
            rows.append(ROWS)
    rows.close()
    assert path.read_bytes() == whole


def test_broken_rows_are_named_by_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    run.append(ROWS[:1])
    with (run.path / "rows.jsonl").open("ab") as file:
        file.write(b'{"a": \n{"a": 3}\n')
    with pytest.raises(Refusal, match="line 2: it is not JSON"):
        run.rows()


def edited(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"tokens": 1', b'"tokens": 7'), *lines[2:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (edited, 2),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),  # there twice
        (lambda lines: [lines[0], *lines[2:]], 2),  # one taken away
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5),  # two changed places
        (lambda lines: [*lines[:-1], ROWS_WITHOUT_A_DIGEST], 12),
        (lambda lines: [*lines[:-1], lines[-1][:-4] + b'"}\n'], 12),
    ],
    ids=["edited", "twice", "gone", "moved", "without a digest", "digest cut"],
)
def test_rows_that_were_not_written_there_are_refused_by_line(tmp_path: Path, change: Any, line: int) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    run.append(ROWS)
    path = run.path / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
    before = path.read_bytes()
    with pytest.raises(Refusal, match=rf"rows.jsonl, line {line}: it was changed, moved, or is of another") as error:
        run.rows()
    assert one_sentence(error) and path.read_bytes() == before


def test_all_that_a_run_keeps_is_refused_of_another_run(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path / name, {"plan_digest": name * 64}) for name in "ab"]
    for run in runs:
        run.append(ROWS)
        run.write_scores({"lift": 0.25})
        run.write_vectors({"plain": np.eye(2, dtype=np.float32)}, {"site": "m:1"})
        run.write_contexts(CONTEXTS)
        run.write_lens(LENS)
        assert (run.contexts, run.lens) == (CONTEXTS, LENS)
        with windows_apart(run) as windows, lens_apart(run, "writes") as words:
            assert (dict(windows), dict(words)) == (CONTEXTS, LENS["writes"])
        assert run.rows() == ROWS and run.scores == {"lift": 0.25} and run.vectors()[1] == {"site": "m:1"}
    for name in ("rows.jsonl", "scores.json", "vectors.safetensors", "contexts.json", "lens.json"):
        (runs[1].path / name).write_bytes((runs[0].path / name).read_bytes())
    with pytest.raises(Refusal, match=r"rows.jsonl, line 1: it was changed, moved, or is of another run"):
        runs[1].rows()
    with pytest.raises(Refusal, match=r"scores.json: it does not hold this run's scores; score the run again"):
        _ = runs[1].scores
    with pytest.raises(Refusal, match=r"vectors.safetensors: it does not hold this run's vectors"):
        runs[1].vectors()
    for read in (lambda: runs[1].contexts, lambda: list(windows_apart(runs[1]).__enter__())):
        with pytest.raises(Refusal, match=r"contexts.json: it is of another run, or does not say of which; remove it"):
            read()
    for words in (lambda: runs[1].lens, lambda: list(lens_apart(runs[1], "writes").__enter__())):
        with pytest.raises(Refusal, match=r"lens.json: it is of another run, or does not say of which; remove it"):
            words()


def test_a_copied_run_is_the_same_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    run.append(ROWS)
    run.write_scores({"lift": 0.25})
    copied = RunFolder.open(shutil.copytree(run.path, tmp_path / "copy"))
    assert copied.rows() == ROWS and copied.scores == run.scores


def test_rows_of_a_file_too_large_for_rows_are_not_read(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    run.append(ROWS)
    os.truncate(run.path / "rows.jsonl", 4 << 30)
    with pytest.raises(Refusal, match="too many for rows"):
        run.rows()


def test_a_run_is_gone_on_with_and_another_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a" * 64, "source": "m:1", "versions": {"dragoman": "1"}})
    assert run.manifest["format"] == FORMAT and run.rows() == [] and run.scores is None
    run.append(ROWS[:2])
    again = RunFolder.create(tmp_path / "run", {"plan_digest": "a" * 64, "versions": {"dragoman": "2"}})
    assert again.rows() == ROWS[:2]
    assert again.manifest == run.manifest == RunFolder.open(tmp_path / "run").manifest
    with pytest.raises(Refusal, match="holds another run") as error:
        RunFolder.create(tmp_path / "run", {"plan_digest": "b" * 64})
    assert one_sentence(error)
    assert RunFolder.open(tmp_path / "run").rows() == ROWS[:2]


def test_folders_that_are_not_runs_are_refused(tmp_path: Path) -> None:
    store.write_text(tmp_path / "thesis.txt", "x")
    with pytest.raises(Refusal, match=r"holds other files \(thesis.txt\)"):
        RunFolder.create(tmp_path, {"plan_digest": "a"})
    with pytest.raises(Refusal, match="not a run folder"):
        RunFolder.open(tmp_path)
    with pytest.raises(Refusal, match="manifest without plan_digest"):
        RunFolder.create(tmp_path / "new", {})
    for other in (1, 99):  # 1: rows without digests, which could be anybody's
        store.write_json(tmp_path / "old" / "manifest.json", {"format": other, "plan_digest": "a"})
        with pytest.raises(Refusal, match=f"its format is {other}, this dragoman reads {FORMAT}; make the run again"):
            RunFolder.open(tmp_path / "old")
    with pytest.raises(Refusal, match=r"thesis\.txt"):
        RunFolder.create(tmp_path / "thesis.txt", {"plan_digest": "a"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "thesis.txt"]


def test_a_folder_left_by_a_process_killed_before_its_manifest_can_be_used(tmp_path: Path) -> None:
    store.write_text(tmp_path / ".manifest.json.77.ab.tmp", "{")
    store.write_text(tmp_path / ".lock", "")
    assert RunFolder.create(tmp_path, {"plan_digest": "a"}).manifest["plan_digest"] == "a"


def test_a_full_disk_leaves_no_half_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(Refusal, match="full disk"):
            RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    assert RunFolder.create(tmp_path / "run", {"plan_digest": "b"}).manifest["plan_digest"] == "b"


def test_scores_vectors_and_page_have_their_places(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    run.write_scores({"lift": Estimate(0.2, 0.1, 0.3, 0.01, 9, "lift", "other features", "features", "t")})
    assert run.scores is not None and run.scores["lift"]["value"] == 0.2
    run.write_vectors({"plain": np.eye(2, dtype=np.float32)}, {"site": "m:1"})
    arrays, meta = run.vectors()
    np.testing.assert_array_equal(arrays["plain"], np.eye(2))
    assert meta == {"site": "m:1"} and run.page == tmp_path / "run" / "page.html"


def test_two_writers_of_one_run_are_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    other = RunFolder.open(tmp_path / "run")
    with run.writing():
        run.append(ROWS[:1])
        with pytest.raises(Refusal, match="another process is writing this run") as error:
            other.append(ROWS)
        assert one_sentence(error)
        with pytest.raises(Refusal, match="another process is writing this run"):
            RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
        assert other.rows() == ROWS[:1]  # readers need no lock
    other.append(ROWS[1:2])
    assert run.rows() == ROWS[:2]


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from dragoman.store import RunFolder\nwith RunFolder.open(sys.argv[1]).writing(): os._exit(9)"
    )
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
    ended = subprocess.run([sys.executable, "-c", code, str(run.path)], env=ENV, check=False)
    assert ended.returncode == 9
    run.append(ROWS[:1])
    assert run.rows() == ROWS[:1]


def test_an_unreadable_run_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(Refusal, match="unreadable folder"):
        RunFolder.create(tmp_path / "run", {"plan_digest": "a"})
