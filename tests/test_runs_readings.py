"""A feature's two readings in a run: the conditions, what they hold, what is said where one cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ar_checkpoints import WIDTH
from asking import explain
from dragoman import explain as main_job
from dragoman.core import Background, Directions, Refusal, Site, Talk
from dragoman.maps import Crossing
from dragoman.report import write_page
from dragoman.runs.carried import Carried, washable
from dragoman.runs.options import Options
from dragoman.scoring import score_run
from small_world import World
from verbalizer_doubles import ScriptedVerbalizer

OFTEN, RARE = ("3", "7", "11"), ("0",)  # of the features that are asked for, by effective documents


def conditions(run: Any) -> list[tuple[str, str, str | None]]:
    return [(one["name"], one["route"], one.get("reading")) for one in run.manifest["conditions"]]


@pytest.fixture(scope="module")
def told(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    said: list[str] = []
    return explain(world.request(), tmp_path_factory.mktemp("both") / "run", talk=Talk(say=said.append)), said


def test_both_readings_are_made_and_those_that_fire_too_rarely_are_named(told: tuple[Any, list[str]]) -> None:
    run, said = told
    assert conditions(run) == [("fires", "direct", "fires"), ("writes", "map", "writes")]
    rows = run.rows()
    assert [r["feature"] for r in rows if r["condition"] == "fires"] == list(OFTEN)
    assert [r["feature"] for r in rows if r["condition"] == "writes"] == ["0", "3", "7", "11"]
    rare = run.manifest["about"]["too_rare"]
    assert set(rare["documents"]) == set(RARE) and rare["least"] == 20.0
    assert all(0 <= n < 20 for n in rare["documents"].values())
    sentence = next(one for one in said if "no reading of what they fire on" in one)
    assert sentence.startswith("1 of 4 features has no reading") and sentence.endswith("20 are needed")


def test_both_readings_of_a_feature_share_its_card_but_for_the_route(told: tuple[Any, list[str]]) -> None:
    cards = {(r["condition"], r["feature"]): r["card"] for r in told[0].rows()}
    routes = {"fires": "direct", "writes": "map"}
    assert all(card["route"] == routes[condition] and card["route_why"] for (condition, _), card in cards.items())
    for name in OFTEN:
        one, other = ({k: v for k, v in cards[c, name].items() if not k.startswith("route")} for c in routes)
        assert one == other


def test_each_reading_is_what_its_route_alone_carries(
    told: tuple[Any, list[str]], world: World, tmp_path: Path
) -> None:
    vectors, _ = told[0].vectors()
    for reading, route, name, features in (
        ("fires", "direct", "direct", OFTEN), ("writes", "map", "washed", ("0", "3", "7", "11"))
    ):  # fmt: skip
        alone = explain(world.request(route=route, features=features), tmp_path / route)
        np.testing.assert_array_equal(alone.vectors()[0][name], vectors[reading])
        assert conditions(alone) == [(name, route, reading)]


def test_one_reading_alone(world: World, tmp_path: Path) -> None:
    writes = explain(world.request(reading="writes"), tmp_path / "writes")
    assert conditions(writes) == [("writes", "map", "writes")] and "too_rare" not in writes.manifest["about"]
    fires = explain(world.request(reading="fires"), tmp_path / "fires")
    assert conditions(fires) == [("fires", "direct", "fires")] and len(fires.rows()) == len(OFTEN)
    assert set(fires.manifest["about"]["too_rare"]["documents"]) == set(RARE)


def test_where_no_feature_fires_often_enough_both_is_what_their_rows_write(world: World, tmp_path: Path) -> None:
    run = explain(world.request(features=RARE), tmp_path / "both")
    assert conditions(run) == [("writes", "map", "writes")]
    assert set(run.manifest["about"]["too_rare"]["documents"]) == set(RARE)
    with pytest.raises(Refusal, match="feature 0: it fires too rarely: in .* effective documents of the 20 needed"):
        explain(world.request(features=RARE, reading="fires"), tmp_path / "fires")
    assert not (tmp_path / "fires").exists()


def test_without_an_encoder_there_is_what_the_rows_write_and_that_is_said(world: World, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", world.rows)
    for reading, more in ((None, {"dictionary": str(tmp_path / "rows.npy")}), ("both", {"map": "post"})):
        said: list[str] = []
        asked = world.request(reading=reading, **more)
        run = explain(asked, tmp_path / f"run-{reading}", talk=Talk(say=said.append))
        assert conditions(run) == [("writes", "map", "writes")]
        assert "nothing was counted where the features fire, so each has one reading: what its row writes" in said
    with pytest.raises(Refusal, match="a file of vectors has no encoder"):
        explain(world.request(reading="fires", dictionary=str(tmp_path / "rows.npy")), tmp_path / "fires")


def test_what_another_route_gives_is_no_reading(world: World, tmp_path: Path) -> None:
    run = explain(world.request(route="auto"), tmp_path / "auto")
    assert conditions(run) == [("auto", "auto", None)]
    assert "reading" not in json.loads((run.path / "manifest.json").read_text())["conditions"][0]


@pytest.mark.parametrize(
    ("reading", "route", "message"),
    [
        ("fires", "map", "reading 'fires' by route 'map': that route gives the reading 'writes' alone; say one"),
        ("both", "direct", "reading 'both' by route 'direct': that route gives the reading 'fires' alone; say one"),
        ("writes", "auto", "reading 'writes' by route 'auto': that route gives neither reading; say one of the two"),
        ("aloud", None, "reading 'aloud': known are both, fires, writes; use one of these"),
    ],
)
def test_a_reading_beside_a_route_that_gives_another_is_refused(reading: Any, route: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        Options(reading=reading, route=route)


def test_a_reading_and_the_route_that_gives_it_are_one_condition_by_that_route() -> None:
    assert (
        Options(reading="fires", route="direct").serving == Options(reading="fires", route="direct").route == "direct"
    )
    assert Options(reading="writes", route="map").serving == "map"
    assert (Options().serving, Options(map="post").serving, Options(reading="fires").serving) == (
        "auto",
        "map",
        "direct",
    )


# --- rows that are nothing but background -----------------------------------------------------------------------------

PLACE, MEAN = Site("m", 3), np.array([1.0, 0, 0, 0], np.float32)
ROWS = Directions.of(PLACE, np.array([[0.0, 1, 0, 0], [-3.0, 0.1, 0, 0], [0.5, 0, 1, 0]]), "abc")


def test_rows_that_cannot_be_washed_are_set_aside_and_told() -> None:
    background, said = Background(PLACE, MEAN, 9, "digest"), list[str]()
    one = Carried(name="random", directions=ROWS, route="map", cards=(), reading=None)
    kept, aside = washable(one, background, "on-shell", said.append)
    assert kept is not None and kept.directions.ids == ("a", "c") and aside == ["b"]
    assert said == ["set aside 1 of 3 rows of random: nothing but background (b)"]
    for washout in ("none", "0.3"):
        assert washable(one, background, washout, said.append) == (one, [])
    alone = Carried(name="random", directions=ROWS.pick("b"), route="map", cards=(), reading=None)
    assert washable(alone, background, "projected", said.append) == (None, ["b"])


@pytest.fixture
def tilted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever crosses by the map, these features arrive as the background itself."""
    real = Crossing.directions

    def tilt(*names: str) -> None:
        def moved(self: Crossing, rows: Directions, route: Any) -> Directions:
            found = real(self, rows, route)
            unit = np.array(found.unit)
            for k, name in enumerate(found.ids):
                if name in names and route == "map":
                    unit[k] = self.background.mean / np.linalg.norm(self.background.mean)
            return replace(found, unit=unit)

        monkeypatch.setattr(Crossing, "directions", moved)

    return tilt


