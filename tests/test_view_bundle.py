"""A run as files to share: every page there, every link leads somewhere, hostile texts are text."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

from dragoman.core import Refusal
from dragoman.view import bundle
from dragoman.view.build import nothing
from dragoman.view.bundle import write_bundle
from report_fixture import Page
from viewed_run import HOSTILE_ID, ODD_ID, make_run, viewed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    view = viewed(make_run(place / "run", 12, odd=True))
    write_bundle([view], place / "out", nothing)
    view.close()
    return place / "out"


def test_every_feature_has_its_page(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "features.html", "page.css", "view.css", "view.js", "nth-11.html"} <= names
    assert {f"feature-{k}.html" for k in range(11)} <= names
    assert ODD_ID in Page((folder / "nth-11.html").read_text()).text


def test_every_link_leads_to_a_file_of_the_folder_and_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    for path in folder.glob("*.html"):
        page = Page(path.read_text())
        for tag, attrs in page.tags:
            for name in ("href", "src", "action"):
                address = attrs.get(name)
                if address and tag != "a":
                    assert address == "data:," or (folder / address).is_file(), (path.name, tag, address)
                elif address and not address.startswith("#") and "neuronpedia.org" not in address:
                    assert (folder / address.split("#")[0]).is_file(), (path.name, address)
        assert not page.having("form", role="search")
        assert "default-src 'none'" in str(page.having("meta", content="default-src")[0]["content"])


def test_the_texts_that_a_browser_searches_are_data(folder: Path) -> None:
    html = (folder / "features.html").read_text()
    block = re.search(r'<script type="application/json" id="texts-held">(.*?)</script>', html, re.DOTALL)
    assert block
    texts = json.loads(block[1])
    assert len(texts) == 12
    assert "<script>alert" in texts[int(HOSTILE_ID)]
    assert html.count("<script>") == 0
    assert "<script>alert" in unescape(html)


def test_several_runs_have_a_folder_each(tmp_path: Path) -> None:
    views = [viewed(make_run(tmp_path / name, 8), name) for name in ("a", "b")]
    first = write_bundle(views, tmp_path / "out", nothing)
    assert [a["href"] for a in Page(first.read_text()).having("a", **{"class": "what"})] == [
        "run-1/index.html",
        "run-2/index.html",
    ]
    assert 'href="../page.css"' in (tmp_path / "out" / "run-2" / "feature-3.html").read_text()
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


def test_nothing_is_left_of_a_bundle_that_could_not_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    view = viewed(run)
    path = run.path / "rows.jsonl"
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"general")] = ord("G")
    path.write_bytes(bytes(changed))
    with pytest.raises(Refusal, match="it was changed, moved"):
        write_bundle([view], tmp_path / "out", nothing)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run"]
    view.close()
