"""The viewer's pages: what they say of a run and a feature, what is found, and hostile texts as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.report.lit import lit
from report_fixture import HOSTILE, Page, build_run
from viewed_run import HOSTILE_ID, LONG_ID, ODD_ID, RARE_ID, TOPIC, client_of, make_run, viewed

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    view = viewed(make_run(tmp_path_factory.mktemp("viewed") / "run", odd=True))
    yield client_of(view)
    view.close()


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    view = viewed(build_run(tmp_path_factory.mktemp("post") / "run"))
    yield client_of(view)
    view.close()


def read(client: Any, address: str, **headers: str) -> Page:
    answer = client.get(address, headers=headers)
    assert answer.status_code == 200, answer.text[:400]
    return Page(answer.text.replace('<meta name="htmx', '<meta data-name="htmx'))


def ids(page: Page, html: str) -> list[str]:
    return re.findall(r'<span class="id">([^<]*)</span>', html)


def listed(client: Any, query: str) -> list[str]:
    answer = client.get(f"/run/features?{query}")
    assert answer.status_code == 200, answer.text[-300:]
    return re.findall(r'<span class="id">([^<]*)</span>', answer.text)


def test_one_run_is_where_the_root_leads(client: Any) -> None:
    assert client.get("/", follow_redirects=False).headers["location"] == "/run/"


def test_the_overview_says_what_was_run_and_how_many_it_abstains_from_and_why(client: Any) -> None:
    said = read(client, "/run/").text
    assert "Features of gemma-2-2b, block 20, put into words by some/target, block 12" in said
    assert "Each feature is read twice" in said
    assert "abstained from" in said
    assert "what weighed most against it where it abstains: coverage" in said
    assert "57 of 171 sentences of “fires on”, 57 could not be checked" in said


def test_the_overview_of_a_scored_run_shows_every_score_with_its_null(post: Any) -> None:
    page = read(post, "/run/")
    for words in (
        "How far to trust the words",
        "Read back from the words alone",
        "raw cosine",
        "on random",
        "random_washed",
    ):
        assert words in page.text, words
    assert "name the planted category of" in page.text


def test_the_list_shows_a_page_and_its_links(client: Any) -> None:
    assert listed(client, "") == [str(k) for k in range(50)]
    assert len(listed(client, "page=2")) == 10
    assert listed(client, "page=9") == []
    html = client.get("/run/features?status=ok&page=1").text
    assert 'href="/run/feature?id=0&amp;status=ok"' in html


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("q=beekeeping", ["0", "45"]),
        ("q=BEEKEEP", ["0", "45"]),
        ('q="beekeep"', []),
        ("q=42", ["42"]),
        ("q=beekeeping&status=weak", ["45"]),
        ("q=..%2F..%2Fetc", [ODD_ID.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")]),
    ],
)
def test_words_are_found_in_texts_labels_and_ids(client: Any, query: str, wanted: list[str]) -> None:
    found = listed(client, query)
    assert set(wanted) <= set(found)
    assert found == [] if not wanted else found


def test_a_phrase_is_found_as_it_stands(client: Any) -> None:
    assert "19" in listed(client, 'q="tropical fruit"')
    assert listed(client, 'q="fruit tropical"') == []


def test_words_of_one_condition_are_not_those_of_another(client: Any) -> None:
    other = TOPIC[3 + 1].split()[-1]  # the second sample of feature 0's reading "fires" names it
    assert "0" in listed(client, f"q={other}&condition=fires")
    assert "0" not in listed(client, f"q={other}&condition=writes")


@pytest.mark.parametrize(
    "words", ['"', "*", "AND", "a OR b", 'x" OR "y', "names:1", "NEAR(a b)", "(", "\0", "'; DROP TABLE texts", "%"]
)
def test_what_is_typed_is_never_a_command(client: Any, words: str) -> None:
    assert client.get("/run/features", params={"q": words}).status_code == 200


def test_filters_leave_what_they_say(client: Any) -> None:
    assert listed(client, "status=differs")[:3] == ["3", "7", "11"]
    answered = listed(client, "trust=answered")
    abstained = listed(client, "trust=abstained")
    assert not set(answered) & set(abstained)
    assert set(listed(client, "trust=none")) == {HOSTILE_ID, LONG_ID}
    assert set(listed(client, "least=0.6")) == set(answered)
    assert listed(client, "flagged=yes") == [LONG_ID]
    assert RARE_ID not in listed(client, "condition=fires")
    assert listed(client, "kind=controls") == [f"random-{k}" for k in range(4)]
    assert len(listed(client, "route=direct")) == 50
    assert listed(client, "route=direct&status=differs")[:3] == ["3", "11", "15"]  # 7 fires too rarely for it


def test_orders_are_what_they_say(client: Any) -> None:
    def confidence(query: str) -> list[float]:
        html = client.get(f"/run/features?{query}").text
        return [float(one) for one in re.findall(r"(?:confidence|abstains) (\d\.\d\d)", html)]

    assert confidence("sort=sure") == sorted(confidence("sort=sure"), reverse=True)
    assert confidence("sort=unsure") == sorted(confidence("sort=unsure"))
    assert listed(client, "sort=sure&page=2")[-2:] == [HOSTILE_ID, LONG_ID]  # those without one are last
    assert listed(client, "sort=coverage")[:2] == [
        ODD_ID.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        "58",
    ]


@pytest.mark.parametrize(
    "query", ["status=nope", "condition=x", "sort=drop", "page=0", "page=x", "least=2", "by=magic"]
)
def test_a_view_that_is_none_is_refused_in_a_sentence(client: Any, query: str) -> None:
    answer = client.get(f"/run/features?{query}")
    assert answer.status_code == 404
    assert "There is no such page" in answer.text


def test_htmx_is_given_the_results_alone_and_a_clean_address(client: Any) -> None:
    answer = client.get("/run/features?q=fruit&by=&status=&page=1", headers={"HX-Request": "true"})
    assert "<html" not in answer.text
    assert answer.headers["HX-Push-Url"] == "/run/features?q=fruit"


def test_a_feature_page_says_what_is_known(client: Any) -> None:
    page = read(client, "/run/feature?id=3&status=differs")
    for words in (
        "About oil painting", "fires on", "writes", "supported", "not supported", "1 more sample", "Where it fires",
        "Words that its row writes", "by direction, in the source", "How its direction crossed",
        "back to the selection", "The dictionary’s label", "mentions of oil painting",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.having("span", **{"class": "l4"}), "the word it fires on most is lit most"
    assert page.having("a", rel="noreferrer")[0]["href"] == (
        "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/3"
    )
    assert [a["href"] for a in page.having("a", rel="next")] == ["/run/feature?id=7&status=differs"] * 2


def test_a_feature_of_the_dictionary_that_was_not_run_is_named_and_not_linked(client: Any) -> None:
    html = client.get("/run/feature?id=3").text
    assert 'href="/run/feature?id=4">feature 4</a>' in html
    assert "feature 40404" in html
    assert "id=40404" not in html


def test_words_are_lit_by_their_share_of_the_activation_and_not_by_their_rank() -> None:
    told = {
        one.text: one.level for one in lit("The kiln, and the rye.", {"the": 0.09, "kiln": 0.3, ",": 0.03, "rye": 0.01})
    }
    assert told == {"The": 1, " ": 0, "kiln": 3, ",": 1, " and ": 0, "the": 1, " rye.": 0}


def test_words_that_only_one_text_has_are_marked(client: Any) -> None:
    html = client.get("/run/feature?id=0").text
    own = re.findall(r'<span class="own">([^<]*)</span>', html)
    assert TOPIC[3] in own
    assert TOPIC[7] in own
    assert not any(TOPIC[0] in one for one in own)


def test_a_reading_that_is_not_there_says_why(client: Any) -> None:
    assert "fires in 8 effective documents, 20 are needed" in read(client, f"/run/feature?id={RARE_ID}").text


def test_the_nearest_by_direction_comes_first_with_its_cosine(client: Any) -> None:
    html = client.get("/run/feature?id=0").text
    section = html[html.index("by direction") :]
    assert re.search(r'<span class="n">\+0\.9\d</span> <a href="/run/feature\?id=1"', section)


def test_no_such_feature_is_said_in_a_sentence(client: Any) -> None:
    answer = client.get("/run/feature?id=999")
    assert answer.status_code == 404
    assert "this run has no such feature" in answer.text


def test_hostile_texts_are_text(client: Any) -> None:
    for address in (f"/run/feature?id={HOSTILE_ID}", "/run/features", "/run/features?q=alert"):
        html = client.get(address).text
        page = Page(html)
        assert HOSTILE.split("\n")[0] in page.text
        assert not page.having("img")
        assert "alert(" not in "".join(page.blocks.values())
        assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
    assert "\\u202egnorw si siht" in client.get(f"/run/feature?id={HOSTILE_ID}").text


def test_a_text_of_200_kb_is_shown_whole(client: Any) -> None:
    answer = client.get(f"/run/feature?id={LONG_ID}")
    assert answer.text.count("many words.") >= 2 * 17_000
    assert "long" in answer.text


def test_an_id_that_no_path_could_hold_has_its_page(client: Any) -> None:
    answer = client.get("/run/feature", params={"id": ODD_ID})
    assert answer.status_code == 200
    assert Page(answer.text).text.count(ODD_ID) >= 1


def test_a_query_is_shown_as_text(client: Any) -> None:
    page = read(client, '/run/features?q="><script>alert(1)</script>')
    assert page.having("input", name="q")[0]["value"] == '"><script>alert(1)</script>'


def test_of_two_runs_of_a_dictionary_the_same_feature_is_linked(tmp_path: Path) -> None:
    views = viewed(make_run(tmp_path / "a", 8), "a"), viewed(make_run(tmp_path / "b", 8), "b")
    client = client_of(*views)
    assert "all runs" in read(client, "/a/").text
    assert [a["href"] for a in read(client, "/").having("a", **{"class": "what"})] == ["/a/", "/b/"]
    assert "/b/feature?id=3" in [a.get("href") for a in read(client, "/a/feature?id=3").having("a")]
    for view in views:
        view.close()


def test_neighbours_are_those_of_the_selection_it_was_opened_from(client: Any) -> None:
    def around(query: str) -> tuple[list[str], list[str]]:
        page = read(client, f"/run/feature?{query}")
        return tuple([a["href"] for a in page.having("a", rel=rel)][:1] for rel in ("prev", "next"))  # type: ignore[return-value]

    assert around("id=4") == (["/run/feature?id=3"], ["/run/feature?id=5"])
    assert around("id=4&status=ok") == (["/run/feature?id=0&status=ok"], ["/run/feature?id=8&status=ok"])
    assert around("id=0&status=ok") == ([], ["/run/feature?id=4&status=ok"])
    assert around("id=3&status=ok") == (["/run/feature?id=2&status=ok"], ["/run/feature?id=4&status=ok"]), "not of it"
    order = listed(client, "sort=sure")
    assert around(f"id={order[3]}&sort=sure") == (
        [f"/run/feature?id={order[2]}&sort=sure"], [f"/run/feature?id={order[4]}&sort=sure"],
    )  # fmt: skip