def test_a_feature_of_which_only_background_arrives_is_set_aside_as_a_dead_one_is(
    world: World, tilted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dragoman.commands.show import show_rows

    tilted("0", "3")
    said = list[str]()
    request = world.request(features="0-7")
    run = explain(request, tmp_path / "run", talk=Talk(say=said.append))
    by = {c: [r["feature"] for r in run.rows() if r["condition"] == c] for c in ("fires", "writes")}
    assert by["writes"] == ["1", "2", "4", "5", "6", "7"] and "3" in by["fires"] and "0" not in by["fires"]
    assert run.manifest["about"]["background"] == {"writes": ["0", "3"]} and "0" not in run.manifest["features"]
    assert "set aside 2 of 8 rows of writes: nothing but background (0, 3)" in said
    assert run.vectors()[0]["source"].shape[0] == 7 == len(run.manifest["features"])
    show_rows(run.rows(), run.manifest)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("its row there is nothing but background, so nothing of it is explained") == 2
    page = write_page(run, run.page).read_text()
    assert "its row there is nothing but background" in page
    again = explain(request, tmp_path / "run")
    assert again.rows() == run.rows() and again.manifest == run.manifest
    grown = explain(world.request(features="0-9"), tmp_path / "run")
    assert grown.manifest["features"][-2:] == ["8", "9"] and grown.manifest["about"]["background"]["writes"] == [
        "0",
        "3",
    ]
    score_run(grown)


def test_asked_for_by_its_id_or_alone_such_a_feature_is_refused(world: World, tilted: Any, tmp_path: Path) -> None:
    tilted("0", "3")
    why = "would be nothing but background"
    with pytest.raises(Refusal, match=f"feature 0 of .*{why}.*leave it out of --features"):
        explain(world.request(features=("0", "3", "7")), tmp_path / "ids")
    with pytest.raises(Refusal, match=r"feature 0: its cosine with the background is \+1\.00"):
        explain(world.request(features="0-0", reading="writes"), tmp_path / "alone")
    assert not (tmp_path / "ids").exists() and not (tmp_path / "alone").exists()


def test_where_the_native_row_is_background_nothing_of_the_feature_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dragoman.runs import carried

    real = carried.nothing_else

    def odd(rows: Directions, background: Background, how: str) -> Any:
        return real(rows, background, how) | np.array([rows.site == world.source and i == "3" for i in rows.ids])

    monkeypatch.setattr(carried, "nothing_else", odd)
    both = [
        ScriptedVerbalizer(at, WIDTH, lambda v: f"Text {int(np.argmax(v))}.") for at in (world.source, world.target)
    ]
    asked = {"features": "1-4", "texts": world.root / "texts.txt", "out": tmp_path / "run"}
    run = main_job(world.request().open(), native=both[0], by=both[1], **asked)
    assert run.manifest["about"]["background"] == {"native": ["3"]} and run.manifest["features"] == ["1", "2", "4"]
    said = {(e.condition, e.feature) for e in run.explanations() if e.condition != "fires"}
    assert said == {(condition, name) for condition in ("native", "writes") for name in ("1", "2", "4")}
    assert "3" not in {e.feature for e in run.explanations()}
    assert score_run(run.folder).table
