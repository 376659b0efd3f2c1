"""What a published checkpoint's folder must hold to be opened as a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dragoman
from dragoman.core import Refusal
from dragoman.models.load import load_model
from tiny_checkpoints import save_checkpoint

pytestmark = pytest.mark.usefixtures("no_hub")


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    model, tokenizer = load_model(folder)
    assert not model.training and tokenizer.padding_side == "right"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refusal, match=r"no \*\.safetensors weights, and pickled weights are never loaded; convert"):
        load_model(folder)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refusal, match=r"it holds no tokenizer\.json, and offsets need a fast tokenizer"):
        load_model(folder)


def test_an_unknown_dtype_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen2")
    with pytest.raises(Refusal, match=r"^dtype 'int4': known are float32, bfloat16, float16"):
        load_model(folder, dtype="int4")
    assert str(next(load_model(folder, dtype="bfloat16")[0].parameters()).dtype) == "torch.bfloat16"


def test_every_opening_says_that_no_code_of_a_checkpoint_is_run() -> None:
    calls = [
        (path.name, text[at : at + 600].split("\n\n")[0])
        for path in Path(dragoman.__file__).parent.rglob("*.py")
        for text in [path.read_text(encoding="utf-8")]
        for at in (found.start() for found in re.finditer(r"\b\w+\.from_pretrained\(", text))
    ]
    odd = {name for name, call in calls if "PeftConfig" not in call and "trust_remote_code=False" not in call}
    assert len(calls) >= 6 and not odd
