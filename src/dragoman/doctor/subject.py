"""The objects under test, and what is measured on them: each measurement is made once, when it is first asked for.

In: a verbalizer, a dictionary, a source model, texts, a background; any of them may be absent. Out: a ``Subject``.
Refuses nothing; checks say themselves what they could not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dragoman import tiny
from dragoman.core import Background, Floats, Refusal
from dragoman.dictionaries import Encoder
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.resolve import cached, folder_of
from dragoman.models.watch import Fed, Stream, fed, neighbours, stream_over
from dragoman.verbalizers.protocol import AnyVerbalizer

# Plain running text of several registers: enough for norms and slots, and there is no model that cannot read it.
SENTENCES = (
    "The city council met on Tuesday evening to vote on the new budget, which sets aside more money for schools, "
    "for the repair of two old bridges across the river, and for a small library in the northern district.",
    "To make the soup, cut the onions and carrots into small pieces, fry them slowly in butter until they are soft, "
    "then add the stock, a few leaves of thyme and the potatoes, and let everything simmer for half an hour.",
    "In 1869 a chemist arranged the known elements by weight and saw that their properties returned at regular "
    "intervals; he left gaps in his table for elements that nobody had found yet, and they were found.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / "
    "len(values)\n\nprint(mean([1.0, 2.0, 4.0]))  # an average of three numbers",
    "She closed the door, put down her bag and listened: somewhere upstairs somebody was playing the same three "
    "notes on a piano again and again, as if looking for the one that had to come next.",
    "Our team lost the final by a single goal, although it had the ball for most of the second half and hit the post "
    "twice; the coach said afterwards that he was proud of the players and that next season would be theirs.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is at hand, and what is measured on it.

    ``by``: reference of the verbalizer and ``verbalizer``: it, opened; ``base``: the base model given for an adapter.
    ``dictionary``: its reference and ``encoder``: it, read. ``source``: the model opened at the site where the
    dictionary's directions are said to live. ``ar``: reference of the reconstructor. ``background``: of the
    verbalizer's site. ``texts``: what ``source`` reads. ``refusals``: what could not be opened and why, by name.
    """

    by: str | None = None
    verbalizer: AnyVerbalizer | None = None
    base: str | None = None
    dictionary: str | None = None
    encoder: Encoder | None = None
    source: Reader | None = None
    ar: str | None = None
    background: Background | None = None
    texts: tuple[str, ...] = SENTENCES
    refusals: Mapping[str, Refusal] = field(default_factory=dict)

    @property
    def verbalizer_name(self) -> str:
        """What to call the verbalizer."""
        return self.by or (self.verbalizer.name if self.verbalizer is not None else "verbalizer")

    @property
    def dictionary_name(self) -> str:
        """What to call the dictionary."""
        return self.dictionary or "dictionary"

    @property
    def local(self) -> Verbalizer | None:
        """The verbalizer, if it runs in this process."""
        return self.verbalizer if isinstance(self.verbalizer, Verbalizer) else None

    @property
    def width(self) -> int:
        """Width of the verbalizer's vectors, 0 where nothing tells it."""
        if self.local is None and self.background is not None:
            return len(self.background.mean)
        return 0 if self.verbalizer is None else self.verbalizer.width

    @property
    def at_home(self) -> bool:
        """Whether the verbalizer reads vectors of the model it was made from, rather than another model's."""
        local = self.local
        if local is None or local.width != local.contract.stream:
            return False
        return local.sidecar.base in (None, local.site.model)

    @cached_property
    def places(self) -> list[int]:
        """Positions the vector must change: the marker's where it is once in the prompt, else those its contract means.

        Contracts with several places, or whose marker is an ordinary word, mean what their hooks say.
        """
        local = self.local
        if local is None:
            return []
        found = [k for k, i in enumerate(local.prompt.ids) if i == local.sidecar.marker_id]
        if len(found) == 1:
            return found
        hooked = sorted({p for hook in local.feed(self.opposite).hooks for p in hook.positions})
        return hooked or sorted(local.contract.places(local.prompt))

    @cached_property
    def opposite(self) -> Floats:
        """Vectors (2, d): a random direction and its opposite; no direction is more unlike another."""
        row = np.random.default_rng(0).normal(size=self.width)
        row /= np.linalg.norm(row)
        return np.stack([row, -row]).astype(np.float32)

    @cached_property
    def fed(self) -> Fed:
        """What the model met when it read the two opposite vectors; nothing where it does not run here."""
        return Fed() if self.local is None else fed(self.local, self.opposite)

    @cached_property
    def fed_again(self) -> Fed:
        """The same two vectors in the other order, in a call of its own: caches outlive calls."""
        return Fed() if self.local is None else fed(self.local, self.opposite[::-1].copy())

    @cached_property
    def own_stream(self) -> Stream | None:
        """The verbalizer's own model over a few sentences, up to its site."""
        if self.local is None or not self.at_home:
            return None
        return stream_over(self.local, SENTENCES[:3], [self.local.site.block])

    @cached_property
    def own_mean(self) -> NDArray[np.float64] | None:
        """The mean of that stream's unit-normalised rows (d,)."""
        if self.own_stream is None or self.local is None:
            return None
        rows = self.own_stream.rest[self.local.site.block].astype(np.float64)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)

    @cached_property
    def background_mean(self) -> Floats | None:
        """The background's mean (d,) where one is at hand, else that of the verbalizer's own model over sentences."""
        if self.background is not None:
            return self.background.mean if len(self.background.mean) == self.width else None
        if self.own_mean is None or not np.isfinite(self.own_mean).all():
            return None
        return self.own_mean.astype(np.float32)

    @cached_property
    def source_stream(self) -> Stream | None:
        """The source model over the texts, at its site and at the blocks beside it."""
        if self.source is None:
            return None
        return stream_over(self.source, self.texts, neighbours(self.source, self.source.site.block))


def folder_at_hand(ref: str | None) -> Path | None:
    """A folder that is on this machine, the hub's cache included; the doctor downloads nothing to look at it."""
    if ref is None:
        return None
    try:
        if ref not in tiny.MODELS and ref not in tiny.DATA and not Path(ref).expanduser().is_dir():
            return cached(ref)
        return folder_of(ref)
    except (Refusal, OSError, RuntimeError):  # names that are too long, or of nobody's home
        return None
