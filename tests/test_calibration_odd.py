"""Calibrations that somebody edited, and asks that cannot be met: refused with the reason, before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dragoman.calibration.calibrate as room
from dragoman.calibration.answers import calibrated
from dragoman.calibration.calibrate import calibrate
from dragoman.calibration.deal import dealt
from dragoman.calibration.outcome import verdicts
from dragoman.confidence.calibration import Calibration
from dragoman.core import Refusal, Talk
from dragoman.embed import LexicalEmbedder
from dragoman.scoring.judged_run import CachedEmbedder
from planted_calibration import IDENTITY, SIZES
from planted_calibration import world as planted
from small_world import World

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """A calibration, as its file has it."""
    texts, watched = planted()
    embedder = CachedEmbedder(LexicalEmbedder(width=256))
    found = verdicts(texts, watched, embedder, dealt=1, seed=0, talk=Talk())
    return calibrated(watched, found, IDENTITY, SIZES, 0, "2026-01-02", "texts", embedder, Talk()).to_json()


def test_texts_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one text\n\nanother text\n")
    with pytest.raises(Refusal, match=r"texts\.txt: it is the file of texts, which would be lost; name another file"):
        calibrate("nowhere", by="nowhere", texts=tmp_path / "texts.txt", out=tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda c: c["spans"].pop(c["right"]["names"][0]), "it has no span of"),
        (lambda c: c["spans"][c["right"]["names"][0]].reverse(), "least of a span is above its most"),
        (lambda c: c["kinds"]["token"].update(right=c["kinds"]["token"]["n"] + 1), "more sentences are right than"),
        (lambda c: c["reliability"].update(right=c["reliability"]["n"] + 1), "more sentences are right than"),
        (lambda c: c["kinds"].clear(), "it has a line, and does not say of what"),
        (lambda c: c["right"]["names"].__setitem__(0, c["right"]["names"][-1]), "no name stands twice"),
        (lambda c: c["right"]["scale"].__setitem__(0, 1e-320), "scales are standard deviations, above 0"),
        (lambda c: c["right"]["scale"].__setitem__(0, -1.0), "scales are standard deviations, above 0"),
        (lambda c: c["reliability"].update(error=None), "it has a line, and does not say of what"),
        (lambda c: c["sentences"].pop("token"), "no sentences that others about final tokens are held against"),
        (lambda c: c["reliability"]["nulls_answered"].popitem(), "both shares of every null"),
        (lambda c: c["reliability"].update(answered=1.2), "less than or equal to 1"),
        (lambda c: c["reliability"].update(bound=-0.1), "greater than or equal to 0"),
        (lambda c: c["reliability"].update(n=-1), "greater than or equal to 0"),
        (lambda c: c["reliability"].update(kappa=float("nan")), "reliability.kappa"),
    ],
)
def test_edited_calibrations_are_refused(told: dict[str, Any], tmp_path: Path, edit: Edit, why: str) -> None:
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(told))
    assert Calibration.load(path).line is not None
    edited = json.loads(json.dumps(told))
    edit(edited)
    path.write_text(json.dumps(edited))
    with pytest.raises(Refusal, match=why):
        Calibration.load(path)


@pytest.mark.parametrize("count", [1, 14, 39])
def test_too_few_texts_are_counted_before_they_are_dealt(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The sentence tells how many the file holds, not how many of them fell to the evidence."""
    monkeypatch.setattr(room, "speakers", lambda *_, **__: pytest.fail("a verbalizer was opened"))
    path = tmp_path / "few.txt"
    path.write_text("\n".join(f"text number {k} of the few" for k in range(count)))
    with pytest.raises(Refusal, match=rf"few.txt: it holds {count} texts?, .* give at least 40 different texts"):
        calibrate(_dictionary(world), by=world.av, texts=path, out=tmp_path / "pair.json")
    assert not (tmp_path / "pair.json").exists()


def test_words_that_are_no_engine_are_refused_whoever_opened_the_verbalizer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "speakers", lambda *_, **__: pytest.fail("a verbalizer was opened"))
    with pytest.raises(Refusal, match="engine 'nonsense': known are"):
        calibrate(_dictionary(world), by=world.av, engine="nonsense")


def test_texts_that_differ_in_capitals_and_spaces_are_one_document() -> None:
    """Else one would be evidence, and the other of the documents that are held out from it."""
    plain = [f"a text of number {k}" for k in range(60)]
    many = [*plain, *(f"  A text of  number {k}\n" for k in range(60))]
    first, second = dealt(many, 1000, 0)
    assert len(first) + len(second) == 60 and len(second) > 10
    assert not {t.split()[-1] for t in first} & {t.split()[-1] for t in second}


def _dictionary(world: World) -> Any:
    from dragoman.dictionaries import open_dictionary

    return open_dictionary(world.sae, site=world.source)
