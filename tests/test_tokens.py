"""Rows of two models kept whole: which tokens are paired, what is left out, and at which blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Refusal
from dragoman.models.harvest import Reader, TokenRows
from dragoman.models.paired import FIRST
from planted_readers import TEXTS, WORDS, PlantedPair, PlantedReader, planted_pair, sae
from planted_worlds import SOURCE, TARGET
from studies.tokens import CHUNK, Tokens, read_tokens
from tiny_checkpoints import WIDTH

DOCUMENTS = CHUNK + 30
SINKS = {(5, 14): 40.0, (200, 10): 40.0, (CHUNK + 2, 12): 40.0, (6, 3): 40.0}  # the last stands too early to count


@dataclass(frozen=True, kw_only=True)
class Deep(PlantedReader):
    """A planted reader with other rows at other blocks; at the own block the pair's."""

    others: Mapping[int, np.ndarray] = field(default_factory=dict)

    def rows(self, texts: Sequence[str], typical: float | None = None, **how: Any) -> TokenRows:
        table = self.others.get(self.site.block, self.table)
        plain = PlantedReader(site=self.site, table=table, pieces=self.pieces, sinks=self.sinks)
        return plain.rows(texts, typical, **how)


@pytest.fixture(scope="module")
def planted() -> PlantedPair:
    return planted_pair(documents=DOCUMENTS, p=24, q=28, m=20, source_sinks=SINKS, target_sinks={(7, 11): 40.0})


def read(pair: PlantedPair, **how: Any) -> Tokens:
    return read_tokens(pair.source, pair.target, pair.encoder, pair.texts, **how)  # type: ignore[arg-type]


def expected(pair: PlantedPair, *gone: tuple[int, int]) -> np.ndarray:
    """Numbers of the words that are kept: late ones, without those named."""
    return np.setdiff1d(pair.kept(FIRST), [d * WORDS + k for d, k in gone])


@pytest.fixture(scope="module")
def tokens(planted: PlantedPair) -> Tokens:
    return read(planted)


