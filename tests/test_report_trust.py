"""The page says how sure the run is: a badge by each text with its reasons, and every null, embedder and window."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

from dragoman.confidence.evidence import WORDS
from dragoman.core import Refusal
from dragoman.report.headline import headline
from dragoman.report.tables import GUESS, answer_counts, reasons
from dragoman.report.words import Controls
from dragoman.scores import FeatureConfidence, Scores
from dragoman.store import RunFolder
from report_fixture import Page, build_run, page_of, whole_estimate
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
    summary = scores["embedders"]["summary"]
    assert f"T{summary[1:]}." in page.text and all(name in page.text for name in scores["embedders"]["names"])
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


def confident(feature: str, answered: bool = True, why: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"feature": feature, "probability": 0.7, "answered": answered, "member": "card", "why": list(why)}


def test_hostile_confidences_stay_text(tmp_path: Path) -> None:
    run, bad = build_run(tmp_path / "run", count=3), "<script>alert(1)</script>"
    first = run.manifest["features"][0]
    row = confident(first, why=({"evidence": bad, "adds": 1.0}, {"evidence": "margin", "adds": 0.0}))
    member = {"needs": [bad], "reads": [bad], "threshold": 0.5, "fitted_on": bad}
    told = {"embedder": bad, "members": {bad: member}, "per_feature": {"washed": [row | {"member": bad}], bad: []}}
    lift = whole_estimate(null=bad, method=bad)
    parts = {"lift": lift, "centred": lift, "top1": lift, "mrr": lift}
    lifts = {"b": {bad: {"lift": lift, "centred": lift}}}
    more = {"embedders": {"names": [bad, "b"], "lifts": lifts, "agree": {}, "summary": bad}}
    rate = whole_estimate(condition=bad, features=3)
    more["detection"] = {"embedder": bad, "table": [rate], "per_feature": {}}
    run.write_scores({"format": 2, "confidence": told, "nulls": {bad: {bad: parts}}, **more})
    page_of(run, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert bad not in text and html.escape(bad) in text and "confidence 0.70" in text


@pytest.mark.parametrize(
    "change", [{"probability": None}, {"why": [{"evidence": "margin", "adds": None}]}, {"why": [3]}]
)
def test_broken_confidences_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = build_run(tmp_path / "run", count=3)
    told = {"embedder": "e", "members": {}, "per_feature": {"washed": [confident("1") | change]}}
    run.write_scores({"format": 2, "confidence": told})
    with pytest.raises(Refusal, match=r"scores\.json: confidence\.per_feature\.washed\.0\."):
        page_of(run, tmp_path / "page.html")
    assert answer_counts(None, Controls()) == []


def test_no_raw_name_of_evidence_reaches_the_page() -> None:
    why = [{"evidence": name, "adds": 1.0} for name in ("context_gap", "detection_centred", "arrived")]
    words = reasons(FeatureConfidence.of(confident("1", why=tuple(why)), "it"))
    assert words == "for it: " + ", ".join(WORDS[w] for w in ("context_gap", "detection_centred", "arrived"))


def test_a_run_without_scores_but_with_confidences_does_not_say_that_nothing_can_be_trusted():
    rows = [confident("1"), confident("2", False), confident("3", False)]
    told = {"embedder": "e", "members": {}, "per_feature": {"auto": rows}}
    assert headline(Scores.of({"format": 2, "confidence": told}, "it"), 3, 9, Controls()) == (
        "9 explanations of 3 features; dragoman answers for 1 of them and abstains from 2."
    )
    assert "says how far to trust them" in headline(Scores(format=2), 3, 9, Controls())


@pytest.mark.parametrize(
    ("ends", "where"),
    [
        ({"low": 0.1, "high": 0.4}, "nearer to the windows in which their own feature fires than to those"),
        ({"low": -0.1, "high": 0.4}, "no nearer to the windows in which their own feature fires than to those"),
    ],
)
def test_a_run_scored_by_windows_alone_does_not_say_that_nothing_can_be_trusted(
    ends: dict[str, float], where: str
) -> None:
    lift = whole_estimate(value=0.25, **ends)
    rate = whole_estimate(condition="auto", features=3, value=0.72, low=0.6, extra={"others": 0.55})
    detection = {"embedder": "e", "table": [rate], "per_feature": {}}
    told = {"format": 2, "table": [{"condition": "auto"}], "detection": detection}
    by_windows = headline(Scores.of(told | {"window_lift": {"auto": lift}}, "it"), 3, 9, Controls())
    assert by_windows.startswith(f"9 explanations of 3 features. Auto explanations lie {where} of other features (")
    assert "none of them scored" not in by_windows
    by_detection = (
        "9 explanations of 3 features. Auto explanations tell windows in which their feature fires from others"
    )
    by_detection += " with a mean AUROC of 0.720, other features’ texts with 0.550"
    assert headline(Scores.of(told, "it"), 3, 9, Controls()) == f"{by_detection}."
    rate["low"] = 0.5
    assert headline(Scores.of(told, "it"), 3, 9, Controls()) == f"{by_detection}, which the interval does not exclude."


def test_a_page_has_no_table_of_lifts_where_nothing_has_one(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", count=3)
    rate = whole_estimate(condition="washed", features=3)
    detection = {"embedder": "e", "table": [rate], "per_feature": {}}
    run.write_scores({"format": 2, "table": [{"condition": "washed"}], "detection": detection})
    page = page_of(run, tmp_path / "page.html")
    assert not page.having("section", id="scores") and not page.having("a", href="#scores")
    assert page.having("section", id="detection") and page.having("a", href="#detection")
