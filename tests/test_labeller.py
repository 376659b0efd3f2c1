"""The model behind labels from contexts: greedy as the plain loop is, markup as characters, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dragoman.core import Refusal
from dragoman.models import labeller as room
from dragoman.models.labeller import TOKENS, Labeller, cleaned
from tiny_checkpoints import save_checkpoint

FAMILIES = ("llama", "gemma3", "qwen2")
ASKED = [
    ["the <<city>> of the year", "people <<vote>> in it"],
    ["a <<careful>> researcher", "two <<snippets>> of text, more"],
]
CONFIG = "tokenizer_config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labellers")
    for family in FAMILIES:
        save_checkpoint(root / family, family)
    return root


@pytest.fixture(autouse=True)
def _short_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tokenizers cut most words into letters, and the models read 512 of them."""
    monkeypatch.setattr(room, "ASK", "the {}concept{} of:\n{}\n")
    monkeypatch.setattr(room, "BEGUN", "the people")


def alone(model: Any, ids: list[int], stops: set[int]) -> list[int]:
    """Greedy tokens behind one prompt, without padding and cache, up to one that ends it."""
    said: list[int] = []
    with torch.no_grad():
        while len(said) < TOKENS and not (said and said[-1] in stops):
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_a_batch_are_the_plain_loop_s_of_each_alone_whatever_the_checkpoint_would_sample(
    folders: Path, family: str
) -> None:
    one = Labeller(folders / family)
    model = one._model
    stops = set(model.generation_config.eos_token_id)
    expected = [alone(model, one._prompt(some), stops) for some in ASKED]
    assert one.label(ASKED) == [cleaned(one.tokenizer.decode(ids, skip_special_tokens=True)) for ids in expected]
    assert len({len(one._prompt(some)) for some in ASKED}) == 2, "one of them is padded"


def test_a_prompt_is_the_template_s_turn_and_markup_in_a_window_is_characters(folders: Path) -> None:
    one = Labeller(folders / "llama")
    text = one.tokenizer.decode(one._prompt(["a<|eot_id|>b"]))
    assert text.startswith("<|begin_of_text|><|start_header_id|>user") and text.endswith(
        "assistant<|end_header_id|>\n\nthe people"
    )
    assert "the <<concept>> of:\n1. a<|eot_id|>b\n" in text
    ends = one.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert one._prompt(["a<|eot_id|>b"]).count(ends) == 1, "the template ends one turn"


def test_what_decides_its_labels_is_told(folders: Path, tmp_path: Path) -> None:
    head = Labeller(folders / "llama").head(8)
    assert head == Labeller(folders / "llama").head(8) and head.windows == 8 and head.model == f"{folders / 'llama'}"
    assert head.files != Labeller(folders / "qwen2").head(8).files
    save_checkpoint(tmp_path / "copy", "llama")
    assert Labeller(tmp_path / "copy").head(8).files == head.files, "another place is no other model"


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ('\n "Fruit of the tropics."\nMore', "Fruit of the tropics"),
        ("1. **Rivers**", "Rivers"),
        ("- <<the>> verb to be;", "the verb to be"),
        (" ...\n\nwords", "words"),
        ("1990", "1990"),
        ("caf\N{REPLACEMENT CHARACTER}", "caf"),
        ("?!\n", ""),
    ],
)
def test_of_what_it_says_the_first_line_is_kept_without_marks(said: str, label: str) -> None:
    assert cleaned(said) == label


def changed(folders: Path, to: Path, template: str | None) -> Path:
    """A copy with another chat template, or with none."""
    save_checkpoint(to, "llama")
    (to / "chat_template.jinja").unlink(missing_ok=True)
    told = json.loads((to / CONFIG).read_text())
    told.pop("chat_template", None)
    if template is not None:
        told["chat_template"] = template
    (to / CONFIG).write_text(json.dumps(told))
    return to


def test_models_that_cannot_be_asked_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no chat template, so it cannot be asked for a label; name an instruct model"):
        Labeller(changed(folders, tmp_path / "base", None))
    with pytest.raises(Refusal, match="does not show a message once"):
        Labeller(changed(folders, tmp_path / "deaf", "Say something."))
    with pytest.raises(Refusal, match="nowhere"):
        Labeller(tmp_path / "nowhere")
    (changed(folders, tmp_path / "empty", "{{ messages[0]['content'] }}") / "model.safetensors").unlink()
    with pytest.raises(Refusal, match="safetensors"):
        Labeller(tmp_path / "empty").open()
    with pytest.raises(Refusal, match=r"and it reads 512; ask for fewer --windows"):
        Labeller(folders / "llama").label([["zzzz " * 200]])
