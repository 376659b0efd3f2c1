"""Where features fire most and where they are silent: against all pairs at once, whatever the batches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.maps.aligned import Aligned, Firings, FiringsTally, K, S, around, by_name, contexts, priority, somewhere
from dragoman.models.aligned import read_aligned
from dragoman.store import document_name
from planted_readers import FIRST, WORDS, PlantedPair, planted_pair

ZEBRA = 7  # the feature that fires on the word zebra, and on no other
FILLING = ["the", "slow", "green", "river", "bends", "around", "a", "mossy", "stone", "bridge", "near", "old", "mills"]


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    """Every word on which feature 7 fires is "zebra"; the features fire in few documents or in many."""
    made = planted_pair(documents=200, rate=0.02)
    fires = made.world.f[:, ZEBRA].reshape(-1, WORDS) > 0
    rng = np.random.default_rng(5)
    texts = []
    for d, zebra in enumerate(fires):
        words = [f"{d:05d}", *rng.choice(FILLING, WORDS - 1)]
        texts.append(
            " ".join("zebra" if there and k else word for k, (there, word) in enumerate(zip(zebra, words, strict=True)))
        )
    made.texts[:] = texts
    return made


@pytest.fixture(scope="module")
def aligned(pair: PlantedPair) -> Aligned:
    return read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)


@pytest.fixture(scope="module")
def firings(aligned: Aligned) -> Firings:
    assert aligned.firings
    return aligned.firings


def ends_of(text: str) -> np.ndarray:
    """Character ends of a text's words, but for the first, which no model keeps."""
    return np.cumsum([len(word) + 1 for word in text.split()])[1:] - 1


def test_the_strongest_documents_are_those_of_all_pairs_at_once(pair: PlantedPair, firings: Firings) -> None:
    f = pair.encoder.encode(pair.x().astype(np.float32)).reshape(200, WORDS - 1, -1)
    names = np.array([document_name(text) for text in pair.texts])
    strongest = f.max(axis=1)
    fewer = 0
    for m in range(40):
        order = sorted((d for d in range(200) if strongest[d, m] > 0), key=lambda d: (-strongest[d, m], names[d]))[:K]
        fewer += len(order) < K
        pad = [-1] * (K - len(order))
        assert firings.documents[m].tolist() == [*names[order].tolist(), *pad]
        ends = [int(ends_of(pair.texts[d])[f[d, :, m].argmax()]) for d in order]
        assert firings.ends[m].tolist() == [*ends, *pad]
        assert_allclose(firings.strength[m], [*strongest[order, m], *[0] * len(pad)], rtol=1e-5)
    assert firings.ids == tuple(map(str, range(40))) and fewer < 40


