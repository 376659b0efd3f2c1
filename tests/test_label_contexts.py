"""Labels from marked windows become texts that quote the label's words, for the bench of readers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import label_contexts
import pack
from dragoman.store import read_jsonl
from judged import Told


def test_a_labels_own_words_are_quoted_and_those_that_any_label_has_are_not() -> None:
    told = Told.of(label_contexts.text_of("They are related to ships, sails and the Harbour of a town"))
    assert told.words == ("ships", "sails", "harbour")
    assert label_contexts.text_of("the") == "the" and label_contexts.text_of("") == ""


def test_latents_that_were_seen_firing_are_labelled_by_their_first_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"latent": k, "evidence": [f"window {i} of <<{k}>>" for i in range(6 if k else 0)]} for k in range(12)]
    pack.write_rows(rows, tmp_path / "windows-tiny-smollm2-23.jsonl.gz")

    class Scripted:
        def __init__(self, ref: str, **_how: Any) -> None:
            assert ref == "tiny-smollm2"

        def label(self, asked: list[list[str]]) -> list[str]:
            assert all(len(one) == 3 for one in asked)
            return [f"ships of {one[0].split('<<')[1].strip('>')}" for one in asked]

    monkeypatch.setattr(label_contexts, "Labeller", Scripted)
    monkeypatch.setattr(sys, "argv", ["x", "--work", str(tmp_path), "--windows", "3"])
    label_contexts.main()
    made = {r["latent"]: r for r in read_jsonl(tmp_path / "spoken-from-contexts-0.jsonl.gz")}
    assert set(made) == set(range(1, 12)) and made[5]["who"] == "reader" and made[5]["site"] == "tiny-smollm2-23"
    assert made[5]["text"].startswith("ships of 5\n") and Told.of(made[5]["text"]).token == ("ships",)
