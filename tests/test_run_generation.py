"""``score --generate``: what the source's model writes from texts, and whether features fire on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from asking import explain
from dragoman.core import Refusal
from dragoman.models.harvest import Reader
from dragoman.models.language import Judge, passage_peaks
from dragoman.report import write_page
from dragoman.scores import FORMAT, FeatureGenerated, Passage, Scores
from dragoman.scoring import generation, score_run
from dragoman.scoring.generation import PASSAGES, generation_scores, generative
from dragoman.scoring.judged_run import JudgedRun
from dragoman.store import RunFolder, read_json, write_json
from report_fixture import HOSTILE
from small_world import TEXTS, World

IDS = ("0", "3", "7", "11")


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return explain(world.request(features=IDS), tmp_path_factory.mktemp("generated") / "run")


@pytest.fixture(scope="module")
def reader(world: World) -> Reader:
    return Reader.open(world.source, whole=True)


class Planted:
    """Writes, of each condition in turn, the passages of its features."""

    def __init__(self, passages: dict[str, list[str]], conditions: dict[str, dict[str, str]]) -> None:
        self.turns = [(list(by.values()), [passages[i] for i in by]) for by in conditions.values()]

    def write_from(self, texts: list[str], **_how: Any) -> list[list[str]]:
        asked, passages = self.turns.pop(0)
        assert texts == asked
        return passages


def favourites(run: RunFolder, reader: Reader) -> dict[str, list[str]]:
    """Of each feature the three texts on which it fires most, next to how much others do."""
    dictionary, _ = generative(JudgedRun.of(run))
    columns = [int(i) for i in IDS]
    fires = np.concatenate(passage_peaks([[text] for text in TEXTS], reader, dictionary.need_encoder(), columns))
    own = fires - (fires.sum(axis=1, keepdims=True) - fires) / (len(IDS) - 1)
    return {name: [TEXTS[k] for k in np.argsort(-own[:, j])[:PASSAGES]] for j, name in enumerate(IDS)}


def test_passages_on_which_their_feature_fires_most_are_told_from_others(run: RunFolder, reader: Reader) -> None:
    judged = JudgedRun.of(run)
    asked, best = generative(judged), favourites(run, reader)
    writes = Planted(best, asked[1])
    generated, right = generation_scores(judged, asked, reader, writes)  # type: ignore[arg-type]
    turned = {name: best[IDS[k - 1]] for k, name in enumerate(IDS)}
    _, wrong = generation_scores(judged, asked, reader, Planted(turned, asked[1]))  # type: ignore[arg-type]
    assert right and set(generated) == set(asked[1])
    for condition in right:
        assert right[condition].value > 0.6 > wrong[condition].value and right[condition].n == len(asked[1][condition])
        for own in generated[condition]:
            texts = best[own.feature]
            peaks = passage_peaks([texts], reader, asked[0].need_encoder(), [int(own.feature)])[0][:, 0]
            assert [one.peak for one in own.passages] == pytest.approx(peaks.tolist(), rel=1e-4, abs=1e-5)
            assert [one.text for one in own.passages] == [text[:400] for text in texts]


def test_the_source_model_writes_and_the_same_seed_writes_the_same(run: RunFolder, reader: Reader) -> None:
    judged = JudgedRun.of(run)
    asked, judge = generative(judged), Judge(model=reader.model, tokenizer=reader.tokenizer)
    one, estimates = generation_scores(judged, asked, reader, judge, seed=3)
    two, _ = generation_scores(judged, asked, reader, judge, seed=3)
    other, _ = generation_scores(judged, asked, reader, judge, seed=4)
    assert one == two != other and estimates
    assert all(len(own.passages) == PASSAGES for some in one.values() for own in some)
    told = Scores(format=FORMAT, generated=one, measures={name: {"generation": e} for name, e in estimates.items()})
    assert Scores.of(told.to_json(), "scores").generated == one


def test_score_keeps_what_was_written_and_the_page_tells_the_measure(run: RunFolder, tmp_path: Path) -> None:
    said = list[str]()
    scores = score_run(run, generate=True, say=said.append)
    assert any("write from the texts" in one for one in said)
    kept = Scores.of(run.scores, "scores")
    assert kept.generated == scores.generated and kept.generated
    assert any("generation" in by for by in kept.measures.values())
    assert 'data-is="measure">generation<' in write_page(run, tmp_path / "page.html").read_text()


def other_rows(run: RunFolder, sae: Path) -> None:
    arrays = load_file(sae / "sae_weights.safetensors")
    save_file({**arrays, "W_dec": -arrays["W_dec"]}, sae / "sae_weights.safetensors")


def other_encoder(_run: RunFolder, sae: Path) -> None:
    arrays = load_file(sae / "sae_weights.safetensors")
    save_file({**arrays, "W_enc": -arrays["W_enc"]}, sae / "sae_weights.safetensors")


def other_k(_run: RunFolder, sae: Path) -> None:
    config = read_json(sae / "cfg.json")
    write_json(sae / "cfg.json", config | {"k": 3})


def no_dictionary(run: RunFolder, _sae: Path) -> None:
    manifest = read_json(run.path / "manifest.json")
    write_json(run.path / "manifest.json", {k: v for k, v in manifest.items() if k != "dictionary"})


def no_encoder(_run: RunFolder, sae: Path) -> None:
    arrays = load_file(sae / "sae_weights.safetensors")
    save_file({"W_dec": arrays["W_dec"]}, sae / "sae_weights.safetensors")


def without_rows(run: RunFolder, _sae: Path) -> None:
    arrays, meta = run.vectors()
    run.write_vectors({name: rows for name, rows in arrays.items() if name != "source"}, meta)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_rows, "holds other rows now than it explained; explain it again"),
        (other_encoder, "the files of .* are not those that it explained; explain it again"),
        (other_k, "the files of .* are not those that it explained; explain it again"),
        (no_dictionary, "it does not name its dictionary"),
        (no_encoder, "W_enc"),
        (without_rows, "it does not hold its dictionary's rows"),
    ],
)
def test_what_cannot_be_generated_by_is_refused_before_a_model_opens(
    change: Any, why: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = tmp_path / "sae"
    sae.mkdir()
    for file in Path(world.sae).iterdir():
        (sae / file.name).write_bytes(file.read_bytes())
    run = explain(world.request(dictionary=str(sae), features=("0", "3", "7")), tmp_path / "run")
    change(run, sae)
    monkeypatch.setattr(Reader, "open", lambda *_a, **_k: pytest.fail("a model was opened"))
    with pytest.raises(Refusal, match=why):
        score_run(RunFolder.open(run.path), generate=True)
    assert run.scores is None or "generated" not in json.dumps(run.scores)


def test_runs_of_many_features_are_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "MOST", 3)
    with pytest.raises(Refusal, match="its 4 features would each be written from, and 3 are the most"):
        generative(JudgedRun.of(run))


def test_passages_stand_on_the_feature_page_as_text_marked_by_whether_they_fired(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")
    from viewed_run import client_of, make_run, scores_of, viewed

    made = make_run(tmp_path / "run", 12)
    own = FeatureGenerated(
        feature="3",
        passages=(Passage(text=HOSTILE, peak=2.5), Passage(text="quiet", peak=0.0), Passage(text="", peak=0.0)),
    )
    told = scores_of([str(k) for k in range(12)]) | {"generated": {"writes": [own.to_json()]}}
    made.write_scores(told)
    view = viewed(made)
    html = client_of(view).get("/run/feature?id=3").text
    other = client_of(view).get("/run/feature?id=4").text
    view.close()
    shown = html.partition('<details class="wrote"')[2].partition("</details>")[0]
    assert "the feature fires on 1 of 3" in shown and "fires, 2.5" in shown and shown.count("silent</span>") == 2
    assert "<script" not in shown and "<img" not in shown and "quiet" in shown
    assert 'class="wrote"' not in other
