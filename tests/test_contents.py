"""Files with the right mark and nothing else: whatever dragoman wrote and reads again, with one part of it missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Background, Refusal, Site, frozen
from dragoman.maps import DirectTable, FiringSums, LinearMap, Moments
from dragoman.maps.aligned import Aligned, HeldOutPairs
from dragoman.maps.moments import FoldedMoments
from dragoman.models.paired import Harvest
from dragoman.store import Contents, read_arrays, write_arrays
from dragoman.store.arrays import load_background, save_background

X, Y, F = (np.random.default_rng(7).random((6, width)).astype(np.float32) for width in (3, 2, 4))
SOURCE, TARGET, DOCUMENTS = Site("a", 1), Site("b", 2), np.arange(6)
MOMENTS = Moments.of(X, Y)
SUMS = FiringSums(TARGET, range(4), 2).add(F, Y, DOCUMENTS)
FIRING = FiringSums(TARGET, range(4), 2, pairs=True).add(F, Y, DOCUMENTS)
FOLDS = FoldedMoments(folds=(MOMENTS, MOMENTS), documents=frozen(DOCUMENTS, np.int64))
AT_SOURCE, AT_TARGET = (Background(site, frozen(rows.mean(0)), 6, "t") for site, rows in ((SOURCE, X), (TARGET, Y)))
MAP = LinearMap(
    source=SOURCE, target=TARGET, weight=np.ones((3, 2)), mean_x=np.ones(3), mean_y=np.ones(2), method="ridge"
)
HARVEST = Harvest(source=SOURCE, target=TARGET, x=X, y=Y, source_background=AT_SOURCE, background=AT_TARGET)
ALIGNED = Aligned(
    source=SOURCE,
    target=TARGET,
    folded=FOLDS,
    sums=FIRING,
    fired=FiringSums(SOURCE, range(4), 3).add(F, X, DOCUMENTS),
    calibration=(SUMS, SUMS),
    background=AT_TARGET,
    source_background=AT_SOURCE,
    held_out=HeldOutPairs(fold=0, x=X, y=Y, documents=frozen(DOCUMENTS, np.int64)),
    report={"pairs": 6},
)

# How each is written and read.
KEPT: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "map": (MAP.save, LinearMap.load),
    "moments": (MOMENTS.save, Moments.load),
    "table": (SUMS.table().save, DirectTable.load),
    "sums": (SUMS.save, FiringSums.load),
    "firing": (FIRING.save, FiringSums.load),
    "folds": (FOLDS.save, FoldedMoments.load),
    "aligned": (ALIGNED.save, Aligned.load),
    "harvest": (HARVEST.save, Harvest.load),
    "background": (lambda path: save_background(AT_TARGET, path), load_background),
}
_OF_MOMENTS = ["mean_x", "mean_y", "sxx", "sxy", "syy", "count"]
_OF_SUMS = [
    "weight_sum",
    "weight_sq_sum",
    "weighted_sum",
    "y_sum",
    "documents",
    "site",
    "ids",
    "count",
    "pairs",
    "data",
    "indices",
    "indptr",
]
# What each of their files holds beside its mark; a file by itself has no name here.
NEEDED: dict[str, dict[str, list[str]]] = {
    "map": {"": ["weight", "mean_x", "mean_y", "source", "target", "method", "settings", "report"]},
    "moments": {"": _OF_MOMENTS},
    "table": {"": ["unit", "norms", "n_eff", "site", "ids"]},
    "sums": {"": _OF_SUMS},
    "firing": {"": _OF_SUMS},
    "folds": {
        "folds.json": ["folds"],
        "documents.safetensors": ["documents"],
        "fold-0.safetensors": _OF_MOMENTS,
        "fold-1.safetensors": _OF_MOMENTS,
    },
    "aligned": {
        "aligned.json": ["source", "target", "n", "texts", "calibration", "parts", "report"],
        "backgrounds.safetensors": ["source", "target"],
        "held_out.safetensors": ["x", "y", "documents", "fold"],
        "calibration-0.safetensors": _OF_SUMS,
        "calibration-1.safetensors": _OF_SUMS,
        "fired.safetensors": _OF_SUMS,
        "sums.safetensors": _OF_SUMS,
        "folds/folds.json": ["folds"],
        "folds/documents.safetensors": ["documents"],
        "folds/fold-0.safetensors": _OF_MOMENTS,
        "folds/fold-1.safetensors": _OF_MOMENTS,
    },
    "harvest": {
        "": ["x", "y", "source_background", "background", "source", "target", "n", "source_n", "texts", "left_out"]
    },
    "background": {"": ["mean", "site", "n", "texts"]},
}
PARTS = [(kind, file, name) for kind, files in NEEDED.items() for file, names in files.items() for name in names]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    for kind, (save, _) in KEPT.items():
        save(root / kind)
    return root


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Callable[[str], Path]:
    def made(kind: str) -> Path:
        path = written / kind
        return Path((shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / kind))

    return made


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a file again after ``change`` has been at its arrays and words, all in one dict."""
    if path.suffix == ".json":
        stated = json.loads(path.read_text())
        change(stated)
        path.write_text(json.dumps(stated))
        return
    arrays, words = read_arrays(path)
    every = arrays | words
    assert len(every) == len(arrays) + len(words)
    change(every)
    is_array = {name: isinstance(value, np.ndarray) for name, value in every.items()}
    write_arrays(
        path,
        {name: value for name, value in every.items() if is_array[name]},
        {name: value for name, value in every.items() if not is_array[name]},
    )


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_listed_here_is_what_each_file_holds(written: Path, kind: str) -> None:
    found = {}
    for path in [written / kind, *(written / kind).rglob("*")]:
        if path.is_file():
            arrays, words = ({}, json.loads(path.read_text())) if path.suffix == ".json" else read_arrays(path)
            inside = "" if path == written / kind else str(path.relative_to(written / kind))
            found[inside] = sorted({*arrays, *words} - {"holds"})
    assert found == {file: sorted(names) for file, names in NEEDED[kind].items()}


