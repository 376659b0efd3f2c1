"""The page of a run: what it must show, what it must never do, and how it bears what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.core import Estimate, Refusal
from dragoman.records import ConditionEntry, NullName
from dragoman.report import write_page
from dragoman.report.figures import LiftRow, interval_mark, lifts_figure, number, probability, share, signed
from dragoman.report.headline import headline
from dragoman.report.words import Controls, spokesman
from dragoman.scores import FORMAT as FORMAT_OF_SCORES
from dragoman.scores import BareRate, ConditionScores, NamingRate, Scores
from dragoman.store import RunFolder
from dragoman.store.runs import FORMAT
from report_fixture import HOSTILE, TOPICS, Page, build_run, page_of, whole_estimate, whole_row

REFERENCES = {"href", "src", "srcset", "action", "formaction", "data", "poster", "xlink:href", "background"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(run, tmp_path_factory.mktemp("out") / "page.html")


def test_page_shows_every_text_of_every_condition(run: RunFolder, page: Page) -> None:
    for row in run.rows():
        for paragraph in re.split(r"\n\n", row["text"]):
            assert " ".join(paragraph.split()) in page.text, (row["feature"], row["condition"])


def test_page_has_one_card_per_feature_with_its_topic_and_category(page: Page) -> None:
    assert len(page.having("article", **{"class": "feature"})) == len(TOPICS)
    for category, topic in TOPICS.items():
        assert re.search(rf"{topic} (. (not )?named, )?planted category: {category}", page.text)


def test_page_leads_with_its_texts_and_ends_with_what_it_was_made_with(page: Page) -> None:
    there = page.having("section")
    assert there[0]["id"] == "texts" and there[-1]["id"] == "made" and len(there) > 5


def test_hostile_text_stays_text(run: RunFolder, tmp_path: Path) -> None:
    raw = write_page(run, tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(raw)
    assert HOSTILE.split("\n")[0] in page.text
    assert len(page.having("script")) == 1
    assert "alert(" not in page.blocks["script"]
    assert "<script>alert" not in raw
    assert not page.having("img")
    assert "{{ 7*7 }}" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = '"><script>x</script>'
    names = {"name": bad, "route": bad, "washout": bad, "verbalizer": bad}
    manifest = {"plan_digest": "p", "source": bad, "target": bad, "conditions": [names]}
    manifest |= {"feature_info": {bad: {"category": bad, "topic": bad, "top_tokens": [bad]}}}
    manifest |= {"map_report": {bad: {"n": 3}}, "dragoman": bad}
    run = RunFolder.create(tmp_path / "run", manifest | {"verbalizers": {bad: {bad: bad}}})
    card = {"why": bad, "route": bad, "route_why": bad, "nearest": bad, "home_nearest": bad, "margin": -1.0}
    words = {"label": bad, "condition": bad, "text": bad}
    run.append([whole_row(feature=bad, raw=bad * 2, problems=[bad], **words), whole_row(card=card, **words)])
    lifts = [{"feature": bad, "lift": 0.1, "names_category": True}, {"feature": "1", "lift": 0.2}]
    estimate = whole_estimate(null=bad, method=bad, unit=bad, statistic=bad)
    table = [{"condition": bad, "route": bad, "washout": bad, "lift": estimate}]
    run.write_scores({"format": 2, "table": table, "per_feature": {bad: lifts}, "rule": bad, "embedder": bad})
    page = page_of(run, tmp_path / "page.html")
    assert len(page.having("script")) == 1
    assert page.text.count(bad) > 20


def test_page_asks_nothing_of_any_other_place(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in REFERENCES & set(attributes):
            assert (attributes[name] or "").startswith("#") or (tag, attributes[name]) == ("link", "data:,")
    assert not re.search(r"url\(|@import|//", page.blocks["style"])
    assert not re.search(r"fetch|XMLHttp|import\(|https?:", page.blocks["script"])


def test_page_forbids_every_script_but_its_own(page: Page) -> None:
    policy = next(a["content"] for a in page.having("meta") if a.get("http-equiv") == "Content-Security-Policy")
    seal = base64.b64encode(hashlib.sha256(page.blocks["script"].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{seal}'" in policy


def test_every_link_has_its_target_and_every_id_is_alone(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    links = [(a["href"] or "")[1:] for a in page.having("a")]
    assert len(links) > len(TOPICS)
    assert set(links) <= set(ids)


def test_page_prints_the_scores_as_they_stand(run: RunFolder, page: Page) -> None:
    scores: Any = run.scores
    for row in scores["table"]:
        if "lift" in row:
            found = row["lift"]
            wanted = f"{signed(found['low'])} to {signed(found['high'])} {probability(found['p'])} 45"
            assert f"{signed(found['value'])} {wanted}" in page.text
            assert found["null"] in page.text
        assert share(row["category"]["value"]) in page.text
    assert "ridge 0.638 0.987 0.979 59% 0.410 −0.320 160" in page.text
    assert scores["rule"] in page.text
    assert scores["embedder"] in page.text


def test_figure_has_one_dot_for_every_lift_drawn(run: RunFolder, page: Page) -> None:
    lifts: Any = (run.scores or {})["per_feature"]
    drawn = sum(len(lifts[condition]) for condition in ("plain", "washed", "direct"))
    assert len(page.having("svg", **{"class": "dot"})) == drawn == 3 * len(TOPICS)
    assert "Scored but not drawn: procrustes_washed." in page.text


def test_cards_stand_in_the_order_of_the_figure(run: RunFolder, page: Page) -> None:
    washed: Any = (run.scores or {})["per_feature"]["washed"]
    wanted = [f"feature-{e['feature']}" for e in sorted(washed, key=lambda e: -e["lift"])]
    assert [a["id"] for a in page.having("article")] == wanted


def test_figure_leaves_out_what_is_not_a_number_and_names_when_crowded() -> None:
    rows = [LiftRow(feature=str(k), label="a<b", note="", anchor=f"a{k}", lifts={"x": k / 100}) for k in range(120)]
    rows.append(LiftRow(feature="z", label="", note="", anchor="z", lifts={"x": math.nan, "other": 1.0}))
    dense, few = Page(lifts_figure(rows, ["x"], (-0.1, 0.1))), Page(lifts_figure(rows[-5:], ["x"], None))
    assert len(dense.having("svg", **{"class": "dot"})) == 120
    assert len(dense.having("a")) == 121
    assert not dense.having("text", **{"class": "name"})
    assert len(few.having("svg", **{"class": "dot"})) == 4
    assert len(few.having("a")) == 5
    assert not few.having("rect", **{"class": "band"})
    assert interval_mark(math.nan, 0.0, 1.0, (0.0, 1.0)) == ""


def test_figure_places_lifts_in_their_order_on_the_axis() -> None:
    rows = [LiftRow(feature="f", label="f", note="", anchor="f", lifts={"a": -0.2, "b": 0.1, "c": 0.4})]
    places = [
        float((a["x"] or "")[:-1])
        for a in Page(lifts_figure(rows, ["a", "b", "c"], None)).having("svg", **{"class": "dot"})
    ]
    assert places == sorted(places)
    assert math.isclose(places[1] - places[0], places[2] - places[1], abs_tol=0.02)


@pytest.mark.parametrize("part", ["embedder", "rule", "table", "paired", "per_feature", "everything"])
def test_page_bears_scores_without(part: str, run: RunFolder, tmp_path: Path) -> None:
    other = build_run(tmp_path / "run", scored=False)
    scores: Any = run.scores
    kept = {k: v for k, v in scores.items() if k == "format" or part not in (k, "everything")}
    other.write_scores(kept)
    page = page_of(other, tmp_path / "page.html")
    assert len(page.having("article")) == len(TOPICS)
    assert bool(page.having("svg", **{"class": "lifts"})) == (part not in ("per_feature", "everything"))
    assert bool(page.having("section", id="scores")) == (part != "everything")


@pytest.mark.parametrize("part", ["map_report", "background"])
def test_page_bears_a_manifest_without(part: str, run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "run", {k: v for k, v in run.manifest.items() if k != part})
    other.append(run.rows())
    page = page_of(other, tmp_path / "page.html")
    assert page.having("section", id="map") and len(page.having("article")) == len(TOPICS)
    assert ("This run records no held-out numbers" in page.text) == (part == "map_report")
    assert ("spread by 0.140" in page.text) == (part != "background")


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("rows", {"sample": "first"}, "row 1: sample: input should be a valid integer"),
        ("rows", {"verdict": "ok"}, "row 1: verdict: extra inputs are not permitted"),
        ("rows", {"card": {"status": "<b>fine</b>"}}, "row 1: card.status: input should be 'ok', 'weak', 'differs' or"),
        ("conditions", {"null": "a null of its own"}, "manifest.json: null: input should be 'random directions'"),
        ("manifest", {"map_report": {"ridge": {"n": "many"}}}, "manifest.json: map_report.ridge.n: input should be"),
        ("scores", {"format": 1}, "scores.json: format: input should be 2; score the run again with this version"),
        ("scores", {"format": 2, "table": [{"lift": None}]}, "scores.json: table.0.condition: field required"),
    ],
)
def test_page_refuses_records_of_another_form_by_their_place(
    place: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    more = {name: change if place == name else {} for name in ("rows", "conditions", "manifest")}
    conditions = [{"name": "plain", **more["conditions"]}]
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": conditions, **more["manifest"]})
    run.append([whole_row() | more["rows"]])
    if place == "scores":
        run.write_scores(change)
    with pytest.raises(Refusal, match=re.escape(message)):
        write_page(run, run.page)
    assert not run.page.exists()


def test_page_of_an_unscored_run_without_native_or_planted_categories(tmp_path: Path) -> None:
    gone = ("native", "plain", "random_plain", "random_washed", "procrustes_washed")
    page = page_of(build_run(tmp_path / "run", scored=False, without=gone, info=False), tmp_path / "page.html")
    assert "90 explanations of 45 features, none of them scored" in page.text
    assert "planted category" not in page.text
    assert "native" not in page.text
    assert not page.having("table", **{"class": "scores"})


def test_page_shows_conditions_it_has_never_heard_of(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": [{"name": "odd"}]})
    row = whole_row(feature="7", condition="odd")
    run.append([row | {"text": "", "raw": "<expl", "problems": ["empty"], "sample": 1}, row | {"text": "first of two"}])
    run.write_scores({"format": 2, "per_feature": {"odd": [{"feature": "7", "lift": 0.2}]}})
    page = page_of(run, tmp_path / "page.html")
    assert (
        page.text.index("first of two") < page.text.index("1 more sample") < page.text.index("nothing between the tags")
    )
    assert "Flagged: empty" in page.text
    assert len(page.having("svg", **{"class": "dot"})) == 1


def test_a_feature_whose_text_is_missing_says_so(tmp_path: Path) -> None:
    conditions = [{"name": "plain"}, {"name": "washed"}, {"name": "random_washed", "null": "random directions"}]
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": conditions})
    run.append([whole_row(text="here")])
    assert page_of(run, tmp_path / "page.html").text.count("not in this run") == 1


@pytest.mark.parametrize("null", ["unused rows", "background alone"])
def test_what_the_manifest_calls_a_null_is_one_whatever_its_name(null: NullName, tmp_path: Path) -> None:
    conditions = [{"name": "plain"}, {"name": "auto", "null": null}]  # named as the condition that speaks first
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": conditions})
    run.append([whole_row(condition=name, text=f"by {name}") for name in ("plain", "auto")])
    page = page_of(run, tmp_path / "page.html")
    assert page.text.index("by plain") < page.text.index("by auto")  # with the other conditions, folded away
    assert "1 explanations of 1 features" in page.text  # a null's text is none of them
    entries = [ConditionEntry.of_manifest(entry, "it") for entry in conditions]
    assert entries[1].is_null and spokesman(["plain", "auto"], Controls.of(entries)) == "plain"


def test_a_feature_whose_readings_differ_is_flagged_with_the_name_of_the_nearer_one(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": [{"name": "plain"}]})
    why = "its two readings differ: the row's image is nearer feature 2 than where it fires (margin -0.100)"
    differing = {"status": "differs", "why": why, "margin": -0.1, "nearest": "2"}
    run.append([whole_row(label="l1", card=differing), whole_row(feature="2", label="l2")])
    page = page_of(run, tmp_path / "page.html")
    assert page.text.count(why) == 1
    assert "feature 2 is l2" in page.text
    assert [a.get("data-status") for a in page.having("article")] == ["differs", None]


def scored(value: float, low: float, high: float, **row: Any) -> dict[str, Any]:
    return {"condition": "washed", "lift": Estimate(**whole_estimate(value, low, high)), **row}


CONTROLS = Controls.of(
    ConditionEntry.of_manifest({"name": f"random_{kind}", "null": "random directions"}, "it")
    for kind in ("plain", "washed")
)
GOOD = scored(0.2, 0.1, 0.3)
NAMED, UNNAMED = (NamingRate(**whole_estimate(rate, low, 0.9), random=0.02) for rate, low in ((0.7, 0.5), (0.03, 0.01)))
ALONE = BareRate(value=0.7, n=45)


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ([GOOD], r"lie nearer to their own feature’s .*lift \+0.200, 95% interval \+0.100 to \+0.300"),
        ([scored(0.02, -0.1, 0.3)], "lie no nearer to .* than to"),
        ([scored(-0.2, -0.3, -0.1)], "lie further from .* than from"),
        ([scored(0.2, math.nan, math.nan)], r"a lift of \+0.200, with no interval to judge it by"),
        ([{**GOOD, "category": NAMED}], r"70% .* against 2% on random directions\."),
        ([{**GOOD, "category": UNNAMED}], "3% .* which the interval does not exclude"),
        ([GOOD, {**scored(0.19, 0.1, 0.3), "condition": "random_washed"}], "shows nothing about the features"),
        ([GOOD, {**scored(0.02, 0.01, 0.03), "condition": "random_plain"}], r"\(random_plain\) have .* \+0.020\."),
        ([{**GOOD, "condition": "plain"}, {**GOOD, "condition": "direct"}], "^Direct"),
        ([{**GOOD, "condition": "random_plain"}], "none of them scored"),
        ([{"condition": "native", "category": NAMED}], "^Native explanations name"),
        (
            [{"condition": "auto", "category": ALONE}],
            r"70% of the features; nothing was scored on random directions to",
        ),
        ([], "none of them scored"),
    ],
)
def test_headline_follows_the_scores(table: list[dict[str, Any]], wanted: str) -> None:
    scores = Scores(format=FORMAT_OF_SCORES, table=tuple(ConditionScores(**row) for row in table))
    sentence = headline(scores, 45, 90, CONTROLS)
    assert re.search(wanted, sentence), sentence
    assert sentence.endswith(".")


def test_numbers_read_as_people_write_them() -> None:
    assert [signed(0.2494), signed(-0.1), signed(None), signed(math.nan)] == ["+0.249", "−0.100", "–", "–"]
    assert [probability(v) for v in (0.0314, 3.9e-9, 0.0, None)] == ["0.031", "3.9 × 10⁻⁹", "< 0.001", "–"]
    assert [share(v) for v in (0.0, 0.004, 0.71, 0.996, 1.0)] == ["0%", "0.4%", "71%", "99.6%", "100%"]
    assert [number(v) for v in (45, 0.5, "7", None, True)] == ["45", "0.500", "7", "–", "–"]


def test_reporting_changes_nothing_in_the_run(run: RunFolder, tmp_path: Path) -> None:
    def state() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}

    before = state()
    one, two = write_page(run, tmp_path / "one.html"), write_page(RunFolder.open(run.path), tmp_path / "two.html")
    assert state() == before
    assert one.read_bytes() == two.read_bytes()


def test_page_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="it is not a run folder"):
        write_page(RunFolder.open(tmp_path), tmp_path / "page.html")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
    with pytest.raises(Refusal, match="its manifest names no conditions"):
        write_page(RunFolder.open(tmp_path), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_page_refuses_a_run_without_rows(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": [{"name": "plain"}]})
    with pytest.raises(Refusal, match="it holds no explanation yet"):
        write_page(run, tmp_path / "page.html")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        st.one_of(st.characters(exclude_categories=["Cc", "Cs"]), st.sampled_from("<>&\"'/!-{}%#\n")), max_size=60
    )
)
def test_any_text_comes_back_as_it_was_said(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    run = RunFolder.create(folder / "run", {"plan_digest": "p", "conditions": [{"name": "plain"}]})
    run.append([whole_row(text=text)])
    page = page_of(run, folder / "page.html")
    assert " ".join(text.split()) in page.text


def test_text_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "p", "conditions": [{"name": "plain"}]})
    run.append([whole_row(text="a\ud800b\x00c\x1bd")])
    assert "a?b�c�d" in page_of(run, tmp_path / "page.html").text
