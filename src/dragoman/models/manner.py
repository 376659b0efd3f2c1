"""How texts are read in pairs, and what is chosen by the texts themselves: folds, pilots, calibration, judges.

In: texts, or document names. Out: ``Manner``, distinct documents, choices. Refuses numbers that leave nothing to read
or to judge on. Nothing here depends on batches or on the order of the texts: a document is named by the digest of its
text, and every draw has a generator of the document's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.maps.folds import FOLDS, PER_DOCUMENT, at_most, fold_of
from dragoman.models.harvest import MAX_TOKENS
from dragoman.store import document_name

FIRST = 10  # least token position: before it streams differ from later ones, and no verbalizer was trained there
CANDIDATES = 512  # features among which 150 calibrate the penalty
JUDGES = 4096  # pairs kept whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How texts are read.

    ``first``: least position of a token, in both models. ``per_document``: most pairs of one text, drawn at random.
    ``folds``: of documents. ``watched``: features to count (all when left out); give those that matter and some
    thousand more as rivals when a dictionary is large. ``calibration``: features the penalty is chosen on; when left
    out, those that fire in most of the texts read beforehand. ``product``: precision of products.
    """

    first: int = FIRST
    per_document: int = PER_DOCUMENT
    folds: int = FOLDS
    watched: tuple[str, ...] | None = None
    calibration: tuple[str, ...] | None = None
    batch_size: int = 32
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    product: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to read or to judge on."""
        least = {"first": 1, "per_document": 1, "folds": 3, "batch_size": 1, "max_tokens": 2, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise Refusal(f"reading with {name} {getattr(self, name)}", f"it is at least {low}", "use the default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and the digest it goes by."""

    name: int
    text: str


def distinct(texts: Sequence[str]) -> tuple[list[Document], Counter[str]]:
    """Documents by name, and how many texts were left out as blank or as copies of one before."""
    found: dict[int, Document] = {}
    left: Counter[str] = Counter()
    for text in texts:
        name = document_name(text)
        if not text.strip():
            left["blank"] += 1
        elif name in found:
            left["copy"] += 1
        else:
            found[name] = Document(name=name, text=text)
    return list(found.values()), left


def judging(names: Sequence[int], folds: int) -> tuple[int, NDArray[np.int64], int]:
    """The fold with most documents, which of them judge a map that has not seen it, and how many pairs each gives."""
    every = np.array(sorted(names), dtype=np.int64)
    mine = fold_of(every, folds)
    fold = int(np.argmax(np.bincount(mine, minlength=folds)))
    chosen = every[mine == fold][:JUDGES]  # names are digests: the first are a random choice
    return fold, chosen, int(np.clip(JUDGES // len(chosen), 1, PER_DOCUMENT))


def calibrating(fires: NDArray[Any], columns: NDArray[np.int64], manner: Manner) -> NDArray[np.int64]:
    """Which of the watched features (places in ``columns``) calibrate the penalty.

    Those asked for, or the 512 that fire in most of the texts read beforehand: ``fires`` (d_sae,) counts these.
    """
    if manner.calibration is not None:
        return np.flatnonzero(np.isin(columns, [int(name) for name in manner.calibration]))
    often = np.argsort(-fires[columns], kind="stable")[:CANDIDATES]
    return np.sort(often[fires[columns[often]] > 0])


def at_most_each(documents: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.bool_]:
    """``at_most`` with a generator of each document's own, so that its neighbours have no part in the draw."""
    keep = np.ones(len(documents), dtype=bool)
    names, counts = np.unique(documents, return_counts=True)
    for name in names[counts > rows]:
        mine = np.flatnonzero(documents == name)
        keep[mine] = at_most(documents[mine], np.random.default_rng([seed, int(name)]), rows=rows)
    return keep
