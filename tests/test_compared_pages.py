"""The pages of a comparison and of a ranking in a browser: nothing runs, nothing is fetched, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.comparison import compare_runs
from dragoman.comparison.page import write_comparison, write_ranking
from dragoman.comparison.ranked import rank_runs
from report_fixture import HOSTILE
from two_runs import IDS, dealt, own, run_of, sure_of

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    hostile = lambda f: HOSTILE if f == IDS[2] else "word " * 20_000 if f == IDS[3] else dealt(f)  # noqa: E731
    scores = sure_of(dict.fromkeys(IDS, 0.8))
    a = run_of(root / "a", {"fires": own, "writes": own}, scores=scores)
    b = run_of(root / "b", {"fires": hostile, "writes": own}, settings={"washout": "<b>none"}, scores=scores)
    return {
        "compared": write_comparison(compare_runs(a, b), a, b, root / "compared.html"),
        "ranked": write_ranking(rank_runs([a, b]), root / "ranked.html"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("name", ["compared", "ranked"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_asks_for_nothing(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    complaints = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table").count() >= 2 and page.locator("script, img").count() == 0
    if name == "compared":
        assert page.locator("article").count() == len(IDS)
        assert page.locator(".own", has_text="owl").count() > 0
        assert HOSTILE.splitlines()[0] in (page.locator("article").first.text_content() or "")
    context.close()
    assert not complaints
