"""The site builds, its links lead somewhere, nothing in it is fetched from elsewhere; the notebook is its script."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
import yaml
from markdown_it import MarkdownIt

import dragoman
import schemas
import site_hooks
import tutorial_notebook as notebook
from dragoman.commands import printing
from dragoman.records import Card, PromptToken, Row
from dragoman.scores import Scores

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
# What a browser fetches by itself; what <a> names it does not.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


class Page(HTMLParser):
    """What a page fetches, where it leads, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.places |= {str(told[key]) for key in ("id", "name") if told.get(key)}
        if told.get(FETCHED.get(tag, "")):
            self.fetched.append(str(told[FETCHED[tag]]))
        if told.get("srcset"):
            self.fetched += [one.split()[0] for one in str(told["srcset"]).split(",")]
        if tag == "a" and told.get("href"):
            self.links.append(str(told["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    # As `make docs` builds it, but that garbage is not looked for among a package's syntax trees: a fifth of the time.
    begin = "import gc; gc.disable(); from mkdocs.__main__ import cli; cli()"
    words = [sys.executable, "-c", begin, "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_of_the_docs_is_in_the_site(site: Path, pages: dict[Path, Page]) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in pages}
    assert built == written | {Path("tutorial"), Path("404")}


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert page.fetched
        assert not [one for one in page.fetched if urlsplit(one).netloc], path
        text = path.read_text()
        assert "@import" not in text and 'class="mermaid"' not in text  # the theme would fetch a script for these
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", path.read_text()), path


def test_every_link_within_the_site_leads_to_a_place_that_is_there(site: Path, pages: dict[Path, Page]) -> None:
    checked = 0
    for path, page in pages.items():
        for link in (*page.links, *page.fetched):
            to = urlsplit(link)
            if to.scheme or to.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (path, link)
            if to.fragment and target in pages:
                assert unquote(to.fragment) in pages[target].places, (path, link)
            checked += 1
    assert checked > 1000


def of_github(path: Path) -> tuple[list[str], set[str]]:
    """Where a page of Markdown leads as GitHub shows it, and the names of its places; formulas are no links."""
    if path.suffix == ".ipynb":
        text = "\n\n".join(one.source for one in notebook.nbformat.read(path, 4).cells if one.cell_type == "markdown")
    else:
        text = path.read_text()
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    links, places, counts = list[str](), set[str](), Counter[str]()
    for k, token in enumerate(tokens):
        inner = token.children or []
        links += [str(one.attrs[key]) for one in inner for key in ("href", "src") if key in one.attrs]
        if token.type.startswith("html") or any(one.type == "html_inline" for one in inner):
            page = Page(token.content)
            links, places = links + page.links + page.fetched, places | page.places
        if token.type == "heading_open":
            said = "".join(one.content for one in tokens[k + 1].children or [] if one.type in ("text", "code_inline"))
            name = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            places.add(f"{name}-{counts[name]}" if counts[name] else name)
            counts[name] += 1
    return links, places


def test_every_link_of_the_readme_and_the_docs_leads_to_a_place_that_github_has() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = {(ROOT / one).resolve() for one in tracked if one and (ROOT / one).exists()}
    read = {
        ROOT / "README.md",
        *(one for one in files if ROOT / "docs" in one.parents and one.suffix in (".md", ".ipynb")),
    }
    found = {path: of_github(path) for path in read}
    checked, places = 0, 0
    for path, (links, _) in found.items():
        for link in links:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                assert to.scheme in ("https", "http", "mailto", "data"), (path, link)
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            assert target in files or any(target in one.parents for one in files), (path.name, link)
            if to.fragment and target in found:
                assert unquote(to.fragment) in found[target][1], (path.name, link)
                places += 1
            checked += 1
    assert checked > 100 and places > 5


def test_formulas_are_mathml_and_none_is_left_as_latex(site: Path) -> None:
    text = (site / "concepts.html").read_text()
    source = (ROOT / "docs" / "concepts.md").read_text()
    assert text.count("<math ") == len(re.findall(r"\$\$[^$]+\$\$|\$[^$]+\$", source)) > 100
    assert "arithmatex" not in text and "merror" not in text and "\\frac" not in text
    body = re.sub(r"<(script|pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert "$" not in body
    assert site_hooks.with_mathml(r'<span class="arithmatex">\(a &lt; b\)</span>').count("<mo>&#x0003C;</mo>") == 1
    assert (site / "assets" / "STIXTwoMath.LICENSE").is_file()


def test_python_reference_has_every_public_name(site: Path) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    named = set(re.findall(r"^::: dragoman\.(\w+)$", text, re.MULTILINE))
    assert named == set(dragoman.__all__) - {"__version__"} and "`dragoman.__version__`" in text
    built = (site / "python.html").read_text()
    assert all(f'id="dragoman.{name}"' in built for name in named)


def test_figures_of_performance_are_those_the_benches_wrote() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    rows, moments, viewer, prompts, decode = (
        json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
        for name in ("rows", "moments", "viewer", "prompts", "decode")
    )
    asked = (prompts["own"], prompts["crossed"])
    speeds = ("loop_at_64_tokens_per_s", "loop_tokens_per_s", "captured_full_tokens_per_s", "tokens_per_s")
    for one in (*speeds, "mixed_tokens_per_s", "ceiling_tokens_per_s"):
        assert f"| {decode['qwen'][one]:,.0f} | {decode['gemma'][one]:,.0f} |" in text, one
    for told in (
        f"{rows['seconds'] * 1000:.0f} ms, peak {rows['peak_mb']:.0f} MB; loading the whole file",
        f"{rows['full_load_seconds']:.2f} s, {rows['full_load_peak_mb']:.0f} MB",
        f"{rows['http_seconds']:.2f} s, {rows['http_requests']} requests, {rows['http_bytes'] / 1e6:.1f} MB",
        f"{moments['seconds']:.0f} s, peak {moments['peak_reading_gb']:.1f} GB while reading",
        f"{moments['peak_leaving_a_fold_out_gb']:.1f} GB leaving a fold out",
        f"{viewer['index_seconds']:.0f} s ({viewer['index_cpu_seconds']:.0f} s of processor time)",
        f"{viewer['index_megabytes']} MB",
        *(
            f"| {name} | {viewer[f'{of}_ms']:.0f} ms | {viewer[f'{of}_median_ms']:.0f} ms |"
            for name, of in (
                ("a search for words", "search"),
                ("a search by meaning", "meaning"),
                ("a page", "page"),
                ("a page with what is alike in meaning", "page_meaning"),
            )
        ),
        *(f"{round(100 * one['value'])} % [{round(100 * one['low'])}, " for one in asked),
    ):
        assert told in text, told


def test_schemas_are_those_of_the_records_and_take_what_is_written() -> None:
    made = schemas.rendered()
    assert {path.name: path.read_text() for path in schemas.FOLDER.iterdir()} == made
    token = PromptToken(prompt="a b", number=0, token=" b", position=2, begin=1, end=3)
    card = Card(coverage=0.5, status="weak", why="x")
    row = Row(
        feature="1", label="", kind="feature", condition="fires", sample=0, text="x", raw="x", problems=("y",),
        tokens=1, log_probability=None, card=card, token=token,
    )  # fmt: skip
    validator = jsonschema.Draft202012Validator(json.loads(made["row.schema.json"]))
    validator.validate(row.to_json())
    assert not validator.is_valid(row.to_json() | {"sample": "0"}) and not validator.is_valid({"feature": "1"})
    jsonschema.Draft202012Validator(json.loads(made["scores.schema.json"])).validate(Scores(format=2).to_json())


def test_every_object_that_a_command_prints_has_a_version_and_is_told() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    kinds = set(re.findall(r'(?:put_record|with_schema)\("(\w+)"', code))
    assert kinds == set(printing.VERSIONS)
    told = dict(re.findall(r"^\| `dragoman\.(\w+)/(\d+)` \|", (ROOT / "docs" / "formats.md").read_text(), re.MULTILINE))
    assert told == {kind: str(version) for kind, version in printing.VERSIONS.items()}


def test_the_notebook_is_its_script_and_every_cell_has_run() -> None:
    stored, script = notebook.nbformat.read(notebook.NOTEBOOK, 4), notebook.from_script()
    assert [(c.cell_type, c.id, c.source) for c in stored.cells] == [
        (c.cell_type, c.id, c.source) for c in script.cells
    ]
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)) and len(code) >= 12
    assert not [one for cell in code for one in cell.outputs if one.output_type == "error"]
    shown = {kind for cell in code for one in cell.outputs for kind in one.get("data", {})}
    assert shown == {"text/plain", "text/html"}
    assert str(Path.home()) not in notebook.NOTEBOOK.read_text() and "/tmp" not in notebook.NOTEBOOK.read_text()


def test_citation_agrees_with_the_package_and_the_readme() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (told["cff-version"], told["type"]) == ("1.2.0", "software")
    assert (told["title"], told["version"], told["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    post, paper, blog = told["references"]
    assert post["title"] in readme and all(one["url"] in readme for one in (post, paper, blog))
    assert [one["authors"][0]["family-names"] for one in (post, paper, blog)] == ["Zaffino", "Fraser-Taliente", "Lin"]
    assert "Gemma Terms of Use" in readme[-500:]


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_pages_open_in_a_browser_without_a_complaint_and_without_asking_anybody(served: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((served, "data:")) else complaints.append(one.url))
        for name in ("index", "tutorial", "concepts", "cli", "howto/own-sae", "pair", "python", "results/post"):
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{served}{name}.html", timeout=60_000)
            for width in (1280, 400):
                page.set_viewport_size({"width": width, "height": 900})
                page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, (name, width, wide)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{served}index.html", timeout=60_000)
        page.wait_for_load_state("networkidle")  # the index of words is there, and the theme listens
        page.locator("input[name=query]").click()
        page.keyboard.type("washout")
        page.locator(".md-search-result__link").first.wait_for(timeout=60_000)  # found without a server of anybody's
        browser.close()
    assert not complaints


def test_the_source_distribution_takes_what_lies_at_the_root_alone() -> None:
    # Unanchored, these names fit the pair's package too, whose weights have terms of their own.
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert told["include"] and all(name.startswith("/") for name in told["include"])
