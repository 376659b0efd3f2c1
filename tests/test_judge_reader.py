"""What a reader said of held-out latents is judged by the other half's records; files of stages are whole or absent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from corpus import Document
from judge_reader import against, mixed, unseen_positions
from latents import Record
from many import share_of
from many_files import put


def record(latent: int, word: str, category_low: float = 0.1) -> Record:
    return Record(latent=latent, positions=9, effective=9.0, words={word: 0.9}, form="", before=(), after=(),
                  category="law", category_low=category_low, topic="", topic_low=0.0)  # fmt: skip


def said(word: str, theme: str = "no particular topic") -> str:
    return f'A passage about {theme}, written as a novel.\n\nFinal token "{word}", a plain word; "it" comes next.'


def test_right_texts_are_told_from_dealt_ones_and_themes_from_none() -> None:
    truths = [record(0, "ship"), record(1, "court", 0.5), record(2, "yeast")]
    right = against([said("ship"), said("court", "law"), said("yeast")], truths)
    assert (right["words"], right["words_dealt"], right["theme"], right["false_theme"]) == (1.0, 0.0, 1.0, 0.0)
    wrong = against([said("court", "law"), said("yeast"), said("ship", "law")], truths)
    assert (wrong["words"], wrong["words_dealt"], wrong["theme"], wrong["false_theme"]) == (0.0, 1.0, 0.0, 1.0)
    assert against(["Nothing in particular."] * 3, truths)["nothing"] == 1.0


def test_a_mixture_holds_the_share_of_each_row_and_the_rest_of_the_next() -> None:
    rows = torch.diag(torch.tensor([2.0, 3.0, 4.0]))
    assert torch.allclose(mixed(rows, 0.25), 0.25 * torch.eye(3) + 0.75 * torch.eye(3).roll(-1, 0))


def test_real_activations_are_of_documents_that_nothing_was_trained_on() -> None:
    documents = [Document("a text", "", "", "a novel", "dev" if k % 3 == 0 else "train") for k in range(9)]
    owner = np.repeat(np.arange(9), 4)
    chosen = unseen_positions(documents, owner, np.random.default_rng(0), 10)
    assert len(chosen) == 10 and set(owner[chosen]) <= {0, 3, 6} and list(chosen) == sorted(chosen)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def stopped(part: Path) -> None:
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "rows.json", stopped)
    assert not (tmp_path / "rows.json").exists()
    put(tmp_path / "rows.json", lambda part: part.write_text("whole"))
    assert (tmp_path / "rows.json").read_text() == "whole"


def test_processes_share_the_parts_of_a_stage() -> None:
    shares = [share_of(SimpleNamespace(share=f"{k}/3"), range(8)) for k in (1, 2, 3)]  # type: ignore[arg-type]
    assert sorted(sum(shares, [])) == list(range(8)) and shares[0] == [0, 3, 6]
