"""Windows on a feature's page, lit by the activation of each token; and what it says of runs that keep none."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from dragoman.records import TokenWindow
from dragoman.report.lit import lit_tokens
from dragoman.store import RunFolder
from dragoman.store.firing import write_tokens
from dragoman.store.runs import TOKENS
from report_fixture import HOSTILE
from viewed_run import HOSTILE_ID, client_of, make_run, viewed

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")


def fires(run: RunFolder, feature: str) -> str:
    """The page's section on where a feature fires."""
    view = viewed(run)
    try:
        answer: Any = client_of(view).get(f"/run/feature?id={feature}")
    finally:
        view.close()
    assert answer.status_code == 200
    return answer.text.partition('<section id="fires">')[2].partition("</section>")[0]


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_tokens_are_lit_by_their_own_activation_and_told_in_numbers(tmp_path: Path) -> None:
    page = fires(make_run(tmp_path / "run", 12), "3")
    assert re.findall(r'<span class="lit l(\d)" title="activation ([^"]+)">([^<]*)</span>', page) == [
        ("1", "1.25", "day,"), ("4", "7.5", "valley."),
    ]  # fmt: skip
    assert '<small class="act">7.5</small>' in page and '<small class="act">1.25</small>' not in page
    rows = re.findall(r"<tr><td>(\d+)</td><td><code[^>]*>(.*?)</code></td><td>([^<]*)</td></tr>", page)
    assert [(number, text_of(token), value) for number, token, value in rows] == [
        ("1", "·day,", "1.25"), ("1", "·valley.", "7.5"),
    ]  # fmt: skip
    assert re.findall(r'<span class="past">([^<]*)</span>', page) == ["&lt;i&gt;Once. ", " &amp; so on."]
    assert "as a share of the largest here" in page and "No token is lit" not in page


def test_a_run_without_them_says_so_and_lights_words_by_their_shares(tmp_path: Path) -> None:
    page = fires(make_run(tmp_path / "run", 12, tokens=False), "3")
    assert "No token is lit by its own activation: this run keeps no activations of single tokens." in page
    assert 'class="lit l4"' in page and "every activation" not in page and "title=" not in page


def test_those_of_other_windows_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 12)
    write_tokens(run, {"3": [TokenWindow(ends=(4000,), at=(0,), fires=(1.0,))], "4": []})
    assert "tokens.jsonl is left out: its tokens are not those of these windows" in fires(run, "3")
    assert "this run keeps no activations of single tokens" in fires(run, "4")


def test_a_damaged_file_is_left_out_and_the_overview_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 12)
    (run.path / TOKENS).write_text("[]\n")
    view = viewed(run)
    assert any(one.startswith("tokens.jsonl is left out") for one in view.index.about["missing"])
    assert client_of(view).get("/run/feature?id=3").status_code == 200
    view.close()
    write_tokens(run, {})
    with (run.path / TOKENS).open("a") as file:
        file.write('{"feature":"3","windows":[{"ends":"<b>"}]}\n')
    assert "tokens.jsonl is left out: windows.0.ends" in fires(run, "3")


def test_hostile_windows_are_text_in_tokens_too(tmp_path: Path) -> None:
    page = fires(make_run(tmp_path / "run", 12), HOSTILE_ID)
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert " ".join(HOSTILE.split()) in " ".join(text_of(page).split()) and 'class="act"' in page


def test_levels_go_by_the_largest_of_all_windows() -> None:
    one = TokenWindow(ends=(1, 2, 3, 4, 5), at=(0, 1, 2, 3), fires=(8.0, 4.1, 2.1, 0.1))
    other = TokenWindow(ends=(1, 2), at=(1,), fires=(4.0,), unread=(0,))
    first, second = lit_tokens([("abcde", one), ("xyz", other)])
    assert [(a.text, a.level, a.strongest) for a in first] == [
        ("a", 4, True), ("b", 3, False), ("c", 2, False), ("d", 1, False), ("e", 0, False),
    ]  # fmt: skip
    assert [(a.text, a.level, a.activation) for a in second] == [("x", 0, None), ("y", 2, 4.0), ("z", 0, None)]
    assert lit_tokens([("silent", TokenWindow())])[0][0].level == 0


def test_blanks_before_a_word_are_not_lit_and_those_that_are_the_token_are() -> None:
    told = lit_tokens([("a\n\n b \n", TokenWindow(ends=(1, 5, 7), at=(1, 2), fires=(1.0, 2.0)))])[0]
    assert [(one.blanks, one.word) for one in told] == [("", "a"), ("\n\n ", "b"), ("", " \n")]
