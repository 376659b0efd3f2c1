"""Two settings compared feature by feature, on runs whose difference is planted."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman import Refusal, Run, compare
from dragoman.comparison import compare_runs
from dragoman.comparison.page import write_comparison
from dragoman.comparison.ranked import rank_runs
from dragoman.comparison.records import Comparison, ConditionPair, Difference
from dragoman.comparison.values import MEASURES
from dragoman.stats.nulls import holm
from dragoman.stats.paired import paired_estimate
from dragoman.store import RunFolder
from report_fixture import HOSTILE
from small_world import command
from two_runs import DEALT, IDS, WORD, claims_of, dealt, own, run_of, said, sure_of


def found_of(a: RunFolder, b: RunFolder, **how: Any) -> tuple[Comparison, ConditionPair, dict[str, Difference]]:
    found = compare_runs(a, b, **how)
    return found, found.pairs[0], {one.measure: one for one in found.pairs[0].differences}


# --- the statistic ----------------------------------------------------------------------------------------------------


def test_a_planted_difference_is_found_with_its_sign_and_its_exact_p() -> None:
    first = np.array([0.9, 0.8, 0.7, 0.9, 0.8, 0.7, 0.9, 0.8])
    one = paired_estimate(first, first - 0.25, np.random.default_rng(0), statistic="x")
    assert one.value == pytest.approx(0.25) and one.low == pytest.approx(0.25) == one.high
    assert one.p == pytest.approx(2 / 2**8)  # all signs alike, either way, of 256
    other = paired_estimate(first - 0.25, first, np.random.default_rng(0), statistic="x")
    assert other.value == pytest.approx(-0.25) and other.p == one.p
    assert one.extra["first"] - one.extra["second"] == pytest.approx(one.value)


def test_no_difference_has_p_1_and_an_interval_of_a_point() -> None:
    same = np.random.default_rng(1).random(40)
    one = paired_estimate(same, same, np.random.default_rng(0), statistic="x")
    assert (one.value, one.low, one.high, one.p) == (0.0, 0.0, 0.0, 1.0)


def test_noise_alone_is_found_as_often_as_its_level_says() -> None:
    rng, hits, covered = np.random.default_rng(2), 0, 0
    for _ in range(200):
        gap = rng.standard_normal(14)
        one = paired_estimate(gap, np.zeros(14), rng, statistic="x")
        hits += one.p <= 0.05
        covered += one.low <= 0 <= one.high
    assert 3 <= hits <= 20  # 10 expected
    assert covered >= 170


def test_features_of_one_topic_change_sign_together() -> None:
    topics = [t for t in "abcdef" for _ in range(20)]
    gap = np.repeat(np.random.default_rng(3).standard_normal(6), 20)
    alone = paired_estimate(gap, 0 * gap, np.random.default_rng(0), statistic="x")
    joined = paired_estimate(gap, 0 * gap, np.random.default_rng(0), statistic="x", topics=topics)
    assert joined.p >= 2 / 2**6 and joined.p > alone.p
    assert joined.high - joined.low > 2 * (alone.high - alone.low)
    assert (joined.n, joined.unit) == (6, "topics")


@pytest.mark.parametrize("second", [np.ones(3), np.array([1.0, np.nan]), np.ones((2, 1))])
def test_values_that_are_no_pairs_are_refused(second: np.ndarray) -> None:
    with pytest.raises(Refusal, match="same features in the same order|NaN or infinite"):
        paired_estimate(np.ones(2), second, np.random.default_rng(0), statistic="x")


# --- two runs ---------------------------------------------------------------------------------------------------------


def test_a_run_compared_with_itself_differs_in_nothing(tmp_path: Path) -> None:
    scores = sure_of(dict.fromkeys(IDS, 0.7)) | claims_of({f: {"theme": "supported"} for f in IDS})
    run = run_of(tmp_path / "run", {"fires": own, "writes": dealt}, scores=scores)
    found = compare_runs(run, RunFolder.open(run.path))
    assert [(pair.a, pair.b) for pair in found.pairs] == [("fires", "fires"), ("writes", "writes")]
    every = [one for pair in found.pairs for one in pair.differences]
    assert {one.measure for one in found.pairs[0].differences} == {
        "firing_word", "final_token", "theme", "confidence", "flagged"
    }  # fmt: skip
    assert {(one.value, one.low, one.high, one.p, one.adjusted, one.holds) for one in every} == {
        (0.0, 0.0, 0.0, 1.0, 1.0, False)
    }
    assert found.tests == len(every) == 8 and not found.differing
    for pair in found.pairs:
        assert pair.agreement.same == pair.agreement.n == len(IDS)
        assert {one.likeness for one in pair.features} == {1.0}


def test_texts_that_were_dealt_lose_in_the_known_direction(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", {"fires": own}), run_of(tmp_path / "b", {"fires": dealt})
    found, pair, by = found_of(a, b)
    assert (by["firing_word"].a, by["firing_word"].b, by["firing_word"].value) == (1.0, 0.0, 1.0)
    assert by["firing_word"].p == pytest.approx(2 / 2 ** len(IDS)) and by["firing_word"].holds
    assert by["firing_word"].features == by["firing_word"].n == len(IDS)
    assert by["flagged"].value == 0 and not by["flagged"].holds
    swapped = {one.measure: one for one in compare_runs(b, a).pairs[0].differences}
    assert swapped["firing_word"].value == -1.0
    adjusted = holm(np.array([one.p for one in pair.differences]))
    assert [one.adjusted for one in pair.differences] == adjusted.tolist() and found.tests == len(adjusted)
    likeness = pair.agreement.likeness
    assert likeness is not None and likeness.value < 0  # a text is nearer to another feature's than to its own
    assert pair.agreement.same == 0


def test_features_cluster_by_category_whichever_run_tells_it(tmp_path: Path) -> None:
    info = {f: {"category": "first" if k < 6 else "second"} for k, f in enumerate(IDS)}
    planted = {"feature_info": info, "category_words": {"first": ["owl"], "second": ["glove"]}}
    told = run_of(tmp_path / "a", {"fires": own}, **planted)
    untold = run_of(tmp_path / "b", {"fires": dealt})
    for a, b in ((told, untold), (untold, told)):
        (pair,) = compare_runs(a, b).pairs
        word = next(one for one in pair.differences if one.measure == "firing_word")
        assert (word.unit, word.n, word.p) == ("topics", 2, 0.5) and not word.holds
        ranked = next(one for one in rank_runs([a, b]).conditions[0].measures if one.measure == "firing_word")
        assert ranked.contrasts[0].unit == ranked.rated[0].unit == "topics" and ranked.tied


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    noisy = lambda f: own(f) if int(f) % 3 else dealt(f)  # noqa: E731
    a, b = run_of(tmp_path / "a", {"fires": own}), run_of(tmp_path / "b", {"fires": noisy})
    first, second = (json.dumps(compare_runs(a, b, seed=3).to_json()) for _ in range(2))
    assert first == second
    assert compare_runs(a, b, seed=4).pairs[0].differences[0].low != pytest.approx(9.0)


def test_what_one_run_was_not_scored_for_is_missing_and_said(tmp_path: Path) -> None:
    chances = {f: 0.1 + 0.05 * k for k, f in enumerate(IDS)}
    a = run_of(tmp_path / "a", {"fires": own}, scores=sure_of(chances))
    b = run_of(tmp_path / "b", {"fires": own})
    missing = {one.measure: one.why for one in compare_runs(a, b).pairs[0].missing}
    assert missing["confidence"] == "of B: it has no confidences"
    assert missing["detection"] == (
        "of both runs: A: its scores hold no detection of this condition; B: it was not scored"
    )
    assert missing["lift"] == "of both runs: it has no native texts that a lift is measured against"
    assert missing["lens_overlap"] == "of both runs: it holds no lens words of this condition"
    compared = {one.measure for one in compare_runs(a, b).pairs[0].differences}
    assert compared | set(missing) == set(MEASURES) and not compared & set(missing)


def test_confidences_of_other_sets_are_not_compared(tmp_path: Path) -> None:
    chances = dict.fromkeys(IDS, 0.7)
    a = run_of(tmp_path / "a", {"fires": own}, scores=sure_of(chances))
    b = run_of(tmp_path / "b", {"fires": own}, scores=sure_of(chances, threshold=0.9))
    c = run_of(tmp_path / "c", {"fires": own}, scores=sure_of(dict.fromkeys(IDS, 0.4)))
    assert "confidence" not in found_of(a, b)[2]
    assert found_of(a, c)[2]["confidence"].value == pytest.approx(0.3)


def test_supported_sentences_are_shares_of_those_that_could_be_checked(tmp_path: Path) -> None:
    good = claims_of({f: {"theme": "supported", "token": "unchecked"} for f in IDS})
    bad = claims_of({f: {"theme": "unsupported" if k else "unchecked"} for k, f in enumerate(IDS)})
    a, b = run_of(tmp_path / "a", {"fires": own}, scores=good), run_of(tmp_path / "b", {"fires": own}, scores=bad)
    _, pair, by = found_of(a, b)
    assert (by["theme"].value, by["theme"].features) == (1.0, len(IDS) - 1)
    why = {one.measure: one.why for one in pair.missing}
    assert why["token"] == "of both runs: none of its sentences of this kind could be checked"


def test_lifts_over_other_features_or_natives_are_not_compared(tmp_path: Path) -> None:
    def with_lift(name: str, ids: list[str], native: str = "native text") -> RunFolder:
        lifts = {"fires": [{"feature": f, "lift": 0.1 * k} for k, f in enumerate(ids)]}
        conditions = {"native": lambda f: f"{native} {f}", "fires": own}
        scores = {"embedder": "words", "per_feature": lifts}
        return run_of(tmp_path / name, conditions, ids=ids, scores=scores)

    a, few, other = with_lift("a", IDS), with_lift("few", IDS[:8]), with_lift("other", IDS, "another")
    again = with_lift("again", IDS)
    assert found_of(a, again)[2]["lift"].value == 0.0
    why = {one.measure: one.why for one in compare_runs(a, few).pairs[0].missing}
    assert why["lift"] == "each is over the other features of its run, and fewer than 90% of these are in all"
    why = {one.measure: one.why for one in compare_runs(a, other).pairs[0].missing}
    assert why["lift"] == "fewer than 90% of the texts that it is measured against are the same"
    nearly = found_of(a, with_lift("nearly", IDS[:11]))[2]["lift"]
    assert (nearly.features, nearly.extra["over_a"], nearly.extra["over_b"]) == (11, 12, 11)


def test_steering_is_compared_by_feature_where_it_was_kept(tmp_path: Path) -> None:
    mean = {"value": 0.5, "low": 0.4, "high": 0.6, "p": 0.5, "n": 12, "statistic": "s", "null": "n", "unit": "features",
            "method": "m", "extra": {"dealt": 0.5}}  # fmt: skip
    kept = {"measured": {"fires": [{"feature": f, "steering": 0.9} for f in IDS]}}
    a = run_of(tmp_path / "a", {"fires": own}, scores=kept)
    old = run_of(tmp_path / "old", {"fires": own}, scores={"measures": {"fires": {"steering": mean}}})
    assert found_of(a, a)[2]["steering"].a == pytest.approx(0.9)
    why = {one.measure: one.why for one in compare_runs(a, old).pairs[0].missing}
    assert why["steering"] == "of B: its scores hold the mean alone; score it again"


def test_lens_words_are_compared_of_rows_that_write_the_same(tmp_path: Path) -> None:
    def with_words(name: str, arrived: int, *, other: bool = False) -> RunFolder:
        run = run_of(tmp_path / name, {"writes": own})
        source = {f: [f"{f} word {k}{' more' if other and f == IDS[0] else ''}" for k in range(20)] for f in IDS}
        run.write_lens({"writes": {f: {"source": w, "carried": [*w[:arrived], "else"]} for f, w in source.items()}})
        return run

    most, few = with_words("most", 15), with_words("few", 9)
    lens = found_of(most, few)[2]["lens_overlap"]
    assert (lens.a, lens.b, lens.value, lens.features) == (15, 9, 6, len(IDS)) and lens.holds
    # A row that writes other words is another row, and its feature is left out.
    assert found_of(most, with_words("other", 9, other=True))[2]["lens_overlap"].features == len(IDS) - 1


def test_only_features_of_both_runs_are_paired_and_the_others_counted(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", {"fires": own}, ids=IDS[:9]), run_of(tmp_path / "b", {"fires": dealt}, ids=IDS[4:])
    _, pair, by = found_of(a, b)
    assert (pair.n, pair.only_a, pair.only_b) == (5, 4, 3)
    assert by["firing_word"].features == 5
    assert sorted(one.feature for one in pair.features) == IDS[4:9]


def test_two_conditions_of_one_run_go_together_by_name(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"plain": dealt, "washed": own})
    found, pair, by = found_of(run, run, conditions=["plain=washed"])
    assert (pair.a, pair.b) == ("plain", "washed") and by["firing_word"].value == -1.0
    assert len(found.pairs) == 1
    one = run_of(tmp_path / "one", {"plain": own})
    other = run_of(tmp_path / "other", {"washed": own})
    assert [(p.a, p.b) for p in compare_runs(one, other).pairs] == [("plain", "washed")]


def test_features_least_alike_come_first(tmp_path: Path) -> None:
    changed = lambda f: "Of quite other things, namely tax law." if f == IDS[5] else own(f)  # noqa: E731
    a, b = run_of(tmp_path / "a", {"fires": own}), run_of(tmp_path / "b", {"fires": changed})
    pair = compare_runs(a, b).pairs[0]
    assert pair.features[0].feature == IDS[5] and pair.features[0].likeness < 0.5
    assert pair.features[0].a["firing_word"] == 1.0 and pair.features[0].b["firing_word"] == 0.0


# --- what is refused --------------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_compared_are_refused_in_one_sentence(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", {"fires": own})
    other = {"ref": "some-sae", "digest": "0" * 64}
    cases = {
        "but of different contents; compare runs of one dictionary": {"dictionary": other},
        "the other of dictionary another; compare": {"dictionary": {"ref": "another", "digest": "0" * 64}},
        "read at k:3: it is needed at n:2": {"target": "k:3"},
        "of features at m:2: it is needed at m:1": {"source": "m:2"},
    }
    for number, (sentence, changes) in enumerate(cases.items()):
        b = run_of(tmp_path / f"b{number}", {"fires": own}, **changes)
        with pytest.raises(Refusal, match=sentence):
            compare(a.path, b.path)
    apart = run_of(tmp_path / "apart", {"fires": own}, ids=IDS[6:])
    with pytest.raises(Refusal, match="they have no feature in common"):
        compare(run_of(tmp_path / "half", {"fires": own}, ids=IDS[:6]).path, apart.path)
    with pytest.raises(Refusal, match=r"no condition is in both \(they have fires and plain, washed\)"):
        compare(a.path, run_of(tmp_path / "named", {"plain": own, "washed": own}).path)
    with pytest.raises(Refusal, match="did you mean 'fires'"):
        compare(a.path, a.path, conditions=["firs"])
    unfinished = run_of(tmp_path / "unfinished", {"fires": own}, rows=99)
    with pytest.raises(Refusal, match="it holds 12 of its 99 explanations"):
        compare(a.path, unfinished.path)


def test_a_manifest_of_another_shape_is_refused_as_by_every_other_command(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, {"fires": own}) for name in ("a", "b")]
    path = runs[0].path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verbalizers": {"by": "some/av"}}))
    for job in (lambda first: compare_runs(first, runs[1]), lambda first: rank_runs([first, runs[1]])):
        with pytest.raises(Refusal, match=r"a/manifest\.json: verbalizers\.by: input should be a valid dictionary"):
            job(RunFolder.open(runs[0].path))


def test_directions_of_text_are_written_out_on_every_page(tmp_path: Path) -> None:
    """Overrides show other words than are there: on a run's page, beside another run's, and in a notebook."""
    turned = "about the \u202elwo\u202c \x1b[31m\u2066"
    runs = [run_of(tmp_path / name, {"fires": lambda _: turned}) for name in ("a", "b")]
    pages = [Run(one).write_page().read_text() for one in runs]
    write_comparison(compare_runs(*runs), *runs, tmp_path / "c.html")
    pages += [(tmp_path / "c.html").read_text(), Run(runs[0]).explanations()._repr_html_(), Run(runs[0])._repr_html_()]
    for page in pages:
        assert "\\u202elwo\\u202c" in page and not re.search("[\x1b\u202a-\u202e\u2066-\u2069]", page)


def test_a_dictionary_that_changed_where_it_lies_is_another(tmp_path: Path) -> None:
    # A folder's place says nothing of what it holds: the rows that each run kept of it do.
    at = {"ref": "my-sae", "at": "file:/some/sae", "digest": "0" * 64}
    a, b, c = (run_of(tmp_path / name, {"fires": own}, dictionary=at) for name in ("a", "b", "c"))
    rows = np.eye(len(IDS), dtype=np.float32)
    for run, kept in ((a, rows), (b, rows + np.float32(1e-7)), (c, rows[::-1].copy())):
        run.write_vectors({"source": kept})
    assert compare(a.path, b.path).pairs
    with pytest.raises(
        Refusal, match=f"feature {IDS[0]} has another row of its dictionary in each; compare runs of one"
    ):
        compare(a.path, c.path)


# --- the screen, the JSON and the page --------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    hostile = lambda f: HOSTILE if f == IDS[2] else dealt(f)  # noqa: E731
    a = run_of(tmp_path / "a", {"fires": own, "writes": own}, scores=sure_of(dict.fromkeys(IDS, 0.8)))
    settings = {"washout": "none"}
    return a, run_of(tmp_path / "b", {"fires": hostile, "writes": own}, settings=settings)


def test_the_screen_is_80_columns_wide_and_breaks_no_word(
    two: tuple[RunFolder, RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(two[0].path.parent)
    shown = command(monkeypatch, capsys, "compare", "a", "b")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    told = " ".join(shown.out.split())
    assert "washout (on-shell in A, none in B)" in told
    assert "firing word 12 1.000 0.000 +1.000 [+1.000, +1.000]" in told
    assert "missing: confidence, of B: it has no confidences." in told
    assert "missing in both runs: lift, window lift, category named," in told
    assert "p is adjusted by Holm over all 6 tests that were made" in told
    assert "sign-flip" in told and "bootstrap over features" in told


@pytest.mark.parametrize("name", ["compare", "rank"])
def test_an_unusable_map_is_told_on_screen_page_and_in_json(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, about in (("a", {}), ("b", {"map": "the map is unusable: it explains <0>"})):
        run_of(tmp_path / run, {"fires": own}, about=about, verbalizers={"by": {"checkpoint": f"lab/{run}"}})
    page = ["-o" if name == "compare" else "--page", "page.html"]
    told = "The map is unusable: it explains <0>. Believe no text that it carried."
    assert " ".join(command(monkeypatch, capsys, name, "a", "b", *page).out.split()).count(told) == 1
    read = html.unescape(re.sub(r"<[^>]*>", "", Path("page.html").read_text()))
    assert read.count(told) == 1 and f"b: {told}" in read.lower().replace(told.lower(), told)
    found = json.loads(command(monkeypatch, capsys, name, "a", "b", "--json").out)
    sides = [found["a"], found["b"]] if name == "compare" else found["runs"]
    assert [one["map_doubt"] for one in sides] == [None, "the map is unusable: it explains <0>"]


def test_the_json_is_one_object_with_its_schema_that_reads_back(
    two: tuple[RunFolder, RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = command(monkeypatch, capsys, "compare", *(str(one.path) for one in two), "--json")
    told = json.loads(shown.out)
    assert told.pop("schema") == "dragoman.comparison/1"
    assert Comparison.read(json.dumps(told), "it").pairs[0].differences == compare_runs(*two).pairs[0].differences


def test_the_page_shows_texts_side_by_side_and_escapes_them(two: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    page = write_comparison(compare_runs(*two), *two, tmp_path / "page.html").read_text()
    assert "<script" not in page and "<img" not in page
    plain = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert HOSTILE.splitlines()[0] in plain and HOSTILE.splitlines()[2] in plain
    assert '<span class="own">owl</span>' in page and '<span class="own">boat</span>' in page
    assert page.index("12 of 12 pairs of texts are the same to the letter") > 0
    assert page.index("The texts, least alike first") > page.index("What differs between the runs")
    assert "http://" not in page.replace("http://example.org/", "")


def test_words_of_the_planted_texts_are_as_the_fixture_says() -> None:
    assert said(WORD[IDS[0]]) == own(IDS[0]) and DEALT[IDS[-1]] == WORD[IDS[0]]
