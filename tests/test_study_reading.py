"""What models read off a run's texts: once, kept, and again when the run is another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Floats
from dragoman.store import RunFolder, read_arrays, write_arrays
from planted_worlds import TARGET
from studies.reading import FILE, kept, read_back
from study_worlds import latent, row, run_of
from word_hash import HashEmbedder

ROWS = [
    row("1", "auto", "an owl at night"),
    row("2", "auto", "a loaf in the oven"),
    row("1", "auto", "another owl", 1),
    row("2", "auto", "an owl at night", 1),
    row("1", "map", "a loaf in the oven"),
    row("2", "map", ""),
]


class Embeds(HashEmbedder):
    def __init__(self, name: str = "words") -> None:
        super().__init__(64)
        self.called, self.texts = name, []

    @property
    def name(self) -> str:
        return self.called

    def encode(self, texts: Sequence[str]) -> Floats:
        self.texts += texts
        return super().encode(texts)


class Rebuilds:
    """Answers with the text's hash, of another length for every text."""

    identity: dict[str, Any] = {}  # noqa: RUF012 - a stand-in, never changed

    def __init__(self, name: str = "ar") -> None:
        self.name, self.texts, self.site = name, [], TARGET

    def reconstruct(self, texts: Sequence[str]) -> Floats:
        self.texts += texts
        return HashEmbedder(32).encode(texts) * np.array([[7.0 + len(t)] for t in texts], dtype=np.float32)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_of(tmp_path / "run", [latent("1"), latent("2", "bread")], ROWS)


def texts() -> list[str]:
    return [r["text"] or "(empty)" for r in ROWS]


def test_every_row_gets_the_place_of_its_own_text(run: RunFolder) -> None:
    found = read_back(run, Embeds(), {"target": Rebuilds()})
    assert_allclose(found.texts, HashEmbedder(64).encode(texts()), atol=1e-3)
    assert_allclose(np.linalg.norm(found.texts, axis=1), 1.0, atol=1e-6)
    first = [k for k in range(6) if k != 2]
    assert_allclose(found.rebuilt["target"][first], HashEmbedder(32).encode(texts())[first], atol=1e-3)


def test_only_a_text_that_is_nobodys_first_sample_is_not_rebuilt(run: RunFolder) -> None:
    """The fourth row is a second sample too, but it says what the first row said first."""
    reader = Rebuilds()
    rebuilt = read_back(run, Embeds(), {"target": reader}).rebuilt["target"]
    assert np.isnan(rebuilt).all(axis=1).tolist() == [False, False, True, False, False, False]
    assert np.isfinite(rebuilt[[0, 1, 3, 4, 5]]).all()
    assert "another owl" not in reader.texts


def test_each_text_is_read_once_and_never_again(run: RunFolder) -> None:
    embedder, reader, told = Embeds(), Rebuilds(), []
    first = read_back(run, embedder, {"target": reader}, lambda done, total: told.append((done, total)))
    assert sorted(embedder.texts) == sorted(set(texts())) and len(set(reader.texts)) == len(reader.texts) == 3
    assert told == [(4, 4)]
    again = read_back(run, embedder, {"target": reader})
    assert len(embedder.texts) == 4 and len(reader.texts) == 3
    assert_array_equal(first.texts, again.texts)
    assert_array_equal(first.rebuilt["target"], again.rebuilt["target"])


def test_what_was_kept_is_what_was_read(run: RunFolder) -> None:
    assert kept(run) is None
    first, found = read_back(run, Embeds(), {"a": Rebuilds(), "b": Rebuilds("other")}), kept(run)
    assert found and set(found.rebuilt) == {"a", "b"}
    assert_array_equal(found.texts, first.texts)
    assert_array_equal(found.rebuilt["b"], first.rebuilt["b"])


@pytest.mark.parametrize(
    ("embedder", "readers"),
    [
        (Embeds("other words"), {"target": Rebuilds()}),
        (Embeds(), {"target": Rebuilds("other")}),
        (Embeds(), {"source": Rebuilds()}),
        (Embeds(), {}),
    ],
)
def test_other_models_read_again(run: RunFolder, embedder: Embeds, readers: dict[str, Rebuilds]) -> None:
    read_back(run, Embeds(), {"target": Rebuilds()})
    before = len(embedder.texts)
    assert set(read_back(run, embedder, readers).rebuilt) == set(readers)
    assert len(embedder.texts) == before + 4


def test_a_run_that_grew_is_read_again(run: RunFolder) -> None:
    read_back(run, Embeds(), {"target": Rebuilds()})
    run.append([row("1", "blend", "a harbour in the fog")])
    assert kept(run) is None
    embedder = Embeds()
    found = read_back(run, embedder, {"target": Rebuilds()})
    assert len(embedder.texts) == 5 and len(found.texts) == 7
    again = kept(run)
    assert again and len(again.texts) == 7


def test_a_reading_of_as_many_other_texts_is_not_this_runs(tmp_path: Path, run: RunFolder) -> None:
    changed = run_of(tmp_path / "other", [latent("1")], [{**r, "text": f"not {r['text']}"} for r in ROWS])
    read_back(run, Embeds(), {"target": Rebuilds()})
    (changed.path / FILE).write_bytes((run.path / FILE).read_bytes())
    assert kept(changed) is None
    embedder = Embeds()
    read_back(changed, embedder, {"target": Rebuilds()})
    assert len(embedder.texts) == 4


def test_a_reading_of_the_same_texts_in_other_roles_is_not_this_runs(tmp_path: Path, run: RunFolder) -> None:
    """Which texts are first samples decides what was rebuilt."""
    read_back(run, Embeds(), {"target": Rebuilds()})
    rows = [{**r, "sample": int(k == 0)} for k, r in enumerate(ROWS)]
    rows.append(row("3", "auto", "an owl at night", 1))
    rows[3]["sample"] = 1
    changed = run_of(tmp_path / "other", [latent("1")], rows)
    (changed.path / FILE).write_bytes((run.path / FILE).read_bytes())
    assert kept(changed) is None
    reader = Rebuilds()
    found = read_back(changed, Embeds(), {"target": reader}).rebuilt["target"]
    assert sorted(reader.texts) == ["(empty)", "a loaf in the oven", "another owl"]
    assert np.isnan(found).all(axis=1).tolist() == [True, False, False, True, False, False, True]


def test_readings_from_before_their_texts_were_told_are_still_taken(run: RunFolder) -> None:
    first = read_back(run, Embeds(), {"target": Rebuilds()})
    arrays, meta = read_arrays(run.path / FILE)
    write_arrays(run.path / FILE, arrays, {k: v for k, v in meta.items() if k in ("holds", "key")})
    found, embedder = kept(run), Embeds()
    assert found
    assert_array_equal(found.texts, first.texts)
    read_back(run, embedder, {"target": Rebuilds()})
    assert not embedder.texts
