"""What a caller in Python may pass by mistake is taken as it is meant, or refused in one sentence."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

import dragoman
from dragoman import Refusal
from dragoman.runs.texts import Texts
from small_world import World

SOME = ["one text", "another text"]


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        set(SOME),
        frozenset(SOME),
        (text for text in SOME),
        iter(SOME),
        dict.fromkeys(SOME),
        np.array(SOME),
        3,
        map(str, SOME),
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_without_order_or_given_once_are_refused(world: World, given: Any) -> None:
    kind = type(given).__name__
    sentence = f"^texts of type {kind}: texts are read in order and more than once; pass a list of str, or a file.$"
    with pytest.raises(Refusal, match=sentence):
        Texts.of(given)
    with pytest.raises(Refusal, match=sentence):
        dragoman.fit_crossing(world.sae, world.target, texts=given)


@pytest.mark.parametrize("given", [[], (), b"one text", bytearray(b"text"), range(3), ["one", 3], ["one", ""], [["a"]]])
def test_a_list_of_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(Refusal, match="they are no list of texts with words in them; pass a list of str, or a file"):
        Texts.of(given)


def test_lists_and_tuples_are_kept_in_order() -> None:
    assert Texts.of(SOME).own == Texts.of(tuple(SOME)).own == Texts.of(deque(SOME)).own == tuple(SOME)  # type: ignore[arg-type]