def test_silent_documents_are_drawn_by_seed_and_name_from_all_that_never_fire(
    pair: PlantedPair, firings: Firings
) -> None:
    fires = (pair.encoder.encode(pair.x().astype(np.float32)).reshape(200, WORDS - 1, -1) > 0).any(axis=1)
    names = np.array([document_name(text) for text in pair.texts])
    order = np.argsort(priority(names, 0))
    for m in range(40):
        assert firings.silent[m].tolist() == [names[d] for d in order if not fires[d, m]][:S]
    reach = {int(name): len(text) for name, text in zip(names, pair.texts, strict=True)}
    assert firings.reach[3].tolist() == [reach[name] for name in firings.silent[3].tolist()]
    assert sorted(names[order]) == sorted(names) and (np.argsort(priority(names, 1)) != order).any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_go_by_name_and_neither_batches_nor_order_matter(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    documents, m = data.draw(st.integers(1, 50)), 6
    names = rng.choice(10**6, documents, replace=False)
    owner = np.repeat(names, 3)
    # Few levels, so that many are equal, within a document and between documents.
    f = rng.integers(0, 4, (3 * documents, m)) * (rng.random((3 * documents, m)) < rng.random(m))
    ends = np.tile([10, 20, 30], documents)
    strength = f.reshape(documents, 3, m).max(axis=1)
    kept = FiringsTally([str(i) for i in range(m)], seed=4)
    for part in np.array_split(rng.permutation(documents), data.draw(st.integers(1, documents))):
        rows = (3 * part[:, None] + np.arange(3)).ravel()
        kept.add(csr_array(f[rows].astype(np.float32)), owner[rows], ends[rows])
    found = kept.finish()
    for j in range(m):
        best = sorted(
            (-strength[d, j], names[d], int(f[3 * d : 3 * d + 3, j].argmax()) * 10 + 10) for d in range(documents)
        )
        best = [one for one in best if one[0] < 0][:K]
        assert found.documents[j].tolist() == [n for _, n, _ in best] + [-1] * (K - len(best))
        assert found.ends[j].tolist() == [e for _, _, e in best] + [-1] * (K - len(best))
        assert found.strength[j].tolist() == [-s for s, _, _ in best] + [0] * (K - len(best))
        quiet = names[strength[:, j] == 0]
        quiet = quiet[np.argsort(priority(quiet, 4))][:S].tolist()
        assert found.silent[j].tolist() == quiet + [-1] * (S - len(quiet))
        assert found.reach[j].tolist() == [30] * len(quiet) + [-1] * (S - len(quiet))


def test_firings_survive_the_disk(aligned: Aligned, firings: Firings, tmp_path: Path) -> None:
    aligned.save(tmp_path / "kept")
    again = Aligned.load(tmp_path / "kept").firings
    assert again and again.ids == firings.ids
    for part in ("documents", "ends", "strength", "silent", "reach"):
        assert_array_equal(getattr(again, part), getattr(firings, part))
    with pytest.raises(Refusal, match="it does not hold firings"):
        Firings.load(tmp_path / "kept" / "backgrounds.safetensors")


def test_damaged_firings_are_refused(firings: Firings, tmp_path: Path) -> None:
    replace(firings, ids=firings.ids[1:]).save(tmp_path / "ids")
    with pytest.raises(Refusal, match="it holds 39 ids and firings of 40 features; make it again"):
        Firings.load(tmp_path / "ids")
    replace(firings, reach=firings.reach[1:]).save(tmp_path / "shape")
    with pytest.raises(Refusal, match="it holds firings, but its arrays 'documents' .* do not fit together"):
        Firings.load(tmp_path / "shape")


# --- windows -----------------------------------------------------------------------------------------------------


def cut(pair: PlantedPair, firings: Firings, feature: Any = ZEBRA, seed: int = 0, **how: Any) -> Any:
    return contexts(firings, pair.texts, feature, rng=np.random.default_rng(seed), **how)


def test_every_firing_window_has_the_word_and_no_silent_one_has(pair: PlantedPair, firings: Firings) -> None:
    for how in ({}, {"before": 30, "after": 12}, {"before": 6, "after": 0}):
        fires, silent = cut(pair, firings, **how)
        assert len(fires) == len(silent) == 10
        assert all("zebra" in window.split() for window in fires)
        assert not any("zebra" in window for window in silent)
    assert len(cut(pair, firings, many=3)[0]) == 3


def test_windows_are_cut_at_words_and_silent_ones_are_as_long(pair: PlantedPair, firings: Firings) -> None:
    fires, silent = cut(pair, firings, before=40, after=20)
    whole = {*FILLING, "zebra", *(f"{d:05d}" for d in range(200))}
    assert all(set(window.split()) <= whole for window in [*fires, *silent])
    assert all(len(window) <= 60 for window in fires)
    for one, other in zip(fires, silent, strict=True):
        assert abs(len(one) - len(other)) <= 6  # the longest words have six letters
    assert len(set(silent)) > 5 and silent != cut(pair, firings, seed=1, before=40, after=20)[1]
    assert silent == cut(pair, firings, before=40, after=20)[1]
    assert cut(pair, firings, str(ZEBRA), before=40, after=20)[0] == fires


def test_a_feature_that_never_fires_has_silent_windows_only(pair: PlantedPair) -> None:
    kept = FiringsTally(["a"])
    names = np.array([document_name(text) for text in pair.texts[:4]])
    kept.add(csr_array(np.zeros((4, 1), np.float32)), names, np.full(4, 50))
    fires, silent = contexts(kept.finish(), by_name(pair.texts), "a", rng=np.random.default_rng(0), before=20, after=10)
    assert fires == [] and len(silent) == 4
    assert all(any(window in text[:50] for text in pair.texts[:4]) for window in silent), "nobody read further"


@pytest.mark.parametrize(
    ("text", "end", "before", "after", "window"),
    [
        ("one two three four five", 13, 9, 6, "two three four"),
        ("one two three four five", 13, 8, 6, "three four"),
        ("one two three four five", 11, 2, 2, "hree"),  # a word longer than the window is cut
        ("one two three four five", 3, 200, 60, "one two three four five"),
        ("one two three", 13, 5, 9, "three"),
        ("漢字かな交じり文を読む", 6, 3, 2, "な交じり文"),
    ],
)
def test_a_window_goes_from_word_to_word(text: str, end: int, before: int, after: int, window: str) -> None:
    assert around(text, end, before=before, after=after) == window


def test_a_place_is_anywhere_and_a_short_text_is_taken_whole() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(f"word{k}" for k in range(80))
    found = {somewhere(text, 40, rng) for _ in range(50)}
    assert len(found) > 25 and all(window in text for window in found)
    assert any(text.startswith(window) for window in found) or any(text.endswith(window) for window in found)
    assert somewhere(" short ", 40, rng) == "short"
    assert len(somewhere("漢字" * 40, 20, rng)) == 20


def test_texts_without_a_document_and_unknown_features_are_refused(pair: PlantedPair, firings: Firings) -> None:
    first = by_name(pair.texts)[int(firings.documents[ZEBRA, 0])]
    without = [text for text in pair.texts if text != first]
    with pytest.raises(Refusal, match=r"document [0-9a-f]{16} of feature 7: it is not among these 199 texts; pass the"):
        contexts(firings, without, ZEBRA, rng=np.random.default_rng(0))
    with pytest.raises(Refusal, match="feature 40: it was not among the 40 watched"):
        contexts(firings, pair.texts, 40, rng=np.random.default_rng(0))


def test_windows_are_cut_without_torch() -> None:
    code = "import sys, dragoman.maps.aligned; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
