"""Studies by measures of features, over planted worlds: rows judged, penalties tuned, conditions, answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from dragoman.core import Directions, Talk
from dragoman.maps import Moments
from dragoman.store import RunFolder
from planted_worlds import SOURCE, TARGET, at_source, cosines
from studies import data, depth, post, procrustes, strength
from studies.cast import Cast
from studies.choice import choose, firing_counts, words_of
from studies.cofiring import Whitening, cofiring
from studies.ground import Ground
from studies.judged import Heard
from studies.lines import Lines
from studies.measures import TITLES, difference, judged
from studies.results import written
from studies.row_judge import RowJudge, nearest_columns, own_words, plain, summary, telling
from studies.tuning import Tuner, fit_documents, ridge_at
from study_library import M, PlantedLens, PlantedLibrary, reads_rows

EVERY = tuple(str(k) for k in range(M))


@pytest.fixture(scope="module")
def library() -> PlantedLibrary:
    return PlantedLibrary()


@pytest.fixture(scope="module")
def ground(library: PlantedLibrary) -> Ground:
    return library.ground()


@pytest.fixture(scope="module")
def judge(library: PlantedLibrary, ground: Ground) -> RowJudge:
    tokens = library.split(ground, "judge")
    own = ground.rows.pick(EVERY)
    lens = PlantedLens(rows=library.world.target)
    return RowJudge(
        rows=own, y=tokens.y[TARGET.block], tokens=telling(own, ground.rows, tokens.fired, tokens.documents),
        silent=telling(own, ground.rows, tokens.fired, tokens.documents, siblings=False),
        whitening=Whitening.of(library.split(ground, "direct").y[TARGET.block]),
        words=own_words(library.lens(SOURCE), own), lens=lens,  # type: ignore[arg-type]
    )  # fmt: skip


def planted(library: PlantedLibrary, ids: tuple[str, ...] = EVERY) -> Directions:
    return Directions.of(TARGET, library.world.target[[int(i) for i in ids]], ids)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_planted_rows_fire_where_they_should_and_write_their_own_words(
    library: PlantedLibrary, judge: RowJudge
) -> None:
    told = judge.judged(planted(library))
    assert told["ids"] == list(EVERY) and all(len(told[key]) == M for key in told)
    own, dealt = (np.array(told[key], dtype=float) for key in ("cofiring", "cofiring_dealt"))
    assert np.nanmean(own) > 0.95 and abs(np.nanmean(dealt) - 0.5) < 0.1
    # its own five words are among the twenty; of four features' words about two in forty are shared by chance
    assert min(told["lens"]) >= 5 and np.mean(told["lens_dealt"]) < 3.5 < 6 < np.mean(told["lens"]) + 1.0


def test_rows_at_random_do_neither(library: PlantedLibrary, judge: RowJudge) -> None:
    drawn = Directions.of(TARGET, np.random.default_rng(1).normal(size=library.world.target.shape), EVERY)
    told = judge.judged(drawn)
    assert abs(np.nanmean(np.array(told["cofiring"], dtype=float)) - 0.5) < 0.1
    assert abs(np.mean(told["lens"]) - np.mean(told["lens_dealt"])) < 0.7


def test_a_row_is_held_against_the_same_tokens_whoever_stands_beside_it(
    library: PlantedLibrary, judge: RowJudge
) -> None:
    some = ("30", "3", "17")
    every = dict(zip(EVERY, judge.cofiring(planted(library)), strict=True))
    assert judge.cofiring(planted(library, some)).tolist() == [every[i] for i in some]


def test_one_row_has_nobody_to_be_dealt_to(library: PlantedLibrary, judge: RowJudge) -> None:
    told = judge.judged(planted(library, ("3",)))
    assert told["cofiring_dealt"] == [None] and told["lens_dealt"] == [None] and told["lens"][0] >= 5


def test_siblings_are_the_nearest_rows_of_the_dictionary_and_never_oneself() -> None:
    drawn = at_source(np.random.default_rng(2).normal(size=(M, 48)))
    for name, near in zip(("4", "30"), nearest_columns(drawn.pick(["4", "30"]), drawn), strict=True):
        cosine = drawn.unit @ drawn.unit[int(name)]
        cosine[int(name)] = -np.inf
        assert near.tolist() == np.argsort(-cosine)[:5].tolist()


def test_a_judge_gives_the_auroc_of_the_measure_itself(
    library: PlantedLibrary, ground: Ground, judge: RowJudge
) -> None:
    tokens, rows = library.split(ground, "judge"), planted(library)
    most = 400  # more than any latent fires here, so both look at the same tokens
    expected = cofiring(
        rows.unit, tokens.y[TARGET.block], tokens.fired, tokens.documents, whitening=judge.whitening,
        siblings=nearest_columns(ground.rows, ground.rows), rng=np.random.default_rng(0),
    )  # fmt: skip
    assert max(judge.tokens.firing) < most
    np.testing.assert_allclose(judge.cofiring(rows), expected, atol=2e-3)


def test_a_summary_has_students_interval_and_leaves_out_what_is_not_known() -> None:
    told = summary({"1": 0.2, "2": 0.4, "3": None, "4": 0.6}, [0.1, None, 0.3])
    assert told["value"] == pytest.approx(0.4) and told["n"] == 3 and told["dealt"] == pytest.approx(0.2)
    half = 4.302653 * 0.2 / np.sqrt(3)  # Student's 97.5 % point at two degrees of freedom
    assert (told["low"], told["high"]) == (pytest.approx(0.4 - half, abs=1e-6), pytest.approx(0.4 + half, abs=1e-6))
    assert summary({"1": None}) == {"value": None, "low": None, "high": None, "n": 0, "dealt": None}
    assert plain(np.array([0.123456789, np.nan])) == [0.12346, None]


# --- who is judged ---------------------------------------------------------------------------------------------------


def test_latents_are_drawn_by_frequency_and_one_words_have_their_planted_word(
    library: PlantedLibrary, ground: Ground
) -> None:
    tokens = library.split(ground, "judge")
    chosen = choose(ground, tokens, words_of(tokens), drawn=12, one_words=6, topicless=4)
    assert (len(chosen.drawn), len(chosen.one_word), len(chosen.topicless)) == (12, 6, 4)
    assert all(word == f"word{i}" for i, word in chosen.one_word.items())
    assert all(ground.latents[i].selectivity < 0.05 for i in chosen.topicless)
    counts = firing_counts(tokens)
    ranks = {i: k for k, i in enumerate(sorted(EVERY, key=lambda i: (counts[i], int(i))))}
    assert sorted(3 * ranks[i] // M for i in chosen.drawn) == [0] * 4 + [1] * 4 + [2] * 4
    assert choose(ground, tokens, words_of(tokens), drawn=0, one_words=6).drawn == ()


# --- penalties -------------------------------------------------------------------------------------------------------


def test_a_penalty_is_tuned_on_latents_that_are_not_judged_and_keeps_its_curve(
    library: PlantedLibrary, ground: Ground
) -> None:
    tokens = library.split(ground, "direct")
    held = tokens.of(slice(fit_documents(tokens), None))
    y = tokens.y[TARGET.block]
    tuner = Tuner.of(ground, tokens, held, y, without=EVERY[:10], whitening=Whitening.of(y))
    assert not set(tuner.rows.ids) & set(EVERY[:10]) and len(tuner.rows) == M - 10
    fitted = tokens.of(slice(0, fit_documents(tokens)))
    moments = Moments.of(tokens.x[SOURCE.block][fitted], y[fitted])
    made = tuner.ridge(moments, SOURCE, TARGET)
    told = made.report["tuned"]
    assert told["setting"] == told["settings"][int(np.argmax(told["scores"]))] < 30.0
    assert made.settings["lam_rel"] == pytest.approx(told["setting"])
    assert cosines(made.carry(ground.rows).unit, library.world.target).min() > 0.9
    assert tuner.score(ridge_at(moments, SOURCE, TARGET, 0.1).carry(tuner.rows)) > 0.9


# --- every study -----------------------------------------------------------------------------------------------------


def said(cast: Cast, library: PlantedLibrary, folder: Path) -> dict[str, Any]:
    run = cast.say(folder, {"by": reads_rows(library, cast.background)}, seed=0, batch_size=64, talk=Talk())
    return judged(Heard(run=RunFolder.open(run.path), reading=None))


def value(found: dict[str, Any], name: str, measure: str) -> float:
    return found["lines"][name]["measures"][measure]["value"]


def test_the_post_stands_among_routes_and_controls(library: PlantedLibrary, ground: Ground, tmp_path: Path) -> None:
    cast = post.prepare(ground, library, 30)
    found = said(cast, library, tmp_path / "run")
    lines = found["lines"]
    routes = {name for name, line in lines.items() if line["kind"] == "route"}
    assert routes >= {
        "map", "direct", "blend", "dictionary", "auto", "post", "post, its relative penalty", "post, tuned",
        "procrustes", "map, none", "direct, none", "post, none",
    }  # fmt: skip
    assert {name for name, line in lines.items() if line["kind"] == "control"} == set(post.CONTROLS)
    for name in ("map", "direct", "auto"):
        assert value(found, name, "cofiring") > 0.9 and value(found, name, "word") == 1.0 == value(found, name, "token")
        assert lines[name]["measures"]["word"]["dealt"] < 0.05 and value(found, name, "lens") > 5
    for name in ("random directions", "dealt rows"):
        assert abs(value(found, name, "cofiring") - 0.5) < 0.12 and value(found, name, "lens") < 5
    assert value(found, "random directions", "word") < 0.5 and "word" not in lines["fake fires"]["measures"]
    assert lines["fake writes"]["measures"]["cofiring"]["n"] == 10
    notes = found["notes"]["relative penalties"]
    assert notes["post, its relative penalty lam_rel"] == pytest.approx(0.18) and "post lam_rel" in notes
    told = {(d["first"], d["second"]): d["measures"] for d in found["differences"]}
    assert (
        told["map", "random directions"]["cofiring"]["holds"]
        and told["map", "random directions"]["cofiring"]["low"] > 0
    )
    assert not told["direct", "fake fires"]["cofiring"]["paired"]


def test_procrustes_is_taken_apart_with_every_arm_tuned(library: PlantedLibrary, ground: Ground) -> None:
    lines = procrustes.prepare(ground, library, 30).measured["lines"]
    routes = {name: line for name, line in lines.items() if line["kind"] == "route"}
    assert {line["amount"] for line in routes.values()} == {"300 pooled texts", "800 pooled texts", "all tokens"}
    for name, line in routes.items():
        free = line["variant"] in ("Procrustes", "Procrustes, informative rank", "Procrustes, not centred")
        assert ("tuned" in line) != free, name
        assert len(line["rows"]["ids"]) == 30
    assert sum(line["kind"] == "control" for line in lines.values()) == 3


def test_every_amount_of_data_is_tuned_alike(library: PlantedLibrary, ground: Ground) -> None:
    cast = data.prepare(ground, library, 30)
    lines = cast.measured["lines"]
    assert {"aligned map, 300 pairs", "direct, 300 pairs", "pooled map, 100 texts"} <= set(lines)
    maps = [line for name, line in lines.items() if name.startswith(("aligned", "pooled"))]
    assert all(line["tuned"]["settings"] == maps[0]["tuned"]["settings"] for line in maps)
    most = [
        np.nanmean(np.array(lines[f"aligned map, {n} pairs"]["rows"]["cofiring"], dtype=float)) for n in (100, 1000)
    ]
    assert most[1] > most[0] + 0.02, "more pairs carry rows better"
    assert ["direct, 300 pairs", "aligned map, 300 pairs"] in cast.measured["pairs"]


def test_depth_judges_the_dictionarys_own_rows_at_other_blocks(
    library: PlantedLibrary, ground: Ground, tmp_path: Path
) -> None:
    cast = depth.prepare(ground, library, 30)
    found = said(cast, library, tmp_path / "run")
    home = f"block {SOURCE.block}, as it is"
    assert value(found, home, "lens") == 20.0, "at home the row writes what it writes"
    assert value(found, home, "cofiring") > 0.9
    for name in ("block 23, penalty 0.1", "block 23, tuned"):
        assert value(found, name, "cofiring") > 0.85 and value(found, name, "lens") >= 5
        assert found["lines"][name]["measures"]["lens"]["dealt"] < 4
    assert found["lines"]["block 23, penalty 0.1"]["lam_rel"] == pytest.approx(0.1)
    assert "fake latents, block 23, tuned" in found["lines"]
    near = {name for name in found["lines"] if name.startswith("target block")}
    assert (
        len(near) == 2 * len(depth.NEAR) - 1 and value(found, f"target block {TARGET.block}, as it is", "word") == 1.0
    )


def test_the_plateau_of_washouts_is_tested_and_chosen_on_half(
    library: PlantedLibrary, ground: Ground, tmp_path: Path
) -> None:
    cast = strength.prepare(ground, library, 30)
    found = said(cast, library, tmp_path / "run")
    assert {line["route"] for line in found["lines"].values()} == {"direct", "map"}
    for told in found["differences"]:
        assert told["second"].endswith("on-shell x 1") and told["measures"]["word"]["compared"] == len(
            found["differences"]
        )
    direct, mapped = found["choices"]
    assert direct["against"] == "direct, on-shell x 1" and mapped["best"].startswith("map")
    assert direct["chosen_on"] + direct["gain"]["n"] == len(cast.measured["one_word"])
    assert set(found["lines"]["map, none"]["measures"]) >= {"word", "token"}


# --- differences and answers -----------------------------------------------------------------------------------------


def test_differences_are_paired_where_latents_are_shared_and_welchs_where_not() -> None:
    first, second = {"1": 0.5, "2": 0.7, "3": None}, {"1": 0.4, "2": 0.5, "3": 0.9}
    told = difference(first, second)
    assert told and told["paired"] and told["n"] == 2 and told["value"] == pytest.approx(0.15)
    apart = difference(first, {"a": 0.1, "b": 0.3, "c": 0.2})
    test = ttest_ind([0.5, 0.7], [0.1, 0.3, 0.2], equal_var=False)
    assert apart and apart["p"] == pytest.approx(test.pvalue)
    assert (apart["low"], apart["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert not apart["paired"] and apart["n"] == [2, 3] and apart["value"] == pytest.approx(0.4)
    same = difference(second, second)
    assert same and (same["value"], same["p"]) == (0.0, 1.0)
    assert difference({"1": 0.5}, {"1": 0.4}) is None and difference({"1": 0.5}, {"2": 0.4}) is None


def page_of(room: Any, name: str, direction: str, library: PlantedLibrary, ground: Ground, folder: Path) -> str:
    """A study's page, its texts said by a double."""
    said(room.prepare(ground, library, 30), library, folder / "work" / name / direction)
    return written(name, folder / "work", folder / "out").read_text()


