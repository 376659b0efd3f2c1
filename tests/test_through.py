"""A crossing is fitted once, kept as a folder and looked into, and carries the same: fit, inspect, --through."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ar_checkpoints import WIDTH, base_of
from asking import explain
from dragoman.core import Refusal, Site
from dragoman.maps import Crossing
from dragoman.models import harvest
from dragoman.runs.crossings import fit_crossing
from dragoman.store import RunFolder
from small_world import Said, World, command, decoder, write_sae
from tiny_checkpoints import BLOCK, save_checkpoint, sidecar_of

Dragoman = Callable[..., Said]
FEATURES = "0,3,7,11"


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def fitting(world: World, out: Path, *more: Any) -> tuple[Any, ...]:
    texts = ("--texts", world.root / "texts.txt", "--source", world.source)
    return ("fit", world.sae, "--by", world.av, *texts, "-o", out, *more)


def explaining(world: World, out: Path, *more: Any) -> tuple[Any, ...]:
    how = ("--features", FEATURES, "--source", world.source, "--max-new-tokens", "6", "--batch-size", "8")
    return ("explain", world.sae, "--by", world.av, *how, "-o", out, *more)


@pytest.fixture(scope="module")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crossing over aligned tokens."""
    folder = tmp_path_factory.mktemp("fitted") / "crossing"
    fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt").save(folder)
    return folder


@pytest.mark.parametrize("more", [(), ("--map", "post"), ("--map", "post", "--method", "procrustes", "--seed", "3")])
def test_a_fitted_crossing_carries_what_explain_alone_carries(
    dragoman: Dragoman, world: World, tmp_path: Path, more: tuple[str, ...]
) -> None:
    done = dragoman(*fitting(world, tmp_path / "crossing", *more))
    assert done.code == 0, done.err
    assert "the mean alone" in done.out and f"crossing: {tmp_path}/crossing" in done.out
    route = ("--route", "map") if more else ()
    said = dragoman(*explaining(world, tmp_path / "run", "--through", tmp_path / "crossing", *route))
    assert said.code == 0, said.err
    assert "unusable: " in done.out and "the map is unusable: " in said.err  # two random models have nothing in common
    run, crossing = RunFolder.open(tmp_path / "run"), Crossing.load(tmp_path / "crossing")
    assert run.manifest["about"]["map"].startswith("the map is unusable: ")
    assert "The map is unusable: " in html.unescape(run.page.read_text())
    directions = world.request().open().features(FEATURES.split(",")).directions
    np.testing.assert_array_equal(
        run.vectors()[0]["bare/washed" if more else "bare/writes"], crossing.directions(directions, "map").unit
    )
    assert list(run.manifest["digests"]) == ["crossing"]
    assert run.manifest["settings"]["map"] == ("post" if more else "aligned")
    if "procrustes" in more:
        return
    alone = explain(world.request(map="post" if more else None, route="map" if more else None), tmp_path / "alone")
    assert alone.rows() == run.rows()


def test_inspect_tells_where_it_leads_and_what_it_is_worth(dragoman: Dragoman, world: World, fitted: Path) -> None:
    said = dragoman("inspect", fitted)
    assert said.code == 0 and str(world.source) in said.out.replace("\n", "") and "ridge" in said.out
    for words in ("own row nearest of", "rows dealt", "the mean alone", "30 features", "cosine, mean taken off"):
        assert words in said.out
    index = json.loads(dragoman("inspect", fitted, "--json").out)
    assert (index["source"], index["target"]) == (str(world.source), str(world.target))
    assert index["held_out"] == json.loads((fitted / "crossing.json").read_text())["held_out"]


def torn(folder: Path) -> None:
    path = folder / "map.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def changed(folder: Path) -> None:
    path = folder / "map.safetensors"
    arrays = load_file(path)
    save_file({k: v + 1 for k, v in arrays.items()}, path)


