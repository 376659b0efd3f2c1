"""Which dictionaries a reader of many sites is made of: the pair's, or those that a command names; kept in a folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import settings as s
from dragoman.core import Site
from dragoman.dictionaries import open_dictionary
from many_files import codes_of, drawn, w_dec_of
from setup import Listed, Setup
from sites import Place
from small_world import World


def asked(work: Path, **how: Any) -> Any:
    plain: dict[str, Any] = {"base": None, "sae": [], "other_sae": [], "test_sae": [], "unseen": []}
    return SimpleNamespace(work=work, **(plain | how))


def test_the_pairs_setup_is_that_of_the_settings() -> None:
    pair = Setup.of_the_pair()
    assert pair.home == Place("tiny-smollm2", 23) and len(pair.places) == 11 and len(pair.own) == 7
    assert [one.name for one in pair.dictionaries if one.tested] == ["tiny-smollm2-23-second"]
    assert pair.declared == {"tiny-smollm2-23", "tiny-smollm2-13", "tiny-smollm2-26", "tiny-gemma-12"}
    arms = pair.arms()
    assert {p.block for p in arms["without-blocks"][0]} == {5, 9, 17, 20, 23}
    assert "mapped" in arms["many-everything"][1] and "mapped" not in arms["without-model"][1]
    assert arms["as-packaged"] == ((), ())


def test_dictionaries_that_exist_are_named_and_kept(world: World, tmp_path: Path) -> None:
    sae = str(world.sae)
    found = Setup.of(asked(tmp_path, sae=[sae], base="a/reader of it"))
    site = open_dictionary(sae).site
    assert found.base == "a/reader of it" and found.home == Place("a/reader of it", site.block)
    assert found.dictionaries == (Listed(f"a--reader--of--it-{site.block}", found.home, sae),)
    assert found.others == () and "without-model" not in found.arms() and "without-blocks" not in found.arms()
    assert "mapped" not in found.arms()["many-everything"][1]
    assert Setup.of(asked(tmp_path)) == found  # as it was begun
    with pytest.raises(SystemExit, match="begun with other dictionaries; name another --work"):
        Setup.of(asked(tmp_path, sae=[sae]))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"base": "some/model"}, "go with --sae"),
        ({"sae": 2}, "two dictionaries are of one place"),
        ({"sae": 1, "unseen": [0, 1, 2, 3]}, "--unseen: name blocks of other --sae"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_kept(
    world: World, tmp_path: Path, how: dict[str, Any], why: str
) -> None:
    how = how | {"sae": [str(world.sae)] * how.get("sae", 0)}
    with pytest.raises(SystemExit, match=why):
        Setup.of(asked(tmp_path / "new", **how))
    assert not (tmp_path / "new").exists()


def test_latents_of_a_dictionary_that_exists_fire_as_its_encoder_says(world: World) -> None:
    ref = str(world.sae)
    dictionary = open_dictionary(ref)
    numbers, rows = drawn(ref, 5)
    assert len(numbers) == 5 and list(numbers) == sorted(set(numbers))
    args: Any = SimpleNamespace(device="cpu", d_sae=5)
    one = Listed("it", Place("m", 0), ref)
    assert torch.equal(w_dec_of(args, one), torch.as_tensor(rows))
    assert np.allclose(rows, dictionary.features(numbers.tolist()).directions.unit)
    x = np.random.default_rng(0).normal(size=(7, dictionary.d_model)).astype(np.float32) * 3
    codes = codes_of(args, one, torch.as_tensor(x))
    want = dictionary.need_encoder().encode(x)[:, numbers]
    assert codes.size == 5 and np.allclose(codes.dense().numpy(), want, rtol=2e-3, atol=2e-3)  # kept as float16
    assert s.TOPK >= 5


def test_other_models_are_reached_by_maps_and_tested_dictionaries_are_never_taught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("setup.open_dictionary", lambda ref: SimpleNamespace(site=Site.parse(ref)))
    found = Setup.of_dictionaries("", ["m:7", "m:3"], ["other:2"], ["m:7"], [3])
    assert (found.base, found.home) == ("m", Place("m", 7)) and found.others == (Place("other", 2),)
    assert [one.name for one in found.dictionaries] == ["m-7", "m-3", "other-2", "m-7-tested"]
    assert [one.tested for one in found.dictionaries] == [False, False, False, True]
    assert found.places == (Place("m", 7), Place("m", 3), Place("other", 2))
    assert found.arms()["without-blocks"][0] == (Place("m", 7),) and "mapped" in found.arms()["many-everything"][1]
    with pytest.raises(SystemExit, match="--test-sae: it is of a place that no --sae is of: name one there too"):
        Setup.of_dictionaries("", ["m:7"], [], ["m:3"], [])
    with pytest.raises(SystemExit, match="--unseen: name blocks of other --sae than the first"):
        Setup.of_dictionaries("", ["m:7"], [], [], [7])