@pytest.mark.parametrize(("kind", "file", "name"), PARTS)
def test_a_file_of_the_right_mark_without_one_of_its_parts_is_refused(
    copy: Callable[[str], Path], kind: str, file: str, name: str
) -> None:
    path = copy(kind)
    changed(path / file, lambda every: every.pop(name))
    with pytest.raises(Refusal, match=rf"it has no array '{name}'|it does not say its {name}") as refusal:
        KEPT[kind][1](path)
    assert str(refusal.value).startswith(str(path / file)) and "make it again with dragoman" in str(refusal.value)


@pytest.mark.parametrize(("kind", "file", "name"), PARTS)
def test_a_part_of_another_kind_is_refused(copy: Callable[[str], Path], kind: str, file: str, name: str) -> None:
    def other(every: dict[str, Any]) -> None:
        every[name] = np.ones((1, 1, 1)) if isinstance(every[name], np.ndarray) else -1.5

    path = copy(kind)
    changed(path / file, other)
    with pytest.raises(Refusal, match=rf"'{name}' has shape \(1, 1, 1\), not \d axes|its {name} is -1.5, not "):
        KEPT[kind][1](path)


@pytest.mark.parametrize("kind", KEPT)
def test_the_mark_alone_is_refused(copy: Callable[[str], Path], kind: str) -> None:
    path = copy(kind)
    marked = next(iter(NEEDED[kind]))

    def bare(every: dict[str, Any]) -> None:
        for name in set(every) - {"holds"}:
            del every[name]

    changed(path / marked, bare)
    with pytest.raises(Refusal, match="it does not say its|it has no array"):
        KEPT[kind][1](path)
    changed(path / marked, lambda every: every.update(holds="soup"))
    with pytest.raises(Refusal, match="it does not hold .*; name a f.* that dragoman"):
        KEPT[kind][1](path)


@pytest.mark.parametrize("kind", KEPT)
def test_what_was_read_is_written_as_it_was(written: Path, tmp_path: Path, kind: str) -> None:
    again = KEPT[kind][1](written / kind)
    save_background(again, tmp_path / kind) if kind == "background" else again.save(tmp_path / kind)
    for file in NEEDED[kind]:
        if (written / kind / file).suffix == ".json":
            assert (tmp_path / kind / file).read_bytes() == (written / kind / file).read_bytes()
            continue
        (arrays, words), (kept, told) = read_arrays(tmp_path / kind / file), read_arrays(written / kind / file)
        assert words == told and arrays.keys() == kept.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, kept[name], rtol=1e-3)  # a direct table keeps halves


@pytest.mark.parametrize(
    ("kind", "file", "name", "value", "sentence"),
    [
        ("moments", "", "sxy", np.ones((3, 3)), r"'mean_y' \(2,\) and 'sxy' \(3, 3\) do not fit together"),
        ("moments", "", "mean_x", np.ones(3, bool), "its array 'mean_x' holds no numbers"),
        ("moments", "", "count", True, "its count is True, not a whole number from 0 up"),
        ("sums", "", "ids", ["0", "1"], "it holds 2 ids and sums of 4 features"),
        ("sums", "", "ids", [0, 1, 2, 3], r"its ids is \[0, 1, 2, 3\], not a list of texts"),
        ("firing", "", "indices", np.full(16, 99), "its table of co-firing is damaged"),
        ("firing", "", "indptr", np.arange(3), "its table of co-firing is damaged"),
        ("aligned", "aligned.json", "source", "nowhere", "a site names a model and a block"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    copy: Callable[[str], Path], kind: str, file: str, name: str, value: Any, sentence: str
) -> None:
    path = copy(kind)
    changed(path / file, lambda every: every.update({name: value}))
    with pytest.raises(Refusal, match=sentence):
        KEPT[kind][1](path)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {"x": np.ones(2), "more": np.ones(3)}, {"holds": "soup", "n": 1, "salt": 2})
    kind = Contents(called="soup", holds="soup", arrays={"x": "n"}, words={"n": int})
    arrays, words = kind.read(tmp_path / "a")
    assert list(arrays) == ["x"] and words == {"n": 1}
