"""What lies beside a dictionary is used wherever the dictionary lies, and only where it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dragoman import tiny
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal, Site
from dragoman.dictionaries import Dictionary, open_dictionary
from dragoman.dictionaries.beside import BACKGROUND, CONFIDENCE, TABLE, beside, place_of
from dragoman.maps import DirectTable
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store.arrays import load_background

IDS = ("1505", "4497")


@pytest.fixture
def copy(tmp_path: Path) -> Dictionary:
    """The embedded SAE under another name in another place."""
    return open_dictionary(str(shutil.copytree(tiny.data("tiny-sae"), tmp_path / "mine")))


def lying(entry: dict[str, str]) -> Path | None:
    """The confidence beside the dictionary that a run's manifest names so."""
    where = place_of(entry)
    return None if where is None else beside(where, CONFIDENCE)


def aligned_texts(dictionary: Dictionary, target: Site) -> list[str]:
    return Readings(source=dictionary.site, target=target, texts=Texts()).aligned_texts(dictionary)


def test_a_copy_of_the_embedded_dictionary_keeps_labels_truth_direct_table_and_confidence(copy: Dictionary) -> None:
    packaged = open_dictionary("tiny-sae")
    ours, theirs = copy.features(IDS).directions, packaged.features(IDS).directions
    assert ours.site == theirs.site == tiny.SOURCE and ours.ids == IDS
    np.testing.assert_array_equal(ours.unit, theirs.unit)
    assert ours.labels == theirs.labels and all(ours.labels)
    assert copy.truth is not None and copy.truth == packaged.truth
    assert set(copy.truth.of(IDS)["feature_info"]) == set(IDS)
    assert copy.truth.of([*IDS, "no-such"]) == {"feature_info": {}}
    folder = copy.direct_folder(tiny.TARGET)
    assert folder is not None and folder.is_relative_to(Path(str(copy.ref)))
    assert DirectTable.load(folder / TABLE).site == load_background(folder / BACKGROUND).site == tiny.TARGET
    assert beside(copy.where, CONFIDENCE) is not None
    assert lying({"ref": copy.ref, "at": str(copy.where)}) == beside(copy.where, CONFIDENCE)
    assert lying({"ref": "tiny-sae"}) == beside(packaged.where, CONFIDENCE)
    back = lying({"ref": "tiny-gemma-sae"})
    assert back is not None and ConfidenceSet.load(back).pair == (tiny.TARGET, tiny.SOURCE)
    assert ConfidenceSet.load(beside(copy.where, CONFIDENCE)).pair == (tiny.SOURCE, tiny.TARGET)
    for elsewhere in ({}, {"ref": "not-here"}, {"ref": "x", "at": "hf:org/repo/a"}):
        assert lying(elsewhere) is None


def test_a_direct_table_holds_at_its_target_and_of_the_dictionary_s_own_model(copy: Dictionary) -> None:
    for other in (Site("tiny-gemma", 11), Site("other", 12), tiny.SOURCE):
        assert copy.direct_folder(other) is None and len(aligned_texts(copy, other)) == 10_000
    assert len(aligned_texts(copy, tiny.TARGET)) == 1_000
    renamed = open_dictionary(copy.ref, site=Site("other", tiny.SOURCE.block))
    assert renamed.direct_folder(tiny.TARGET) is None
    assert open_dictionary("tiny-gemma-sae").direct_folder(tiny.SOURCE) is None


def test_a_torn_direct_table_is_one_sentence(copy: Dictionary) -> None:
    folder = copy.direct_folder(tiny.TARGET)
    assert folder is not None
    (folder / TABLE).write_bytes((folder / TABLE).read_bytes()[:1000])
    with pytest.raises(Refusal, match="not a whole safetensors file"):
        copy.direct_folder(tiny.TARGET)


def test_a_dictionary_reads_its_rows_and_its_encoder_once(copy: Dictionary) -> None:
    assert copy.rows() is copy.rows() and copy.encoder() is copy.encoder() is copy.need_encoder()
    assert copy.features().directions is copy.rows()
    chosen = copy.features([4497, "1505"])
    assert list(chosen) == ["4497", "1505"] and len(chosen) == 2 and chosen.dictionary is copy
    assert (copy.layout, copy.d_model, copy.d_sae) == ("SAELens", 576, 6144)


def test_plain_vectors_have_no_encoder(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    vectors = open_dictionary(tmp_path / "v.npy", site=Site("m", 3))
    assert vectors.layout == "vectors" and vectors.encoder() is None and vectors.truth is None
    vectors.check_encoder(required=False)
    for ask in (vectors.check_encoder, vectors.need_encoder):
        with pytest.raises(Refusal, match="a file of vectors has no encoder"):
            ask()


def test_what_is_beside_and_decides_no_row_leaves_the_fingerprint_alone(copy: Dictionary) -> None:
    before = copy.fingerprint()
    path = beside(copy.where, CONFIDENCE)
    assert path is not None
    path.write_text("{}")
    assert open_dictionary(copy.ref).fingerprint() == before
    labels = Path(copy.ref) / "labels.json"
    labels.write_text(json.dumps({"1505": "other"}))
    assert open_dictionary(copy.ref).fingerprint() != before


def test_a_site_that_contradicts_the_dictionary_is_refused_when_it_is_opened(copy: Dictionary) -> None:
    with pytest.raises(Refusal, match="its cfg.json says block 23; use it at :23"):
        open_dictionary(copy.ref, site=Site("tiny-smollm2", 22))
