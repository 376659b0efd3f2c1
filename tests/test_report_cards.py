"""What the page says of each direction: status, what was read back, labels and flags; and of runs that lack them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Directions, Site
from dragoman.maps import Moments, make_cards
from dragoman.maps.linear import fit_ridge
from dragoman.report.headline import headline
from dragoman.report.words import DIAGNOSTICS, PROBLEMS, STATUSES, Controls
from dragoman.scores import Scores
from dragoman.store import RunFolder
from dragoman.verbalizers.protocol import STOCK_PHRASES
from report_fixture import TOPICS, Page, build_run, page_of, whole_estimate, whole_row

BARE = ("native", "plain", "random_plain", "random_washed", "procrustes_washed", "direct")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(run, tmp_path_factory.mktemp("out") / "page.html")


@pytest.fixture(scope="module")
def cards(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["feature"]: row["card"] for row in run.rows() if row["condition"] == "washed"}


def small(path: Path, *rows: dict[str, Any], conditions: tuple[str, ...] = ("plain",), **manifest: Any) -> RunFolder:
    """A run of these rows."""
    told = [{"name": c, "route": "direct" if c == "direct" else "map"} for c in conditions]
    run = RunFolder.create(path, {"plan_digest": "p", "conditions": told, **manifest})
    run.append([whole_row(**{"condition": conditions[0], **row}) for row in rows])
    return run


def test_every_status_stands_with_its_reason_in_words(page: Page, cards: dict[str, dict[str, Any]]) -> None:
    words = {f: "no map" if card["route"] == "direct" else card["status"] for f, card in cards.items()}
    assert set(words.values()) == set(STATUSES)
    for feature, card in cards.items():
        assert f"{card['status']} {card['why']}" in page.text
        assert page.having("article", id=f"feature-{feature}")[0]["data-status"] == words[feature]
    for word, meaning in STATUSES.items():
        count = sum(w == word for w in words.values())
        assert f"{word} {count} {meaning}" in page.text


def test_status_of_the_map_is_not_passed_on_words_of_another_route(
    tmp_path: Path, page: Page, cards: dict[str, dict[str, Any]]
) -> None:
    others = sum(card["route"] == "direct" for card in cards.values())
    assert page.text.count("the verdict is of the map’s image, which plain and washed did not read") == others > 0
    card = {"status": "differs", "why": "it went", "nearest": "9", "margin": -0.1}
    rows = ({"card": card}, {"condition": "direct", "card": card})
    one = page_of(small(tmp_path / "run", *rows, conditions=("plain", "direct")), tmp_path / "page.html")
    assert "differs it went. plain, direct; the verdict is of the map’s image, which direct did not read" in one.text
    # differs: of the crossing, beside plain; no map: in the tally, in the list (direct speaks there), beside direct
    badges = [a["class"] for a in one.having("span", **{"class": "badge"})]
    assert (badges.count("badge v-differs"), badges.count("badge v-no-map")) == (2, 3)


def test_diagnostics_are_folded_each_with_its_meaning(page: Page, cards: dict[str, dict[str, Any]]) -> None:
    for key, (name, meaning) in DIAGNOSTICS.items():
        known = sum(card[key] is not None for card in cards.values())
        assert len(re.findall(rf"{re.escape(name)} \S+( [^.]+?)? {re.escape(meaning)}", page.text)) == known, key
    assert "Not measured: purity" in page.text
    folded = page.text.index("diagnostics of plain, washed")
    assert folded < page.text.index(DIAGNOSTICS["coverage"][1])


def test_every_diagnostic_a_card_can_have_is_explained() -> None:
    rng, source, target = np.random.default_rng(0), Site("a", 1), Site("b", 2)
    x = rng.standard_normal((60, 6))
    moments = Moments.of(x, x @ rng.standard_normal((6, 5)))
    directions = Directions.of(source, np.eye(6)[:2], ["0", "1"])
    (card, _) = make_cards(directions, fit_ridge(moments, source, target, lam=1.0), moments)
    assert card.model_fields_set - {"status", "why"} == set(DIAGNOSTICS)


def test_the_nearest_feature_at_home_is_linked_like_any_other(tmp_path: Path) -> None:
    card = {"home_agreement": -0.25, "home_margin": -1.0, "home_nearest": "9"}
    rows = ({"card": card}, {"feature": "9"})
    page = page_of(small(tmp_path / "run", *rows), tmp_path / "page.html")
    name, meaning = DIAGNOSTICS["home_nearest"]
    assert re.search(rf"{name} feature 9 {meaning}", page.text)
    assert "margin at home \N{MINUS SIGN}1.000 agreement at home" in page.text
    assert page.having("a", href="#feature-9")


def test_every_text_shows_what_was_read_back_from_it(run: RunFolder, page: Page) -> None:
    found: Any = (run.scores or {})["reconstruction"]
    for row in found["table"]:
        top1, shuffled = row["top1"], row["cosine"]["extra"]["shuffled"]
        assert f"{row['condition']} 45 texts {row['cosine']['value']:+.3f}" in page.text
        assert re.search(
            rf"{100 * top1['value']:.0f}% {100 * top1['low']:.0f}% to .{{1,30}} 2% {row['mrr']['value']:.3f}", page.text
        )
        assert f"{abs(shuffled):.3f}" in page.text
    entries = [e for c in ("native", "plain", "washed", "direct") for e in found["per_feature"][c]]
    assert page.text.count("read back first of 45, cosine ") == sum(e["rank"] == 1 for e in entries)
    worse = next(e for e in found["per_feature"]["washed"] if e["rank"] > 1)
    assert re.search(
        rf"read back at rank {worse['rank']} of 45, cosine .0\.\d+; first is [^;]+ \({worse['nearest']}\)", page.text
    )
    astray = [a for a in page.having("article") if "astray" in (a.get("data-marks") or "").split("|")]
    assert len(astray) == sum(e["rank"] > 1 for e in found["per_feature"]["washed"])


def test_headline_tells_what_was_read_back_when_nothing_else_was_scored(run: RunFolder) -> None:
    found: Any = (run.scores or {})["reconstruction"]
    said = headline(Scores.of({"format": 2, "reconstruction": found}, "it"), 45, 90, Controls())
    assert re.fullmatch(
        r"90 explanations of 45 features\. From the washed texts alone tiny-smollm2-ar picks the right direction among "
        r"45 for \d\d% of them against 2% by chance\.",
        said,
    )
    doubtful = found["table"][1] | {"top1": whole_estimate(0.04, 0.01, 0.1, extra={"chance": 0.02})}
    other = found | {"reconstructor": "a reconstructor", "table": [doubtful]}
    said = headline(Scores.of({"format": 2, "reconstruction": other}, "it"), 45, 90, Controls())
    assert "a reconstructor picks" in said
    assert said.endswith("against 2% by chance, which the interval does not exclude.")


def test_labels_stand_with_whose_they_are(tmp_path: Path, page: Page) -> None:
    assert "The dictionary’s label, which no verbalizer saw: beekeeping and the like" in page.text
    run = build_run(tmp_path / "run", scored=False, without=BARE, info=False, labels="exports/12-res")
    labelled = page_of(run, tmp_path / "page.html")
    assert "Labels Neuronpedia’s export, exports/12-res; no verbalizer saw them" in labelled.text
    assert labelled.text.count("Neuronpedia’s label, which no verbalizer saw") == len(TOPICS)  # it is each one's name
    assert "The dictionary’s label" not in labelled.text


def test_flags_are_shown_as_words(tmp_path: Path) -> None:
    assert {phrase.name for phrase in STOCK_PHRASES} < set(PROBLEMS)
    rows = [{"feature": str(k), "problems": [problem]} for k, problem in enumerate([*PROBLEMS, "never heard of"])]
    page = page_of(small(tmp_path / "run", *rows), tmp_path / "page.html")
    for problem, meaning in PROBLEMS.items():
        assert f"Flagged: {problem} ({meaning})." in page.text
        assert f"{problem} 1 {meaning}" in page.text
    assert "Flagged: never heard of." in page.text
    assert len(page.having("article", **{"data-marks": "flagged"})) == len(rows)


def test_raw_text_is_shown_only_where_it_holds_more(tmp_path: Path) -> None:
    flag = {"problems": ["repeats itself"]}
    rows = [
        {"feature": "1", "text": "same", "raw": "<explanation>\nsame\n</explanation>", **flag},
        {"feature": "2", "text": "part", "raw": "<explanation>part</explanation> and more", **flag},
    ]
    page = page_of(small(tmp_path / "run", *rows), tmp_path / "page.html")
    assert page.text.count("everything it wrote") == 1
    assert "<explanation>part</explanation> and more" in page.text


def test_page_of_unscored_foreign_texts_shows_no_empty_column(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path / "run", scored=False, without=BARE, info=False), tmp_path / "page.html")
    for absent in ("planted category", "read back", "lift", "native"):
        assert absent not in page.text, absent
    assert {a["name"] for a in page.having("select")} <= {"status", "marks"}
    assert "How the directions crossed" in page.text


def test_page_of_native_texts_alone(tmp_path: Path) -> None:
    gone = ("washed", *(c for c in BARE if c != "native"))
    page = page_of(build_run(tmp_path / "run", scored=False, without=gone), tmp_path / "page.html")
    assert "How the directions crossed" not in page.text
    assert not page.having("span", **{"class": "badge"})
    assert "what native says" in page.text


def test_page_of_a_run_inside_one_model_speaks_of_no_crossing(tmp_path: Path) -> None:
    home = {"source": "m:3", "target": "m:3"}
    page = page_of(small(tmp_path / "run", {}, conditions=("washed",), **home), tmp_path / "page.html")
    assert "Features of m, block 3, put into words by its own verbalizer" in page.text
    assert "carried" not in page.text


def test_a_route_nobody_drew_before_stands_beside_native_and_speaks(tmp_path: Path) -> None:
    rows = ({"condition": "native", "text": "own"}, {"condition": "blend", "text": "foreign"})
    run = small(tmp_path / "run", *rows, conditions=("native", "blend"))
    run.write_scores({"format": 2, "per_feature": {"blend": [{"feature": "1", "lift": 0.2}]}})
    page = page_of(run, tmp_path / "page.html")
    assert page.text.count("foreign") == 2  # the line of the list and the text
    assert "sorted by the lift of blend" in page.text
    assert len(page.having("details")) == 2  # the card and the manifest: nothing is folded away


def test_filters_offer_what_the_cards_hold(page: Page) -> None:
    assert [a["name"] for a in page.having("select")] == ["status", "category", "marks"]
    offered = {a["value"] for t, a in page.tags if t == "option"}
    articles = page.having("article")
    held = {mark for a in articles for mark in (a.get("data-marks") or "").split("|")}
    assert offered == {"", *STATUSES, *TOPICS, *held}
    for word in STATUSES:
        assert f"{word}: {sum(a['data-status'] == word for a in articles)}" in page.text


def test_few_features_stand_open_and_many_are_a_list(tmp_path: Path, page: Page) -> None:
    few = page_of(build_run(tmp_path / "few", scored=False, count=3), tmp_path / "few.html")
    assert sum("open" in a for a in few.having("details")) == 3
    assert sum("open" in a for a in page.having("details")) == 1


def test_page_of_five_hundred_features_stays_small(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", count=500)
    page = page_of(run, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 4_500_000
    assert len(page.having("article")) == 500
    assert "500 random or shuffled directions: the first 100" in page.text
    assert len(page.having("svg", **{"class": "dot"})) == 1500


def test_hostile_diagnoses_stay_text(tmp_path: Path) -> None:
    bad = '"><script>x</script>'
    card = {"status": "differs", "why": bad, "route": bad, "route_why": bad, "nearest": bad, "home_nearest": bad}
    run = small(tmp_path / "run", {"label": bad, "card": card}, settings={"labels": bad})
    back = {"feature": "1", "rank": 2, "cosine": 0.1, "lift": 0.1, "nearest": bad}
    estimates = dict.fromkeys(("cosine", "cosine_over_shuffled", "fve", "top1", "mrr"), whole_estimate(method=bad))
    table = [{"condition": "plain", "n": 3, **estimates}]
    read = {"reconstructor": bad, "site": bad, "identity": {}, "table": table, "per_feature": {"plain": [back]}}
    run.write_scores({"format": 2, "reconstruction": read})
    page = page_of(run, tmp_path / "page.html")
    assert len(page.having("script")) == 1
    assert page.text.count(bad) > 12
    assert page.having("article")[0]["data-status"] == "differs"
    assert page.having("span", **{"class": "v-differs"})


def test_a_run_of_many_features_has_an_overview_that_names_the_viewer(tmp_path: Path) -> None:
    run = build_run(tmp_path / "a run", count=501)
    with (run.path / "contexts.json").open("wb") as file:
        file.truncate(200 << 20)  # larger than any JSON that is read whole
    page = page_of(run, tmp_path / "page.html")
    assert "501 features are more than a page can show." in page.text
    assert f"dragoman view '{run.path}'" in page.text
    assert "How far to trust the words" in page.text
    assert not page.having("article")
    assert (tmp_path / "page.html").stat().st_size < 100_000
