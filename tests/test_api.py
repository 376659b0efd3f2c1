"""What ``import dragoman`` offers: names, their homes, and a run read back as typed rows, a table and HTML."""

from __future__ import annotations

import html
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import dragoman
from ar_checkpoints import WIDTH
from dragoman import Card, Estimate, FeatureExplanation, Refusal, Run, Scores, explain, score
from dragoman.commands import explain as commands_explain
from dragoman.commands.show import show_scores
from dragoman.core import MOST_SEED
from dragoman.runs.options import Options, check_seed
from dragoman.runs.run import Explanations
from dragoman.scores import PairedDifference
from report_fixture import HOSTILE
from small_world import D_SAE, World
from two_runs import own, run_of

PACKAGE = Path(dragoman.__file__).parent
ALL, OFTEN = ("0", "3", "7"), ("3", "7")  # the first fires too rarely for the direct route


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    folder = tmp_path_factory.mktemp("api") / "run"
    how: Any = {"texts": world.root / "texts.txt", "max_new_tokens": 6}
    return explain(sae.features([0, 3, 7]), by=world.av, out=folder, samples=2, **how)


def test_explanations_are_typed_rows(run: Run) -> None:
    rows = run.explanations()
    asked = [(c, f, k) for k in (0, 1) for c in ("fires", "writes") for f in (OFTEN if c == "fires" else ALL)]
    assert [(e.condition, e.feature, e.sample) for e in rows] == asked
    assert all(isinstance(e, FeatureExplanation) and e.reading == e.condition for e in rows)
    assert all((e.short, e.claims) == ("", ()) for e in rows)  # nothing was checked yet
    assert all(e.card is not None and e.card.route and e.card.status for e in rows)
    assert [e.text for e in rows] == [row["text"] for row in run.folder.rows()]
    assert all(e.confidence is None for e in rows)  # none was calibrated for this pair
    assert len(run.explanations("writes")) == 6 and isinstance(rows[:2], Explanations)
    with pytest.raises(Refusal, match="condition 'washed': the run has fires, writes; name one of these"):
        run.explanations("washed")
    assert Run.open(run.path).explanations()[0] == rows[0] and str(run.path) in repr(run)


def test_what_a_notebook_shows_is_one_short_line_without_arrays(run: Run, world: World) -> None:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    site, name = str(world.source), f"Dictionary({world.sae!r} at {world.source}, {D_SAE} features, width {WIDTH})"
    assert repr(sae) == name and repr(sae.features([0, 3])) == f"Features(2 of {name})"
    assert repr(sae.rows()) == f"Directions({D_SAE} of kind feature at {site}, width {WIDTH})"
    unsaid = repr(dragoman.open_dictionary(world.sae))
    assert unsaid.startswith(f"Dictionary({world.sae!r}") and f"{D_SAE} features" in unsaid
    av = dragoman.Verbalizer.open(world.av)
    assert repr(av) == f"Verbalizer({world.av!r} at {world.target}, width {WIDTH}, contract kitft)"
    ar = str(world.root / "target-ar")
    read = dragoman.Reconstructor.open(ar, layout="easynla")
    assert repr(read) == f"Reconstructor({ar!r} at {read.site}, width {WIDTH}, layout easynla)"
    crossing = dragoman.fit_crossing(sae, world.target, texts=world.root / "texts.txt")
    assert repr(crossing) == f"Crossing({site} -> {world.target}, aligned, ridge)"
    background = repr(crossing.background)
    assert "array" not in background and background.startswith("Background(site=") and "\n" not in background
    rows, scores = run.explanations(), score(run)
    assert repr(rows) == "Explanations(10 of 3 features: fires, writes)"
    assert repr(Explanations([])) == "Explanations(0 of 0 features: no condition)"
    assert repr(scores) == "Scores(conditions=['fires', 'writes'], parts=['window_lift', 'claims'])"
    lift = scores.lift["writes"]
    assert repr(lift) == f"Estimate({lift}, p {lift.p:.2g}, n 3, null: {lift.null})"
    assert repr(PairedDifference(**asdict(lift), what="a less b")) == f"PairedDifference{repr(lift)[len('Estimate') :]}"