def test_tokens_that_end_together_are_paired_in_the_order_of_their_texts(planted: PlantedPair, tokens: Tokens) -> None:
    """The target cuts each word in two, and only the second piece ends with the source's word."""
    kept = expected(planted, (5, 14), (200, 10), (CHUNK + 2, 12), (7, 11))
    assert len(tokens) == len(kept)
    assert_array_equal(tokens.documents, kept // WORDS)
    assert_array_equal(tokens.x[SOURCE.block], planted.world.x[kept].astype(np.float32))
    assert_array_equal(tokens.y[TARGET.block], planted.world.y[kept].astype(np.float32))


def test_early_tokens_and_sinks_of_either_model_are_left_out_and_sinks_counted(tokens: Tokens) -> None:
    assert tokens.left_out == 4  # the early sink is not among them
    per_document = np.bincount(tokens.documents, minlength=DOCUMENTS)
    assert (per_document[[5, 7, 200, CHUNK + 2]] == WORDS - FIRST - 1).all() and per_document[6] == WORDS - FIRST


def test_a_token_that_is_early_in_one_model_only_is_left_out_too(planted: PlantedPair) -> None:
    """With one piece a word both stand at the word's place; with two the target's tenth token is in the sixth word."""
    swapped = replace(planted, source=replace(planted.source, pieces=2), target=replace(planted.target, pieces=1))
    assert_array_equal(np.unique(np.bincount(read(swapped).documents)), [WORDS - FIRST - 1, WORDS - FIRST])


def test_what_fires_is_what_the_encoder_says_of_the_kept_rows(planted: PlantedPair, tokens: Tokens) -> None:
    dense = tokens.fired.toarray()
    assert dense.shape == (len(tokens), 20)
    assert_allclose(dense, planted.encoder.encode(tokens.x[SOURCE.block]), atol=1e-6)
    kept = expected(planted, (5, 14), (200, 10), (CHUNK + 2, 12), (7, 11))
    assert_array_equal(dense > 0, planted.world.f[kept] > 0)  # the planted firings


def test_blocks_are_kept_in_the_order_asked_after_the_readers_own_each_once(planted: PlantedPair) -> None:
    rng = np.random.default_rng(3)
    x = {b: rng.normal(size=planted.world.x.shape) for b in (2, 9)}
    y = {b: rng.normal(size=planted.world.y.shape) for b in (1, 15)}
    deep = replace(
        planted,
        source=Deep(site=SOURCE, table=planted.world.x, others=x),
        target=Deep(site=TARGET, table=planted.world.y, pieces=2, others=y),
    )
    found = read(deep, source_blocks=(9, SOURCE.block, 2, 9), target_blocks=(15, 1))
    assert (list(found.x), list(found.y)) == ([SOURCE.block, 9, 2], [TARGET.block, 15, 1])
    kept = expected(planted)
    for block, rows in ((SOURCE.block, planted.world.x), *x.items()):
        assert_array_equal(found.x[block], rows[kept].astype(np.float32))
    for block, rows in ((TARGET.block, planted.world.y), *y.items()):
        assert_array_equal(found.y[block], rows[kept].astype(np.float32))
    assert_allclose(found.fired.toarray(), planted.encoder.encode(found.x[SOURCE.block]), atol=1e-6)


def test_a_sink_at_any_block_is_left_out_at_all(planted: PlantedPair) -> None:
    loud = np.random.default_rng(3).normal(size=planted.world.x.shape)
    loud[30 * WORDS + 12] *= 40.0
    deep = replace(
        planted,
        source=Deep(site=SOURCE, table=planted.world.x, others={2: loud}),
        target=replace(planted.target, sinks={}),
    )
    found = read(deep, source_blocks=(2,))
    assert found.left_out == 1
    assert_array_equal(found.x[SOURCE.block], planted.world.x[expected(planted, (30, 12))].astype(np.float32))


@pytest.mark.parametrize("own", [False, True])
def test_a_row_that_is_not_finite_at_one_block_is_left_out_at_all(planted: PlantedPair, own: bool) -> None:
    """Each block drops its own such rows as it is read, and the others must not be paired with the next ones."""
    x, y = np.random.default_rng(3).normal(size=planted.world.x.shape), planted.world.y.copy()
    x[20 * WORDS + 13], y[21 * WORDS + 15, 0] = np.inf, np.nan
    at_home = planted.world.x.copy()
    if own:  # as many rows are dropped at either block, but not the same
        at_home[22 * WORDS + 16, 0] = np.nan
    deep = replace(
        planted,
        source=Deep(site=SOURCE, table=at_home, others={2: x}),
        target=Deep(site=TARGET, table=planted.world.y, pieces=2, others={3: y}),
    )
    found = read(deep, source_blocks=(2,), target_blocks=(3,))
    kept = expected(planted, (20, 13), (21, 15), *([(22, 16)] if own else []))
    assert_array_equal(found.documents, kept // WORDS)
    assert_array_equal(found.x[SOURCE.block], planted.world.x[kept].astype(np.float32))
    assert_array_equal(found.x[2], x[kept].astype(np.float32))
    assert_array_equal(found.y[TARGET.block], planted.world.y[kept].astype(np.float32))
    assert_array_equal(found.y[3], y[kept].astype(np.float32))


def test_rows_of_some_documents_are_found_by_number_or_by_choice(tokens: Tokens) -> None:
    assert_array_equal(tokens.documents[tokens.of(slice(3, 6))], np.repeat([3, 4, 5], [10, 10, 9]))
    odd = np.arange(DOCUMENTS) % 2 == 1
    assert set(tokens.documents[tokens.of(odd)]) == set(np.flatnonzero(odd))
    assert len(tokens.of(slice(0, 100))) + len(tokens.of(slice(100, None))) == len(tokens)


def test_progress_counts_texts(planted: PlantedPair) -> None:
    told: list[tuple[int, int]] = []
    read(planted, progress=lambda done, total: told.append((done, total)))
    assert told == [(CHUNK, DOCUMENTS), (DOCUMENTS, DOCUMENTS)]


@pytest.mark.parametrize("texts", [[], ["00000 two three", "00001 two"]])
def test_texts_without_a_shared_end_late_enough_are_refused(planted: PlantedPair, texts: list[str]) -> None:
    with pytest.raises(Refusal, match="share no token end late enough; give longer running text"):
        read(replace(planted, texts=texts))


def test_texts_too_short_to_pair_come_to_nothing_among_others(planted: PlantedPair) -> None:
    """A whole first chunk of them: what a sink is, is settled by the first that pairs."""
    short = ["00000 two three"] * CHUNK
    found = read(replace(planted, texts=[*short, *planted.texts[:20]]))
    kept = expected(planted, (5, 14), (7, 11))
    kept = kept[kept < 20 * WORDS]
    assert_array_equal(found.documents, CHUNK + kept // WORDS)
    assert_array_equal(found.x[SOURCE.block], planted.world.x[kept].astype(np.float32))
    assert found.left_out == 2 and found.fired.shape == (len(kept), 20)


def test_models_are_read_as_their_own_readers_read_them(readers: tuple[Reader, Reader]) -> None:
    """Llama and Gemma, tiny and random: a block's kept rows are among those its own reader gives, ends equal."""
    source, target = readers
    found = read_tokens(source, target, sae(WIDTH["llama"]), TEXTS, source_blocks=(2,), batch_size=7)
    assert list(found.x) == [1, 2] and list(found.y) == [1]
    assert np.isin(found.documents, range(len(TEXTS))).all() and (np.diff(found.documents) >= 0).all()
    for reader, rows in (
        (source, found.x[1]),
        (replace(source, site=replace(source.site, block=2)), found.x[2]),
        (target, found.y[1]),
    ):
        every = reader.rows(TEXTS, np.inf)
        late = every.x[every.position >= FIRST]
        gaps = np.linalg.norm(rows[::40, None] - late[None], axis=2).min(axis=1)
        assert gaps.max() < 1e-3 * np.linalg.norm(late, axis=1).mean()
