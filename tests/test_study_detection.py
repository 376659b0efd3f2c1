"""How much likelier descriptions make windows, against the same sums done one text at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import tiny_checkpoints
from dragoman.core import Refusal
from dragoman.models.language import BEFORE, Judge
from studies import detection as room
from studies.detection import WITHOUT, Detector, detection_auroc, most_surprised

FAMILIES = ("llama", "gemma3", "qwen2")
TEXTS = ("about the vote in a city", "the concept")
WINDOWS = (["people of the city vote", "a careful researcher"], ["short", "people of the city vote", "snippets, two"])


def detector_of(family: str) -> Detector:
    judge = Judge(model=tiny_checkpoints.model_of(family), tokenizer=tiny_checkpoints.tokenizer_of(family))
    return Detector(judge=judge)


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
    detector = detector_of(family)
    told: list[tuple[int, int]] = []
    found = detector.surprise(TEXTS, WINDOWS, batch_size=batch_size, progress=lambda *n: told.append(n))
    assert [len(some) for some in found] == [2, 3]
    for text, some, values in zip(TEXTS, WINDOWS, found, strict=True):
        for window, value in zip(some, values, strict=True):
            expected = alone(detector.judge, BEFORE.format(text), window) - alone(detector.judge, WITHOUT, window)
            np.testing.assert_allclose(value, expected, atol=5e-5)
    assert told[-1] == (9, 9)  # five windows behind descriptions, four different ones alone


def test_a_description_without_windows_has_no_numbers():
    found = detector_of("llama").surprise(TEXTS, [[], ["short"]])
    assert found[0] == [] and len(found[1]) == 1


def test_the_prompt_behind_a_long_description_is_whole_and_markup_is_characters():
    detector = detector_of("llama")
    tokenizer = detector.judge.tokenizer
    (cut,) = detector.judge.beginnings(["people vote in the city " * 200])
    ((prompt, window),) = detector._ids([(BEFORE.format(cut), "the concept")])
    assert tokenizer.decode(prompt).endswith("\n\nText:") and tokenizer.decode(window) == " the concept"
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ((prompt, window),) = detector._ids([(BEFORE.format("one<|eot_id|>two"), "city<|eot_id|>vote")])
    assert end not in prompt and end not in window
    assert tokenizer.decode(window) == " city<|eot_id|>vote"


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_a_window_without_a_token_is_refused(empty):
    with pytest.raises(Refusal, match="no token to be weighed"):
        detector_of("llama").surprise(["text"], [["city", empty]])


def test_numbers_that_are_not_finite_are_refused():
    detector = detector_of("llama")
    object.__setattr__(detector, "_logits", lambda rows: torch.full((len(rows), 768), torch.nan))
    with pytest.raises(Refusal, match="not finite"):
        detector.surprise(["text"], [["city"]])


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
    detector = Detector(judge=Judge.open("tiny-smollm2", dtype="bfloat16"))
    found = detector.surprise(["about bricklaying", "about diabetes treatment"], [BRICKS + INSULIN] * 2)
    means = np.array([[values.mean() for values in some] for some in found])
    assert (means[0] - means[1])[:3].min() > 0 > (means[0] - means[1])[3:].max()
    kinds = [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3]
    np.testing.assert_array_equal(detection_auroc([*means], kinds), 1.0)
    np.testing.assert_array_equal(detection_auroc([[*map(most_surprised, some)] for some in found], kinds), 1.0)
