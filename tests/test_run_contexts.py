"""Where a run's features fire: cut from the texts that were read, kept with the run, shown on its page."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from asking import explain
from dragoman.core import Directions, Refusal
from dragoman.records import TokenWindow
from dragoman.report import write_page
from dragoman.runs.crossings import by_tokens, windows_of
from dragoman.store import RunFolder, read_json
from dragoman.store.firing import write_tokens
from reading import read_encoder
from report_fixture import HOSTILE, build_run, page_of
from small_world import World


def test_a_run_by_aligned_tokens_keeps_windows_of_the_texts_that_were_read(world: World, tmp_path: Path) -> None:
    run = explain(world.request(features=("0", "3")), tmp_path / "run")
    assert run.contexts is not None and list(run.contexts)[:2] == ["0", "3"]
    read = [" ".join(text.split()) for text in (world.root / "texts.txt").read_text().splitlines()]
    for name, windows in run.contexts.items():
        assert windows["firing"] and bool(windows["silent"]) == (name in ("0", "3")) and len(windows["firing"]) <= 10
        assert all(any(window in text for text in read) for window in windows["firing"] + windows["silent"])
        assert sum(windows["words"].values()) <= 1.001 and max(windows["forms"].values(), default=0) <= 1
        assert any(word in windows["firing"][0].lower() for word in windows["words"])
    assert read_json(run.path / "contexts.json") == {"plan_digest": run.plan, **run.contexts}


def rows(world: World, *ids: str) -> Directions:
    """Features of the world's dictionary at the source, or others under these names."""
    chosen = [world.rows[int(name)] if name.isdigit() else world.rows[0] for name in ids]
    return Directions.of(world.source, np.array(chosen), ids)


def test_windows_of_a_feature_depend_on_it_and_the_seed_and_on_no_other(world: World) -> None:
    asked = world.request(features=("3",), route="map")
    crossing = by_tokens(asked.open(), asked.readings(world.source, world.target))
    alone, both = windows_of(crossing, rows(world, "3"), seed=0), windows_of(crossing, rows(world, "11", "3"), seed=0)
    assert alone and both and alone["3"] == both["3"] and list(both)[:2] == ["11", "3"]
    other = windows_of(crossing, rows(world, "3"), seed=5)
    assert other and other["3"]["firing"] == alone["3"]["firing"]
    assert windows_of(crossing, rows(world, "random-0"), seed=0) is None


def test_windows_of_others_show_what_any_text_has_in_common_with_any_feature(world: World) -> None:
    asked = world.request()
    crossing = by_tokens(asked.open(), asked.readings(world.source, world.target))
    windows = windows_of(crossing, rows(world, "3"), seed=0)
    assert windows is not None and len(windows) > 10
    assert all(len(one["firing"]) >= 3 and not one["silent"] for name, one in windows.items() if name != "3")
    assert crossing.firings is not None and set(windows) <= set(crossing.firings.ids)


def test_without_an_encoder_or_by_the_posts_map_nobody_watched(world: World, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", world.rows[:3])
    plain = explain(world.request(dictionary=str(tmp_path / "rows.npy"), features=()), tmp_path / "plain")
    pooled = explain(world.request(map="post", route="map"), tmp_path / "pooled")
    assert plain.contexts is None and pooled.contexts is None
    assert read_encoder(Path(world.sae)).W_dec.shape[0] == len(world.rows)


def test_the_page_shows_five_windows_folded_and_escaped(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", count=3)
    first, second = run.manifest["features"][:2]
    windows = [f"window {k} where it fires" for k in range(7)]
    run.write_contexts({
        first: {"firing": [HOSTILE, *windows], "silent": ["quiet"]}, second: {"firing": [], "silent": ["quiet"]},
    })  # fmt: skip
    page = page_of(run, tmp_path / "page.html")
    assert len(page.having("details", **{"class": "windows"})) == 1
    assert " ".join(HOSTILE.split()) in page.text and "quiet" not in page.text
    shown = [w for w in windows if w in page.text]
    assert shown == windows[:4]
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text and html.escape("<img src=x onerror=alert(1)>") in text


def test_a_run_without_contexts_shows_none(tmp_path: Path) -> None:
    run: RunFolder = build_run(tmp_path / "run", count=3)
    assert "where it fires" not in page_of(run, tmp_path / "page.html").text


def test_windows_and_words_of_very_many_features_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build_run(tmp_path / "run", count=3)
    first, second = run.manifest["features"][:2]
    run.write_contexts({first: {"firing": [HOSTILE], "silent": []}, second: {"firing": [], "silent": ["quiet"]}})
    run.write_lens({"plain": {first: {"source": ["a"], "carried": []}, second: {"source": [], "carried": ["b"]}}})
    contexts, lens = run.contexts, run.lens
    assert contexts and lens
    monkeypatch.setattr("dragoman.store.runs.WHOLE", 10)
    monkeypatch.setattr("dragoman.store.runs.read_json", lambda _path: pytest.fail("it was read whole"))
    assert run.contexts == contexts and run.lens == lens
    (run.path / "contexts.json").write_text("[1, 2, 3, 4, 5, 6]")
    with pytest.raises(Refusal, match="it does not hold windows of text by feature"):
        _ = run.contexts
    (run.path / "contexts.json").write_text('{"0": {"firing": [], "silent": []}, "1')
    with pytest.raises(Refusal, match="it is not the JSON that was expected"):
        _ = run.contexts


def test_the_page_lights_tokens_by_their_activation_and_words_where_no_token_is_known(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", count=3)
    feature, window = run.manifest["features"][0], "<b>rain</b> on the sea"
    run.write_contexts({feature: {"firing": [window], "silent": ["dry"], "words": {"sea": 0.6, "rain": 0.03}}})

    def lit(page: str) -> list[tuple[str, str, str]]:
        assert "<b>rain" not in page
        return re.findall(r'<span class="lit l(\d)"(?: title="activation ([^"]+)")?>([^<]*)</span>', page)

    write_tokens(run, {feature: [TokenWindow(ends=(7, 11, 14, 22), at=(1, 3), fires=(2.0, 8.0))]})
    page = write_page(run, tmp_path / "page.html").read_text()
    assert lit(page) == [("1", "2", "&lt;/b&gt;"), ("4", "8", "the sea")]
    write_tokens(run, {feature: [TokenWindow(ends=(400,), at=(0,), fires=(1.0,))]})  # of other windows
    page = write_page(run, tmp_path / "page.html").read_text()
    assert lit(page) == [("1", "", "rain"), ("4", "", "sea")]
