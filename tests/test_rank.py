"""Several verbalizers in one table: places that are shared where nothing tells them apart, on planted runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asking import explain
from dragoman import Refusal, rank
from dragoman.comparison.page import write_ranking
from dragoman.comparison.ranked import rank_runs
from dragoman.comparison.records import RankedMeasure, Ranking
from dragoman.scoring import JudgedRun
from dragoman.scoring.measures import measure_scores
from dragoman.stats.nulls import holm
from dragoman.store import RunFolder
from report_fixture import HOSTILE
from small_world import World, command
from two_runs import IDS, Says, claims_of, dealt, own, run_of


def spoken(path: Path, says: Says, name: str, **more: Any) -> RunFolder:
    """A run of a verbalizer of this name."""
    return run_of(path, {"fires": says}, verbalizers={"by": {"checkpoint": name}}, **more)


def by_measure(found: Ranking) -> dict[str, RankedMeasure]:
    return {one.measure: one for one in found.conditions[0].measures}


@pytest.fixture
def three(tmp_path: Path) -> list[RunFolder]:
    """Two verbalizers that name the word, one of which is of another target, and one that names another's."""
    good = claims_of({f: {"theme": "supported"} for f in IDS})
    bad = claims_of({f: {"theme": "unsupported"} for f in IDS})
    return [
        spoken(tmp_path / "a", dealt, "lab/poor", scores=bad),
        spoken(tmp_path / "b", own, "lab/good", scores=good, target="k:9"),
        spoken(tmp_path / "c", own, "lab/also-good", scores=good),
    ]


def test_a_planted_order_is_found_and_equals_share_a_place(three: list[RunFolder]) -> None:
    found = rank_runs(three)
    word, theme, flagged = (by_measure(found)[name] for name in ("firing_word", "theme", "flagged"))
    assert [one.place for one in word.rated] == [3, 1, 1] == [one.place for one in theme.rated]
    assert [(one.value, one.low, one.high) for one in word.rated] == [(0, 0, 0), (1, 1, 1), (1, 1, 1)]
    assert [one.place for one in flagged.rated] == [1, 1, 1] and flagged.tied and not word.tied
    contrast = word.to_best(0)
    assert contrast is not None and contrast.value == -1.0 and contrast.holds
    assert word.best == 1 and word.to_best(1) is None
    assert found.names == ("lab/poor", "lab/good", "lab/also-good") and found.targets == ("n:2", "k:9", "n:2")


def test_p_is_adjusted_over_every_two_runs_and_every_measure(three: list[RunFolder]) -> None:
    found = rank_runs(three)
    every = [one for measure in found.conditions[0].measures for one in measure.contrasts]
    assert found.tests == len(every) == 3 * len(found.conditions[0].measures)
    assert [one.adjusted for one in every] == holm(np.array([one.p for one in every])).tolist()


def test_nulls_are_those_that_a_score_tells(three: list[RunFolder]) -> None:
    word = by_measure(rank_runs(three))["firing_word"]
    for one, run in zip(word.rated, three, strict=True):
        assert one.dealt == measure_scores(JudgedRun.of(run))["fires"]["firing_word"].extra["dealt"]
    assert by_measure(rank_runs(three))["theme"].rated[0].dealt is None


def test_a_better_mean_that_no_test_tells_apart_ranks_nobody(tmp_path: Path) -> None:
    nearly = lambda f: dealt(f) if f in IDS[:2] else own(f)  # noqa: E731
    found = rank_runs([spoken(tmp_path / "a", nearly, "a"), spoken(tmp_path / "b", own, "b")])
    word = by_measure(found)["firing_word"]
    assert word.best == 1 and word.rated[0].value < word.rated[1].value
    assert [one.place for one in word.rated] == [1, 1] and word.tied


def test_fewer_flags_are_better(tmp_path: Path) -> None:
    runs = [spoken(tmp_path / name, own, name) for name in "ab"]
    rows = [{**row, "problems": ["repeats itself"]} for row in runs[0].rows()]
    manifest = {**runs[0].manifest, "plan_digest": "flagged"}
    bad = RunFolder.create(tmp_path / "bad", manifest)
    bad.append(rows)
    bad.write_contexts(runs[0].contexts or {})
    flagged = by_measure(rank_runs([bad, runs[1]]))["flagged"]
    assert flagged.fewer and flagged.best == 1 and [one.place for one in flagged.rated] == [2, 1]