def test_an_answer_has_a_table_a_direction_and_is_made_without_models(
    library: PlantedLibrary, ground: Ground, tmp_path: Path
) -> None:
    page = page_of(strength, "washout", "smollm2-to-gemma", library, ground, tmp_path)
    assert "### SmolLM2 → Gemma: every line by every measure" in page and "on one half of the latents" in page
    assert "A *control* is" not in page, "none is there"
    assert TITLES["word"] in page and TITLES["cofiring"] not in page and "documents (control)" in page
    told = json.loads((tmp_path / "out" / "washout.json").read_text())
    assert set(told["grounds"]["smollm2-to-gemma"]) == {"lines", "differences", "choices", "notes"}
    assert (tmp_path / "out" / "washout.svg").read_text().count("<svg") == 1


def test_controls_stand_below_the_routes_and_rows_have_their_column(
    library: PlantedLibrary, ground: Ground, tmp_path: Path
) -> None:
    page = page_of(post, "post", "gemma-to-smollm2", library, ground, tmp_path)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    at = {line.split(" | ")[0].removeprefix("| "): k for k, line in enumerate(rows)}
    assert at["map"] < at["silent (control)"] < at["fake writes (control)"] and "co-firing AUROC (dealt)" in page
    assert "hold after Holm's correction" in page and "less fake fires" in page
    legend = page[: page.index("**Gemma → SmolLM2**")]
    assert "In parentheses" in legend and "A *control* is" in legend and "- *co-firing AUROC*: how well" in legend


def test_texts_are_asked_only_of_one_word_latents(library: PlantedLibrary, ground: Ground, judge: RowJudge) -> None:
    cast = Cast.on(ground, library.crossing(ground), EVERY)
    lines = Lines(cast=cast, judge=judge, fakes=None, one_word={"4": "word4", "9": "word9"})
    lines.add("map", planted(library), texts=("on-shell", "none"))
    assert [(c.name, c.ids) for c in cast.conditions] == [("map", ("4", "9")), ("map, none", ("4", "9"))]
    assert (
        cast.measured["lines"]["map"]["rows"]["ids"] == list(EVERY)
        and "rows" not in cast.measured["lines"]["map, none"]
    )
