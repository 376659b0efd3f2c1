"""A batch of documents as pairs of tokens, one of each model, that end at the same character; in whatever process.

In: two readers, what the pilot found usual, options; documents. Out: ``Pairs``, with what was left out of them counted
by why. Refuses, of what all batches counted: no pair, over 1 % of rows not finite, more outliers than sinks explain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.models.batches import Batch
from dragoman.models.harvest import Reader, on_host, refuse_undefined, shared_ends
from dragoman.models.paired import SIDES, Document, ReadingOptions, at_most_each
from dragoman.models.pilot import SHARE, odd_rows, refuse_outliers
from dragoman.store.spool import Kept

_ARRAYS = ("x", "y", "documents", "ends", "rest_x", "rest_documents", "rest_ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs; and the ``rest`` of the source's tokens, seen in windows alone: no sum counts them.

    Rows lie where they were read: float32, in numpy or in torch on a device. ``counted``: by ``counts`` and by side,
    what there was and what was left out. ``again``: whether it was kept by a reading before.
    """

    x: Any
    y: Any
    documents: NDArray[np.int64]
    ends: NDArray[np.int64]
    rest_x: Any
    rest_documents: NDArray[np.int64]
    rest_ends: NDArray[np.int64]
    counted: Mapping[str, Mapping[str, int]]
    again: bool = False

    @property
    def kept(self) -> Kept:
        """Everything as it is kept or handed on, on the host."""
        return {name: on_host(getattr(self, name)) for name in _ARRAYS}, dict(self.counted)

    @classmethod
    def of(cls, kept: Kept, *, again: bool = False) -> Pairs:
        """What was kept or handed on."""
        arrays, counted = kept
        return cls(**{name: arrays[name] for name in _ARRAYS}, counted=counted, again=again)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Both models, and how a batch is read with them.

    ``typical``: by side, the norm that outliers are judged by. ``stay``: whether rows stay on the models' device.
    """

    source: Reader
    target: Reader
    typical: Mapping[str, float]
    options: ReadingOptions
    stay: bool = False

    def prepared(self, documents: Sequence[Document]) -> tuple[Batch, Batch]:
        """Both models' tokens of a batch; made beforehand, they spare a device waiting for them."""
        texts = [d.text for d in documents]
        first, second = (r.prepared(texts, max_tokens=self.options.max_tokens) for r in (self.source, self.target))
        return first, second

    def pairs(self, documents: Sequence[Document], batches: tuple[Batch, Batch] | None = None) -> Pairs:
        """The pairs of a batch that are kept; the rest are counted by why they are not."""
        texts, most = [d.text for d in documents], self.options.max_tokens
        x, y = (
            reader.rows(texts, np.inf, batch_size=len(texts), max_tokens=most, stay=self.stay, prepared=batch)
            for reader, batch in zip((self.source, self.target), batches or (None, None), strict=True)
        )
        counts, tokens = Counter[str](), {side: Counter[str]() for side in SIDES}

        def without(why: str, out: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            counts[why] += int(out.sum())
            return left[~out], right[~out]

        left, right = shared_ends(x, y)
        for side, rows in (("source", x), ("target", y)):
            told = {"special": rows.special, "first": rows.first, "not finite": rows.dropped}  # none is too long here
            tokens[side].update(told | {"no shared end": len(rows.x) - len(left)})
        counts["shared ends"] += len(left)
        left, right = without(
            "early", (x.position[left] < self.options.first) | (y.position[right] < self.options.first)
        )
        counts["judged by norm"] += len(left)
        left, right = without("outlier at source", odd_rows(x.x[left], self.typical["source"]))
        left, right = without("outlier at target", odd_rows(y.x[right], self.typical["target"]))
        names = np.array([d.name for d in documents])[x.document[left]]
        surplus = ~at_most_each(names, self.options.per_document, self.options.seed)
        left, right = without("above the most of one document", surplus)
        names = names[~surplus]
        counts["documents"] += len(np.unique(names))
        counts["pairs"] += len(left)
        rest = ~odd_rows(x.x, self.typical["source"])
        rest[left] = False
        of_rest = np.array([d.name for d in documents])[x.document[rest]]
        others = {"rest_x": x.x[rest], "rest_documents": of_rest, "rest_ends": x.end[rest]}
        counted = {"counts": dict(+counts)} | {side: dict(+found) for side, found in tokens.items()}
        return Pairs(x=x.x[left], y=y.x[right], documents=names, ends=x.end[left], **others, counted=counted)


def refuse_odd_pairs(
    counts: Counter[str], tokens: Mapping[str, Counter[str]], readers: tuple[Reader, Reader], *, some: bool
) -> None:
    """Refuse a reading that nothing should be made of; ``some``: whether there are pairs to judge by as well."""
    for side, reader in zip(SIDES, readers, strict=True):
        told = tokens[side]
        read = told["not finite"] + told["no shared end"] + counts["shared ends"]
        refuse_undefined(told["not finite"], read, reader.site, reader.dtype)
    if not counts["pairs"] or not some:
        why = "the two tokenizers share no token end late enough in them"
        raise Refusal("these texts", why, "give longer running text")
    out = counts["outlier at source"] + counts["outlier at target"]
    refuse_outliers(out, counts["judged by norm"], "pairs", SHARE)
