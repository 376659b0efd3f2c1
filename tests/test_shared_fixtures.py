"""What several test files share is the same whatever they do with it, in whatever order they run."""

from __future__ import annotations

import pytest

from ar_checkpoints import FAMILIES, TEXTS, base_of, tokenizer_for
from dragoman.models.encode import encode_texts


@pytest.mark.parametrize("family", FAMILIES)
def test_who_changes_a_tokenizer_changes_his_own(family: str) -> None:
    first = tokenizer_for(family)
    before, size, file = first.encode(TEXTS[0]), len(first), first.backend_tokenizer.to_str()
    first.add_tokens(["people"])
    first.pad_token, first.padding_side, first.truncation_side = first.eos_token, "left", "left"
    first(TEXTS, truncation=True, max_length=3, padding="max_length")
    again = tokenizer_for(family)
    assert again.backend_tokenizer.to_str() == file and (again.padding_side, again.truncation_side) == ("right",) * 2
    assert again.encode(TEXTS[0]) == before and len(again) == size == len(first) - 1
    assert encode_texts(again, TEXTS, 64).ids != encode_texts(first, TEXTS, 64).ids


def test_a_base_is_the_same_whenever_it_is_made() -> None:
    one = base_of("llama").state_dict()
    tokenizer_for("llama").add_tokens(["people"])
    other = base_of("llama").state_dict()
    assert all(one[name].equal(other[name]) for name in one)
