"""A run judged by a calibration: a chance for each sentence, told on the page; another run's is refused."""

import json

import numpy as np
import pytest

from dragoman.calibration.answers import calibrated
from dragoman.calibration.outcome import verdicts
from dragoman.core import Refusal, Talk
from dragoman.embed import LexicalEmbedder
from dragoman.report import write_page
from dragoman.scores import FORMAT, FeatureClaims, Scores
from dragoman.scoring.calibrated import calibrated_claims, calibration_of, check_confidence, refuse_another_run
from dragoman.scoring.claims import claim_scores
from dragoman.scoring.judged_run import CachedEmbedder, JudgedRun
from dragoman.store import RunFolder
from planted_calibration import IDENTITY, SIZES, word, world

EMBEDDER = CachedEmbedder(LexicalEmbedder(width=256))


@pytest.fixture(scope="module")
def made():
    texts, watched = world()
    found = verdicts(texts, watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    return calibrated(watched, found, IDENTITY, SIZES, 0, "2026-01-02", "texts", EMBEDDER, Talk()), texts


def run_of(folder, texts, **changes):
    """A finished run of twelve latents' texts."""
    some = [one for one in texts if not one.null][:12]
    entry = {"name": "fires", "route": "direct", "washout": "on-shell", "verbalizer": "av", "reading": "fires"}
    manifest = {
        "source": IDENTITY.source, "target": IDENTITY.target,
        "features": [one.feature for one in some], "rows": len(some),
        "conditions": [entry],
        "dictionary": {"ref": "sae", "digest": IDENTITY.dictionary}, "verbalizers": {"by": {"name": "av"}},
        "settings": {"map": "aligned", "washout": "on-shell", "samples": 1, "temperature": 0.0, "max_new_tokens": 60},
        "plan_digest": "0" * 64,
    } | changes  # fmt: skip
    run = RunFolder.create(folder, manifest)
    run.append([one.text.row.to_json() for one in some])
    windows = {
        one.feature: {"firing": list(one.text.windows.firing), "silent": list(one.text.windows.silent),
                      "words": dict(one.text.windows.words)} for one in some
    }  # fmt: skip
    run.write_contexts(windows)
    return RunFolder.open(folder)


def test_every_sentence_has_a_chance_and_the_page_tells_whose(made, tmp_path):
    calibration, texts = made
    folder = run_of(tmp_path / "run", texts)
    run = JudgedRun.of(folder)
    refuse_another_run(calibration, run, "pair.json", EMBEDDER.name)
    claims = claim_scores(run, EMBEDDER)
    told = calibrated_claims(run, calibration, claims, EMBEDDER)
    rows: tuple[FeatureClaims, ...] = told["claims"]["fires"]
    sure = {one.feature: next(c.probability or 0.0 for c in one.claims if c.kind == "token") for one in rows}
    assert len(sure) == 12
    assert min(p for name, p in sure.items() if int(name) % 3) > 0.7
    assert np.mean([p for name, p in sure.items() if int(name) % 3 == 0]) < 0.3
    for claim in (claim for one in rows for claim in one.claims):
        if claim.kind == "token":
            assert claim.answered == (claim.probability >= calibration.line)
        else:
            assert claim.probability is None and claim.answered is None
    scores = Scores(format=FORMAT).model_copy(update=told)
    folder.write_scores(scores.to_json())
    page = write_page(folder, folder.page).read_text()
    assert f"P {sure['1']:.2f}" in page and "calibrated on 60 latents of this dictionary on 2026-01-02" in page
    assert "P(borne out by held-out documents) = " in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "other:1"}, "the source it was calibrated on is a:1, and this run's is other:1"),
        ({"verbalizers": {"by": {"name": "b"}}}, "the verbalizer it was calibrated on is av"),
        ({"dictionary": {"ref": "sae", "digest": "e" * 40}}, "the dictionary"),
        ({"settings": {}}, "its manifest does not tell how it was made"),
    ],
)  # fmt: skip
def test_another_run_is_refused(made, tmp_path, changes, told):
    calibration, texts = made
    run = JudgedRun.of(run_of(tmp_path / "run", texts, **changes))
    with pytest.raises(Refusal, match=told):
        refuse_another_run(calibration, run, "pair.json", EMBEDDER.name)


def test_another_route_or_embedder_is_refused(made, tmp_path):
    calibration, texts = made
    other = [{"name": "fires", "route": "blend", "washout": "on-shell", "verbalizer": "av"}]
    run = JudgedRun.of(run_of(tmp_path / "a", texts, conditions=other))
    with pytest.raises(Refusal, match="it was calibrated by direct and map, and this run goes by blend"):
        refuse_another_run(calibration, run, "pair.json", EMBEDDER.name)
    run = JudgedRun.of(run_of(tmp_path / "b", texts))
    with pytest.raises(Refusal, match="its evidence was placed by"):
        refuse_another_run(calibration, run, "pair.json", "another embedder")


def test_the_file_is_told_from_a_set_of_confidences(made, tmp_path):
    calibration, _ = made
    calibration.save(tmp_path / "pair.json")
    assert calibration_of(tmp_path / "pair.json") is not None and calibration_of(None) is None
    check_confidence(tmp_path / "pair.json")
    (tmp_path / "set.json").write_text(json.dumps({"kind": "dragoman confidences", "format": 1, "kits": []}))
    assert calibration_of(tmp_path / "set.json") is None
    with pytest.raises(Refusal):
        check_confidence(tmp_path / "set.json")
    assert word(1)
