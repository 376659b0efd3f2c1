"""Conditions gathered and said: what is left out, what is told, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Background, Directions, Explanation, Floats, Talk, frozen
from dragoman.records import Card
from dragoman.washout import on_shell
from planted_worlds import SOURCE, TARGET
from studies.cast import Cast
from studies.ground import Ground
from study_worlds import ground_with, latent
from verbalizer_doubles import ScriptedVerbalizer

WIDTH = 12
NAMES = ("0", "1", "2", "3", "4")
CARDS = [Card(margin=k / 10, status="ok") for k in range(5)]


class Counted(ScriptedVerbalizer):
    """Counts what it is asked, and may stop after some batches."""

    asked = 0
    stops_after: int | None = None

    def verbalize(self, vectors: Floats, **how: Any) -> list[Explanation]:
        if self.stops_after is not None and self.asked >= self.stops_after:
            raise KeyboardInterrupt
        self.asked += 1
        return super().verbalize(vectors, **how)


def verbalizers() -> dict[str, Counted]:
    def answer(vector: Floats) -> str:
        return f"a text about direction {int(np.abs(vector).argmax())}"

    return {"by": Counted(TARGET, WIDTH, answer), "native": Counted(SOURCE, WIDTH, answer, name="at home")}


@pytest.fixture
def ground() -> Ground:
    return ground_with([latent(name, "boats") for name in NAMES])


def cast_of(ground: Ground, **more: Any) -> Cast:
    mean = np.zeros(WIDTH)
    mean[0] = 0.8
    return Cast(
        ground=ground,
        features=NAMES,
        directions=ground.directions(NAMES),
        backgrounds={
            "by": Background(TARGET, frozen(mean), 100),
            "native": Background(SOURCE, frozen(mean[::-1]), 100),
        },
        **more,
    )


def carried(first: float = 0.0) -> Directions:
    """Five unit rows; ``first``: how much of the background is in the second and the fourth of them."""
    rows = np.eye(WIDTH)[1:6]
    rows[[1, 3], 0] = first
    return Directions.of(TARGET, rows, NAMES)


def test_directions_that_collapse_are_left_out_and_told_and_cards_stay_with_the_others(ground: Ground) -> None:
    cast = cast_of(ground)
    cast.add("map", carried(9.0), cards=CARDS, route="map", kind="carried")
    (condition,), (told,) = cast.conditions, cast.entries
    assert condition.ids == cast.bare["map"].ids == ("0", "2", "4")
    assert [card.margin for card in condition.cards] == [0.0, 0.2, 0.4]
    assert told == {
        "name": "map", "washout": "on-shell", "verbalizer": "by", "collapsed": 2, "route": "map", "kind": "carried",
    }  # fmt: skip
    assert_array_equal(condition.vectors, on_shell(carried(9.0).pick(["0", "2", "4"]), cast.background))


@pytest.mark.parametrize("washout", ["none", "0.5"])
def test_what_is_read_bare_or_mixed_the_posts_way_leaves_nothing_out(ground: Ground, washout: str) -> None:
    cast = cast_of(ground)
    cast.add("map", carried(9.0), washout, cards=CARDS)
    assert cast.conditions[0].ids == NAMES and cast.entries[0]["collapsed"] == 0
    assert len(cast.conditions[0].cards) == 5


def test_native_directions_are_washed_with_their_own_background(ground: Ground) -> None:
    cast = cast_of(ground)
    rows = Directions.of(SOURCE, np.eye(WIDTH)[1:6], NAMES)
    cast.add("native", rows, by="native")
    assert_allclose(cast.conditions[0].vectors, on_shell(rows, cast.backgrounds["native"]))
    assert cast.conditions[0].site == SOURCE and cast.entries[0]["verbalizer"] == "native"


def test_vectors_that_are_given_are_said_as_they_are(ground: Ground) -> None:
    cast = cast_of(ground)
    given = np.eye(WIDTH, dtype=np.float32)[6:11]
    cast.add("other", carried(9.0), vectors=given)
    assert_array_equal(cast.conditions[0].vectors, given)
    assert cast.conditions[0].ids == NAMES and cast.entries[0]["collapsed"] == 0


def full(ground: Ground, samples: int = 1) -> Cast:
    cast = cast_of(ground, samples=samples)
    cast.add("map", carried(9.0), cards=CARDS, kind="carried")
    cast.add("bare", carried(), "none", kind="carried")
    cast.add("native", Directions.of(SOURCE, np.eye(WIDTH)[1:6], NAMES), by="native", kind="native")
    cast.measured["anything"] = {"fve": np.float64(0.5)}
    return cast


def test_everything_is_said_once_and_vectors_lie_beside_the_rows(ground: Ground, tmp_path: Path) -> None:
    voices, cast = verbalizers(), full(ground)
    run = cast.say(tmp_path / "a" / "run", voices, seed=0, batch_size=4, talk=Talk())
    rows = run.rows()
    assert [(r["condition"], r["feature"]) for r in rows] == [
        *(("map", i) for i in ("0", "2", "4")), *(("bare", i) for i in NAMES), *(("native", i) for i in NAMES),
    ]  # fmt: skip
    # washed on shell the background is loudest, bare the direction itself
    assert [r["text"].split()[-1] for r in rows] == [*["0"] * 3, *"12345", *["11"] * 5]
    assert rows[1]["card"] == {"margin": 0.2, "status": "ok"} and rows[3]["card"] is None
    arrays, _ = run.vectors()
    assert set(arrays) == {"map", "bare", "native", "bare/map", "bare/bare", "bare/native", "source"}
    assert_array_equal(arrays["bare/map"], carried(9.0).pick(["0", "2", "4"]).unit)
    assert_array_equal(arrays["source"], ground.directions(NAMES).unit)
    told = run.manifest
    assert told["features"] == list(NAMES) and told["measured"] == {"anything": {"fve": 0.5}}
    assert told["feature_info"]["3"]["category"] == "boats" and told["category_words"]["boats"] == ["boats", "harbour"]
    assert [c["name"] for c in told["conditions"]] == ["map", "bare", "native"]


def test_what_is_said_stays_said(ground: Ground, tmp_path: Path) -> None:
    first = full(ground).say(tmp_path / "run", verbalizers(), seed=0, batch_size=4, talk=Talk())
    written = (first.path / "rows.jsonl").read_bytes()
    voices = verbalizers()
    full(ground).say(tmp_path / "run", voices, seed=0, batch_size=4, talk=Talk())
    assert [voice.asked for voice in voices.values()] == [0, 0]
    assert (first.path / "rows.jsonl").read_bytes() == written


def test_saying_goes_on_where_it_was_interrupted(ground: Ground, tmp_path: Path) -> None:
    whole = full(ground, samples=3).say(tmp_path / "whole", verbalizers(), seed=0, batch_size=4, talk=Talk())
    voices = verbalizers()
    voices["by"].stops_after = 3
    with pytest.raises(KeyboardInterrupt, match="12 of 39 rows are kept"):
        full(ground, samples=3).say(tmp_path / "run", voices, seed=0, batch_size=4, talk=Talk())
    assert not (tmp_path / "run" / "vectors.safetensors").exists()
    voices = verbalizers()
    run = full(ground, samples=3).say(tmp_path / "run", voices, seed=0, batch_size=4, talk=Talk())
    assert voices["by"].asked == 3  # of the six batches of 24 rows
    assert (run.path / "rows.jsonl").read_bytes() == (whole.path / "rows.jsonl").read_bytes()
    assert set(run.vectors()[0]) == set(whole.vectors()[0])
