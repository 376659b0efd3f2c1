"""The bench of readers of many sites on a folder with planted texts: right ones, dealt ones, and none for an arm."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import pack
from dragoman.embed import LexicalEmbedder
from latents import Record, told
from targets import NULL

BENCH = Path(__file__).parents[1] / "bench" / "feature_verbalizer.py"
SITE = "tiny-smollm2-23"
WORDS = [f"{a}{b}r" for a in ("ship", "court", "yeast", "storm", "cello") for b in "aeiou"]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_feature_verbalizer", BENCH)
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def said(word: str, theme: str = "no particular topic") -> str:
    return f'A passage about {theme}, written as a novel.\n\nFinal token "{word}", a plain word; "it" comes next.'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Latent k fires on word k; the first arm says so, seed 1 of it for half; the other names the next one's word."""
    plain = {"positions": 9, "effective": 9.0, "form": "", "before": (), "after": (), "category": "law", "topic": ""}
    low = {"category_low": 0.1, "topic_low": 0.0}
    records = [Record(latent=k, words={w: 0.9}, **plain, **low) for k, w in enumerate(WORDS)]  # type: ignore[arg-type]
    pack.write_rows([told(r) for r in records], tmp_path / f"records-{SITE}-b.jsonl.gz")
    windows = [
        {
            "latent": k,
            "cluster": k // 2,
            "why": "word" if k > 23 else "apart",
            "firing": [f"the {w} is here {i}" for i in range(4)],
            "silent": [f"many people there {i}" for i in range(4)],
            "hard": [f"the {WORDS[k - 1]} is here {i}" for i in range(4)],
        }
        for k, w in enumerate(WORDS)
    ]
    pack.write_rows(windows, tmp_path / f"windows-{SITE}.jsonl.gz")
    arms = {"many-everything-0": WORDS, "many-everything-1": [w if k % 2 else "zzz" for k, w in enumerate(WORDS)]}
    arms["activations-23-0"] = ["zzz"] * len(WORDS)
    for name, words in arms.items():
        about = "law" if name.startswith("act") else "no particular topic"
        rows = [
            {"site": SITE, "who": who, "latent": k, "text": said(w, about)}
            for k, w in enumerate(words)
            for who in ("reader", "rule")
        ]
        for row in rows:
            row["nothing_margin"] = -1.0 if row["latent"] else 2.5
        nulls = [(NULL, 3.0), (NULL, 2.0), (NULL, 3.0), (said("it"), -2.0)]
        rows += [
            {"site": SITE, "who": "null", "latent": k, "text": t, "nothing_margin": m} for k, (t, m) in enumerate(nulls)
        ]
        rows += [{"site": SITE, "who": "mixed-0.5", "latent": k, "text": said(w, about)} for k, w in enumerate(words)]
        pack.write_rows(rows, tmp_path / f"spoken-{name}.jsonl.gz")
    return tmp_path


def test_arms_are_compared_by_latent_with_intervals_over_components(bench: ModuleType, folder: Path) -> None:
    found = bench.figures(bench.load(folder, LexicalEmbedder(), bench.spoken(folder)), {})
    assert found["seeds"] == {"activations-23": [0], "many-everything": [0, 1]}
    own = found["arms"]["many-everything 0"][SITE]["reader"]["apart"]
    assert own["words"]["value"] == 1.0 and own["detection"]["value"] == own["hard"]["value"] == 1.0
    assert own["false_theme"]["value"] == 0.0 and own["theme"] == {"n": 0} and own["words"]["n"] == 24
    other = found["arms"]["activations-23 0"][SITE]["reader"]["apart"]
    assert other["words"]["value"] == 0.0 and other["false_theme"]["value"] == 1.0
    first = found["declared"][0]
    expected = 0.5 * (1.0 + np.mean([k % 2 for k in range(24)]))
    assert first["value"] == pytest.approx(expected, abs=1e-3) and first["low"] > 0.5 and first["met"]
    assert first["by_seed"] == [1.0]  # one pair of seeds
    assert (first["of unseen words"]["value"], first["of unseen words"]["n"]) == (0.5, 1)  # seed 1 does not say word 24
    missing = [line for line in found["declared"] if line["arm"] == "without-blocks"]
    assert missing and all(line["met"] is None and "value" not in line for line in missing)


