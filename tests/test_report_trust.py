"""The page says how sure the run is: a badge by each text with its reasons, and every null, embedder and window."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

from dragoman.confidence.evidence import WORDS
from dragoman.report.trust import GUESS, confidence_part, sure_of
from dragoman.store import RunFolder
from report_fixture import Page, build_run, page_of
from trusted_fixture import trusted_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trusted_run(tmp_path_factory.mktemp("trusted") / "run", count=14)


@pytest.fixture(scope="module")
def page(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(run, tmp_path_factory.mktemp("page") / "page.html")


def test_each_text_bears_its_confidence_with_the_reasons(run: RunFolder, page: Page) -> None:
    found = (run.scores or {})["confidence"]["per_feature"]
    rows = [row for condition in ("plain", "washed") for row in found[condition]]
    assert len(rows) == 28 and {row["answered"] for row in rows} == {True, False}
    for row in rows:
        word = f"confidence {row['probability']:.2f}" if row["answered"] else f"abstains ({row['probability']:.2f})"
        assert word in page.text
    badges = page.having("span", **{"class": "sure"})
    assert len(badges) >= len(rows) and all(
        "for it" in str(b["title"]) or "against it" in str(b["title"]) for b in badges
    )
    assert page.text.count("for it: ") >= 1 and "telling where it fires" in page.text


def test_the_confidences_are_counted_and_say_on_what_they_were_fitted(run: RunFolder, page: Page) -> None:
    found = (run.scores or {})["confidence"]["per_feature"]["washed"]
    answered = sum(row["answered"] for row in found)
    assert f"washed {answered} of 14 answered for, {14 - answered} abstained from" in page.text
    assert f"It was fitted on the embedded pair, both ways; {GUESS}." in page.text
    assert page.having("option", value="answered") and page.having("option", value="abstained")


def test_every_null_embedder_and_power_stands_on_the_page(run: RunFolder, page: Page) -> None:
    scores: dict[str, Any] = run.scores or {}
    for by in scores["nulls"].values():
        for null, one in by.items():
            value = f"{one['lift']['value']:+.3f}".replace("-", "\N{MINUS SIGN}")
            assert f"{null} {value}" in page.text
    assert scores["nulls"]["washed"].keys() == {"other features", "random directions"}
    verdict = scores["embedders"]["summary"]
    assert f"T{verdict[1:]}." in page.text and all(name in page.text for name in scores["embedders"]["names"])
    assert f"takes {scores['power'][0]['n']} features" in page.text.replace("\N{NARROW NO-BREAK SPACE}", "")
    (row,) = [r for r in scores["detection"]["table"] if r["condition"] == "washed"]
    assert f"washed 14 features {row['value']:.3f} {row['low']:.3f} to {row['high']:.3f}" in page.text


def test_links_of_the_parts_lead_somewhere(page: Page) -> None:
    parts = {a["id"] for t, a in page.tags if t == "section"}
    assert {"confidence", "nulls", "embedders", "detection"} <= parts
    assert all(str(a["href"])[1:] in {x.get("id") for _, x in page.tags} for a in page.having("a"))


def test_a_run_without_any_of_it_has_none_of_its_parts(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path / "run", count=3), tmp_path / "page.html")
    assert not {"confidence", "nulls", "embedders", "detection"} & {a.get("id") for t, a in page.tags if t == "section"}
    assert not page.having("span", **{"class": "sure"})


def test_hostile_and_broken_confidences_stay_text(tmp_path: Path) -> None:
    run, bad = build_run(tmp_path / "run", count=3), "<script>alert(1)</script>"
    first = run.manifest["features"][0]
    why: list[Any] = [{"evidence": bad, "adds": 1.0}, {"evidence": "margin", "adds": None}, 3]
    rows = [{"feature": first, "probability": 0.7, "answered": True, "member": bad, "why": why}, {"feature": "x"}]
    told = {"members": {bad: {"fitted_on": bad, "threshold": "x"}}, "per_feature": {"washed": rows, bad: []}}
    nulls = {bad: {bad: {"lift": {"value": None}, "top1": {}}}}
    more = {"embedders": {"names": [bad, "b"], "lifts": {"b": {bad: {}}}, "summary": bad}, "detection": {"table": [{}]}}
    run.write_scores({"confidence": told, "nulls": nulls, "power": [{"what": bad}], **more})
    page_of(run, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert bad not in text and html.escape(bad) in text and "confidence 0.70" in text


def test_entries_without_a_probability_have_no_badge() -> None:
    assert sure_of(None) is None and sure_of({"probability": None}) is None and confidence_part({}) is None


def test_no_raw_name_of_evidence_reaches_the_page() -> None:
    why = [{"evidence": name, "adds": 1.0} for name in ("context_gap", "detection_centred", "arrived")]
    badge = sure_of({"probability": 0.9, "answered": True, "why": why})
    assert badge and badge.why == "for it: " + ", ".join(
        WORDS[w] for w in ("context_gap", "detection_centred", "arrived")
    )


def test_a_run_without_scores_but_with_confidences_does_not_say_that_nothing_can_be_trusted():
    from dragoman.report.headline import headline

    rows = [
        {"feature": "1", "answered": True},
        {"feature": "2", "answered": False},
        {"feature": "3", "answered": False},
    ]
    assert headline({"confidence": {"per_feature": {"auto": rows}}}, 3, 9) == (
        "9 explanations of 3 features; dragoman answers for 1 of them and abstains from 2."
    )
    assert "says how far to trust them" in headline({}, 3, 9)
