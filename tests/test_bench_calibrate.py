"""The bench of calibrations on planted worlds: both directions and the transfer, every figure there, halves apart."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dragoman.calibration.outcome import verdicts
from dragoman.core import Talk
from dragoman.embed import LexicalEmbedder
from dragoman.scoring.judged_run import CachedEmbedder
from planted_calibration import IDENTITY, another, world

BENCH = Path(__file__).parents[1] / "bench" / "calibrate.py"
KEYS = {"n", "ece", "ece_floor", "ece_above_floor", "auroc", "nulls_confident", "answered", "error_among_answered",
        "features_answered",
        "accuracy_at_80", "accuracy_at_100", "best_single", "sure_topics_of_topicless"}  # fmt: skip


@cache
def planted_work(number: int) -> tuple[Any, Any]:
    """What is watched in a planted world, and the verdicts on its texts."""
    texts, watched = world(number, latents=120)
    embedder = CachedEmbedder(LexicalEmbedder(width=256))
    return watched, verdicts(texts, watched, embedder, dealt=1, seed=0, talk=Talk())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with planted worlds of 120 latents in place of what it reads."""
    spec = importlib.util.spec_from_file_location("bench_calibrate", BENCH)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_calibrate", module)
    spec.loader.exec_module(module)
    made: dict[str, Any] = {}

    def planted(dictionary: str, *_: Any) -> Any:
        if dictionary not in made:
            watched, found = planted_work(len(made))
            inputs = SimpleNamespace(watched=watched)
            identity = another(IDENTITY, dictionary=dictionary)
            made[dictionary] = SimpleNamespace(inputs=inputs, verdicts=found, identity=identity, texts="texts")
        return made[dictionary]

    monkeypatch.setattr(module, "work_of", planted)
    monkeypatch.setattr(module, "SentenceEmbedder", lambda **_: LexicalEmbedder(width=256))
    module.planted = planted
    return module


def test_both_directions_and_the_transfer_have_every_figure(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "calibrate.json"
    monkeypatch.setattr("sys.argv", ["calibrate.py", "--latents", "60", "--nulls", "12", "--out", str(out)])
    bench.main()
    told = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == told
    for name in bench.GROUNDS:
        for judged in (told[name]["judged"], told[name]["transfer"]):
            assert judged.keys() >= KEYS and judged["kinds"] == ["token"]
            assert judged["auroc"]["value"] > 0.85 and judged["auroc"]["low"] <= judged["auroc"]["value"]
            assert judged["answered"]["value"] > 0.3 and judged["error_among_answered"]["value"] <= 0.2
            assert judged["features_answered"]["with_one"] == judged["answered"]  # a latent says one sentence here
            assert judged["features_answered"]["with_a_wrong_one"] == judged["error_among_answered"]
            assert all(null["value"] == 0 and null["n"] for null in judged["nulls_confident"].values())
            assert judged["sure_topics_of_topicless"]["value"] in (0, None)
        kept = json.loads(bench.beside(out, name).read_text())
        assert kept == {key: value for key, value in told[name].items() if key != "transfer"}
        assert bench.Calibration.load(bench.beside(out, f"{name}.calibration")).line == kept["calibration"]["line"]


def test_other_dictionaries_have_the_figures_that_need_no_planted_category(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, asked = tmp_path / "others.json", []
    planted = bench.planted
    monkeypatch.setattr(bench, "work_of", lambda *how: (asked.append(how[:2]), planted(*how))[1])
    words = ["--others", str(tmp_path), "--latents", "60", "--nulls", "12", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["calibrate.py", *words])
    bench.main()
    told = json.loads(out.read_text())
    assert asked == [(str(tmp_path / name), by) for name, by in bench.OTHERS.items()]
    assert all(str(told["sizes"][name]) for name in ("latents", "nulls", "seed"))
    for name in bench.OTHERS:
        assert told[name]["judged"].keys() >= KEYS and told[name]["judged"]["sure_topics_of_topicless"] is None
        assert told[name]["borne_out"].keys() == {"all"} and "judged" not in told[name]["transfer"]


def test_halves_share_neither_a_latent_nor_a_text_but_known_ones(bench: ModuleType) -> None:
    work = bench.planted("tiny-sae")
    (first, of_first), (second, of_second) = bench.halves(work.inputs.watched, work.verdicts, 0)
    assert not set(first.latents) & set(second.latents)
    assert sorted((*first.latents, *second.latents)) == sorted(work.inputs.watched.latents)
    assert abs(len(first.latents) - len(second.latents)) <= 1
    for watched, found in ((first, of_first), (second, of_second)):
        assert {one.feature for one in found.texts} <= set(watched.latents)
        assert {one.feature for one in found.own} <= set(watched.latents)
        assert watched.fired.shape[1] == len(watched.latents)
    assert len(of_first.texts) + len(of_second.texts) == len(work.verdicts.texts)
