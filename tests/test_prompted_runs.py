"""Runs over prompts: activations cross by the whole affine map, and rows, terminal, page and table tell the token."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragoman
from dragoman import Crossing, Refusal, explain
from dragoman.core import Directions, Site, unit_rows
from dragoman.maps.linear import LinearMap
from dragoman.maps.points import carry_points
from dragoman.models.harvest import Reader
from dragoman.models.prompts import Activations, Prompt, read_prompts
from dragoman.records import PromptToken
from report_fixture import HOSTILE
from small_world import World, command

TEXT = "the people vote in the city and walk"


@pytest.fixture(scope="module")
def crossing(world: World) -> Crossing:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    return dragoman.fit_crossing(sae, world.target, texts=world.root / "texts.txt")


@pytest.fixture(scope="module")
def read(world: World) -> Activations:
    return dragoman.activations(world.source, [TEXT, {"text": "a city", "at": "city"}], at="all")


def test_points_planted_behind_means_arrive_where_they_were_planted() -> None:
    rng, source, target = np.random.default_rng(0), Site("m", 1), Site("n", 2)
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    mean_x, mean_y = 30 * rng.normal(size=12), 50 * rng.normal(size=12)
    made = LinearMap(source=source, target=target, weight=turn, mean_x=mean_x, mean_y=mean_y, method="ridge")
    own = rng.normal(size=(9, 12))
    x, y = mean_x + own, mean_y + own @ turn
    given = Directions.of(source, x, range(9), kind="activation")
    found = carry_points(made, given)
    np.testing.assert_allclose(found.unit * found.norms[:, None], y, atol=1e-4)
    assert found.site == target and found.ids == given.ids and found.kind == "activation"
    # The linear part, which is a row's way across, does not bring an activation there.
    assert np.abs(np.sum(made.carry(given).unit * found.unit, axis=1)).max() < 0.9
    with pytest.raises(Refusal, match="activations at o:1: it is needed at m:1"):
        carry_points(made, Directions.of(Site("o", 1), x, range(9)))


def test_a_run_says_what_the_affine_map_carried_and_nothing_mixed_in(
    world: World, crossing: Crossing, read: Activations, tmp_path: Path
) -> None:
    said = list[str]()
    run = explain(
        read, by=world.av, out=tmp_path / "run", through=crossing, max_new_tokens=6, samples=2,
        talk=dragoman.Talk(say=said.append),
    )  # fmt: skip
    assert crossing.map is not None
    expected, _ = unit_rows(crossing.map.points(read.rows), "expected")
    vectors, _ = run.folder.vectors()
    np.testing.assert_allclose(vectors["activation"], expected, atol=1e-6)
    np.testing.assert_allclose(vectors["bare/activation"], expected, atol=1e-6)
    (entry,) = run.manifest["conditions"]
    assert (entry["name"], entry["route"], entry["washout"], entry["map"]) == ("activation", "map", "none", "aligned")
    assert run.manifest["prompts"]["n"] == 2 and "dictionary" not in run.manifest and run.manifest["background"]
    rows = run.explanations()
    assert [row.feature for row in rows] == [*read, *read] and len(rows) == 2 * len(read)
    assert [row.token for row in rows if row.sample == 0] == list(read.tokens)
    assert all(row.card is None and row.confidence is None and row.reading is None for row in rows)
    again = explain(read, by=world.av, out=tmp_path / "run", through=crossing, max_new_tokens=6, samples=2)
    assert again.folder.rows() == run.folder.rows()
    table = rows.to_pandas()
    assert list(table["prompt"])[0] == TEXT and list(table["token"])[: len(read)] == [t.token for t in read.tokens]
    assert list(table["position"])[0] == read.tokens[0].position
    assert "city" in rows._repr_html_()


def test_another_prompt_is_another_run(world: World, crossing: Crossing, tmp_path: Path) -> None:
    how: Any = {"by": world.av, "through": crossing, "max_new_tokens": 4}
    explain(dragoman.activations(world.source, "a city walk", at="city"), out=tmp_path / "run", **how)
    with pytest.raises(Refusal, match="it holds another run"):
        explain(dragoman.activations(world.source, "a city vote", at="city"), out=tmp_path / "run", **how)


def test_a_crossing_is_fitted_for_points_where_none_is_named(world: World, read: Activations, tmp_path: Path) -> None:
    how: Any = {"by": world.av, "texts": world.root / "texts.txt", "max_new_tokens": 4}
    run = explain(read, out=tmp_path / "run", **how)
    assert run.manifest["settings"]["washout"] == "none" and set(run.manifest["digests"]) == {"aligned"}
    assert "ridge" in run.manifest["map_report"]
    post = explain(read, out=tmp_path / "post", map="post", **how)
    assert post.manifest["conditions"][0]["map"] == "post" and set(post.manifest["digests"]) == {"harvest"}
    assert not np.allclose(post.folder.vectors()[0]["activation"], run.folder.vectors()[0]["activation"])


def test_within_one_stream_the_activation_itself_is_read(world: World, tmp_path: Path) -> None:
    target = Reader.open(world.target)
    found = read_prompts(target, [Prompt(text=TEXT, at="vote")])
    run = explain(found, by=world.av, out=tmp_path / "run", max_new_tokens=4)
    np.testing.assert_allclose(run.folder.vectors()[0]["activation"], found.directions.unit, atol=1e-6)
    assert run.manifest["conditions"][0]["route"] == "identity" and run.manifest["target"] == str(world.target)
    assert "background" not in run.manifest and run.manifest["map_report"] == {}
    near = dragoman.activations(Site(world.target.model, world.target.block + 1), TEXT, at="vote")
    as_is = explain(near, by=world.av, out=tmp_path / "near", route="as-is", max_new_tokens=4)
    np.testing.assert_allclose(as_is.folder.vectors()[0]["activation"], near.directions.unit, atol=1e-6)
    assert as_is.manifest["conditions"][0]["route"] == "as-is"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"features": ["3"]}, "features beside prompts: it is of a dictionary's features"),
        ({"confidence": "c.json"}, "confidence beside prompts"),
        ({"reading": "fires"}, "reading 'fires' of an activation: nothing counts where an activation fires"),
        ({"route": "direct"}, "route 'direct' of an activation"),
        ({"washout": 0.3}, "washout '0.3' of an activation: it holds its model's background already"),
        ({"route": "as-is", "through": True}, "route 'as-is' through this crossing: as they are, activations cross by"),
        ({"texts": ["one text", "two texts"]}, "2 texts"),
    ],
)
def test_what_is_of_features_is_refused_of_activations(
    world: World, crossing: Crossing, read: Activations, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    (tmp_path / "c.json").write_text("{}")
    words = {key: tmp_path / "c.json" if key == "confidence" else value for key, value in words.items()}
    words |= {"through": crossing} if "through" in words else {}
    with pytest.raises(Refusal, match=message):
        explain(read, by=world.av, out=tmp_path / "run", max_new_tokens=4, **words)
    assert not (tmp_path / "run").exists()


def test_a_crossing_from_elsewhere_is_refused(world: World, crossing: Crossing, tmp_path: Path) -> None:
    elsewhere = dragoman.activations(Site(world.source.model, 0), TEXT)
    with pytest.raises(Refusal, match=r"activations at .*llama:0 through this crossing: it carries from"):
        explain(elsewhere, by=world.av, out=tmp_path / "run", through=crossing)


def test_the_command_line_explains_prompts_and_shows_the_token(
    world: World, crossing: Crossing, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    crossing.save(tmp_path / "crossing")
    how = ["--by", world.av, "--through", str(tmp_path / "crossing"), "--max-new-tokens", "5"]
    site = ["--source", str(world.source)]
    asked = ["explain", "--prompt", TEXT, "--prompt", HOSTILE, *site, *how]
    done = command(monkeypatch, capsys, *asked, "--at", "last", "-o", str(tmp_path / "a"))
    assert done.code == 0, done.err
    assert "prompt 0, position " in done.out and f"{TEXT}" in done.out and "p0t" in done.out
    page = (tmp_path / "a" / "page.html").read_text()
    assert (
        "<h1>Activations of" in page
        and f"{TEXT[:-4]}" in page
        and "<mark>" in page
        and "2 activations" in html.unescape(page)
    )
    assert "<script>alert" not in page and "The dictionary" not in page
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"text": TEXT, "at": "vote"}) + "\n" + json.dumps({"text": "a city walk"}))
    where = ["-o", str(tmp_path / "b"), "--json"]
    done = command(monkeypatch, capsys, "explain", world.sae, *site, "--prompts", str(file), *how, *where)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["token"]["prompt"] for row in rows] == [TEXT, "a city walk"]
    assert [row["token"]["token"].strip() for row in rows] == ["vote", "k"] and rows[0]["kind"] == "activation"
    assert rows[0]["token"]["begin"] < rows[0]["token"]["end"] == TEXT.index("vote") + 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a city"], "nothing says which model reads them, and where; say --source MODEL:BLOCK"),
        (["--at", "last", "SAE"], "--at last: there is no prompt"),
        (["--prompt", "a city", "--prompts", "FILE", "SITE"], "--prompts beside --prompt: they are two ways"),
        (["--prompt", "a city", "--features", "3", "SITE"], "--features beside prompts"),
        (["--prompt", "a city", "--resid-pre", "SITE"], "--resid-pre beside prompts"),
        (["--prompt", "", "SITE"], "prompt 0: there is no word in it"),
        (["--prompt", "a city", "--at", "mango", "SITE"], "'mango' of prompt 0: no token ends with it there"),
        (["--prompts", "MISSING", "SITE"], "nothing.txt: No such file"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(
    world: World, tmp_path: Path, monkeypatch: Any, capsys: Any, words: list[str], message: str
) -> None:
    (tmp_path / "p.txt").write_text("a city")
    known = {"SAE": [world.sae], "SITE": ["--source", str(world.source)], "FILE": [str(tmp_path / "p.txt")]}
    known["MISSING"] = [str(tmp_path / "nothing.txt")]
    given = [one for word in words for one in known.get(word, [word])]
    done = command(monkeypatch, capsys, "explain", *given, "--by", world.av, "-o", str(tmp_path / "run"))
    assert done.code == 1 and message in done.err and not (tmp_path / "run").exists()


def test_nothing_to_explain_is_wrong_usage(world: World, monkeypatch: Any, capsys: Any) -> None:
    done = command(monkeypatch, capsys, "explain", "--by", world.av)
    assert done.code == 2 and "--prompt" in done.err


def test_a_long_prompt_is_cut_around_its_token() -> None:
    text = "x" * 50 + " mango " + "y" * 50
    token = PromptToken(prompt=text, number=0, token=" mango", position=2, begin=50, end=56)
    assert token.around(10) == ("…" + "x" * 9 + " ", "mango", " " + "y" * 9 + "…")
    assert token.around(100) == ("x" * 50 + " ", "mango", " " + "y" * 50)
    blank = PromptToken(prompt="a \n b", number=0, token=" \n", position=2, begin=1, end=3)
    assert blank.around(9) == ("a", " \n", " b")
