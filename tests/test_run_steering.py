"""``score --steer``: a tiny target steered by planted rows, from a run made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoints
from dragoman.commands.show import show_scores
from dragoman.core import Refusal, Site
from dragoman.models.harvest import Reader
from dragoman.models.steer import first_tokens
from dragoman.report import write_page
from dragoman.scores import FORMAT, Scores
from dragoman.scoring import score_run
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.measures import with_measured
from dragoman.scoring.steering import steering_scores, with_steering
from dragoman.store import RunFolder

WORDS = ("people", "city", "vote", "vector", "careful", "concept")
TARGET = Site("tiny-llama", 3)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(
        site=TARGET, model=tiny_checkpoints.model_of("llama"), tokenizer=tiny_checkpoints.tokenizer_of("llama")
    )


def planted(reader: Reader) -> np.ndarray:
    """(n, d): unembedding rows of the words, less their mean."""
    head = reader.model.get_output_embeddings().weight.detach().float()
    rows = head[first_tokens(reader.tokenizer, WORDS)].numpy()
    return rows - rows.mean(axis=0)


def run_of(path: Path, rows: np.ndarray, *, lens: bool = True) -> RunFolder:
    """A finished run of one condition whose rows arrived as given; feature k's own row writes word k."""
    ids = [str(k) for k in range(len(rows))]
    entry = {"name": "writes", "route": "map", "washout": "on-shell", "verbalizer": "av", "reading": "writes"}
    told = {"source": "other:1", "target": str(TARGET), "conditions": [entry], "features": ids}
    folder = RunFolder.create(path, {"plan_digest": "by hand", **told})
    folder.append([
        {
            "feature": i, "label": "", "kind": "feature", "condition": "writes", "sample": 0, "raw": "",
            "text": f"text {i}", "problems": [], "tokens": 9, "log_probability": None, "card": None,
        }
        for i in ids
    ])  # fmt: skip
    text = " ".join(tiny_checkpoints.CORPUS)[:200]
    folder.write_contexts({i: {"firing": [text], "silent": [text]} for i in ids})
    folder.write_vectors({"bare/writes": rows.astype(np.float32)})
    if lens:
        folder.write_lens({"writes": {i: {"source": [WORDS[int(i)]], "carried": []} for i in ids}})
    return folder


def test_rows_that_write_their_own_words_raise_them(reader: Reader, tmp_path: Path) -> None:
    own = planted(reader)
    right = steering_scores(JudgedRun.of(run_of(tmp_path / "right", own)), reader)["writes"][0]
    wrong = steering_scores(JudgedRun.of(run_of(tmp_path / "wrong", -own)), reader)["writes"][0]
    assert right.value > 0.9 and right.n == len(WORDS) and right.extra["dealt"] < 0.5
    assert wrong.value < 0.1
    assert right.unit == "features" and "dealt" in right.null


def test_every_feature_has_a_number_of_its_own_whose_mean_is_the_estimate(reader: Reader, tmp_path: Path) -> None:
    mean, own = steering_scores(JudgedRun.of(run_of(tmp_path / "run", planted(reader))), reader)["writes"]
    assert sorted(own) == sorted(map(str, range(len(WORDS)))) and np.mean(list(own.values())) == pytest.approx(
        mean.value
    )
    measured = with_measured({}, "steering", {"writes": own})
    measured = with_measured(measured, "window_lift", {"writes": {"0": 0.25}})
    kept = Scores.of(Scores(format=FORMAT, measured=measured).to_json(), "scores").measured["writes"]
    assert (kept[0].feature, kept[0].window_lift, kept[0].steering) == ("0", 0.25, own["0"])
    assert kept[1].window_lift is None and kept[1].steering == own["1"]


def test_steering_stands_beside_the_other_measures(
    reader: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", planted(reader))
    found = steering_scores(JudgedRun.of(run), reader)
    scores = Scores(format=FORMAT, measures=with_steering({}, {c: one for c, (one, _) in found.items()}))
    assert Scores.of(scores.to_json(), "scores").measures["writes"]["steering"] == found["writes"][0]
    show_scores(scores, run.manifest)
    told = capsys.readouterr().out
    assert "steering: added to the target's stream" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 80
    run.write_scores(scores.to_json())
    assert 'data-is="measure">steering<' in write_page(run, tmp_path / "page.html").read_text()


def test_a_run_without_lens_words_is_not_steered_by(reader: Reader, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", planted(reader), lens=False)
    with pytest.raises(Refusal, match="it holds no lens words"):
        score_run(run, steer=True)
    assert run.scores is None


def test_two_features_are_too_few_to_steer_by(reader: Reader, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", planted(reader)[:2])
    with pytest.raises(Refusal, match="no condition has 3 features with lens words"):
        score_run(run, steer=True)
    assert run.scores is None


def test_a_feature_whose_words_no_token_begins_is_left_out(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = JudgedRun.of(run_of(tmp_path / "run", planted(reader)))
    real, odd = first_tokens, WORDS[0]
    monkeypatch.setattr(
        "dragoman.models.steer.first_tokens",
        lambda tokenizer, words: [None if w == odd else t for w, t in zip(words, real(tokenizer, words), strict=True)],
    )
    assert steering_scores(run, reader)["writes"][0].n == len(WORDS) - 1
    monkeypatch.setattr("dragoman.models.steer.first_tokens", lambda _tokenizer, words: [None] * len(words))
    with pytest.raises(Refusal, match="no condition has 3 features with words that the tokenizer of"):
        steering_scores(run, reader)
