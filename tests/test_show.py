"""The screens: every number stands under its own heading."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dragoman.commands.show import (
    show_ceiling,
    show_nulls,
    show_reconstruction,
    show_rows,
    show_scores,
    with_scores,
)
from dragoman.core import Estimate, Refusal
from dragoman.scores import AgainstNull, Ceiling, Reconstruction
from report_fixture import whole_estimate, whole_row


def cells(line: str) -> list[str]:
    """What stands in a line of a table; nothing of cells that are empty."""
    return re.split(r" {2,}", line.strip())


def under(heads: str, line: str) -> dict[str, str]:
    """Heading -> the number that ends where it ends."""
    spans = {found.end(): found[0] for found in re.finditer(r"\S+(?: \S+)*", line)}
    return {found[0]: spans.get(found.end(), "") for found in re.finditer(r"\S+(?: \S+)*", heads)}


@pytest.mark.parametrize("with_shuffled", [True, False])
def test_the_shuffled_fve_stands_beside_the_fve_and_not_beside_the_cosine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], with_shuffled: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row: dict[str, Any] = {
        "condition": "washed",
        "n": 8,
        "cosine": whole_estimate(0.25, extra={"shuffled": 0.125}),
        "cosine_over_shuffled": whole_estimate(0.125),
        "fve": whole_estimate(-0.5, extra={"shuffled": -0.75} if with_shuffled else {}),
        "top1": whole_estimate(0.5),
        "mrr": whole_estimate(0.625),
    }
    found = {"reconstructor": "ar", "site": "m:1", "identity": {}, "table": [row], "per_feature": {}}
    show_reconstruction(found)
    first = capsys.readouterr().out
    show_reconstruction(Reconstruction.read(json.dumps(found), "it"))
    assert capsys.readouterr().out == first, "a record is shown as its JSON is"
    lines = first.splitlines()
    heads = next(line for line in lines if "condition" in line)
    shown = under(heads, next(line for line in lines if "washed" in line))
    assert shown.pop("condition") == "" and cells(next(line for line in lines if "washed" in line))[0] == "washed"
    heads = cells(heads)
    assert heads[heads.index("FVE") + 1] == "shuffled FVE"
    assert shown == {
        "texts": "8", "centred cosine": "+0.250", "FVE": "-0.500",
        "shuffled FVE": "-0.750" if with_shuffled else "", "top-1": "50%", "chance": "12.5%", "MRR": "0.625",
    }  # fmt: skip


def row(feature: str, sample: int = 0) -> dict[str, Any]:
    return whole_row(feature=feature, condition="auto", sample=sample, text="words")


def test_each_first_sample_stands_with_its_confidence_or_abstention(capsys: pytest.CaptureFixture[str]) -> None:
    why = [{"evidence": "margin", "adds": 0.4}]
    sure = [
        {"feature": "1", "probability": 0.868, "answered": True, "member": "card", "why": why},
        {"feature": "2", "probability": 0.21, "answered": False, "member": "card", "why": why},
    ]
    scores = {"format": 2, "confidence": {"embedder": "e", "members": {}, "per_feature": {"auto": sure}}}
    rows = with_scores([row("1"), row("1", 1), row("2"), row("3")], scores)
    assert rows[0]["confidence"] == {"probability": 0.868, "answered": True, "member": "card", "why": why}
    assert [("confidence" in r) for r in rows] == [True, False, True, False]
    show_rows(rows)
    heads = [line for line in capsys.readouterr().out.splitlines() if "[auto" in line]
    assert heads == ["1 [auto] confidence 0.87", "1 [auto, sample 2]", "2 [auto] abstains (0.21)", "3 [auto]"]
    assert with_scores([row("1")], None) == with_scores([row("1")], {"format": 2}) == [row("1")]


def test_every_part_of_the_judging_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = whole_estimate(0.25, 0.125, 0.375, extra={"chance": 0.1, "others": 0.5})
    tests = [{"condition": "washed", "embedder": "e", "p": 0.001, "adjusted": 0.002, "holds": True},
             {"condition": "plain", "embedder": "[e]", "p": 0.2, "adjusted": 0.4, "holds": False}]  # fmt: skip
    parts = dict.fromkeys(("lift", "centred", "top1", "mrr"), told)
    texts = [{"feature": str(k), "probability": 0.5, "answered": not k, "member": "card", "why": []} for k in range(3)]
    member = {"needs": [], "reads": [], "threshold": 0.5, "fitted_on": "the embedded pair"}
    scores: dict[str, Any] = {
        "format": 2,
        "table": [{"condition": "washed", "lift": told}],
        "nulls": {"washed": {"random directions": parts}},
        "embedders": {"names": ["e"], "lifts": {}, "agree": {}, "summary": "the embedders agree in sign on washed"},
        "adjusted": {"method": "Holm", "level": 0.05, "tests": tests},
        "detection": {"embedder": "e", "table": [{"condition": "washed", "features": 9, **told}], "per_feature": {}},
        "paired": [{"what": "washed minus plain", **told}],
        "power": [{"what": "washed minus plain", "lift": 0.25, "power": 0.8, "level": 0.05, "n": 31, "observed": 9,
                   "detectable": 0.5, "low": 20, "high": 50, "sd": 0.1, "design_effect": 1.0}],
        "confidence": {"embedder": "e", "per_feature": {"washed": texts}, "members": {"card": member}},
    }  # fmt: skip
    show_scores(scores, {"source": "a:1", "target": "b:2"})
    out = capsys.readouterr().out
    lines = out.splitlines()
    null = next(cells(line) for line in lines if "random directions" in line)
    assert null == ["washed", "random directions", "+0.250", "[+0.125, +0.375]", "0.001", "25%", "10%"]
    assert any(line.strip() == "against each null (n 9)" for line in lines)
    assert ["washed", "9", "0.250", "[0.125, 0.375]", "0.500", "0.001"] in [cells(line) for line in lines]
    for said in (
        "the embedders agree in sign on washed.",
        "1 of 2 lifts (conditions by embedders) hold after Holm's adjustment; not plain by [e] (0.4)",
        "washed minus plain: +0.250 [+0.125, +0.375], p 0.001, n 9",
        "to find washed minus plain again at +0.250 (80% power, level 0.05) takes 31 features; these 9 find 0.500",
        "confidence: washed, answers for 1 of 3, abstains on 2",
        "fitted on the embedded pair; on another pair of models it is a guess until you check some",
    ):
        assert said in out


def test_the_ceiling_is_told_with_every_conditions_share(capsys: pytest.CaptureFixture[str]) -> None:
    top, share = Estimate(**whole_estimate(0.4, 0.3, 0.5, n=45)), Estimate(**whole_estimate(0.5, 0.4, 0.6))
    show_ceiling(Ceiling(ceiling=top, share={"washed": share}))
    said = " ".join(capsys.readouterr().out.split())
    assert "n 45): +0.400 [+0.300, +0.500]" in said and "washed 50% [+0.400, +0.600]" in said
    show_ceiling(Ceiling(ceiling=top, share={}))
    assert "of it" not in capsys.readouterr().out


def test_numbers_against_nulls_are_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lift = Estimate(**whole_estimate(0.272, 0.224, 0.317, p=0.0002))
    top1 = Estimate(**whole_estimate(0.69, extra={"chance": 0.02}))
    one = AgainstNull(lift=lift, centred=lift, top1=top1, mrr=lift)
    show_nulls({"procrustes_washed": {"other features": one, "random directions": one}})
    said = capsys.readouterr().out
    assert said.count("+0.272") == said.count("[+0.224, +0.317]") == said.count("0.0002") == 2
    assert "…" not in said


def test_rows_and_scores_of_another_form_are_refused() -> None:
    with pytest.raises(Refusal, match="row 2: tokens: field required"):
        show_rows([row("1"), {key: value for key, value in row("2").items() if key != "tokens"}])
    with pytest.raises(Refusal, match="format: input should be 2; score the run again"):
        show_scores({"format": 1}, {})
    with pytest.raises(Refusal, match="format: input should be 2; score the run again"):
        with_scores([row("1")], {"format": 1})
