"""Readers without a model: each word of a numbered text has a planted row, whatever batch it is read in.

And readers with a tiny random one, texts of several scripts, and what it means that two readings are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Site
from dragoman.dictionaries import Encoder
from dragoman.maps import Moments
from dragoman.maps.aligned import Aligned, Firings
from dragoman.models.harvest import OUTLIER, PILOT, Reader, TokenRows, pilot_texts
from dragoman.models.paired import ReadingOptions
from planted_worlds import SOURCE, TARGET, SparseWorld, sparse_world
from tiny_checkpoints import CORPUS, model_of, tokenizer_of

FIRST = ReadingOptions(first=1)
FLOAT32 = 1e-6  # the encoder's precision; moments, which it has no part in, are held to float64's
PARTS = ("mean_x", "mean_y", "sxx", "sxy", "syy")
UNICODE = [
    "  two leading spaces, and a tail ",
    "a wave 👋🏽 and a family 👩‍👩‍👧 here, and again 👋🏽👋🏽👋🏽",
    "cafe\u0301 and nai\u0308ve, e\u0301\u0302 twice, ﬁne ligatures ½ and Ⅷ",
    "漢字かな交じり文 and 한국어, العربية too",
    "one line\r\nand another\r\n\r\nlast\ttab",
]
TEXTS = [f"{' '.join(CORPUS)[13 * i : 13 * i + 40 + 3 * i]} number {i}" for i in range(25)] + UNICODE
WORDS = 20  # as many as a document of SparseWorld has rows


@dataclass(frozen=True, kw_only=True)
class PlantedReader:
    """Word k of text number d has row d * 20 + k, times what ``sinks`` says of (d, k).

    ``pieces``: tokens a word is cut into; all but the last hold noise, which no other model shares.
    """

    site: Site
    table: np.ndarray
    pieces: int = 1
    sinks: Mapping[tuple[int, int], float] = field(default_factory=dict)

    dtype: str = "float32"
    model: torch.nn.Module = field(default_factory=torch.nn.Module)  # of no parts: its rows are planted

    @property
    def width(self) -> int:
        return self.table.shape[1]

    def pilot(self, texts: Sequence[str]) -> TokenRows:
        return self.rows(sorted(texts[i] for i in pilot_texts(texts, PILOT)), np.inf)

    def ends(self, texts: Sequence[str], **_how: Any) -> list[np.ndarray]:
        return [
            np.array(sorted(
                match.end() - back for match in re.finditer(r"\S+", text) for back in range(self.pieces)
            ))
            for text in texts
        ]  # fmt: skip

    def prepared(self, texts: Sequence[str], **_how: Any) -> Any:
        """As a model's reader: only where tokens end is asked of it."""
        return SimpleNamespace(ends=dict(enumerate(self.ends(texts))))

    def rows(self, texts: Sequence[str], typical: float | None = None, **how: Any) -> TokenRows:
        found = []
        for document, text in enumerate(texts):
            number, end = int(text.split()[0]), 0
            for k, word in enumerate(text.split()):
                end += len(word) + (k > 0)
                for piece in range(self.pieces):
                    last = piece == self.pieces - 1
                    row = self.table[number * WORDS + k] if last else np.full(self.width, 0.5 + piece)
                    row = row * self.sinks.get((number, k), 1.0)
                    found.append((row, document, end - (self.pieces - 1 - piece), k * self.pieces + piece))
        found = [f for f in found if f[3] > 0]
        x, document, end, position = (np.array(column) for column in zip(*found, strict=True))
        finite = np.isfinite(x).all(axis=1)
        if typical is not None:
            finite &= ~(np.linalg.norm(x, axis=1) > OUTLIER * typical)
        return TokenRows(
            x=x[finite].astype(np.float32),
            document=document[finite],
            end=end[finite],
            position=position[finite],
            dropped=int((~finite).sum()),
            special=3 * len(texts),
            first=len(texts),
        )


@dataclass(frozen=True, kw_only=True)
class PlantedPair:
    world: SparseWorld
    texts: list[str]
    source: PlantedReader
    target: PlantedReader
    encoder: Encoder

    def kept(self, first: int = 1) -> np.ndarray:
        """Rows of words that stand at ``first`` or later."""
        return np.flatnonzero(np.arange(len(self.world.x)) % WORDS >= first)

    def x(self, first: int = 1) -> np.ndarray:
        return self.world.x[self.kept(first)].astype(np.float32).astype(np.float64)

    def y(self, first: int = 1) -> np.ndarray:
        return self.world.y[self.kept(first)].astype(np.float32).astype(np.float64)

    def numbers(self, first: int = 1) -> np.ndarray:
        return self.kept(first) // WORDS