@pytest.mark.parametrize("damage", [torn, changed, lambda folder: (folder / "map.safetensors").unlink()])
def test_a_damaged_crossing_is_one_sentence_everywhere(
    dragoman: Dragoman, world: World, fitted: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(shutil.copytree(fitted, tmp_path / "crossing"))
    for words in (
        ("inspect", tmp_path / "crossing"), explaining(world, tmp_path / "run", "--through", tmp_path / "crossing")
    ):  # fmt: skip
        said = dragoman(*words)
        assert said.code == 1 and "map.safetensors" in said.err and said.err.count("\n") == 1, said.err
    assert not (tmp_path / "run").exists()


def test_a_crossing_is_refused_for_other_dictionaries_places_and_words(
    dragoman: Dragoman, world: World, fitted: Path, tmp_path: Path
) -> None:
    shutil.copytree(world.sae, tmp_path / "sae")
    arrays = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    save_file(arrays | {"W_dec": arrays["W_dec"][::-1].copy()}, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(Refusal, match="dictionary"):
        explain(world.request(dictionary=str(tmp_path / "sae"), texts=None, through=fitted), tmp_path / "run")
    own = save_checkpoint(
        tmp_path / "own", "llama", model=base_of("llama"),
        sidecar=sidecar_of("llama") | {"d_model": WIDTH, "base_checkpoint": world.source.model},
    )  # fmt: skip
    with pytest.raises(Refusal, match=rf"the target of crossing {fitted}"):
        explain(world.request(by=str(own), texts=None, through=fitted), tmp_path / "run")
    with pytest.raises(Refusal, match="it was fitted on texts of its own"):
        explain(world.request(through=fitted), tmp_path / "run")
    with pytest.raises(Refusal, match="it was fitted as aligned; leave --map out"):
        explain(world.request(texts=None, map="post", route="map", through=fitted), tmp_path / "run")
    with pytest.raises(Refusal, match="directions cross by nothing"):
        explain(world.request(texts=None, route="as-is", through=fitted), tmp_path / "run")
    with pytest.raises(Refusal, match="does not hold a crossing"):
        explain(world.request(texts=None, through=tmp_path / "sae"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    there = dragoman(*fitting(world, fitted))
    assert there.code == 1 and "it is there already" in there.err
    odd = dragoman(*fitting(world, tmp_path / "new", "--method", "procrustes"))
    assert odd.code == 1 and "over aligned tokens the map is a ridge regression; say --map post" in odd.err
    for more, why in (
        (("--lam", "7"), "it is chosen on left-out documents"),
        (("--lam", "7", "--map", "post", "--method", "procrustes"), "a procrustes map has none"),
        (("--lam", "0", "--map", "post"), "it is no positive number"),
    ):
        penalty = dragoman(*fitting(world, tmp_path / "new", *more))
        assert penalty.code == 1 and why in penalty.err and not (tmp_path / "new").exists()
    with pytest.raises(Refusal, match="that is one stream"):
        fit_crossing(world.request().open(), world.source, texts=world.root / "texts.txt")


def test_fit_leads_where_its_target_says_without_a_verbalizer(
    dragoman: Dragoman, world: World, fitted: Path, tmp_path: Path
) -> None:
    words = ("--texts", world.root / "texts.txt", "--source", world.source, "-o", tmp_path / "crossing")
    done = dragoman("fit", world.sae, "--target", world.target, *words)
    assert done.code == 0, done.err
    files = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (fitted, tmp_path / "crossing")]
    assert files[0] == files[1]
    for name in files[0]:
        if (fitted / name).is_file():
            assert (fitted / name).read_bytes() == (tmp_path / "crossing" / name).read_bytes(), name
    both = dragoman("fit", world.sae, "--target", world.target, "--by", world.av, *words)
    assert both.code == 1 and "it leads to one verbalizer or one place" in both.err


def neighbour(world: World, root: Path, away: int) -> tuple[str, str]:
    """A dictionary ``away`` blocks before the stream that a verbalizer of the same model reads."""
    av = save_checkpoint(
        root / "own", "llama", model=base_of("llama"),
        sidecar=sidecar_of("llama") | {"d_model": WIDTH, "base_checkpoint": world.source.model},
    )  # fmt: skip
    write_sae(root / "sae")
    config = json.loads((root / "sae" / "cfg.json").read_text())
    config["metadata"]["hook_name"] = f"blocks.{BLOCK - away}.hook_resid_post"
    (root / "sae" / "cfg.json").write_text(json.dumps(config))
    return str(root / "sae"), str(av)


def test_a_neighbouring_block_is_read_as_it_is_and_its_model_opened_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, av = neighbour(world, tmp_path, 1)
    opened: list[str] = []
    load = harvest.load_model
    monkeypatch.setattr(harvest, "load_model", lambda ref, **how: opened.append(ref) or load(ref, **how))
    site = Site(world.source.model, BLOCK - 1)
    asked = world.request(dictionary=sae, by=av, source=site, route="as-is", washout="none")
    run = explain(asked, tmp_path / "run")
    np.testing.assert_allclose(run.vectors()[0]["plain"], decoder()[[0, 3, 7, 11]], atol=1e-6)
    assert opened == [world.source.model]
    (told,) = run.manifest["conditions"]
    assert (told["route"], told["name"]) == ("as-is", "plain")
    assert run.manifest["source"] == str(site) and run.manifest["target"] == str(world.source)
    assert {row["card"]["route"] for row in run.rows()} == {"as-is"}
    washed = explain(world.request(dictionary=sae, by=av, source=site, route="as-is"), tmp_path / "washed")
    assert {row["condition"] for row in washed.rows()} == {"washed"}


def test_what_is_no_neighbour_is_refused_before_texts_are_read(world: World, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="streams of different models"):
        explain(world.request(route="as-is"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
