"""Several confidences in one file: the first whose evidence is there gives its word, with its reasons."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman import tiny
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_confidence
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal


def planted(n: int = 200, seed: int = 0) -> tuple[list[Evidence], np.ndarray]:
    """Right where margin and, twice as surely, detection say so."""
    draw = np.random.default_rng(seed)
    margin, detection = draw.normal(size=(2, n))
    right = draw.random(n) < 1 / (1 + np.exp(-(margin + 2 * detection)))
    rows: list[Evidence] = [
        {"margin": float(m), "detection": float(d), "coverage": float(c)}
        for m, d, c in zip(margin, detection, draw.normal(size=n), strict=True)
    ]
    return rows, right


def without(rows: list[Evidence], *names: str) -> list[Evidence]:
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def fitted(*, threshold: float = 0.5) -> ConfidenceSet:
    rows, right = planted()
    full, card = fit_confidence(rows, right), fit_confidence(without(rows, "detection"), right)
    return ConfidenceSet.holding({
        "with contexts": (("detection", "margin"), full.model_copy(update={"threshold": threshold})),
        "card alone": (("margin",), card),
    })  # fmt: skip


KITS = fitted()


def test_each_row_is_judged_by_the_first_kit_whose_evidence_is_there() -> None:
    rows, _ = planted(30, seed=1)
    mixed: list[Evidence] = [rows[0], {**rows[1], "detection": None}, {"detection": 0.3}, {"coverage": 1.0}, {}]
    found = KITS.predict(mixed)
    assert [j and j.member for j in found] == ["with contexts", "card alone", None, None, None]
    full, card = (kit.confidence for kit in KITS.members)
    assert found[0] and found[0].probability == pytest.approx(full.predict(rows[:1])[0])
    assert found[1] and found[1].probability == pytest.approx(card.predict(without(rows[1:2], "detection"))[0])


def test_more_evidence_makes_better_words() -> None:
    rows, right = planted(400, seed=2)

    def brier(given: list[Evidence]) -> float:
        return float(np.mean([(j.probability - r) ** 2 for j, r in zip(KITS.predict(given), right, strict=True) if j]))

    assert brier(rows) + 0.03 < brier(without(rows, "detection")) < float(right.mean() * (1 - right.mean()))


def test_answers_reach_their_own_kits_threshold_and_the_reasons_are_its_three_largest() -> None:
    kits, (rows, _) = fitted(threshold=0.9), planted(50, seed=3)
    for row, judged in zip(rows, kits.predict(rows), strict=True):
        assert judged and judged.answered == (judged.probability >= 0.9)
        whole = kits.members[0].confidence.why(row)
        assert list(judged.why.items()) == list(whole.items())[:3]
        assert abs(next(iter(judged.why.values()))) == max(map(abs, whole.values()))
    assert {j.answered for j in kits.predict(rows) if j} == {True, False}


def test_a_kit_that_needs_nothing_still_needs_something_that_it_reads() -> None:
    bare = ConfidenceSet.holding({"bare": ((), KITS.members[1].confidence)})
    assert [j is None for j in bare.predict([{"tokens": 1.0}, {"coverage": 0.1}])] == [True, False]


def test_kits_survive_the_disk(tmp_path: Path) -> None:
    KITS.save(tmp_path / "kits.json")
    again = ConfidenceSet.load(tmp_path / "kits.json")
    rows, _ = planted(20, seed=4)
    assert again.to_json() == KITS.to_json() and again.predict(rows) == KITS.predict(rows)
    assert again.members[0].needs == ("detection", "margin") and again.members[0].confidence.report["n"] == 200


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    told = json.loads(json.dumps(KITS.to_json()))
    at = told
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return told


DAMAGED = [
    changed("kits", to=[]),
    changed("kits", to={}),
    changed("kits", 0, to=1),
    changed("kits", 1, "name", to="with contexts"),
    changed("kits", 0, "needs", to="margin"),
    changed("kits", 0, "needs", to=[1]),
    changed("kits", 0, "confidence", to=None),
    changed("kits", 0, "confidence", "weights", to=[1.0]),
    changed("kits", 0, "confidence", "weights", 0, to="1"),
    changed("kits", 0, "confidence", "weights", 0, to=True),
    changed("kits", 0, "confidence", "scale", 0, to=0),
    changed("kits", 0, "confidence", "names", to=[]),
    changed("kits", 0, "confidence", "flagged", to=["another"]),
    changed("kits", 0, "confidence", "slope", to=None),
    changed("kits", 0, "confidence", "slope", to=10**400),
    changed("kits", 0, "confidence", "report", to=[]),
    changed("kits", 0, "confidence", "more", to=1),
]


@pytest.mark.parametrize("told", DAMAGED)
def test_damaged_kits_are_refused_in_one_sentence(tmp_path: Path, told: dict[str, Any]) -> None:
    (tmp_path / "kits.json").write_text(json.dumps(told))
    with pytest.raises(Refusal, match=r"kits.json: its confidences are damaged \(.+\); fetch or fit them again\.$"):
        ConfidenceSet.load(tmp_path / "kits.json")


@pytest.mark.parametrize("told", ["[]", "{}", "1", '{"kind": "dragoman confidences", "format": 2}'])
def test_other_files_are_refused(tmp_path: Path, told: str) -> None:
    (tmp_path / "kits.json").write_text(told)
    with pytest.raises(Refusal, match="it is not a set of confidences in format 1; use one that this version"):
        ConfidenceSet.load(tmp_path / "kits.json")
    with pytest.raises(Refusal, match="its confidences are damaged"):
        ConfidenceSet.from_json(changed("kits", 0, "confidence", "format", to=2))
    with pytest.raises(Refusal, match="a set of no confidences: it could judge nothing"):
        ConfidenceSet.holding({})


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KITS.to_json()["kits"][0]["confidence"])), JSON)
def test_whatever_stands_in_a_file_is_read_or_refused(key: str, value: Any) -> None:
    with suppress(Refusal):
        ConfidenceSet.from_json(changed("kits", 0, "confidence", key, to=value)).predict(planted(2)[0])


def test_what_ships_is_read_and_written_as_it_stands_and_predicts_to_the_last_digit() -> None:
    path = tiny.data("tiny-sae") / "confidence.json"
    found = ConfidenceSet.load(path)
    assert found.to_json() == json.loads(path.read_text())
    told = json.loads(path.read_text())["kits"][0]["confidence"]
    row: Evidence = dict.fromkeys((*told["arrived"]["names"], *told["right"]["names"]), 0.3)

    def by_hand(step: dict[str, Any]) -> float:
        z = sum(
            w * (0.3 - c) / s
            for w, c, s in zip(step["weights"][: len(step["names"])], step["centre"], step["scale"], strict=True)
        )
        return 1 / (1 + np.exp(-(step["slope"] * (z + step["intercept"]) + step["offset"])))

    expected = by_hand(told["arrived"]) * by_hand(told["right"])
    (one,) = found.predict([row])
    assert one and one.member == found.members[0].name and one.probability == pytest.approx(expected, abs=1e-12)
    assert one.answered == (one.probability >= told["threshold"])
