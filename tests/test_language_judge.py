"""The source model as a judge, against the same sums done one text at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

import tiny_checkpoints
from dragoman.core import Refusal, Site
from dragoman.models import language as room
from dragoman.models.harvest import Reader
from dragoman.models.language import BEFORE, WITHOUT, Judge, detection_auroc, generation_table, most_surprised

FAMILIES = ("llama", "gemma3", "qwen2")
TEXTS = ("about the vote in a city", "the concept")
WINDOWS = (["people of the city vote", "a careful researcher"], ["short", "people of the city vote", "snippets, two"])


def judge_of(family: str) -> Judge:
    return Judge(model=tiny_checkpoints.model_of(family), tokenizer=tiny_checkpoints.tokenizer_of(family))


def alone(judge: Judge, prompt: str, window: str) -> np.ndarray:
    """Log-probabilities of a window's tokens behind a prompt, in one pass and by the model's own logits."""
    begun = judge.tokenizer(prompt)["input_ids"]
    whole = judge.tokenizer(f"{prompt} {window}")["input_ids"]
    assert whole[: len(begun)] == begun
    with torch.no_grad():
        told: Any = judge.model
        found = told(torch.tensor([whole])).logits[0].log_softmax(1)
    return np.array([float(found[k - 1, whole[k]]) for k in range(len(begun), len(whole))])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_surprise_is_the_difference_of_two_log_probabilities_of_each_token(family, batch_size, monkeypatch):
    monkeypatch.setattr(room, "_POSITIONS", 5)
    judge = judge_of(family)
    told: list[tuple[int, int]] = []
    found = judge.surprise(TEXTS, WINDOWS, batch_size=batch_size, progress=lambda *n: told.append(n))
    assert [len(some) for some in found] == [2, 3]
    for text, some, values in zip(TEXTS, WINDOWS, found, strict=True):
        for window, value in zip(some, values, strict=True):
            expected = alone(judge, BEFORE.format(text), window) - alone(judge, WITHOUT, window)
            np.testing.assert_allclose(value, expected, atol=5e-5)
    assert told[-1] == (9, 9)  # five windows behind descriptions, four different ones alone


def test_a_description_without_windows_has_no_numbers():
    found = judge_of("llama").surprise(TEXTS, [[], ["short"]])
    assert found[0] == [] and len(found[1]) == 1


def test_a_long_description_is_cut_and_the_prompt_behind_it_is_not():
    judge = judge_of("llama")
    long = "people vote in the city " * 200
    (cut,) = judge._cut([long])
    assert long.startswith(cut) and len(judge.tokenizer(cut)["input_ids"]) == room.MOST
    ((prompt, window),) = judge._ids([(BEFORE.format(cut), "the concept")])
    assert judge.tokenizer.decode(prompt).endswith("\n\nText:")
    assert judge.tokenizer.decode(window) == " the concept"
    assert judge._cut(["the concept", ""]) == ["the concept", ""]


def test_markup_in_a_window_or_a_description_is_characters():
    judge = judge_of("llama")
    end = judge.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ((prompt, window),) = judge._ids([(BEFORE.format("one<|eot_id|>two"), "city<|eot_id|>vote")])
    assert end not in prompt and end not in window
    assert judge.tokenizer.decode(window) == " city<|eot_id|>vote"
    asked = judge._asked("one<|eot_id|>two")
    assert asked.count(end) == 1, "the template ends one turn"
    assert "one two" in judge.tokenizer.decode(asked)


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_a_window_without_a_token_is_refused(empty):
    with pytest.raises(Refusal, match="no token to be weighed"):
        judge_of("llama").surprise(["text"], [["city", empty]])


def test_numbers_that_are_not_finite_are_refused():
    judge = judge_of("llama")
    object.__setattr__(judge, "_logits", lambda rows: torch.full((len(rows), 768), torch.nan))
    with pytest.raises(Refusal, match="not finite"):
        judge.surprise(["text"], [["city"]])


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
    found = generation_table(passages, reader, Fires(reader.width, kind), columns, batch_size=2)
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
        generation_table([["text"], []], reader, Fires(4), [0])
    with pytest.raises(Refusal, match="the dictionary has 4"):
        generation_table([["text"]], reader, Fires(4), [4])


def test_detection_is_the_area_under_the_curve_of_rises():
    rng = np.random.default_rng(0)
    rises = [rng.normal(size=n).round(1) for n in (40, 9, 5)]
    firing = [rng.random(40) < 0.4, [True] * 3 + [False] * 6, [True] * 4 + [False]]
    found = detection_auroc(rises, firing)
    for k in (0, 1):
        assert found[k] == pytest.approx(roc_auc_score(firing[k], rises[k]))
    assert np.isnan(found[2])
    with pytest.raises(Refusal, match="do not go together"):
        detection_auroc(rises, [firing[0], firing[1], [True]])


def test_the_most_surprised_tokens_of_a_window():
    assert most_surprised(np.array([1.0, -5.0, 3.0, 2.0, 0.0])) == 2.0
    assert most_surprised(np.array([4.0, 1.0])) == 2.5
    assert most_surprised(np.zeros(0)) == 0.0


BRICKS = [
    "He spread the mortar with a trowel and set another course along the wall.",
    "The mason checked that each joint was level before he laid the next one.",
    "They stacked the clay bricks beside the scaffold and mixed more cement.",
]
INSULIN = [
    "Her blood sugar was high, so the nurse raised the dose of insulin.",
    "Patients should measure their glucose before every meal.",
    "The doctor told him to lose weight and to take metformin twice a day.",
]


@pytest.mark.usefixtures("pair_tokenizers")
def test_the_packaged_source_finds_windows_of_a_subject_likelier_behind_that_subject():
    judge = Judge.open("tiny-smollm2", dtype="bfloat16")
    found = judge.surprise(["about bricklaying", "about diabetes treatment"], [BRICKS + INSULIN] * 2)
    means = np.array([[values.mean() for values in some] for some in found])
    assert (means[0] - means[1])[:3].min() > 0 > (means[0] - means[1])[3:].max()
    kinds = [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3]
    np.testing.assert_array_equal(detection_auroc([*means], kinds), 1.0)
    np.testing.assert_array_equal(detection_auroc([[*map(most_surprised, some)] for some in found], kinds), 1.0)
