"""Rises of the last word behind sentences, against the same sums done one text at a time."""

import numpy as np
import pytest

from dragoman.core import Refusal
from dragoman.models.weigh import last_word_rises
from test_language_judge import FAMILIES, judge_of

SENTENCES = ("about the vote in a city", "the concept", "a careful researcher of the people")
WINDOWS = (
    ["people of the city vote", "a careful researcher"],
    ["short", "people of the city vote", "snippets, two"],
    [],
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [2, 64])
def test_rises_are_means_over_the_last_words_tokens(family, rows):
    judge = judge_of(family)
    told: list[tuple[int, int]] = []
    found = last_word_rises(judge, SENTENCES, WINDOWS, rows=rows, progress=lambda *n: told.append(n))
    whole = judge.surprise(SENTENCES, WINDOWS)
    for some, rises, tokens in zip(WINDOWS, found, whole, strict=True):
        assert len(rises) == len(some)
        for window, rise, each in zip(some, rises, tokens, strict=True):
            before = len(
                judge.tokenizer(f" {window.rpartition(' ')[0]}".rstrip(), add_special_tokens=False)["input_ids"]
            )
            last = each[before:] if " " in window else each
            np.testing.assert_allclose(rise, last.mean(), atol=5e-5)
    assert told[-1][0] == told[-1][1]


def test_windows_without_a_token_are_refused():
    with pytest.raises(Refusal, match="no token to be weighed"):
        last_word_rises(judge_of("llama"), ["the concept"], [["  "]])
    assert last_word_rises(judge_of("llama"), [], []) == []
