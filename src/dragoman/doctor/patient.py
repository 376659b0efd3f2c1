"""Who is examined: whatever is at hand of a run, and what is measured on it, each thing once.

In: a verbalizer, a dictionary, a source model, texts, a background; any of them may be absent. Out: a ``Patient``, and
``Probes`` that measure on first use. Refuses nothing; checks say themselves what they could not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.core import Background, Floats, Refusal, Site
from dragoman.dictionaries import Encoder
from dragoman.doctor.probe import Fed, Opened, Stream, bare_logits, bare_text, fed, opened, stream_over
from dragoman.models.paired import Reader
from dragoman.models.resolve import cached, folder_of
from dragoman.verbalizers.protocol import Verbalizer

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
SAID = 8  # tokens of a text that is compared with another one


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is at hand.

    ``by``: reference of the verbalizer and ``verbalizer``: it, opened; ``base``: the base model given for an adapter.
    ``dictionary``: its reference and ``encoder``: it, read. ``source``: the model opened at the site where the
    dictionary's directions are said to live. ``ar``: reference of the reconstructor. ``background``: of the
    verbalizer's site. ``texts``: what ``source`` reads. ``refusals``: what could not be opened and why, by name.
    """

    by: str | None = None
    verbalizer: Verbalizer | None = None
    base: str | None = None
    dictionary: str | None = None
    encoder: Encoder | None = None
    source: Reader | None = None
    ar: str | None = None
    background: Background | None = None
    texts: tuple[str, ...] = SENTENCES
    refusals: Mapping[str, Refusal] = field(default_factory=dict)

    @property
    def voice(self) -> str:
        """What to call the verbalizer."""
        return self.by or (self.verbalizer.name if self.verbalizer is not None else "verbalizer")

    @property
    def book(self) -> str:
        """What to call the dictionary."""
        return self.dictionary or "dictionary"

    @property
    def stated(self) -> Site | None:
        """Where the dictionary is said to live."""
        if self.source is not None:
            return self.source.site
        return self.encoder.site if self.encoder is not None else None


class Probes:
    """Measurements on a patient, made when first asked for and then kept."""

    def __init__(self, patient: Patient) -> None:
        """Keep the patient; nothing is measured yet."""
        self.patient = patient

    @cached_property
    def model(self) -> Opened | None:
        """The verbalizer's model, if it runs here."""
        return opened(self.patient.verbalizer)

    @cached_property
    def prompt(self) -> Any:
        """The verbalizer's prompt (``ids``, ``slot``, ``text``), if it has one here."""
        return getattr(self.patient.verbalizer, "prompt", None)

    @cached_property
    def sidecar(self) -> Any:
        """The verbalizer's sidecar, if it has one here."""
        return getattr(self.patient.verbalizer, "sidecar", None)

    @cached_property
    def width(self) -> int:
        """Width of the verbalizer's vectors."""
        contract = getattr(self.patient.verbalizer, "contract", None)
        if contract is not None:
            return int(contract.width)
        if self.patient.background is not None:
            return len(self.patient.background.mean)
        return int(getattr(self.patient.verbalizer, "width", 0) or getattr(self.patient.verbalizer, "_width", 0))

    @cached_property
    def at_home(self) -> bool:
        """Whether the verbalizer reads vectors of the model it was made from, rather than another model's."""
        contract = getattr(self.patient.verbalizer, "contract", None)
        if contract is None or self.patient.verbalizer is None or contract.width != contract.stream:
            return False
        return self.sidecar.base in (None, self.patient.verbalizer.site.model)

    @cached_property
    def places(self) -> list[int]:
        """Positions the vector must change: the marker's where it is once in the prompt, else those its contract means.

        Contracts with several places, or whose marker is an ordinary word, mean what their hooks say.
        """
        marker = getattr(self.sidecar, "marker_id", None)
        found = [k for k, i in enumerate(self.prompt.ids) if i == marker]
        if len(found) == 1:
            return found
        hooks = self.patient.verbalizer.feed(self.opposite).hooks if self.model is not None else ()  # type: ignore[union-attr]
        return sorted({p for hook in hooks for p in hook.positions}) or [self.prompt.slot]

    @cached_property
    def opposite(self) -> Floats:
        """Vectors (2, d): a random direction and its opposite; no direction is more unlike another."""
        row = np.random.default_rng(0).normal(size=self.width)
        row /= np.linalg.norm(row)
        return np.stack([row, -row]).astype(np.float32)

    @cached_property
    def pairs(self) -> Floats:
        """Vectors (6, d): three random directions, each followed by its opposite."""
        rows = np.random.default_rng(1).normal(size=(3, self.width))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.stack([rows, -rows], axis=1).reshape(6, -1).astype(np.float32)

    @cached_property
    def fed(self) -> Fed:
        """What the model met when it read the two opposite vectors."""
        return self._fed(self.opposite)

    @cached_property
    def fed_again(self) -> Fed:
        """The same two vectors in the other order, in a call of its own: caches outlive calls."""
        return self._fed(self.opposite[::-1].copy())

    def _fed(self, vectors: Floats) -> Fed:
        verbalizer = self.patient.verbalizer
        if verbalizer is None or self.prompt is None:
            return Fed(entering={}, logits=None, peak=0.0, refusal=None)
        return fed(verbalizer, vectors, len(self.prompt.ids))

    @cached_property
    def bare_logits(self) -> Floats | None:
        """Logits behind the prompt when nothing is injected."""
        return bare_logits(self.model, self.prompt.ids) if self.model and self.prompt is not None else None

    @cached_property
    def bare_text(self) -> str | None:
        """What is said when nothing is injected."""
        return bare_text(self.model, self.prompt.ids, SAID) if self.model and self.prompt is not None else None

    @cached_property
    def own_stream(self) -> Stream | None:
        """The verbalizer's own model over a few sentences, up to its site."""
        if self.model is None or self.patient.verbalizer is None or not self.at_home:
            return None
        return stream_over(self.model, SENTENCES[:3], [self.patient.verbalizer.site.block])

    @cached_property
    def background(self) -> Floats | None:
        """The background's mean (d,) where one is at hand, else that of the verbalizer's own model over sentences."""
        if self.patient.background is not None:
            mean = self.patient.background.mean
            return mean if len(mean) == self.width else None
        if self.own_stream is None or self.patient.verbalizer is None:
            return None
        rows = self.own_stream.rest[self.patient.verbalizer.site.block].astype(np.float64)
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0).astype(np.float32)
        return mean if np.isfinite(mean).all() else None

    @cached_property
    def source_stream(self) -> Stream | None:
        """The source model over the texts, at its site and at the blocks beside it."""
        source = self.patient.source
        if source is None:
            return None
        model = Opened(net=source.model, tokenizer=source.tokenizer)
        return stream_over(model, self.patient.texts, neighbours(source))


def neighbours(source: Reader) -> list[int]:
    """The block of a site and those just before and behind it, as far as the model has them."""
    from dragoman.models.load import decoder_blocks

    count, block = len(decoder_blocks(source.model)), source.site.block
    return [b for b in (block - 1, block, block + 1) if 0 <= b < count]


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