def test_vectors_that_mean_nothing_are_no_latents_and_mixtures_are(bench: ModuleType, folder: Path) -> None:
    texts = bench.spoken(folder)
    by_who = bench.load(folder, LexicalEmbedder(), texts)["many-everything", 0][SITE]
    assert set(by_who) == {"reader", "rule", "random", "mixed-0.5"} and len(by_who["mixed-0.5"]) == len(WORDS)


def test_nulls_are_told_from_rows_by_a_line_that_half_of_them_drew(bench: ModuleType, folder: Path) -> None:
    found = bench.nulls(bench.spoken(folder)["many-everything", 0])[SITE]
    assert (found["nothing"], found["n"], found["rows_nothing"], found["rows"]) == (0.75, 4, 0.0, len(WORDS))
    # The line is 3.0, by nulls 0 and 2: of the others neither is above; row 0 is not. Pairs: 2 of 4 beat all rows.
    assert found["at_line"] == {"nulls": 0.0, "rows": 0.0}
    assert found["auroc"] == pytest.approx((2 * 25 + 24) / 100)


def test_the_best_form_is_chosen_on_one_half_of_the_clusters_and_told_on_the_other(bench: ModuleType) -> None:
    def form(chosen: float, told: float) -> list[Any]:
        return [
            bench.Judged(k, f"b{k}", {"words": told if k % 2 else chosen}, "apart") for k in range(8)
        ] + [bench.Judged(9, "w", {"words": 1.0}, "word")]  # fmt: skip

    found = bench.best_form({"reader": form(0.2, 0.3), "bare": form(0.5, 0.1), "washed-0.5": form(0.1, 0.9)})
    assert (found["form"], found["of"]["value"], found["of"]["n"]) == ("bare", 0.1, 4)
    assert found["above_on_shell"]["value"] == pytest.approx(-0.2)
    assert found["chosen_by"] == {"reader": 0.2, "washed-0.5": 0.1, "bare": 0.5}
    assert bench.best_form({"reader": form(0.2, 0.3)}) == {}


def test_texts_of_random_directions_stand_beside_those_of_latents(bench: ModuleType, folder: Path) -> None:
    by_who = bench.load(folder, LexicalEmbedder(), bench.spoken(folder))["many-everything", 0][SITE]
    assert np.nanmean([one.values["words"] for one in by_who["random"]]) == 0.0
    assert len(by_who["random"]) == len(by_who["reader"]) == len(WORDS)


def test_an_arm_may_stand_for_one_that_was_not_run(bench: ModuleType, folder: Path) -> None:
    for seed in (0, 1):
        (folder / f"spoken-many-everything-{seed}.jsonl.gz").rename(folder / f"spoken-without-blocks-{seed}.jsonl.gz")
    texts = bench.spoken(folder)
    found = bench.figures(bench.load(folder, LexicalEmbedder(), texts), {"many-everything": "without-blocks"})
    assert found["instead"] == {"many-everything": "without-blocks"}
    assert found["declared"][0]["arm"] == "without-blocks" and found["declared"][0]["met"]


def test_the_command_writes_what_it_found(bench: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out.json"
    monkeypatch.setattr(sys, "argv", ["x", "--work", str(folder), "--out", str(out)])
    bench.main()
    written = json.loads(out.read_text())
    assert written["embedder"] == "lexical" and len(written["declared"]) == len(bench.DECLARED)
    assert json.loads(bench.by_lines({"a": {}, "b": [{"c": 1}], "d": {"e": [2]}})) == {
        "a": {},
        "b": [{"c": 1}],
        "d": {"e": [2]},
    }


def test_a_worse_arm_is_told_as_worse(bench: ModuleType) -> None:
    rows = [[bench.Judged(k, str(k), {"words": 0.1 * (k % 3)}) for k in range(12)] for _ in range(2)]
    better = [[bench.Judged(k, str(k), {"words": 0.1 * (k % 3) + 0.2}) for k in range(12)] for _ in range(2)]
    found = bench.difference(rows, better, "words")
    assert found["value"] == pytest.approx(-0.2) and found["high"] < 0 and found["by_seed"] == [-0.2, -0.2]
