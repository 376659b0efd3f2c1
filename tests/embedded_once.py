"""The packaged sentence embedder, opened once a worker; a text that several tests meet is read once.

It is the product's own with its own weights: tests on the small worlds have their texts, and so their windows, in
common.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import dragoman
from dragoman.core import Floats
from dragoman.embed import refuse_empty
from dragoman.models import embedder as room

_Opened = dragoman.SentenceEmbedder  # kept by the package as its public name before anything is put in its place


class ReadOnce:
    """An embedder whose readings are kept, by text."""

    def __init__(self, embedder: room.SentenceEmbedder) -> None:
        self._embedder = embedder
        self._rows: dict[str, Floats] = {}

    @property
    def name(self) -> str:
        return self._embedder.name

    def encode(self, texts: Sequence[str]) -> Floats:
        refuse_empty(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        self._rows |= dict(zip(new, self._embedder.encode(new), strict=True))
        return np.stack([self._rows[text] for text in texts]) if texts else self._embedder.encode([])


@cache
def packaged() -> ReadOnce:
    return ReadOnce(_Opened())


def opened(folder: Any = None, **how: Any) -> Any:
    if folder is not None:
        return _Opened(folder, **how)
    room.packaged_folder()  # refuses where a test says that it is not installed
    return packaged()


def shared(patch: pytest.MonkeyPatch) -> None:
    """What opens the packaged embedder gets the worker's own."""
    patch.setattr(room, "SentenceEmbedder", opened)
