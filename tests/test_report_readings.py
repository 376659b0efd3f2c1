"""A feature's two readings on the page and on the terminal: side by side, each with its evidence and its claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.show import show_rows, with_scores
from dragoman.core import Refusal
from dragoman.report.claims import by_support, paragraphs
from dragoman.report.headline import headline
from dragoman.report.words import Controls, too_rare
from dragoman.runs.run import Run
from dragoman.scores import ClaimStatus, Scores
from dragoman.store import RunFolder, write_json
from report_fixture import HOSTILE, Page, page_of, whole_estimate, whole_row

CARD = {
    "n_eff": 85.4,
    "coverage": 0.63,
    "margin": 0.21,
    "agreement": 0.4,
    "nearest": "9",
    "status": "ok",
    "why": "they agree",
}
DIFFERS = {**CARD, "margin": -0.12, "status": "differs", "why": "its two readings differ: the row's image is nearer"}
RAIN = "Text about rain and storms.\n\nThe final word is “rain”. It is written by a farmer."
RAINED = [
    {"sentence": "Text about rain and storms.", "kind": "theme", "status": "supported", "why": "AUROC 0.93, dealt 0.7"},
    {"sentence": "The final word is “rain”.", "kind": "token", "status": "supported", "why": "81 % of its activation"},
    {
        "sentence": "It is written by a farmer.",
        "kind": "theme",
        "status": "unsupported",
        "why": "AUROC 0.51, dealt 0.7",
    },
]
WINDOWS = ["The rain fell for days.", "After the storm came snow."]


def readings_run(path: Path, *, hostile: str = "", scored: bool = True) -> RunFolder:
    """Features 1 (both readings agree), 2 (they differ), 3 (fires too rarely); windows, words, lens words, claims."""
    routes = {"fires": "direct", "writes": "map"}
    conditions = [{"name": name, "route": route, "reading": name} for name, route in routes.items()]
    rare = {"least": 20.0, "documents": {"3": 8.2}}
    told = {"plan_digest": "p", "source": "a/small:3", "target": "b/large:12", "conditions": conditions}
    run = RunFolder.create(path, {**told, "about": {"too_rare": rare}})

    def row(feature: str, condition: str, text: str, card: dict[str, Any]) -> dict[str, Any]:
        route = {"route": routes[condition], "route_why": "asked"}
        return whole_row(
            feature=feature, condition=condition, text=text, label=f"l{feature}{hostile}", card={**card, **route}
        )

    run.append([
        row("1", "fires", RAIN + hostile, CARD), row("2", "fires", "About wheat in the fields.", DIFFERS),
        row("1", "writes", "Text about weather reports.", CARD), row("2", "writes", "About bread." + hostile, DIFFERS),
        row("3", "writes", "Text about a rare word.", {"n_eff": 8.2, "status": "unverified", "why": "rare"}),
    ])  # fmt: skip
    windows = {"firing": [w + hostile for w in WINDOWS], "silent": []}
    run.write_contexts({"1": windows | {"words": {"rain": 0.41, "storm": 0.12, f",{hostile}": 0.05, "a": 0.01},
                                        "forms": {"plural": 0.1, "sentence start": 0.62}}})  # fmt: skip
    run.write_lens({"writes": {"1": {"source": ["rain", "wet"], "carried": ["weather", f"cloud{hostile}"]}}})
    if scored:
        claims = [
            {
                "feature": "1",
                "label": f"rain and storms{hostile}",
                "claims": [{**c, "why": c["why"] + hostile} for c in RAINED],
            }
        ]
        run.write_scores({"format": 2, "claims": {"fires": claims}})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return readings_run(tmp_path_factory.mktemp("readings") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(run, tmp_path_factory.mktemp("out") / "page.html")


def test_both_readings_stand_side_by_side_each_with_its_own_evidence(page: Page) -> None:
    assert len(page.having("div", **{"class": "reading"})) == 6
    one = page.text[page.text.index("l1") : page.text.index("l2")]
    fires, writes = one.index("fires on rain and storms Text about rain"), one.index("writes Text about weather")
    assert fires < writes
    evidence = one[fires:writes]
    assert (
        "fires in 85 effective documents" in evidence and "words it fires on rain 41%, storm 12%, comma 5%" in evidence
    )
    assert "forms sentence start 62%" in evidence and "plural" not in evidence and "a 1%" not in evidence
    assert "where it fires The rain fell for days. After the storm came snow." in evidence
    row = one[writes:]
    assert "coverage 63% of the row is kept by the map" in row
    assert "the row itself writes rain, wet" in row and "what arrived writes weather, cloud" in row
    assert one.count("The rain fell") == 1 and not page.having("span", **{"class": "v-no-map"})


def test_a_sentence_without_support_is_marked_where_it_stands(page: Page) -> None:
    assert "not yet of the feature" in page.text
    greyed = page.having("span", **{"class": "unsupported"})
    assert [a["title"] for a in greyed] == ["not supported by where it fires: AUROC 0.51, dealt 0.7"]
    assert "The final word is “rain”. It is written by a farmer. not supported" in page.text
    assert [a["title"] for a in page.having("span", **{"class": "supported"})] == [c["why"] for c in RAINED[:2]]


def test_a_feature_that_fires_too_rarely_has_the_reason_in_the_place_of_the_reading(page: Page) -> None:
    three = page.text[page.text.index("l3") :]
    assert "fires on fires in 8 effective documents, 20 are needed writes Text about a rare word." in three
    assert too_rare(19.8, 20) == "fires in 19.8 effective documents, 20 are needed"
    assert too_rare(1.2, 20) == "fires in 1 effective document, 20 are needed"
    assert too_rare(None, 20) == "was not watched, so nobody counted where it fires"


def test_that_readings_differ_is_told_once_for_both(page: Page) -> None:
    assert page.text.count("its two readings differ: the row's image is nearer") == 1
    assert "diagnostics of the crossing" in page.text and "verdict is of" not in page.text
    assert [a["data-status"] for a in page.having("article")] == ["ok", "differs", "unverified"]


def test_the_headline_speaks_of_both_readings(page: Page) -> None:
    assert (
        "Each feature is read twice: what it fires on and what its row writes. 1 fires too rarely for the" in page.text
    )
    assert "The documents they fire in support 2 of 3 sentences of “fires on”." in page.text
    table = [
        {"condition": c, "lift": whole_estimate(v, v - 0.1, v + 0.1)} for c, v in (("writes", 0.2), ("fires", 0.3))
    ]
    said = headline(Scores.of({"format": 2, "table": table}, "it"), 3, 9, Controls(), readings=("fires", "writes"))
    first, second = said.index("“Fires on” explanations lie nearer"), said.index("“Writes” explanations lie nearer")
    assert first < second and "+0.300" in said[first:second] and "+0.200" in said[second:]
    once = headline(Scores.of({"format": 2}, "it"), 3, 9, Controls(), readings=("fires",), rare=2)
    assert once.startswith("Each feature is read once: what it fires on. 2 fire too rarely and are left out.")


def test_hostile_words_stay_text_in_every_part(tmp_path: Path) -> None:
    page = page_of(readings_run(tmp_path / "run", hostile=HOSTILE), tmp_path / "page.html")
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1 and not page.having("img")
    assert page.text.count('alert("x")') >= 8


def test_the_terminal_shows_supported_sentences_first(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = with_scores(run.rows(), run.scores, run.manifest)
    assert [row["reading"] for row in rows] == ["fires", "fires", "writes", "writes", "writes"]
    assert rows[0]["short"] == "rain and storms" and "claims" not in rows[1]
    show_rows(rows, run.manifest)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == [
        "1 l1 [fires on]", "rain and storms", "Text about rain and storms.", "The final word is “rain”.",
        "(unsupported) It is written by a farmer.", "", "1 l1 [writes]",
    ]  # fmt: skip
    at = lines.index("3 l3 [writes]")
    assert lines[at + 3] == "3 l3 [fires on] fires in 8 effective documents, 20 are needed"
    assert max(map(len, lines)) <= 80
    with pytest.raises(Refusal, match="row 1: verdict"):
        show_rows([rows[0] | {"verdict": "right"}])


def test_explanations_tell_reading_short_label_and_claims(run: RunFolder) -> None:
    first, second, *others = Run(run).explanations()
    assert (first.reading, first.label, first.short) == ("fires", "l1", "rain and storms")
    assert [claim.status for claim in first.claims] == ["supported", "supported", "unsupported"]
    assert (second.short, second.claims) == ("", ()) and {e.reading for e in others} == {"writes"}


def test_pieces_leave_no_word_out_and_mark_only_what_the_text_has() -> None:
    claims = [ClaimStatus.of({**c, "why": "w"}, "it") for c in RAINED]
    absent = ClaimStatus.of({**RAINED[0], "sentence": "Nothing of the kind."}, "it")
    parts = paragraphs(f"Well. {RAIN} And so on.\n\n \n\nEnd", [absent, *claims])
    assert [[(piece.text, piece.status) for piece in some] for some in parts] == [
        [("Well. ", "unchecked"), ("Text about rain and storms.", "supported")],
        [("The final word is “rain”.", "supported"), (" ", "unchecked"),
         ("It is written by a farmer.", "unsupported"), (" And so on.", "unchecked")],
        [("End", "unchecked")],
    ]  # fmt: skip
    assert [piece.status for piece in by_support(RAIN, claims)] == ["supported", "supported", "unsupported"]
    across = ClaimStatus.of({**RAINED[2], "sentence": "storms.\n\nThe final"}, "it")
    assert [[p.status for p in some] for some in paragraphs(RAIN, [across])] == [
        ["unchecked", "unsupported"], ["unsupported", "unchecked"]
    ]  # fmt: skip
    assert paragraphs("  \n\n ", claims) == []


@pytest.mark.parametrize(
    "words", [[], {"writes": []}, {"writes": {"1": {"own": ["a"]}}}, {"writes": {"1": {"source": [3]}}}]
)
def test_words_of_rows_of_another_form_are_refused(tmp_path: Path, words: Any) -> None:
    run = readings_run(tmp_path / "run")
    own = {"plan_digest": run.plan, **words} if isinstance(words, dict) else words
    write_json(run.path / "lens.json", own)
    with pytest.raises(Refusal, match="lens.json: it does not hold words by condition and feature"):
        page_of(run, tmp_path / "page.html")
