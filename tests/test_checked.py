"""Confidences from checked rows: planted truth is found on rows not seen, and what cannot be learnt from is refused."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dragoman import tiny
from dragoman.confidence.checked import (
    Checked,
    fit_checked,
    matched,
    read_checked,
    recalibrate_checked,
    reliability_lines,
)
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_confidence, fit_step
from dragoman.confidence.model import Confidence, ConfidenceSet
from dragoman.core import Refusal, Site
from dragoman.scoring import fit_from, recalibrate_from
from dragoman.store import RunFolder
from judging import believed, whole
from word_hash import HashEmbedder


def test_a_cell_of_two_lines_is_no_other_feature(tmp_path: Path) -> None:
    (tmp_path / "checked").write_text('feature,right\n"1\n0",1\n')
    assert read_checked(tmp_path / "checked")[0][0] == "1\n0"


def planted(n: int = 200, seed: int = 0, bias: float = 0.0, noise: int = 1) -> Checked:
    """Right where the margin says so, with a known chance."""
    draw = np.random.default_rng(seed)
    margin, other = draw.normal(size=n), draw.normal(size=(n, noise))
    right = draw.random(n) < 1 / (1 + np.exp(-(bias + 2.0 * margin)))
    rows: list[Evidence] = [
        {"margin": m, **{f"noise {k}": v for k, v in enumerate(more)}}
        for m, more in zip(margin.tolist(), other.tolist(), strict=True)
    ]
    return Checked(features=tuple(map(str, range(n))), evidence=tuple(rows), right=right)


@pytest.fixture(params=[131_072, sys.maxsize])
def csv_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """The csv module's limit, which is the whole process's: as it comes, and as scipy.io leaves it."""
    before = csv.field_size_limit(request.param)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize(
    "text",
    [
        "feature,condition,right\n7,auto,true\n 9 ,,No\n7,auto,1\n",
        'right,feature,note\nyes,7,"sure, it is"\n0,9,\n',
        '{"feature": 7, "condition": "auto", "right": true}\n\n{"feature": "9", "right": 0}\n',
        "\ufeffFeature,Right\n7,TRUE\n9,false\n",
        'feature,right,note\n7,1,"two\u2028lines\n of it"\n9,0,\x85\n',
        '{"feature": 7, "right": 1, "note": "two\u2028lines"}\n{"feature": 9, "right": 0}',
    ],
)
def test_checked_rows_are_read_from_csv_and_json_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "checked").write_text(text, encoding="utf-8")
    found = read_checked(tmp_path / "checked")
    assert {(feature, right) for feature, _, right in found} == {("7", True), ("9", False)}
    assert {condition for _, condition, _ in found} <= {"auto", None}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its first line does not name the column feature"),
        ("feature,condition\n7,auto\n", "its first line does not name the column right"),
        ("feature,right,right\n7,1,1\n", "it names a column twice"),
        ("Feature;Condition;Right\n7;auto;1\n", "it looks separated by semicolons; save it with commas"),
        ('"feature"; "right"\n7;1\n', "it looks separated by semicolons; save it with commas"),
        ("a" * 200_000, "line 1: it is not CSV"),
        ("feature,right\n" + "a" * 200_000 + ",1\n", "it is not CSV"),
        ("feature,right\n", "it holds no checked row"),
        ("feature,right\n7,maybe\n", "line 2: right is 'maybe'; write true, false"),
        ("feature,right\n7\n", "line 2: right is ''"),
        ("feature,right\n,1\n", "line 2: it names no feature"),
        ('{"feature": 7, "right": null}', "line 1: right is ''"),
        ('{"feature": 7, "right": 1}\n[1]', "line 2: it is not a JSON object"),
        ('{"feature": 7,', "line 1: it is not JSON"),
    ],
)
@pytest.mark.usefixtures("csv_limit")
def test_files_that_hold_anything_else_are_refused_by_line(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "checked.csv").write_text(text)
    with pytest.raises(Refusal, match=f"checked.csv.*{why}"):
        read_checked(tmp_path / "checked.csv")


def test_files_that_are_not_there_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="none.csv"):
        read_checked(tmp_path / "none.csv")
    (tmp_path / "odd.csv").write_bytes(b"feature,right\n\xff\xfe,1\n")
    with pytest.raises(Refusal, match="it is not UTF-8 text"):
        read_checked(tmp_path / "odd.csv")


EVIDENCE: dict[str, dict[str, Evidence]] = {"auto": {"7": {"margin": 0.1}, "9": {"margin": 0.2}}, "plain": {"7": {}}}


def test_rows_are_matched_to_the_runs_evidence_and_a_row_told_twice_counts_once() -> None:
    found = matched([("7", None, True), ("9", None, False), ("7", "auto", True)], EVIDENCE, ["auto"], "f.csv")
    assert found.features == ("7", "9") and found.evidence == ({"margin": 0.1}, {"margin": 0.2})
    assert found.right.tolist() == [True, False]


@pytest.mark.parametrize(
    ("rows", "claims", "why"),
    [
        ([("8", "auto", True)], ["auto"], "feature '8': the run has no explanation of it under auto"),
        ([("7", "random", True)], ["auto"], "condition 'random': the run's are auto; name one of these"),
        ([("7", "native", True)], ["auto"], r"no confidence is made of them; check the run's others \(auto\)"),
        ([("7", None, True)], ["auto", "plain"], "it names no condition, and the run has auto, plain"),
        ([("7", "auto", True), ("7", None, False)], ["auto"], "it is right in one row and wrong in another"),
    ],
)
def test_rows_that_do_not_go_with_the_run_or_one_another_are_refused(rows, claims, why) -> None:
    with pytest.raises(Refusal, match=f"f.csv.*{why}"):
        matched(rows, EVIDENCE, claims, "f.csv")


def test_a_fit_is_judged_where_it_had_not_seen_and_finds_the_planted_truth() -> None:
    made, found = fit_checked(planted(), fitted_on="a in b")
    (member,) = made.members
    assert set(member.needs) == {"margin", "noise 0"} and member.confidence.report["fitted_on"] == "a in b"
    fresh = planted(2000, seed=1)
    truth = 1 / (1 + np.exp(-2.0 * np.array([row["margin"] for row in fresh.evidence], dtype=float)))
    assert np.abs(member.confidence.predict(fresh.evidence) - truth).mean() < 0.06
    assert found.n == 200 == sum(one.n for one in found.bins) and len(found.bins) == 10 and found.left_out == 0
    assert found.auroc.value > 0.75 and found.ece.value < 0.15
    assert found.answered_right is not None and found.low is not None and found.high is not None
    assert found.low < found.answered_right < found.high and 0 < found.answered < 200


def test_noise_alone_is_not_told_to_be_reliable() -> None:
    """In the sample 30 useless numbers would tell 60 rows apart; on rows not seen they say nothing."""
    draw = np.random.default_rng(3)
    noise = draw.normal(size=(60, 30)).tolist()
    rows = tuple({f"n{k}": v for k, v in enumerate(row)} for row in noise)
    made, found = fit_checked(Checked(features=tuple(map(str, range(60))), evidence=rows, right=draw.random(60) < 0.5))
    assert found.auroc.low < 0.5 and len(made.members) == 1


def test_rows_of_one_feature_are_judged_by_a_fit_without_it() -> None:
    """Each feature has an evidence of its own that gives its answer away, and says nothing of any other."""
    draw = np.random.default_rng(0)
    right = np.repeat(draw.random(30) < 0.5, 4)
    own = np.repeat(draw.normal(size=(30, 40)), 4, axis=0) + 0.01 * draw.normal(size=(120, 40))
    rows = tuple({f"n{k}": v for k, v in enumerate(row)} for row in own.tolist())
    _, found = fit_checked(Checked(features=tuple(str(k // 4) for k in range(120)), evidence=rows, right=right))
    assert found.auroc.value < 0.75 and found.auroc.unit == "topics"


def test_evidence_that_is_sometimes_missing_is_not_needed() -> None:
    whole = planted()
    rows = tuple({**row, "cycle": None if k % 3 else 0.1 * k} for k, row in enumerate(whole.evidence))
    made, _ = fit_checked(Checked(features=whole.features, evidence=rows, right=whole.right))
    assert "cycle" not in made.members[0].needs and "margin" in made.members[0].needs


def base(*, two_steps: bool = False) -> ConfidenceSet:
    here = planted(600, seed=5)
    if not two_steps:
        return ConfidenceSet.holding({"card": (("margin",), fit_confidence(here.evidence, here.right))})
    rows = [{**row, "agreement": 1.0 + 0.1 * k / 600} for k, row in enumerate(here.evidence)]
    nulls: list[Evidence] = [{"agreement": 0.1 * k / 600} for k in range(600)]
    arrived = fit_step([*({"agreement": r["agreement"]} for r in rows), *nulls], [1] * 600 + [0] * 600)
    step = fit_step([{"margin": row["margin"]} for row in rows], here.right)
    report = {"n": 600, "nulls": {"bound": 0.02}}
    made = Confidence(arrived=arrived, right=step, threshold=0.5, report=report)
    return ConfidenceSet.holding({"both": (("margin", "agreement"), made)})


def test_recalibration_mends_the_probabilities_of_another_pair_and_keeps_the_order() -> None:
    before, harder = base(), planted(1500, seed=4, bias=-1.5)
    after, found = recalibrate_checked(before, harder.of(np.arange(300)))
    rest = harder.of(np.arange(300, 1500))
    p, q = (s.members[0].confidence.predict(rest.evidence) for s in (before, after))
    assert (np.argsort(p) == np.argsort(q)).all()
    assert p.mean() - rest.right.mean() > 0.15 > 0.05 > abs(q.mean() - rest.right.mean())
    assert found.ece.value < 0.1 and after.members[0].confidence.report["recalibrated_on"] == 300


def test_recalibration_of_two_steps_keeps_what_is_known_of_arrival_and_promises_nothing_of_nulls() -> None:
    before, harder = base(two_steps=True), planted(1500, seed=4, bias=-1.5)
    rows = tuple({**row, "agreement": 1.0} for row in harder.evidence)
    harder = Checked(features=harder.features, evidence=rows, right=harder.right)
    after, _ = recalibrate_checked(before, harder.of(np.arange(300)))
    old, new = before.members[0].confidence, after.members[0].confidence
    assert new.arrived == old.arrived and "nulls" not in new.report and "nulls" in old.report
    rest = harder.of(np.arange(300, 1500))
    assert abs(new.predict(rest.evidence).mean() - rest.right.mean()) < 0.05
    assert ConfidenceSet.from_json(json.loads(json.dumps(after.to_json()))).to_json() == after.to_json()


def test_members_that_apply_to_too_few_are_left_out_of_the_recalibrated_set() -> None:
    here = planted(600, seed=5)
    more = [{**row, "detection": row["margin"]} for row in here.evidence]
    two = ConfidenceSet.holding({
        "contexts": (("detection",), fit_confidence(more, here.right)),
        "card": (("margin",), fit_confidence(here.evidence, here.right)),
    })  # fmt: skip
    few = planted(60, seed=6)
    rows = tuple({**row, "detection": 0.1} if k < 10 else row for k, row in enumerate(few.evidence))
    made, found = recalibrate_checked(two, Checked(features=few.features, evidence=rows, right=few.right))
    assert [member.name for member in made.members] == ["card"] and found.n == 60


def test_too_few_or_one_kind_cannot_be_fitted_or_recalibrated() -> None:
    whole = planted(60)
    with pytest.raises(Refusal, match="to fit one, and to judge it on rows it has not seen, takes 40, 8 of each kind"):
        fit_checked(whole.of(np.arange(39)))
    with pytest.raises(Refusal, match="0 wrong explanations"):
        fit_checked(Checked(features=whole.features, evidence=whole.evidence, right=np.ones(60, dtype=bool)))
    with pytest.raises(Refusal, match="to recalibrate one, .* takes 30, 5 of each kind"):
        recalibrate_checked(base(), whole.of(np.arange(29)))
    bare = Checked(features=whole.features, evidence=({"cycle": 0.1},) * 60, right=whole.right)
    with pytest.raises(Refusal, match="recalibrating card: none of them applies to 30 checked explanations"):
        recalibrate_checked(base(), bare)
    with pytest.raises(Refusal, match="no evidence varies"):
        fit_checked(bare)


@pytest.mark.parametrize("what", ["fit", "recalibrate"])
def test_rows_told_apart_without_error_say_nothing_of_how_sure_to_be(what: str) -> None:
    margin = [-1.0 - 0.01 * k for k in range(30)] + [1.0 + 0.01 * k for k in range(30)]
    rows = tuple({"margin": m} for m in margin)
    apart = Checked(features=tuple(map(str, range(60))), evidence=rows, right=np.arange(60) >= 30)
    with pytest.raises(Refusal, match="told apart without error, so how sure to be cannot be learnt from them"):
        fit_checked(apart) if what == "fit" else recalibrate_checked(base(), apart)


def test_the_same_seed_gives_the_same_set_and_report() -> None:
    assert fit_checked(planted(80), seed=3) == fit_checked(planted(80), seed=3)


def test_the_report_is_lines_of_eighty_columns() -> None:
    few = planted(60)
    rows = tuple({} if k < 5 else row for k, row in enumerate(few.evidence))
    _, found = recalibrate_checked(base(), Checked(features=few.features, evidence=rows, right=few.right))
    lines = reliability_lines(found)
    assert max(map(len, lines)) <= 80 and found.left_out == 5
    assert lines[0] == f"checked: 55 explanations, {found.right} right, {55 - found.right} wrong"
    first = found.bins[0]
    assert f"{first.n:5d}  {first.predicted:9.3f}  {first.observed:8.3f}  [{first.low:.3f}, {first.high:.3f}]" in lines
    assert any(line.startswith(f"answers {found.answered} of 55, of which ") for line in lines)
    assert any(line.startswith("left out: 5 ") for line in lines)


def test_a_runs_own_rows_are_fitted_on_and_recalibrated_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.models.embedder.SentenceEmbedder", lambda **_: HashEmbedder())
    draw, names = np.random.default_rng(0), [str(k) for k in range(120)]
    margins = draw.normal(size=120)
    right = draw.random(120) < 1 / (1 + np.exp(-2 * margins))
    conditions = [{"name": "auto", "verbalizer": "av"}, {"name": "noise", "verbalizer": "av", "null": "random"}]
    places = {"source": "a:1", "target": "b:2"}
    run = RunFolder.create(
        tmp_path / "run", {"plan_digest": "x", "conditions": conditions, "features": names, **places}
    )
    said = {"condition": "auto", "sample": 0}
    run.append([
        whole(said | {"feature": f, "text": f"a passage about {f}", "card": {"margin": float(m)}})
        for f, m in zip(names, margins, strict=True)
    ])  # fmt: skip
    run.append([whole({"feature": "random-0", "condition": "noise", "sample": 0, "text": "of none"})])
    told = tmp_path / "checked.csv"
    told.write_text("feature,right\n" + "".join(f"{f},{r}\n" for f, r in zip(names, right, strict=True)))
    made, found = fit_from(run, told)
    made.save(tmp_path / "confidence.json")
    assert made.members[0].confidence.report["fitted_on"] == "a:1 in the words of b:2" and found.n == 120
    again, _ = recalibrate_from(run, told, tmp_path / "confidence.json")
    assert made.sites == again.sites == ("a:1", "b:2")
    assert ConfidenceSet.load(tmp_path / "confidence.json").pair == (Site("a", 1), Site("b", 2))
    scores = believed(run, HashEmbedder(), again)
    assert scores["members"]["checked"]["fitted_on"] == "a:1 in the words of b:2"
    assert len(scores["per_feature"]["auto"]) == 120
    told.write_text("feature,condition,right\nrandom-0,noise,1\n")
    with pytest.raises(Refusal, match="condition 'noise': the run's are auto"):
        fit_from(run, told)
    monkeypatch.setitem(tiny.DATA, "tiny-sae", "not-there")
    with pytest.raises(Refusal, match="no confidence ships here; name a file with --confidence, or fit one"):
        recalibrate_from(run, told, None)
