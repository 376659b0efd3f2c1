"""Reading two models token by token: against all rows at once, on planted readers and on tiny random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Refusal
from dragoman.maps import Moments
from dragoman.maps.aligned import Aligned
from dragoman.maps.moments import fold_of
from dragoman.models import pairing
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import Reader
from dragoman.models.paired import ReadingOptions, at_most_each, document_name
from planted_readers import (
    FIRST,
    FLOAT32,
    TEXTS,
    UNICODE,
    WORDS,
    PlantedPair,
    planted_pair,
    sae,
    same,
    same_everything,
)
from planted_worlds import SOURCE, TARGET
from tiny_checkpoints import WIDTH


def names(pair: PlantedPair) -> np.ndarray:
    return np.array([document_name(text) for text in pair.texts])


# --- sums against all rows at once -------------------------------------------------------------------------------


def test_streamed_moments_are_those_of_all_pairs_at_once(pair: PlantedPair, found: Aligned) -> None:
    x, y, owner = pair.x(), pair.y(), names(pair)[pair.numbers()]
    same(found.folded.total, Moments.of(x, y))
    for k, fold in enumerate(found.folded.folds):
        mine = fold_of(owner) == k
        same(fold, Moments.of(x[mine], y[mine]))
    assert_array_equal(found.folded.documents, np.sort(names(pair)))


def test_the_rest_of_a_fold_is_the_total_without_it(pair: PlantedPair, found: Aligned) -> None:
    owner = names(pair)[pair.numbers()]
    for k in range(len(found.folded.folds)):
        rest = fold_of(owner) != k
        training = Moments.of(pair.x()[rest], pair.y()[rest])
        same(found.folded.without(k), training)


# Activations are float32 products, which some processors round otherwise for other numbers of rows at once (by 1e-8 of
# a sum where it was seen); sums of the same activations are the same to 1e-10.
ROUNDING = 1e-6


def test_streamed_firings_are_those_of_all_pairs_at_once(pair: PlantedPair, found: Aligned) -> None:
    x, y, owner = pair.x(), pair.y(), names(pair)[pair.numbers()]
    f = pair.encoder.encode(x.astype(np.float32)).astype(np.float64)
    assert_allclose(f > 0, pair.world.f[pair.kept()] > 0)  # the planted firings
    assert found.sums and found.sums.gram is not None and found.fired
    totals = np.stack([f[owner == name].sum(axis=0) for name in np.unique(owner)])
    for sums, rows in ((found.sums, y), (found.fired, x)):
        assert_allclose(sums.weight_sum, f.sum(axis=0), rtol=ROUNDING)
        assert_allclose(sums.weight_sq_sum, (totals**2).sum(axis=0), rtol=ROUNDING)
        assert_allclose(sums.weighted_sum, f.T @ rows, rtol=ROUNDING, atol=ROUNDING * np.abs(f.T @ rows).max())
        assert_allclose(sums.mean_y, rows.mean(axis=0), rtol=1e-10)
    assert_allclose(found.sums.gram.toarray(), f.T @ f, rtol=ROUNDING, atol=1e-10)
    beta = f.T @ y / f.sum(axis=0)[:, None] - y.mean(axis=0)
    assert_allclose(found.sums.table().beta, beta, rtol=1e-5, atol=1e-5)
    assert (found.sums.site, found.fired.site) == (TARGET, SOURCE)


def test_calibration_sums_of_a_fold_have_seen_only_its_documents(pair: PlantedPair, found: Aligned) -> None:
    assert found.calibration and found.sums
    whole = found.calibration[0]
    rows = [found.sums.ids.index(name) for name in whole.ids]
    total = sum(fold.weighted_sum for fold in found.calibration)
    assert_allclose(total, found.sums.weighted_sum[rows], rtol=1e-10)
    for k, fold in enumerate(found.calibration):
        assert (fold_of(fold.documents) == k).all() and len(fold.documents) > 15
    fires = pair.world.f.reshape(150, WORDS, -1)[:, 1:].sum(axis=1) > 0
    assert set(whole.ids) <= {str(i) for i in np.flatnonzero(fires.any(axis=0))}


def test_backgrounds_are_mean_unit_rows(pair: PlantedPair, found: Aligned) -> None:
    for background, rows in ((found.background, pair.y()), (found.source_background, pair.x())):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert_allclose(background.mean, unit.mean(axis=0), rtol=1e-5, atol=1e-6)
        assert background.n == len(rows)


def test_judges_are_pairs_of_the_fold_they_name(pair: PlantedPair, found: Aligned) -> None:
    judges = found.held_out
    assert (fold_of(judges.documents) == judges.fold).all()
    assert len(judges.x) == found.folded.folds[judges.fold].count  # so few that all are kept
    where = {tuple(row): k for k, row in enumerate(pair.x().astype(np.float32))}
    rows = [where[tuple(row)] for row in judges.x]
    assert_array_equal(judges.y, pair.y().astype(np.float32)[rows])
    assert_array_equal(judges.documents, names(pair)[pair.numbers()][rows])


# --- batches and order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 150])
def test_batch_size_changes_sums_by_rounding_only(pair: PlantedPair, found: Aligned, size: int) -> None:
    other = read_aligned(
        pair.source, pair.target, pair.texts, pair.encoder, options=ReadingOptions(first=1, batch_size=size)
    )
    same_everything(other, found, 1e-10, FLOAT32)


def test_short_texts_are_read_more_together(pair: PlantedPair, found: Aligned) -> None:
    done: list[int] = []
    options = ReadingOptions(first=1, batch_size=2, batch_characters=400)
    progress = lambda n, _of: done.append(n)  # noqa: E731
    other = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=options, progress=progress)
    same_everything(other, found, 1e-10, FLOAT32)
    many = np.diff([0, *done])
    lengths = sorted(map(len, pair.texts), reverse=True)
    starts = np.concatenate([[0], np.cumsum(many)[:-1]])
    assert all(n == max(2, 400 // lengths[start]) for start, n in zip(starts[:-1], many[:-1], strict=True))
    assert many.max() > 2, "the shortest are many together"
    with pytest.raises(Refusal, match="batch_characters -1.*it is at least 0"):
        ReadingOptions(batch_characters=-1)


def test_order_of_the_texts_changes_sums_by_rounding_only(pair: PlantedPair, found: Aligned) -> None:
    texts = [pair.texts[i] for i in np.random.default_rng(3).permutation(150)]
    same_everything(read_aligned(pair.source, pair.target, texts, pair.encoder, options=FIRST), found, 1e-10, FLOAT32)


def test_two_models_read_in_other_batches_and_order_give_the_same_but_for_float32(
    readers: tuple[Reader, Reader],
) -> None:
    encoder = sae(WIDTH["llama"])
    one = read_aligned(*readers, TEXTS, encoder, options=ReadingOptions(first=3, per_document=20, batch_size=1))
    assert one.report["pairs_left_out"]["above the most of one document"] > 50
    for texts, size in ((TEXTS, 4), (TEXTS[::-1], 32)):
        other = read_aligned(
            *readers, texts, encoder, options=ReadingOptions(first=3, per_document=20, batch_size=size)
        )
        same_everything(other, one, 2e-4, 1e-3)


# --- which pairs -------------------------------------------------------------------------------------------------


def test_planted_outliers_are_left_out_and_told_by_side() -> None:
    at_source, at_target, both = [(d, 3) for d in range(0, 40, 4)], [(d, 5) for d in range(7)], [(9, 9)]
    plain = planted_pair(documents=60)
    loud = planted_pair(
        documents=60,
        source_sinks=dict.fromkeys([*at_source, *both], 50.0),
        target_sinks=dict.fromkeys([*at_target, *both], 50.0),
    )
    found = read_aligned(loud.source, loud.target, loud.texts, loud.encoder, options=FIRST)
    left = found.report["pairs_left_out"]
    assert (left["outlier at source"], left["outlier at target"]) == (11, 7)
    assert found.report["outliers"] == pytest.approx(18 / (60 * 19))
    out = {d * WORDS + k for d, k in at_source + at_target + both}
    keep = np.array([row not in out for row in plain.kept()])
    same(found.folded.total, Moments.of(plain.x()[keep], plain.y()[keep]))
    assert np.linalg.norm(found.held_out.x, axis=1).max() < 5 * found.report["median_norms"]["source"]


def test_rows_that_are_not_finite_or_nothing_are_left_out_and_counted() -> None:
    pair = planted_pair(documents=60, target_sinks={(4, 4): np.inf, (5, 4): np.nan}, source_sinks={(7, 4): 0.0})
    found = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)
    assert found.report["tokens"]["target"]["left out"]["not finite"] >= 2
    assert found.report["pairs_left_out"]["outlier at source"] == 1
    assert found.report["pairs"] == 60 * 19 - 3
    assert np.isfinite(found.folded.total.sxy).all() and np.isfinite(found.source_background.mean).all()


def test_every_token_is_accounted_for(pair: PlantedPair) -> None:
    options = ReadingOptions(first=6, per_document=9)
    report = read_aligned(pair.source, pair.target, pair.texts, options=options).report
    # The source has a token a word, the target two; word 0 is the source's first position.
    assert report["tokens"]["source"] == {
        "all": 150 * 23, "left out": {"special": 450, "first": 150, "not finite": 0, "no shared end": 0}
    }  # fmt: skip
    assert report["tokens"]["target"]["left out"] == {
        "special": 450, "first": 150, "not finite": 0, "no shared end": 150 * 20
    }  # fmt: skip
    assert report["shared_ends"] == 150 * 19
    assert report["paired"] == {"source": 1.0, "target": 19 / 39}
    # Words 1 to 5 stand before position 6 at the source; of the 14 others 9 are kept.
    assert report["pairs_left_out"] == {
        "early": 150 * 5, "outlier at source": 0, "outlier at target": 0,
        "above the most of one document": 150 * 5,
    }  # fmt: skip
    assert report["pairs"] == 150 * 9 == report["shared_ends"] - sum(report["pairs_left_out"].values())


def test_pairs_of_a_document_are_drawn_whatever_stands_beside_it() -> None:
    documents = np.repeat([7, 3, 9], [30, 4, 50])
    keep = at_most_each(documents, 10, seed=1)
    assert [int(keep[documents == d].sum()) for d in (7, 3, 9)] == [10, 4, 10]
    assert_array_equal(keep[documents == 9], at_most_each(documents[documents == 9], 10, seed=1))
    assert not np.array_equal(keep, at_most_each(documents, 10, seed=2))
    assert np.flatnonzero(keep[documents == 9]).max() > 9  # not simply the first ten


def test_copies_and_blank_texts_are_left_out_and_told(pair: PlantedPair, found: Aligned) -> None:
    texts = [*pair.texts[:50], "", " \n", *pair.texts, pair.texts[3]]
    other = read_aligned(pair.source, pair.target, texts, pair.encoder, options=FIRST)
    assert other.report["texts_left_out"] == {"blank": 2, "copy": 51, "without a pair": 0}
    assert (other.report["texts"], other.report["documents"]) == (203, 150)
    same(other.folded.total, found.folded.total)


def test_watching_some_features_counts_the_same_of_them(pair: PlantedPair, found: Aligned) -> None:
    options = ReadingOptions(first=1, watched=("5", "31", "2"), calibration=("7", "2"))
    some = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=options)
    assert some.sums and found.sums and some.calibration
    assert some.sums.ids == ("2", "5", "7", "31") and some.calibration[0].ids == ("2", "7")
    assert_allclose(some.sums.table().beta, found.sums.table().beta[[2, 5, 7, 31]], rtol=1e-5, atol=1e-6)


# --- two real tokenizers -----------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every alignment that is made, as (source rows, target rows, left, right)."""
    seen: list[tuple[Any, ...]] = []
    plain = pairing.shared_ends

    def listening(x: Any, y: Any) -> Any:
        seen.append((x, y, *plain(x, y)))
        return seen[-1][2:]

    monkeypatch.setattr(pairing, "shared_ends", listening)
    return seen