def test_a_scored_run_compared_with_itself_is_told_apart_by_nothing_and_is_not_ranked_beside_itself(run: Run) -> None:
    scores = score(run)
    own = [one.window_lift for one in scores.measured["writes"] if one.window_lift is not None]
    assert len(own) == 3 and sum(own) / 3 == pytest.approx(scores.lift["writes"].value)
    found = dragoman.compare(run, run.path)
    writes = {one.measure: one for pair in found.pairs if pair.a == "writes" for one in pair.differences}
    assert {"window_lift", "flagged"} <= set(writes)
    assert writes["window_lift"].a == pytest.approx(scores.lift["writes"].value)
    assert all((one.value, one.p, one.holds) == (0.0, 1.0, False) for one in writes.values())
    assert repr(found).startswith("Comparison(conditions=[('fires', 'fires'), ('writes', 'writes')], tests=")
    with pytest.raises(Refusal, match="in a table: it is the same run; name every run once"):
        dragoman.rank([run, run.path])


def test_explanations_are_the_same_where_their_rows_are(run: Run) -> None:
    rows = run.explanations()
    assert rows == run.explanations() and hash(rows) == hash(run.explanations())
    assert rows != rows[:2] and rows[:2] == Explanations(list(rows)[:2]) and rows != list(rows)


def test_explanations_are_a_table_for_pandas(run: Run) -> None:
    table = run.explanations().to_pandas()
    assert list(table["feature"]) == [*OFTEN, *ALL] * 2 and set(table["reading"]) == {"fires", "writes"}
    assert {"text", "short", "claims", "card_status", "card_coverage"} <= set(table)
    assert list(table["card_route"]) == [e.card.route for e in run.explanations() if e.card]
    assert list(Explanations([]).to_pandas().columns) == list(table.columns)


def test_a_notebook_shows_every_word_escaped() -> None:
    row = FeatureExplanation(
        feature=HOSTILE, label="", condition=HOSTILE, sample=0, text=HOSTILE, problems=(), log_probability=None,
        card=None, confidence=0.25, answered=False,
    )  # fmt: skip
    shown = Explanations([row])._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3 and "0.25 (abstains)" in shown
    assert "<th>confidence</th>" in shown and "<th>short</th>" not in shown  # no row has one


def test_cards_estimates_and_scores_are_shown_in_a_notebook_with_every_word_escaped() -> None:
    card = Card(coverage=0.25, margin=-0.125, nearest=HOSTILE, status="differs", why=HOSTILE)
    shown = card._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 2
    assert "<b>differs</b>" in shown and "<th>coverage</th><td>0.25</td>" in shown and "rel" not in shown
    how: Any = {"low": -1.0, "high": 1.0, "p": 0.5, "n": 3, "unit": "features", "method": HOSTILE}
    rate = Estimate(value=0.5, statistic=HOSTILE, null=HOSTILE, extra={"dealt": 0.125}, **how)
    shown = rate._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3 and "<b>+0.500 [-1.000, +1.000]</b>" in shown
    paired = PairedDifference(**asdict(rate), what=HOSTILE)
    scores = Scores(
        format=2, window_lift={HOSTILE: rate}, measures={HOSTILE: {"firing_word": rate}, "b": {}}, paired=(paired,)
    )
    shown = scores._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3  # a condition, a difference and its null
    assert "<th>lift</th><th>firing word</th>" in shown and "<td>0.500 (dealt 0.125)</td>" in shown
    assert "<td>b</td><td></td><td></td>" in shown


def test_a_run_is_a_table_for_pandas_and_for_a_notebook(run: Run) -> None:
    assert run.to_pandas().equals(run.explanations().to_pandas())
    shown = run._repr_html_()
    assert html.escape(str(run.manifest["target"])) in shown and run.explanations()._repr_html_() in shown


