"""A run judged by a calibration: a chance for each sentence, told on the page; another run's is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ar_checkpoints import WIDTH
from dragoman.calibration.answers import calibrated
from dragoman.calibration.outcome import verdicts
from dragoman.commands.show import rows_of, show_rows, show_scores
from dragoman.confidence.learnt import READ, LearntTest
from dragoman.confidence.model import ConfidenceSet, Step
from dragoman.core import Refusal, Talk
from dragoman.embed import LexicalEmbedder
from dragoman.models.decode import Verbalizer
from dragoman.report import write_page
from dragoman.runs import plan
from dragoman.runs.dry_run import dry_run
from dragoman.runs.explain import explain
from dragoman.runs.identity import run_identity
from dragoman.runs.opened import Opened
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.scores import FORMAT, FeatureClaims, Scores
from dragoman.scoring.calibrated import calibrated_claims, calibration_of, check_confidence, refuse_another_run
from dragoman.scoring.claims import claim_scores
from dragoman.scoring.judged_run import CachedEmbedder, JudgedRun
from dragoman.store import RunFolder, plain
from planted_calibration import IDENTITY, SIZES, word
from planted_calibration import world as planted
from verbalizer_doubles import ScriptedVerbalizer

EMBEDDER = CachedEmbedder(LexicalEmbedder(width=256))


@pytest.fixture(scope="module")
def made():
    texts, watched = planted()
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


def unanswered(calibration, texts, folder, along=None, **changes):
    """A run judged by a changed calibration: its folder, and sentences that have a chance and no answer."""
    run = run_of(folder, texts)
    if along is not None:
        run.write_contexts({name: {**known, "along_row": along} for name, known in run.contexts.items()})
    judged, calibration = JudgedRun.of(run), calibration.model_copy(update=changes)
    told = calibrated_claims(judged, calibration, claim_scores(judged, EMBEDDER), EMBEDDER)
    run.write_scores(Scores(format=FORMAT).model_copy(update=told).to_json())
    found = [claim for one in told["claims"]["fires"] for claim in one.claims if claim.probability is not None]
    assert len(found) == 12
    return run, [claim for claim in found if not claim.answered]


@pytest.mark.parametrize(
    ("why", "short", "long"),
    [
        ("no line", "no line is safe", "its calibration found no line from which answers are safe"),
        ("below the line", "below the line", "below the line, {line:.3f}"),
        ("row not measured", "its latent’s row was not measured",
         "how its latent stands out along its own row was not measured"),
        ("row does not stand out", "its latent does not stand out",
         "its latent does not stand out along its own row (5.0% of fake ones do)"),
    ],
)  # fmt: skip
def test_every_screen_tells_why_a_sentence_has_no_answer(made, tmp_path, capsys, why, short, long):
    calibration, texts = made
    step = Step(names=READ, flagged=(), centre=(0.0,) * 3, scale=(1.0,) * 3, weights=(1.0, 0.0, 0.0), intercept=0.0,
                slope=1.0, offset=0.0, threshold=0.5, report={})  # fmt: skip
    learnt = LearntTest(step=step, line=3.0, latents=0.9, n=60, fakes=0.05, n_fakes=40)
    changes = {"no line": {"line": None}, "below the line": {}}.get(why, {"learnt": learnt})
    along = {"sharpness": 2.0, "cosine": 0.5, "share": 0.1} if why == "row does not stand out" else None
    run, none = unanswered(calibration, texts, tmp_path / "run", along, **changes)
    own = [claim for claim in none if claim.unanswered == why]
    below = [claim for claim in none if claim.unanswered == "below the line"]
    if why in ("no line", "below the line"):
        assert own == none and 0 < len(none) < 13
    else:
        assert len(none) == 12 and len(own) + len(below) == 12 and own and below
        assert min(claim.probability for claim in own) > calibration.line
    page = write_page(run, run.page).read_text()
    p = own[0].probability
    assert f"P {p:.2f}, no answer: {short}</small>" in page
    assert f"P(borne out by held-out documents) = {p:.3f}, no answer: {long.format(line=calibration.line)};" in page
    show_rows(rows_of(run), run.manifest)
    assert f"P {p:.2f}, no answer: {short} " in capsys.readouterr().out
    show_scores(run.scores, run.manifest)
    assert f"{short} ({len(own)})" in capsys.readouterr().out
    assert why in {one.get("unanswered") for row in rows_of(run) for one in row["claims"]}


def test_scores_that_do_not_tell_why_there_is_no_answer_are_read_as_before(made, tmp_path):
    run, none = unanswered(*made, tmp_path / "run")
    scores = json.loads((run.path / "scores.json").read_text())
    for one in scores["claims"]["fires"]:
        for claim in one["claims"]:
            claim.pop("unanswered", None)
    run.write_scores(scores)
    page = write_page(run, run.page).read_text()
    assert f"P {none[0].probability:.2f}, no answer</small>" in page
    told = {**none[0].to_json(), "unanswered": "tired"}
    with pytest.raises(Refusal, match="unanswered: "):
        type(none[0]).of(told, "a claim")


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


def test_a_run_that_does_not_tell_how_rows_stand_out_is_refused_where_answers_go_by_it(made, tmp_path):
    calibration, texts = made
    step = calibration.right
    learnt = LearntTest(step=step, line=0.0, latents=0.9, n=60, fakes=0.05, n_fakes=40)
    by_rows = calibration.model_copy(update={"learnt": learnt})
    run = JudgedRun.of(run_of(tmp_path / "run", texts))
    refuse_another_run(calibration, run, "pair.json", EMBEDDER.name)
    with pytest.raises(Refusal, match="it does not tell how feature 0 stands out along its row"):
        refuse_another_run(by_rows, run, "pair.json", EMBEDDER.name)
    # A run that an older version began, and this one went on with.
    along = {"along_row": {"sharpness": 4.0, "cosine": 0.5, "share": 0.1}}
    grown = {name: known | (along if name != "7" else {}) for name, known in run.contexts.items()}
    with pytest.raises(Refusal, match="it does not tell how feature 7 stands out along its row"):
        refuse_another_run(by_rows, replace(run, contexts=grown), "pair.json", EMBEDDER.name)
    whole = {name: known | along for name, known in run.contexts.items()}
    refuse_another_run(by_rows, replace(run, contexts=whole), "pair.json", EMBEDDER.name)


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


# --- refused before anything dear -------------------------------------------------------------------------------------


@pytest.fixture
def file_of(made, world, tmp_path):
    """A calibration's file, of the small world and a scripted verbalizer but for what is changed."""
    by = ScriptedVerbalizer(world.target, WIDTH, lambda v: f"Text {int(np.argmax(v))}.")

    def write(**changes):
        options = Options(max_new_tokens=6)
        own = run_identity(world.request().open(), world.target, options, plain(by.identity), ("direct", "map"))
        calibration = made[0].model_copy(update={"identity": own.model_copy(update=changes)})
        calibration.save(tmp_path / "pair.json")
        return tmp_path / "pair.json", by

    return write