@pytest.mark.parametrize("max_tokens", [256, 21])
def test_both_tokens_of_a_pair_have_read_the_same_characters(
    readers: tuple[Reader, Reader], monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    """Byte by byte: cut after that token, each tokenizer's own text is the text up to the pair's end."""
    seen = recorded(monkeypatch)
    read_aligned(*readers, TEXTS, options=ReadingOptions(first=1, max_tokens=max_tokens, batch_size=len(TEXTS)))
    ((x, y, left, right),) = seen
    texts = sorted(TEXTS, key=lambda t: (-len(t), document_name(t)))
    unicode = {texts.index(t) for t in UNICODE}
    assert unicode <= set(x.document[left].tolist())
    for rows, picks, reader in ((x, left, readers[0]), (y, right, readers[1])):
        for i in picks:
            text, tokenizer = texts[rows.document[i]], reader.tokenizer
            ids = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"][: rows.position[i] + 1]
            read = tokenizer.decode(ids, skip_special_tokens=True)
            assert read == text[: rows.end[i]]


@torch.inference_mode()
def test_rows_of_two_models_are_their_hidden_states(readers: tuple[Reader, Reader]) -> None:
    """The oracle reads each text alone, whole, and pairs ends by definition."""
    texts = [t for t in TEXTS if t not in UNICODE]
    options = ReadingOptions(first=4)
    found = read_aligned(*readers, texts, options=options)
    sides: list[list[np.ndarray]] = [[], []]
    owner = []
    for text in texts:
        by_end = []
        for reader in readers:
            told: Any = reader.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
            hidden = reader.model(input_ids=told["input_ids"], output_hidden_states=True).hidden_states[2][0].numpy()
            spans = told["offset_mapping"][0].tolist()
            by_end.append({e: hidden[k] for k, (b, e) in enumerate(spans) if k >= options.first and e > b})
        for end in sorted(set(by_end[0]) & set(by_end[1])):
            for side in (0, 1):
                sides[side].append(by_end[side][end])
            owner.append(document_name(text))
    assert found.report["pairs"] == len(owner)
    same(found.folded.total, Moments.of(np.array(sides[0]), np.array(sides[1])), rel=1e-4)
    mine = fold_of(np.array(owner)) == 2
    assert found.folded.folds[2].count == mine.sum()


def test_special_tokens_are_counted_and_give_no_pairs(readers: tuple[Reader, Reader]) -> None:
    texts = TEXTS[:12]
    report = read_aligned(*readers, texts, options=FIRST).report
    for side, reader in zip(("source", "target"), readers, strict=True):
        ids = [reader.tokenizer(text)["input_ids"] for text in texts]
        assert all(own[0] == reader.tokenizer.bos_token_id for own in ids)
        assert report["tokens"][side]["all"] == sum(map(len, ids))
        assert report["tokens"][side]["left out"]["special"] == len(texts)