def planted_pair(
    *, documents: int = 150, p: int = 48, q: int = 56, m: int = 40, rate: float = 0.1, seed: int = 0, **sinks: Any
) -> PlantedPair:
    """An orthonormal dictionary at the source, so that its encoder finds every firing."""
    rng = np.random.default_rng(seed)
    source = np.linalg.qr(rng.normal(size=(p, p)))[0][:m]
    world = sparse_world(n=documents * WORDS, p=p, q=q, m=m, rate=rate, source=source, seed=seed)
    dictionary = Encoder(
        W_enc=source.T.astype(np.float32), b_enc=np.zeros(m, np.float32), b_dec=np.ones(p, np.float32),
        W_dec=source.astype(np.float32), architecture="jumprelu", threshold=np.full(m, 0.1, np.float32),
    )  # fmt: skip
    return PlantedPair(
        world=world,
        texts=[" ".join([f"{d:05d}", *(f"word{k}" for k in range(1, WORDS))]) for d in range(documents)],
        source=PlantedReader(site=SOURCE, table=world.x, sinks=sinks.get("source_sinks", {})),
        target=PlantedReader(site=TARGET, table=world.y, pieces=2, sinks=sinks.get("target_sinks", {})),
        encoder=dictionary,
    )


def opened(family: str) -> Reader:
    tokenizer = tokenizer_of(family)
    tokenizer.padding_side = "right"
    return Reader(site=Site(f"tiny-{family}", 1), model=model_of(family), tokenizer=tokenizer)


def sae(d: int, *, m: int = 50, k: int = 8) -> Encoder:
    w = np.random.default_rng(0).standard_normal((m, d)).astype(np.float32)
    zeros = (np.zeros(m, np.float32), np.zeros(d, np.float32))
    return Encoder(W_enc=w.T.copy(), b_enc=zeros[0], b_dec=zeros[1], W_dec=w, architecture="topk", k=k)


def same(a: Moments, b: Moments, rel: float = 1e-10) -> None:
    assert a.count == b.count
    for part in PARTS:
        expected = getattr(b, part)
        assert_allclose(getattr(a, part), expected, rtol=rel, atol=rel * np.abs(expected).max(), err_msg=part)


def strongest(kept: Firings, strength: np.ndarray, rel: float) -> np.ndarray:
    """(2, M, K) documents and ends, strongest first; of those as strong as each other to rounding, by document.

    Which of two alike is first hangs on the last bit of a float32 product, and so on the processor.
    """
    steps = np.abs(np.diff(strength, axis=1, prepend=strength[:, :1])) > rel * np.abs(strength) + rel
    order = np.lexsort((kept.documents, steps.cumsum(axis=1)), axis=1)
    return np.stack([np.take_along_axis(part, order, axis=1) for part in (kept.documents, kept.ends)])


def same_everything(a: Aligned, b: Aligned, rel: float, firings: float) -> None:
    assert a.report == b.report
    assert_array_equal(a.folded.documents, b.folded.documents)
    for mine, theirs in zip(a.folded.folds, b.folded.folds, strict=True):
        same(mine, theirs, rel)
    assert a.sums and b.sums and a.fired and b.fired and a.calibration and b.calibration
    for mine, theirs in [(a.sums, b.sums), (a.fired, b.fired), *zip(a.calibration, b.calibration, strict=True)]:
        assert mine and theirs and mine.ids == theirs.ids and mine.count == theirs.count
        for part in ("weight_sum", "weight_sq_sum", "weighted_sum", "y_sum"):
            expected = getattr(theirs, part)
            assert_allclose(getattr(mine, part), expected, rtol=firings, atol=firings * np.abs(expected).max())
    gram = b.sums.gram.toarray()
    assert_allclose(a.sums.gram.toarray(), gram, rtol=firings, atol=firings * gram.max())
    for mine, theirs in [(a.background, b.background), (a.source_background, b.source_background)]:
        assert (mine.site, mine.n) == (theirs.site, theirs.n)
        assert_allclose(mine.mean, theirs.mean, rtol=max(rel, 1e-6), atol=1e-7)
    assert a.firings and b.firings and a.firings.ids == b.firings.ids
    assert_allclose(a.firings.strength, b.firings.strength, rtol=firings, atol=firings)
    if rel < 1e-6:  # where activations are the same, so is what is kept of them
        for part in ("silent", "reach"):
            assert_array_equal(getattr(a.firings, part), getattr(b.firings, part), err_msg=part)
        strength = b.firings.strength
        assert_array_equal(strongest(a.firings, strength, firings), strongest(b.firings, strength, firings))
    assert_array_equal(a.held_out.documents, b.held_out.documents)
    assert_allclose(a.held_out.y, b.held_out.y, rtol=max(rel, 1e-6), atol=100 * rel)
