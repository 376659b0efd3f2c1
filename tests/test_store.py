"""The store as a whole: what it lists, what it loads, and files that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dragoman import store
from dragoman.core import Refusal
from store_faults import ENV, one_sentence


def test_everything_public_is_listed() -> None:
    assert len(set(store.__all__)) == len(store.__all__)
    assert [name for name in store.__all__ if not hasattr(store, name)] == []


def test_reading_files_loads_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, dragoman.runs.plan, dragoman.dictionaries, dragoman.store\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENV, check=False).returncode == 0


def test_missing_files_are_one_sentence(tmp_path: Path) -> None:
    for read in (store.read_json, store.read_jsonl, store.file_sha256, store.read_arrays):
        with pytest.raises(Refusal, match=r"reading .*No such file") as error:
            read(tmp_path / "gone.jsonl")
        assert one_sentence(error)
