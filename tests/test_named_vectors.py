"""Files of vectors that have names: all are read, and their names are their ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dragoman.core import Refusal, Site
from dragoman.dictionaries import open_dictionary
from reading import read_directions

SITE = Site("m", 3)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_named_vectors_are_all_read_and_keep_their_names(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"v.{suffix}", np.random.default_rng(0).normal(size=(3, 8))
    arrays = dict(zip(("lies", "7", "a-b"), rows, strict=True))
    if suffix == "safetensors":
        save_file(arrays, path)
    else:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    found, names = read_directions(path, site=SITE), sorted(arrays)
    assert found.ids == tuple(names) and found.d_model == 8
    for name in names:
        row = arrays[name] / np.linalg.norm(arrays[name])
        np.testing.assert_allclose(found.pick([name]).unit[0], row, rtol=1e-6)
        np.testing.assert_allclose(read_directions(path, site=SITE, features=[name]).unit[0], row, rtol=1e-6)
        assert read_directions(path, site=SITE, key=name).ids == (name,)
    opened = open_dictionary(path, site=SITE)
    assert list(opened.features("lies,7")) == ["lies", "7"] and list(opened.features("all")) == names
    assert sorted(opened.features("random:2")) != [] and len(opened.features("random:2")) == 2
    with pytest.raises(Refusal, match="feature lie of .*: it holds 3 named vectors; did you mean 'lies'"):
        opened.features("lie")
    with pytest.raises(Refusal, match=r"feature 0 of .*: it holds 3 named vectors; name one of 7, a-b, lies"):
        opened.features([0])


def test_vectors_of_several_widths_need_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.ones(8), b=np.ones(9))
    with pytest.raises(Refusal, match=r"several arrays \(a, b\)"):
        read_directions(tmp_path / "v.npz", site=SITE)