def test_only_features_that_all_have_count_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [
        spoken(tmp_path / "a", own, "a", ids=IDS[:9]),
        spoken(tmp_path / "b", dealt, "b", ids=IDS[2:]),
        spoken(tmp_path / "c", own, "b", ids=IDS),
    ]
    found = rank_runs(runs)
    assert found.conditions[0].n == 7 and by_measure(found)["firing_word"].features == 7
    assert found.names == ("a", "b (b)", "b (c)")
    assert json.dumps(found.to_json()) == json.dumps(rank_runs(runs).to_json())


def test_runs_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    a = spoken(tmp_path / "a", own, "a")
    with pytest.raises(Refusal, match="it takes 2 to 20"):
        rank([a.path])
    other = spoken(tmp_path / "b", own, "b", dictionary={"ref": "another", "digest": "0" * 64})
    with pytest.raises(Refusal, match="compare runs of one dictionary"):
        rank([a.path, other.path])
    with pytest.raises(Refusal, match="they have no feature in common"):
        rank_runs([spoken(tmp_path / "c", own, "c", ids=IDS[:5]), spoken(tmp_path / "d", own, "d", ids=IDS[6:])])
    shutil.copytree(a.path, tmp_path / "copy")
    for again, why in ((a.path, "it is the same run; name every run once"), (tmp_path / "copy", "it is a copy of")):
        with pytest.raises(Refusal, match=why):
            rank([a.path, again, spoken(tmp_path / "e", dealt, "e").path])
    with pytest.raises(Refusal, match="did you mean 'fires'"):
        rank([a.path, a.path], conditions=["firs"])


def test_screen_json_and_page(
    three: list[RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    hostile = spoken(tmp_path / "d", own, HOSTILE.splitlines()[0])
    odd = command(monkeypatch, capsys, "rank", "a", "b", "c", "d", "--page", "page.html")
    shown = command(monkeypatch, capsys, "rank", "a", "b", "c")
    assert odd.code == shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    told = " ".join(shown.out.split())
    assert "lab/good 1.00 [1.00, 1.00]" in told and "1=" in told
    assert "no two verbalizers are told apart by: flagged." in told
    page = Path("page.html").read_text()
    assert "<script" not in page and "lab/also-good" in page and "&lt;script&gt;" in page
    made = json.loads(command(monkeypatch, capsys, "rank", "a", str(hostile.path), "--json").out)
    assert made.pop("schema") == "dragoman.ranking/1"
    assert Ranking.read(json.dumps(made), "it").tests == rank_runs([three[0], hostile]).tests
    for option, value in {"--features": "1", "--max-new-tokens": "5", "--out": "o", "--dtype": "bfloat16"}.items():
        wrong = command(monkeypatch, capsys, "rank", "a", "b", option, value)
        assert wrong.code == 1 and f"{option} of finished runs" in wrong.err, option
    assert write_ranking(rank_runs(three), tmp_path / "other.html").is_file()


def test_verbalizers_are_explained_by_and_ranked_in_one_command(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(world.av, tmp_path / "again")
    out, avs = tmp_path / "out", (world.av, str(tmp_path / "again"))
    words = ("rank", world.sae, "--source", str(world.source), "--features", "3,7,11", "--texts")
    words += (str(world.root / "texts.txt"), "--max-new-tokens", "6", "-o", str(out), "--json")
    shown = command(monkeypatch, capsys, *words, *(word for av in avs for word in ("--by", av)))
    assert shown.code == 0, shown.err
    table = Ranking.read(json.dumps({k: v for k, v in json.loads(shown.out).items() if k != "schema"}), "it")
    alone = explain(world.request(features=("3", "7", "11"), batch_size=None), tmp_path / "alone")
    made = sorted(out.iterdir())
    assert len(made) == 2
    for folder in made:
        run = RunFolder.open(folder)
        told = [(row["feature"], row["condition"], row["raw"]) for row in run.rows()]
        assert told == [(row["feature"], row["condition"], row["raw"]) for row in alone.rows()]
    assert all(one.tied for condition in table.conditions for one in condition.measures)
    once = command(monkeypatch, capsys, *words, "--by", world.av)
    assert once.code == 1 and "two different verbalizers are the least" in once.err
