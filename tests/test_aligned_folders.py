"""Reading two models token by token: memory, interruption, the disk, and what is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dragoman.core import Refusal
from dragoman.maps.aligned import Aligned
from dragoman.models import encoding
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import Reader
from dragoman.models.paired import ReadingOptions, distinct, document_name
from planted_readers import FIRST, TEXTS, PlantedPair, planted_pair, sae, same, same_everything
from planted_worlds import SOURCE, TARGET


def test_encoding_in_slices_is_encoding_at_once(pair: PlantedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_CELLS", 40 * 7)
    x = pair.x()[:100].astype(np.float32)
    assert_allclose(
        encoding.HostEncoding(pair.encoder).sparse(x, np.array([3, 9])).toarray(),
        pair.encoder.encode(x)[:, [3, 9]],
        rtol=1e-5,
        atol=1e-6,
    )


# --- memory, interruption, disk ----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.models.paired.HELD_OUT", 40)
    monkeypatch.setattr("dragoman.maps.moments._WAITING", 100)
    peaks = []
    for documents in (100, 300):
        pair = planted_pair(documents=documents)
        tracemalloc.start()
        read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    rows = 200 * 19 * (48 + 56) * 4
    assert peaks[1] - peaks[0] < 0.1 * rows


def test_interrupted_reading_leaves_models_and_folders_as_they_were(
    readers: tuple[Reader, Reader], tmp_path: Path
) -> None:
    before = [len(reader.model.model.layers) for reader in readers]
    seen = []

    def stop(done: int, of: int) -> None:
        seen.append((done, of))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_aligned(*readers, TEXTS, options=ReadingOptions(batch_size=4), progress=stop)
    assert seen == [(4, 30), (8, 30)]
    assert [len(reader.model.model.layers) for reader in readers] == before
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_documents_to_the_last(pair: PlantedPair) -> None:
    seen: list[tuple[int, int]] = []
    read_aligned(pair.source, pair.target, pair.texts, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (150, 150) and [done for done, _ in seen] == [*range(32, 150, 32), 150]


@pytest.mark.parametrize("with_sae", [True, False])
def test_aligned_survives_the_disk(pair: PlantedPair, found: Aligned, tmp_path: Path, with_sae: bool) -> None:
    kept = found if with_sae else read_aligned(pair.source, pair.target, pair.texts, options=FIRST)
    kept.save(tmp_path / "new" / "kept")
    again = Aligned.load(tmp_path / "new" / "kept")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["kept"]
    assert (again.source, again.target, again.background.texts) == (SOURCE, TARGET, kept.background.texts)
    assert again.held_out.fold == kept.held_out.fold
    if with_sae:
        same_everything(again, kept, 1e-15, 1e-15)
    else:
        assert again.sums is again.fired is again.calibration is again.firings is None
        same(again.folded.total, kept.folded.total, 1e-15)


def test_saving_that_is_interrupted_leaves_nothing(
    found: Aligned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dragoman.maps.aligned.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        found.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_there_or_another_thing_is_refused(found: Aligned, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="it does not hold aligned pairs"):
        Aligned.load(tmp_path)
    with pytest.raises(Refusal, match="it is there already; name a new folder"):
        found.save(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"first": 0}, "reading with first 0: it is at least 1"),
        ({"per_document": 0}, "per_document 0"),
        ({"folds": 2}, "folds 2: it is at least 3"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_reading_options_that_leaves_nothing_is_refused(change: dict[str, int], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        ReadingOptions(**change)  # type: ignore[arg-type]


def test_features_the_dictionary_does_not_have_are_refused(pair: PlantedPair) -> None:
    for wrong in ({"watched": ("40",)}, {"calibration": ("1", "bees")}):
        with pytest.raises(Refusal, match=r"feature (40|bees): the dictionary has 0 to 39"):
            read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=ReadingOptions(**wrong))  # type: ignore[arg-type]


def test_a_dictionary_whose_sums_do_not_fit_is_refused(pair: PlantedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.models.aligned.ROOM", 8.0 * 10 * 104)
    with pytest.raises(Refusal, match=r"watching 40 features: .* name the features that matter, and a few thousand"):
        read_aligned(pair.source, pair.target, pair.texts, pair.encoder)
    read_aligned(pair.source, pair.target, pair.texts[:30], pair.encoder, options=ReadingOptions(watched=("1", "2")))


def test_an_sae_of_another_width_is_refused(pair: PlantedPair) -> None:
    with pytest.raises(Refusal, match="an SAE of width 32: the source stream is 48 wide"):
        read_aligned(pair.source, pair.target, pair.texts, sae(32))


def test_too_few_texts_are_refused_copies_counted_once(pair: PlantedPair) -> None:
    with pytest.raises(Refusal, match="9 different texts among 27: 5 folds .* give at least 10 different texts"):
        read_aligned(pair.source, pair.target, pair.texts[:9] * 3)
    with pytest.raises(Refusal, match="^0 texts: 5 folds"):
        read_aligned(pair.source, pair.target, [])


def test_texts_too_short_to_pair_are_refused(pair: PlantedPair) -> None:
    with pytest.raises(Refusal, match="these texts: the two tokenizers share no token end late enough"):
        read_aligned(pair.source, pair.target, pair.texts, options=ReadingOptions(first=60))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((4,), r"leaving out 5\.3% of 1140 pairs as sinks: sinks are rare, and above 5%"),
        ((5, 9), r"leaving out 10\.3% of 1248 tokens at the target as sinks: sinks are rare, and above 10%"),
    ],
)
def test_too_many_outliers_are_refused(words: tuple[int, ...], sentence: str) -> None:
    """A few too many once all are counted; twice too many (4 of a text's 39 tokens) before any is."""
    loud = {(d, k): 50.0 for d in range(60) for k in words}
    pair = planted_pair(documents=60, target_sinks=loud)
    with pytest.raises(Refusal, match=sentence):
        read_aligned(pair.source, pair.target, pair.texts, options=FIRST)


def test_documents_are_named_by_what_they_say() -> None:
    found, left = distinct(["a b", "c", "a b", "  "])
    assert [d.text for d in found] == ["a b", "c"] and dict(left) == {"copy": 1, "blank": 1}
    assert all(0 <= d.name < 2**63 for d in found) and found[0].name == document_name("a b")
