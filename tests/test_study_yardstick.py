"""The yardstick's controls against brute force, its windows, and what it says of rows and texts written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dragoman.core import Refusal
from dragoman.store import RunFolder, write_arrays, write_json
from planted_worlds import TARGET, sparse_world
from studies.controls import earlier_rows, silent_rows
from studies.ground import GROUNDS
from studies.tokens import Tokens
from studies.verdicts import judged, table_of
from studies.windows import windows
from study_worlds import tokens_of

IDS = ("0", "3", "7")


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Documents of twenty tokens; token k of a document ends with its k-th word."""
    made = tokens_of(sparse_world(n=600, p=8, q=6, m=12, rate=0.08, seed=2))
    texts = tuple(" ".join(f"d{d}w{k}" for k in range(20)) for d in range(30))
    ends = [len(" ".join(texts[d].split()[: k + 1])) for d in range(30) for k in range(20)]
    return replace(made, texts=texts, ends=np.array(ends))


def by_hand(tokens: Tokens, column: int, *, earlier: bool) -> np.ndarray:
    """Mean over documents, weighed by activation, of the mean of their silent (or earlier) tokens; less the mean."""
    y, f = tokens.y[TARGET.block].astype(np.float64), tokens.fired.toarray()[:, column]
    total, weight = np.zeros(y.shape[1]), 0.0
    for document in np.unique(tokens.documents):
        rows = np.flatnonzero(tokens.documents == document)
        fires = np.flatnonzero(f[rows] > 0)
        if not len(fires):
            continue
        kept = rows[: fires[0]] if earlier else rows[f[rows] == 0]
        if len(kept):
            total += f[rows].sum() * y[kept].mean(axis=0)
            weight += f[rows].sum()
    return total / weight - y.mean(axis=0)


def test_silent_rows_are_the_means_of_tokens_at_which_the_feature_is_silent(tokens: Tokens) -> None:
    found = silent_rows(tokens, TARGET, IDS)
    for row, length, name in zip(found.unit, found.norms, found.ids, strict=True):
        assert_allclose(row * length, by_hand(tokens, int(name), earlier=False), atol=1e-4)
    assert found.ids == IDS


def test_earlier_rows_are_the_means_of_tokens_before_the_first_firing(tokens: Tokens) -> None:
    found = earlier_rows(tokens, TARGET, IDS)
    for row, length, name in zip(found.unit, found.norms, found.ids, strict=True):
        assert_allclose(row * length, by_hand(tokens, int(name), earlier=True), atol=1e-4)


def test_windows_stand_where_a_latent_fires_is_silent_or_a_sibling_fires_instead(tokens: Tokens) -> None:
    on = tokens.fired.toarray() > 0
    found = windows(tokens, tokens.fired, ("0",), [0], {"0": [3, 7]}, many=5)["0"]
    fires = {tokens.texts[d] for d in set(tokens.documents[on[:, 0]].tolist())}
    siblings = {tokens.texts[d] for d in set(tokens.documents[on[:, 3] | on[:, 7]].tolist())}

    def source(window: str) -> str:
        return next(text for text in tokens.texts if window in text)

    assert [len(found[kind]) for kind in ("firing", "silent", "hard")] == [5, 5, 5]
    assert {source(w) for w in found["firing"]} <= fires
    assert not {source(w) for w in found["silent"]} & fires
    assert {source(w) for w in found["hard"]} <= siblings - fires


WORDS = {"5081": "owl", "1505": "boat", "4497": "bread"}


