"""The source model as a judge: what it writes, and what fires on it, against the same sums done one text at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

import tiny_checkpoints
from dragoman.core import Refusal, Site
from dragoman.models import language as room
from dragoman.models.harvest import Reader
from dragoman.models.language import BEFORE, Judge, passage_peaks

FAMILIES = ("llama", "gemma3", "qwen2")
TEXTS = ("about the vote in a city", "the concept")


def judge_of(family: str) -> Judge:
    return Judge(model=tiny_checkpoints.model_of(family), tokenizer=tiny_checkpoints.tokenizer_of(family))


def test_a_long_description_is_cut():
    judge = judge_of("llama")
    long = "people vote in the city " * 200
    (cut,) = judge.beginnings([long])
    assert long.startswith(cut) and len(judge.tokenizer(cut)["input_ids"]) == room.MOST
    assert judge.beginnings(["the concept", ""]) == ["the concept", ""]


def test_markup_in_a_description_is_characters():
    judge = judge_of("llama")
    end = judge.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    asked = judge._asked("one<|eot_id|>two")
    assert asked.count(end) == 1, "the template ends one turn"
    assert "one two" in judge.tokenizer.decode(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_passages_are_drawn_again_alike_and_leave_the_callers_numbers_alone(family):
    judge = judge_of(family)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = judge.write_from(TEXTS, n=3, tokens=6, seed=1, batch_size=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [len(some) for some in first] == [3, 3]
    assert len({text for some in first for text in some}) > 3
    torch.manual_seed(6)
    assert judge.write_from(TEXTS, n=3, tokens=6, seed=1, batch_size=4) == first
    assert judge.write_from(TEXTS, n=3, tokens=6, seed=2, batch_size=4) != first


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_are_a_chat_turn_or_a_plain_beginning_padded_on_the_left(chat, monkeypatch):
    judge = judge_of("llama")
    if not chat:
        judge.tokenizer.chat_template = None
    seen: list[dict[str, Any]] = []

    def generate(**how: Any) -> torch.Tensor:
        seen.append(how)
        said = torch.full((len(how["input_ids"]), 2), judge.tokenizer.convert_tokens_to_ids("Ġcity"))
        return torch.cat([how["input_ids"], said], dim=1)

    monkeypatch.setattr(judge.model, "generate", generate)
    assert judge.write_from(TEXTS, n=2, tokens=2) == [["city city"] * 2] * 2
    assert (seen[0]["max_new_tokens"], seen[0]["top_p"], seen[0]["do_sample"]) == (2, 0.95, True)
    ids, mask = seen[0]["input_ids"], seen[0]["attention_mask"]
    for row, text in zip((0, 2), TEXTS, strict=True):
        own = ids[row, mask[row] == 1].tolist()
        assert mask[row, -len(own) :].all(), "what stands before is padding"
        written = judge.tokenizer.decode(own)
        turn = [{"role": "user", "content": room.ASK.format(text)}]
        template: Any = judge.tokenizer.apply_chat_template
        chatted = str(template(turn, tokenize=False, add_generation_prompt=True)) if chat else ""
        assert written == (chatted if chat else f"<|begin_of_text|>{BEFORE.format(text)}")
        assert own.count(judge.tokenizer.bos_token_id) == 1
    assert not mask[2].all()


class Fires:
    """Latent k fires by the stream's number k; ``kind``: what it gives them as."""

    def __init__(self, width: int, kind: Any = np.asarray) -> None:
        self.d_sae, self._kind = width, kind

    def encode(self, x: np.ndarray) -> Any:
        return self._kind(np.maximum(x, 0))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_generation_is_the_mean_over_passages_of_the_largest_activation(kind, monkeypatch):
    monkeypatch.setattr(room, "_ROWS", 3)
    net, tokenizer = tiny_checkpoints.model_of("qwen2"), tiny_checkpoints.tokenizer_of("qwen2")
    reader = Reader(site=Site("tiny", 1), model=net, tokenizer=tokenizer)
    passages = [["people of the city vote", " ", "a careful researcher"], ["the concept of a vector"]]
    columns = [7, 3, 11]
    peaks = passage_peaks(passages, reader, Fires(reader.width, kind), columns, batch_size=2)
    found = np.stack([one.mean(axis=0) for one in peaks])
    expected = np.zeros((2, 3))
    for row, some in enumerate(passages):
        for text in filter(str.strip, some):
            with torch.no_grad():
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                stream = net(ids, output_hidden_states=True).hidden_states[2][0, 1:].numpy()
            expected[row] += np.maximum(stream[:, columns], 0).max(axis=0) / len(some)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_generation_without_passages_or_latents_is_refused():
    reader: Any = SimpleNamespace()
    with pytest.raises(Refusal, match="nothing was written"):
        passage_peaks([["text"], []], reader, Fires(4), [0])
    with pytest.raises(Refusal, match="the dictionary has 4"):
        passage_peaks([["text"]], reader, Fires(4), [4])
