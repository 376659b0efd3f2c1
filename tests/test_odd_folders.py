"""The corpus of odd folders: each ends in a refusal that names the thing, or opens; never otherwise, never late."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import odd_checkpoints  # noqa: F401
import odd_others  # noqa: F401 (they enter themselves)
import odd_tokenizers  # noqa: F401
from ar_checkpoints import save_full
from dragoman.core import Refusal
from dragoman.models.decode import Verbalizer
from dragoman.models.embedder import SentenceEmbedder
from dragoman.models.reconstruct import Reconstructor
from dragoman.store.boundary import Limits
from dragoman.verbalizers import prompt as chat
from odd_changes import CANARY, ODD
from tiny_checkpoints import save_adapter, save_checkpoint
from tiny_embedder import save_embedder

LONGEST = 20.0  # seconds of processor time that one may take here; those in processes of their own are bounded there


def said_by(folder: Path) -> None:
    """Open a verbalizer, tell it apart, let it say two tokens."""
    verbalizer = Verbalizer(folder)
    assert verbalizer.identity["files"]
    rows = np.ones((1, verbalizer.contract.width), np.float32)
    assert verbalizer.verbalize(rows, max_new_tokens=2)[0].tokens


def read_by(folder: Path) -> None:
    reader = Reconstructor(folder, layout="kitft")
    assert reader.identity["files"] and reader.reconstruct(["rivers"]).shape[0] == 1


def embedded_by(folder: Path) -> None:
    assert SentenceEmbedder(folder).encode(["rivers"]).shape[0] == 1


OPEN: dict[str, Callable[[Path], None]] = {
    "verbalizer": said_by, "adapter": said_by, "reconstructor": read_by, "embedder": embedded_by
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole checkpoint of each kind."""
    root = tmp_path_factory.mktemp("whole")
    base = save_checkpoint(root / "base", "qwen2")
    return {
        "verbalizer": base,
        "adapter": save_adapter(root / "adapter", "qwen2", base),
        "reconstructor": save_full(root / "reconstructor", "llama"),
        "embedder": save_embedder(root / "embedder"),
    }


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_folder_is_refused_by_name_or_opens(
    name: str, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ODD[name]
    folder = Path(shutil.copytree(whole[case.kind], tmp_path / "it"))
    if case.kind == "adapter":
        odd_others.on_base(folder, Path(shutil.copytree(whole["verbalizer"], tmp_path / "base")))
    case.change(folder)
    monkeypatch.setattr(chat, "LIMITS", Limits(seconds=1, megabytes=600))
    monkeypatch.setattr("builtins.input", _asked)
    monkeypatch.chdir(tmp_path)
    said, start = "", time.process_time()
    try:
        OPEN[case.kind](folder)
    except Refusal as refusal:
        said = str(refusal)
    taken = time.process_time() - start
    assert not (tmp_path / CANARY).exists(), "code of the checkpoint was run"
    assert taken < LONGEST
    if case.said:
        assert re.search(case.said, said), said or "it opened"
    else:
        assert not said


def _asked(*_: Any) -> str:
    raise AssertionError("somebody was asked")


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(ODD) >= 300
    assert sum(not case.said for case in ODD.values()) < len(ODD) / 8  # most of it is refused