def route(ids: tuple[str, ...], cofiring: float, lens: list[list[str]]) -> dict[str, Any]:
    return {
        "ids": ids, "cofiring": [cofiring] * len(ids), "cofiring_dealt": [0.5] * len(ids), "lens_words": lens,
        "cofiring_silent": [cofiring] * len(ids), "cofiring_silent_dealt": [0.5] * len(ids),
        "probe_word": [WORDS.get(i, "") for i in ids], "probe_category": ["law"] * len(ids),
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three latents of the pair and three fakes; "fires" speaks of its word and keeps its words, "silent" does not."""
    ids, fakes = tuple(WORDS), ("fake-0", "fake-1", "fake-2")
    own = {i: [f"{w}{k}" for k in range(4)] for i, w in (WORDS | dict.fromkeys(fakes, "fake")).items()}
    own |= {i: [f"{i}{k}" for k in range(4)] for i in fakes}
    kept = [[*own[i][: 3 - (i == "1505")], "stone"] for i in ids]
    lost = [["stone", "sand", "salt", "soil"]] * 3
    place = tmp_path / "smollm2-to-gemma"
    place.mkdir()
    facts = {
        "notes": {}, "penalty": 0.1, "source_lens": own, "base_forms": {}, "forms": {i: {} for i in (*ids, *fakes)},
        "chosen": {"drawn": ids, "one_word": WORDS, "fakes": fakes, "topicless": (), "topical": ()},
        "words": {i: {w: 0.8} for i, w in WORDS.items()} | {i: {"the": 0.2} for i in fakes},
        "ceilings": {"encoder": {"ids": ids, "cofiring": [0.99, None, 0.97], "cofiring_silent": [1.0, None, 1.0]}},
        "fit_words": WORDS, "nearest": {"5081": "1505", "1505": "4497", "4497": "5081"},
        "routes": {
            "fires": route(ids, 0.9, kept), "silent": route(ids, 0.7, lost), "writes": route(ids, 0.8, kept),
            "fake fires": route(fakes, 0.9, lost),
        },
    }  # fmt: skip
    write_json(place / "facts.json", facts)
    run = RunFolder.create(place / "run", {"plan_digest": "by hand"})
    said = {"fires": WORDS, "silent": dict.fromkeys(WORDS, "stone"), "writes": WORDS}
    run.append(
        [
            {"condition": name, "feature": i, "sample": 0, "text": f'Final token "{word}" goes on.'}
            for name, some in said.items()
            for i, word in some.items()
        ]
    )
    table = np.eye(3, dtype=np.float32)
    write_arrays(place / "steering.safetensors", {"fires": table, "silent": -table, "fake fires": table})
    return place


def test_routes_are_told_from_silent_rows_and_fakes_by_every_measure_that_is_alike_for_both(folder: Path) -> None:
    found = judged(folder)
    fires, silent = found["routes"]["fires"], found["routes"]["silent"]
    assert (fires["firing_word"]["value"], fires["firing_word"]["dealt"]) == (1.0, 0.0)
    assert silent["firing_word"]["value"] == silent["lens_overlap"]["value"] == 0.0
    assert fires["lens_overlap"]["value"] == pytest.approx(8 / 3) and fires["steering_auroc"]["value"] == 1.0
    gaps = found["fires_minus_silent"]
    assert {gaps[m]["value"] for m in ("firing_word", "final_token", "steering_auroc")} == {1.0}
    assert gaps["cofiring_auroc"]["value"] == pytest.approx(0.2) and gaps["cofiring_auroc"]["paired"]
    fake = found["latents_minus_random_projections"]["fires"]
    assert fake["lens_overlap"]["value"] == pytest.approx(8 / 3) and not fake["lens_overlap"]["paired"]
    assert found["ceilings"]["encoder"]["cofiring_auroc"]["value"] == pytest.approx(0.98)
    assert not {"cofiring_auroc", "category"} & set(fake)  # fakes have neither siblings nor a category


def test_what_is_named_without_a_verbalizer_stands_beside(folder: Path) -> None:
    found = judged(folder)["probe"]
    assert found["fires"]["word means, nearest to the row"]["value"] == 1.0
    assert found["no model: the word of other documents"]["value"] == 1.0
    assert found["text of the nearest row"]["value"] == 0.0
    latents = GROUNDS["smollm2-to-gemma"].latents
    law = sum(latents[i].category == "law" for i in WORDS) / 3
    assert found["fires"]["category by the linear probe"]["value"] == pytest.approx(law)


def test_the_table_has_a_line_a_route_and_a_folder_without_facts_is_refused(folder: Path, tmp_path: Path) -> None:
    lines = list(table_of({"smollm2-to-gemma": judged(folder)}))
    assert [line.split("  ")[0] for line in lines[3:7]] == ["fires", "writes", "silent", "fake fires"]
    with pytest.raises(Refusal, match="nothing was made there yet"):
        judged(tmp_path / "gemma-to-smollm2")