def test_a_notebook_says_first_that_the_map_is_unusable(tmp_path: Path) -> None:
    told = Run(run_of(tmp_path / "run", {"fires": own}, about={"map": "the map is <unusable>"}))._repr_html_()
    assert "</p><p><b>The map is &lt;unusable&gt;. Believe no text that it carried.</b></p><table>" in told
    assert "<b>" not in Run(run_of(tmp_path / "other", {"fires": own}))._repr_html_()


def test_without_pandas_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Refusal, match="pandas is not installed; run: pip install pandas"):
        Explanations([]).to_pandas()


def test_a_run_without_natives_is_scored_by_windows_of_other_features(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = score(run)
    assert isinstance(scores, Scores) and list(scores.lift) == ["fires", "writes"]
    with pytest.raises(Refusal, match="lift of condition 'auto': those with a lift are: fires, writes; name one"):
        scores.lift["auto"]
    lift = scores.lift["writes"]
    assert lift.n == 3 and lift.low <= lift.value <= lift.high and 0 < lift.p <= 1
    assert "other features, dealt at random" in lift.null and "windows" in lift.statistic
    assert run.scores is not None and run.scores.lift == scores.lift
    page = html.unescape(run.write_page().read_text())
    assert "Nearer to where the feature fires" in page and lift.null in page and f"{abs(lift.value):.3f}" in page
    show_scores(scores, run.manifest)
    shown = capsys.readouterr().out
    assert "lift over windows of other features" in shown and f"{lift.value:+.3f}" in shown


def test_one_feature_alone_and_a_folder_by_name(world: World, tmp_path: Path) -> None:
    how: Any = {"texts": world.root / "texts.txt", "max_new_tokens": 6}
    once = explain(
        dragoman.open_dictionary(world.sae, site=world.source),
        features=["3"],
        by=world.av,
        out=str(tmp_path / "a"),
        **how,
    )
    assert {e.feature for e in once.explanations()} == {"3"}
    assert not score(str(once.path)).lift  # one text has no spread
    with pytest.raises(Refusal, match="they are named twice"):
        sae = dragoman.open_dictionary(world.sae, site=world.source)
        explain(sae.features([3]), features=["3"], by=world.av, out=tmp_path / "b", **how)
    with pytest.raises(Refusal, match="they are no list of texts"):
        explain(sae, features=["3"], by=world.av, out=tmp_path / "b", texts=["", "x"])
    assert not (tmp_path / "b").exists()


def test_numbers_are_bounded_as_on_the_command_line() -> None:
    options = get_type_hints(commands_explain.explain, include_extras=True)
    for name in ("samples", "max_new_tokens", "batch_size", "seed"):
        (option,) = options[name].__metadata__
        most = MOST_SEED if name == "seed" else option.max  # the help does not name the largest seed
        how: Any = {"temperature": 1.0, name: most}
        assert getattr(Options(**how), name) == most
        for more in (most + 1, 10**5000):
            with pytest.raises(Refusal, match=f"{name} above {most}: that is the most that can be asked for; pass a"):
                Options(**(how | {name: more}))
    with pytest.raises(Refusal, match="seed above"):
        check_seed(2**63)


@pytest.mark.parametrize(
    "words", [{"seed": -1}, {"seed": 1.5}, {"seed": None}, {"samples": 1.5}, {"batch_size": "8"}, {"samples": 0}]
)
def test_numbers_that_are_none_are_refused_before_anything_is_written(
    world: World, run: Run, tmp_path: Path, words: dict[str, Any]
) -> None:
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    texts, (name,) = world.root / "texts.txt", words
    with pytest.raises(Refusal, match=f"{name} .*no whole number"):
        explain(sae.features([3]), by=world.av, out=tmp_path / "run", texts=texts, **words)
    assert not (tmp_path / "run").exists()
    if name == "seed":
        for job in (
            lambda: dragoman.fit_crossing(sae, world.target, texts=texts, **words),
            lambda: score(run, **words),
            lambda: dragoman.fit_confidence(run, texts, **words),
            lambda: dragoman.recalibrate_confidence(run, texts, **words),
        ):
            with pytest.raises(Refusal, match="seed .*no whole number"):
                job()