def test_serve_refuses_a_calibration_of_something_else_when_it_starts(file_of, world, monkeypatch):
    options = Options(max_new_tokens=6)
    with monkeypatch.context() as patch:
        patch.setattr(Verbalizer, "open", lambda *_, **__: pytest.fail("a verbalizer was opened"))
        path, _ = file_of(source="m:1")
        with pytest.raises(Refusal, match="the source it was calibrated on is m:1"):
            Opened.open(world.request().open(), by=world.av, confidence=path, options=options)
        with pytest.raises(Refusal, match="which is of a dictionary, and none is named"):
            Opened.open(world.target, by=world.av, confidence=path, options=options)
    monkeypatch.setattr(Readings, "aligned", lambda *_, **__: pytest.fail("texts were read"))
    path, by = file_of(verbalizer={"name": "another"})
    texts = {"texts": str(world.root / "texts.txt"), "options": options}
    with pytest.raises(Refusal, match="the verbalizer it was calibrated on is another"):
        Opened.open(world.request().open(), by=by, confidence=path, **texts)


def test_a_dry_run_refuses_one_of_something_else(file_of, world, tmp_path):
    texts = Texts.read(world.root / "texts.txt")
    how = {"by": world.av, "out": tmp_path / "run", "texts": texts, "options": Options(max_new_tokens=6)}
    path, _ = file_of()
    assert dry_run(world.request().open(), confidence=path, **how).features == 30
    path, _ = file_of(dictionary="e" * 40)
    with pytest.raises(Refusal, match="the dictionary it was calibrated on is eeee"):
        dry_run(world.request().open(), confidence=path, **how)


def test_another_route_is_refused_before_anything_is_said(file_of, world, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_verbalized", lambda *_: pytest.fail("something was said"))
    path, by = file_of(routes=("map",))
    how = {"by": by, "texts": world.root / "texts.txt", "max_new_tokens": 6, "confidence": path}
    with pytest.raises(Refusal, match="it was calibrated by map, and this run goes by direct"):
        explain(world.request().open(), features="0-9", out=tmp_path / "both", **how)
    monkeypatch.setattr(Readings, "aligned", lambda *_, **__: pytest.fail("texts were read"))
    with pytest.raises(Refusal, match="it was calibrated by map, and this run goes by direct"):
        explain(world.request().open(), features="0-9", reading="fires", out=tmp_path / "fires", **how)
    assert not (tmp_path / "both").exists() and not (tmp_path / "fires").exists()


@pytest.mark.parametrize("number", [True, 2.0, "2", None, 3])
def test_a_number_of_a_format_is_an_int(made, tmp_path, number):
    told = made[0].to_json() | {"format": number}
    (tmp_path / "pair.json").write_text(json.dumps(told))
    with pytest.raises(Refusal, match=r"of format (True|2\.0|'2'|None|3), and this version reads 2"):
        check_confidence(tmp_path / "pair.json")
    with pytest.raises(Refusal, match="format: "):
        type(made[0]).of(told, "pair.json")
    with pytest.raises(Refusal, match="format: "):
        type(made[0]).read(json.dumps(told), "pair.json")
    confidences = {"kind": "dragoman confidences", "format": number, "kits": []}
    with pytest.raises(Refusal, match="not a set of confidences in format 1"):
        ConfidenceSet.from_json(confidences)
    run = run_of(tmp_path / "run", made[1])
    manifest = json.loads((run.path / "manifest.json").read_text()) | {"format": 2.0}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refusal, match="its format is 2.0"):
        RunFolder.open(run.path)
