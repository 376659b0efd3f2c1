"""The viewer in a browser: keys, search, filters, and nothing on the console; the files of a bundle as well."""

from __future__ import annotations

import re
import shlex
import urllib.request
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from dragoman.report import write_page
from dragoman.store import RunFolder
from dragoman.view.build import nothing
from dragoman.view.bundle import write_bundle
from dragoman.view.find import Selection, found
from report_fixture import build_run
from small_world import command
from viewed_run import HOSTILE_ID, LONG_ID, make_run, manifest_of, rows_of, serving, viewed

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="run: pip install 'dragoman[view]'")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browsed")


@pytest.fixture(scope="module")
def run(place: Path) -> RunFolder:
    return make_run(place / "run")


@pytest.fixture(scope="module")
def address(run: RunFolder) -> Iterator[str]:
    with serving(viewed(run)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; whatever the browser complains of, and whatever it asks of another machine, fails the test."""
    complaints = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("http://127.0.0.1:", "file:", "data:")) else complaints.append(asked.url)
        ),
    )
    yield opened
    context.close()
    assert not complaints


def ids(page: Any) -> list[str]:
    return page.locator(".lines li:visible .id").all_inner_texts()


def test_every_page_opens_without_a_complaint_at_every_width(page: Any, address: str) -> None:
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for path in ("/", "/run/features", *(f"/run/feature?id={k}" for k in ("0", "7", HOSTILE_ID, LONG_ID))):
            page.goto(address + path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            assert page.locator("h1").count() == 1
    page.goto(f"{address}/run/feature?id={HOSTILE_ID}")
    assert page.locator("main img").count() == 0
    assert '<script>alert("x")</script>' in page.locator("h1").inner_text()


def test_typing_searches_and_the_address_is_the_view(page: Any, address: str) -> None:
    page.goto(f"{address}/run/features")
    page.keyboard.press("/")
    page.keyboard.type("beekeeping", delay=5)
    page.wait_for_url("**/run/features?q=beekeeping")
    page.wait_for_function("document.querySelectorAll('.lines li').length < 10")
    assert "0" in ids(page)
    page.select_option("select[name=status]", "weak")
    page.wait_for_url("**/run/features?q=beekeeping&status=weak")
    page.wait_for_function("!document.querySelector('.lines').innerText.includes('ok')")
    found = ids(page)
    page.goto(page.url)
    assert ids(page) == found
    assert page.input_value("input[name=q]") == "beekeeping"
    page.go_back()


def test_keys_walk_the_list_open_a_feature_and_lead_back(page: Any, address: str) -> None:
    page.goto(f"{address}/run/features?status=ok")
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.closest('li').querySelector('.id').innerText") == "4"
    page.keyboard.press("Enter")
    page.wait_for_url("**/feature?id=4&status=ok")
    page.keyboard.press("j")
    page.wait_for_url("**/feature?id=8&status=ok")
    page.keyboard.press("k")
    page.wait_for_url("**/feature?id=4&status=ok")
    page.keyboard.press("l")
    page.wait_for_url("**/features?status=ok")
    page.goto(f"{address}/run/features")
    page.keyboard.press("n")
    page.wait_for_url("**/features?page=2")
    page.keyboard.press("p")
    page.wait_for_url("**/features")
    page.keyboard.press("o")
    page.wait_for_url("**/run/")


def test_keys_are_told_and_typing_is_not_taken_for_them(page: Any, address: str) -> None:
    page.goto(f"{address}/run/features")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.keyboard.press("/")
    page.keyboard.type("jump on")
    assert page.input_value("input[name=q]") == "jump on"
    page.wait_for_url("**q=jump+on**")


def test_differing_words_are_marked_until_somebody_does_not_want_it(page: Any, address: str) -> None:
    page.goto(f"{address}/run/feature?id=0")
    line = "getComputedStyle(document.querySelector('.own')).textDecorationLine"
    assert page.evaluate(line) == "underline"
    page.keyboard.press("d")
    assert page.evaluate(line) == "none"
    page.click(".differ")
    assert page.evaluate(line) == "underline"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)
    opened = context.new_page()
    for path in ("/run/", "/run/features", "/run/feature?id=3"):
        opened.goto(address + path)
        worst = opened.evaluate(CONTRAST)
        assert worst[0] >= 4.5, worst
    context.close()


CONTRAST = """() => {
  const channels = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, k) => a * c + (1 - a) * under[k]);
  const light = rgb => rgb.map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [.2126, .7152, .0722][k], 0);
  const behind = element => {
    const chain = [];
    for (let one = element; one; one = one.parentElement)
      chain.unshift(channels(getComputedStyle(one).backgroundColor));
    return chain.reduce((under, colour) => colour[3] === 0 ? under : over(colour, under), [255, 255, 255]);
  };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const under = behind(element), colour = over(channels(getComputedStyle(element).color), under);
    const [high, low] = [light(colour), light(under)].sort((a, b) => b - a);
    const ratio = (high + .05) / (low + .05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def bundle(place: Path, run: RunFolder) -> Path:
    """Files of the run that is served, and of a smaller one beside it."""
    views = [viewed(run, "run"), viewed(make_run(place / "small", 20), "small")]
    first = write_bundle(views, place / "bundle", nothing)
    for view in views:
        view.close()
    return Path(first.page).parent


QUERIES = (
    "", "page=2", "q=beekeeping", 'q="tropical fruit"', 'q="fruit tropical"', "q=the general", "q=fruit&sort=sure",
    "q=!!", "q=b", "q=script alert", "q=fruit&condition=writes", "status=differs", "route=direct&status=differs",
    "trust=none", "trust=answered&sort=unsure", "least=0.6", "flagged=yes", "kind=controls", "q=nothing&kind=controls",
    "sort=coverage", "condition=fires",
)  # fmt: skip


def test_files_answer_as_the_server_does(page: Any, address: str, bundle: Path) -> None:
    shown = {}
    page.goto((bundle / "run-1" / "features.html").as_uri())
    for query in QUERIES:
        page.evaluate(
            "query => { history.pushState(null, '', `?${query}`); dispatchEvent(new Event('popstate')); }", query
        )
        shown[query] = page.evaluate("[...document.querySelectorAll('output, .lines .id')].map(one => one.innerText)")
        with urllib.request.urlopen(f"{address}/run/features?{quote(query, safe='=&')}") as answer:
            html = answer.read().decode()
        assert shown[query] == [unescape(one) for one in re.findall(r'<(?:output|span class="id")>(.*?)<', html)], query
    assert len(shown["page=2"]) == 11 and shown["q=beekeeping"][1:] and shown["kind=controls"] and not shown["q=!!"][1:]
    page.goto(f"{page.url.split('?')[0]}?status=nope")
    assert page.locator(".note").inner_text() == "status “nope” is none of this list" and not ids(page)


def test_files_make_the_tables_that_the_server_makes(page: Any, address: str, bundle: Path, place: Path) -> None:
    for query in ("", "page=2", "q=script", "q=many", "q=the&sort=sure&condition=writes", "kind=controls"):
        page.goto(f"{(bundle / 'run-1' / 'features.html').as_uri()}?{query}")
        for kind in ("csv", "jsonl"):
            with page.expect_download() as told:
                page.click(f".tables button:text-is('{kind.upper()}')")
            with urllib.request.urlopen(f"{address}/run/table.{kind}?{query}") as answer:
                assert Path(told.value.path()).read_bytes() == answer.read(), (query, kind)
            assert told.value.suggested_filename == f"run.{kind}"
        assert page.locator(".send").is_visible() != (query == "kind=controls")
    page.goto(f"{(bundle / 'run-1' / 'features.html').as_uri()}?q=zzz")
    assert not page.locator(":is(.tables, .send):visible").count()


def test_files_tell_the_commands_that_write_what_they_do_not(
    page: Any, bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    page.goto(f"{(bundle / 'run-1' / 'features.html').as_uri()}?condition=writes")
    page.click(".send summary")
    parquet, neuronpedia = [shlex.split(one) for one in page.locator(".send .typed").all_inner_texts()]
    assert parquet == ["dragoman", "export", "run", "--format", "parquet", "--condition", "writes"]
    for words in (parquet, neuronpedia):
        shown = command(monkeypatch, capsys, *words[1:], "-o", "out")
        assert shown.code == 0, shown.err
    assert {"explanations.parquet", "v1"} <= {one.name for one in (place / "out").iterdir()}


def test_too_many_hits_to_be_ordered_stay_in_the_order_of_the_run(
    page: Any, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.view.find.RANKED", 9)
    monkeypatch.setattr("dragoman.view.bundle.RANKED", 9)
    view = viewed(run)
    page.goto(Path(write_bundle([view], tmp_path / "out", nothing).page).with_name("features.html").as_uri())
    list_of = page.url
    for query in ({"q": "text about"}, {"q": "text about", "sort": "sure"}, {"q": "beekeeping"}):
        selection = Selection.of(query, view.index)
        with view.index.reading() as database:
            answer = found(database, selection, view.index, view.columns(selection))
        page.goto(f"{list_of}?{urlencode(query)}")
        assert ids(page) == [one.id for one in answer.lines], query
        notes = page.locator(".note").all_inner_texts()
        assert answer.note in "".join(notes) and any("too many" in one for one in notes) == bool(answer.note)
    view.close()


SCRIPTS = (
    "ガイド カイト", "हिन्दी भाषा", "한국어 한글", "آدم ادم", "ΟΔΟΣ οδός", "שָׁלוֹם", "Ǽon µ ŉ", "\U0001f600 tea ₺",
    "a\u200db c\u0301afe \U00030000x",
)  # fmt: skip
ASKED = (
    "ガイド", "カイト", "हि", "हिन्दी", "न", "한국", "한국얼", "한글ᆯ", "آدم", "ادم", "οδοσ", "ΟΔΟΣ", "οδός", "שלום",
    "שָׁלוֹם", "ǽon", "μ", "ŉ", "₺", "₺ tea", "\U0001d49c\U0001d49e", "tea\0bag", "café", "c\u0301a", "a\u200db",
    "\U00030000", "İ", "ab" * 200,
)  # fmt: skip


def test_words_of_every_script_are_found_in_files_as_on_the_server(page: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", manifest_of([str(k) for k in range(len(SCRIPTS))]))
    rows = [row for row in rows_of([str(k) for k in range(len(SCRIPTS))]) if row["kind"] == "feature"]
    run.append([row | {"label": SCRIPTS[int(row["feature"])]} for row in rows])
    view = viewed(run)
    page.goto(Path(write_bundle([view], tmp_path / "out", nothing).page).with_name("features.html").as_uri())
    empty = 0
    for q in ASKED:
        selection = Selection.of({"q": q}, view.index)
        with view.index.reading() as database:
            answer = found(database, selection, view.index, view.columns(selection))
        page.evaluate(
            "q => { history.pushState(null, '', `?${q}`); dispatchEvent(new Event('popstate')); }", urlencode({"q": q})
        )
        assert sorted(ids(page)) == sorted(one.id for one in answer.lines), q
        empty += not answer.lines
    assert 0 < empty < len(ASKED) / 2
    view.close()


def test_what_no_list_of_a_run_answers_is_told_in_files(page: Any, bundle: Path) -> None:
    page.goto((bundle / "run-2" / "features.html").as_uri())
    list_of = page.url
    for asked in (
        "condition=nope",
        "flagged=no",
        "kind=all",
        "route=x",
        "trust=x",
        "least=1e9",
        "page=0",
        "sort=constructor",
    ):
        page.goto(f"{list_of}?{asked}")
        name, value = asked.split("=")
        assert page.locator(".note").inner_text() == f"{name} “{value}” is none of this list" and not ids(page)
    page.goto(f"{list_of}?q=many&by=meaning")
    assert page.locator(".note").inner_text().startswith("files are searched for words") and not ids(page)
    page.goto(f"{list_of}?q=many&condition=writes")
    assert page.locator(".note").inner_text().endswith("only the first 20\u202f000 characters of a text are searched")
    page.goto((bundle / "run-2" / "feature-3.html").as_uri() + "?condition=nope")
    page.click(".around .up >> nth=0")
    page.wait_for_url("**/features.html?condition=nope")


def test_a_bundle_opens_from_its_files_and_is_searched_there(page: Any, bundle: Path) -> None:
    page.goto((bundle / "index.html").as_uri())
    page.click("text=small")
    page.wait_for_url("**/run-2/index.html")
    assert page.evaluate("getComputedStyle(document.querySelector('.kicker')).fontSize") != "16px", "styled"
    page.click(".doors a >> nth=0")
    page.wait_for_url("**/features.html?status=ok", wait_until="load")  # keys struck before that go nowhere
    assert page.input_value("select[name=status]") == "ok"
    page.click("text=clear")
    page.keyboard.press("/")
    page.keyboard.type("text about")
    page.wait_for_url("**/features.html?q=text+about")
    page.select_option("select[name=status]", "weak")
    page.wait_for_url("**/features.html?q=text+about&status=weak")
    assert sorted(ids(page)) == ["1", "13", "17", "9"]  # 5 says something else
    page.go_back()
    page.wait_for_url("**/features.html?q=text+about")
    assert len(ids(page)) == 18 and page.input_value("select[name=status]") == ""
    page.go_forward()
    page.select_option("select[name=sort]", "coverage")
    page.wait_for_url("**sort=coverage")
    page.evaluate("document.activeElement.blur()")
    for _ in range(2):
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/feature-13.html?q=text+about&status=weak&sort=coverage")
    page.keyboard.press("j")
    page.wait_for_url("**/feature-9.html?q=text+about&status=weak&sort=coverage")
    page.keyboard.press("l")
    page.wait_for_url("**/features.html?q=text+about&status=weak&sort=coverage")
    page.goto((bundle / "run-2" / "feature-3.html").as_uri())
    page.fill(".quick input", "beekeeping")
    page.keyboard.press("Enter")
    page.wait_for_url("**/run-2/features.html?q=beekeeping")


def test_a_feature_in_files_leads_to_other_runs(page: Any, bundle: Path) -> None:
    page.goto((bundle / "run-2" / "feature-3.html").as_uri())
    other = page.locator("#near h3:has-text('in other runs') + ol li")
    assert other.first.inner_text().startswith("same") and other.count() == 5  # itself, and like texts
    other.first.locator("a").click()
    page.wait_for_url("**/run-1/feature-3.html")


def test_a_selection_goes_out_for_neuronpedia_by_keys_alone(page: Any, address: str) -> None:
    page.goto(f"{address}/run/features?status=weak")
    page.locator(".send summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".send form").is_visible()
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "author_id"
    page.keyboard.type("someone")
    with page.expect_download() as told:
        page.keyboard.press("Enter")
    assert told.value.suggested_filename == "run.neuronpedia.zip"
    assert page.url.endswith("/run/features?status=weak"), "the list stays"
    with zipfile.ZipFile(told.value.path()) as archive:
        assert "v1/gemma-2-2b/20-gemmascope-res-16k/README.md" in archive.namelist()


def test_activations_are_told_in_numbers_and_not_by_colour_alone(page: Any, address: str) -> None:
    page.goto(f"{address}/run/feature?id=3")
    assert page.locator(".fired .act").all_inner_texts() == ["7.5"]
    assert page.locator(".fired .lit").first.get_attribute("title") == "activation 1.25"
    page.locator(".acts summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".acts td").all_inner_texts() == ["1", "·day,", "1.25", "1", "·valley.", "7.5"]


def test_paper_opens_what_is_folded_and_leaves_tables_and_forms_out(page: Any, address: str) -> None:
    for path, out in (("/run/feature?id=3", ".acts"), ("/run/features", ".send")):
        page.goto(address + path)
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert not page.locator(out).is_visible()
    page.goto(f"{address}/run/feature?id=3")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".said details").first.get_attribute("open") is not None
    page.emulate_media(media="screen")


def test_a_run_of_45_features_is_printed_on_few_sheets_with_its_texts_and_cards(page: Any, tmp_path: Path) -> None:
    page.goto(write_page(build_run(tmp_path / "run"), tmp_path / "page.html").as_uri())
    sheets = page.pdf(prefer_css_page_size=True, format="A4").count(b"/Type /Page\n")
    assert 10 < sheets <= 20, sheets
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for kind in (".said .text", ".crossing", ".said .scores"):
        assert page.locator(f".feature {kind}:visible").count() >= 45, kind
    assert not page.locator(".finder:visible, nav:visible, .inside details:not([open]):visible").count()
