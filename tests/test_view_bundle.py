"""A run as files to share: every page there, every link leads somewhere, hostile texts are text."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from dragoman.core import Refusal
from dragoman.store import RunFolder
from dragoman.view import bundle
from dragoman.view.build import nothing
from dragoman.view.bundle import write_bundle
from dragoman.view.find import Columns
from dragoman.view.index import words_table
from report_fixture import Page, page_of
from viewed_run import HOSTILE_ID, LONG_ID, ODD_ID, make_run, manifest_of, rows_of, scores_of, viewed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    view = viewed(make_run(place / "run", 12, odd=True))
    write_bundle([view], place / "out", nothing)
    view.close()
    return place / "out"


def test_every_feature_has_its_page(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {
        "index.html",
        "features.html",
        "list.js",
        "tables.js",
        "bundle.js",
        "page.css",
        "view.css",
        "view.js",
    } <= names
    assert {"nth-11.html", *(f"feature-random-{k}.html" for k in range(4))} <= names
    assert {f"feature-{k}.html" for k in range(11)} <= names
    assert ODD_ID in Page((folder / "nth-11.html").read_text()).text


def test_every_link_leads_to_a_file_of_the_folder_and_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    for path in folder.glob("*.html"):
        page = Page(path.read_text())
        for tag, attrs in page.tags:
            for name in ("href", "src", "action"):
                address = attrs.get(name)
                if address and tag == "a" and (address.startswith("#") or "neuronpedia.org" in address):
                    continue
                if address and address != "data:,":
                    assert (folder / re.split("[?#]", address)[0]).is_file(), (path.name, tag, address)
        assert "default-src 'none'" in str(page.having("meta", content="default-src")[0]["content"])


def test_the_texts_that_a_browser_searches_are_data(folder: Path) -> None:
    held = json.loads((folder / "list.js").read_text().removeprefix("globalThis.held = ").rstrip().removesuffix(";"))
    assert len(held["words"]) == 16 and len(held["lines"]) == len(held["columns"]) == 4
    _, file, name, size, whole, _, *texts = held["words"][int(HOSTILE_ID)]
    assert (
        (file, name) == (f"feature-{HOSTILE_ID}.html", HOSTILE_ID)
        and "script alert" in texts[0]
        and size > 20
        and whole
    )
    assert not held["words"][int(LONG_ID)][4] and held["words"][int(LONG_ID)][6].endswith("many words many")
    assert "<script>" not in held["lines"][1][HOSTILE_ID] and "<script>alert" in unescape(held["lines"][1][HOSTILE_ID])
    assert [*held["lines"][0]] == [str(12 + k) for k in range(4)]  # those of features stand on the list's page
    html = (folder / "features.html").read_text()
    assert html.count("<script>") == 0 and "<script>alert" in unescape(html)


def test_words_are_cut_as_the_index_cuts_them() -> None:
    texts = [
        "Ünïcode—it’s 3.5 %",
        "ＷＩＤＥ straße İstanbul",
        "snake_case @home",
        "東京 タワー ガイド",
        "naïve\u0301 x²",
        "",
    ]
    texts += [
        "हिन्दी",
        "한국어",
        "آدم",
        "ΟΔΟΣ οδός ὁδός",
        "Ꭰꭰ \u20dd₺ \ue000x",
        "\U0001f600a\U000e0101 \U00030000",
        "שָׁלוֹם",
        "й ё ǽ ʼn",
    ]
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(words_table(0))
        database.execute("CREATE VIRTUAL TABLE cut USING fts5vocab('words', 'instance')")
        for k, text in enumerate(texts):
            database.execute("INSERT INTO words (rowid, names) VALUES (?, ?)", (k, text))
            found = database.execute("SELECT term FROM cut WHERE doc = ? ORDER BY offset", (k,)).fetchall()
            assert bundle.folded(text).split() == [one for (one,) in found], text


def test_an_unusable_map_is_told_first_on_every_page(tmp_path: Path) -> None:
    wrong = "the map is unusable: its cosine with held-out rows (0.9808) is not above that of a constant (0.9811)"
    run, other = make_run(tmp_path / "run", 8, about={"map": wrong}), make_run(tmp_path / "other", 8)
    views = [viewed(run, "run"), viewed(other, "other")]
    write_bundle(views, tmp_path / "out", nothing)
    for view in views:
        view.close()
    told = f"T{wrong[1:]}. Believe no text that it carried."
    for path in (tmp_path / "out").rglob("*.html"):
        html = path.read_text()
        assert html.count(told) == (path.parent.name != "run-2"), path
        assert path.parent.name != "run-1" or html.index(told) < html.index("<h1"), path
    page = page_of(run, tmp_path / "page.html").text
    assert page.index("put into words") < page.index(told) < page.index("Each feature is")
    assert "Believe no" not in page_of(other, tmp_path / "other.html").text


def test_the_list_of_runs_tells_which_is_not_finished(tmp_path: Path) -> None:
    views = [viewed(make_run(tmp_path / name, 8, rows=rows), name) for name, rows in (("whole", 34), ("short", 35))]
    write_bundle(views, tmp_path / "out", nothing)
    for view in views:
        view.close()
    lines = (tmp_path / "out" / "index.html").read_text().split("<li>")[1:]
    assert ["not finished: it holds 34 of its 35 explanations" in line for line in lines] == [False, True]


def test_a_run_that_is_not_finished_is_told_so(tmp_path: Path) -> None:
    told = "The run is not finished: it holds 34 of its 35 explanations."
    for rows, there in ((34, 0), (35, 1)):
        view = viewed(make_run(tmp_path / f"run{rows}", 8, rows=rows))
        write_bundle([view], tmp_path / f"out{rows}", nothing)
        view.close()
        for path in (tmp_path / f"out{rows}").glob("*.html"):
            assert path.read_text().count(told) == there, path
        assert page_of(view.run, tmp_path / f"{rows}.html").text.count(told) == there


def test_several_runs_have_a_folder_each(tmp_path: Path) -> None:
    views = [viewed(make_run(tmp_path / name, 8), name) for name in ("a", "b")]
    made = write_bundle(views, tmp_path / "out", nothing)
    assert [a["href"] for a in Page(Path(made.page).read_text()).having("a", **{"class": "what"})] == [
        "run-1/index.html",
        "run-2/index.html",
    ]
    html = (tmp_path / "out" / "run-2" / "feature-3.html").read_text()
    assert 'href="../page.css"' in html and 'href="../run-1/feature-3.html"' in html
    for view in views:
        view.close()


def test_a_folder_that_is_there_and_a_run_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = viewed(make_run(tmp_path / "run", 8))
    (tmp_path / "out").mkdir()
    with pytest.raises(Refusal, match="it is there already"):
        write_bundle([view], tmp_path / "out", nothing)
    monkeypatch.setattr(bundle, "MOST", 7)
    with pytest.raises(Refusal, match="it has 8 features, and a browser alone searches up to 7"):
        write_bundle([view], tmp_path / "new", nothing)
    assert not (tmp_path / "new").exists()
    view.close()


def test_two_ids_that_are_one_where_they_are_shown_are_refused(tmp_path: Path) -> None:
    ids = ["a\0", "a\ufffd"]
    run = RunFolder.create(tmp_path / "run", manifest_of(ids))
    run.append([row for row in rows_of(ids) if row["kind"] == "feature"])
    view = viewed(run)
    with pytest.raises(Refusal, match="two of its features have one id"):
        write_bundle([view], tmp_path / "out", nothing)
    assert not (tmp_path / "out").exists()
    view.close()


def test_half_a_character_in_an_id_goes_from_the_manifest_to_the_pages(tmp_path: Path) -> None:
    ids, views = ["a", "\ud800b"], []
    for name in ("one", "two"):
        run = RunFolder.create(tmp_path / name, manifest_of(ids))
        run.append([row for row in rows_of(ids) if row["kind"] == "feature"])
        assert RunFolder.open(run.path).manifest["features"] == ids
        assert "?b" in page_of(run, tmp_path / f"{name}.html").text
        views.append(viewed(run, name))
    write_bundle(views, tmp_path / "out", nothing)
    assert "../run-1/nth-1.html" in (tmp_path / "out" / "run-2" / "nth-1.html").read_text()
    for view in views:
        view.close()


def test_nothing_is_left_of_a_bundle_that_could_not_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    view = viewed(run)
    path = run.path / "rows.jsonl"
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"general")] = ord("G")
    path.write_bytes(bytes(changed))
    with pytest.raises(Refusal, match="it was changed, moved"):
        write_bundle([view], tmp_path / "out", nothing)
    changed[changed.index(b"General")] = ord("g")
    path.write_bytes(bytes(changed))
    run.write_scores(scores_of([str(k) for k in range(4)]))
    with pytest.raises(Refusal, match="it has changed since its index was made"):
        write_bundle([view], tmp_path / "out", nothing)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run"]
    view.close()


def test_a_confidence_that_is_no_chance_is_refused_and_an_endless_number_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    whole = (run.path / "scores.json").read_text()
    for probability in ("1e999", "1.2", "-0.1", "NaN"):
        (run.path / "scores.json").write_text(
            re.sub(r'"probability": ?[.0-9]+', f'"probability": {probability}', whole)
        )
        with pytest.raises(Refusal, match=r"scores.json.*probability"):
            viewed(run)
    endless = Columns(
        feature=np.array([0, 1]),
        numbers={"lift": np.array([np.inf, 0.5])},
        bits={name: np.array([0, 3]) for name in ("control", "flagged", "routes", "verbalizers")},
        codes={},
        words={},
    )
    told = bundle._columns(endless)
    assert told["lift"] == [None, 0.5] and told["routes"] == [[], [0, 1]]
