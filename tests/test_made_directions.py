"""Calibrations for vectors without an encoder: on directions made of words, for such vectors alone, and labelled so."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dragoman.calibration.calibrate as room
from dragoman.calibration import inputs
from dragoman.calibration.answers import calibrated, gathered
from dragoman.calibration.calibrate import cost
from dragoman.calibration.constructed import like_activations, mean_differences, read_pairs, standing
from dragoman.calibration.fitted import components
from dragoman.calibration.outcome import verdicts
from dragoman.calibration.sizes import Sizes
from dragoman.calibration.texts import ANOTHER, FAKE, NULLS
from dragoman.commands.calibrate import lines_of
from dragoman.commands.show import show_calibration, with_scores
from dragoman.commands.verdict import believed
from dragoman.confidence.calibration import MADE, Calibration, kind_of
from dragoman.core import Directions, Explanation, Refusal, Talk
from dragoman.dictionaries import open_dictionary
from dragoman.embed import LexicalEmbedder
from dragoman.models.harvest import Reader
from dragoman.report import write_page
from dragoman.runs.crossings import fit_crossing
from dragoman.runs.explain import explain
from dragoman.runs.identity import run_identity
from dragoman.runs.opened import Opened
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.scores import FORMAT, Scores
from dragoman.scoring import score_run
from dragoman.scoring.calibrated import calibrated_claims, identity_of_run, refuse_another_run
from dragoman.scoring.judged_run import CachedEmbedder, JudgedRun
from dragoman.scoring.sentences import Reference
from dragoman.store import RunFolder, plain
from planted_calibration import IDENTITY, SIZES, another, made_text, made_world, word
from planted_calibration import world as latents_world
from small_world import World, command
from tiny_checkpoints import CORPUS
from verbalizer_doubles import ScriptedVerbalizer

EMBEDDER = CachedEmbedder(LexicalEmbedder(width=256))
WHOLE = sorted({w for text in CORPUS for w in re.findall("[a-z]{4,}", text.lower())})
OF_VECTORS = another(IDENTITY, dictionary="", routes=("map",))


def of(planted: Any, identity: Any) -> tuple[Calibration, Any, Any]:
    texts, watched = planted
    found = verdicts(texts, watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    return calibrated(watched, found, identity, SIZES, 0, "2026-01-02", "t", EMBEDDER, Talk()), found, watched


@pytest.fixture(scope="module")
def made() -> tuple[Calibration, Any, Any]:
    return of(made_world(), OF_VECTORS)


@pytest.fixture(scope="module")
def of_latents() -> Calibration:
    return of(latents_world(), IDENTITY)[0]


def test_it_says_on_what_it_was_fitted(made: Any, tmp_path: Path) -> None:
    calibration = made[0]
    assert calibration.on == MADE
    assert calibration.told.startswith(
        "calibrated on made directions, not on latents (60 words), on 2026-01-02; answers"
    )
    lines = lines_of(calibration)
    assert lines[0] == "sentences of made directions (60 words), not of latents, by documents held out"
    assert all(len(line) <= 80 for line in lines)
    calibration.save(tmp_path / "pair.json")
    assert Calibration.load(tmp_path / "pair.json").told == calibration.told
    for changes in ({"on": "latents"}, {"identity": IDENTITY.to_json()}):
        (tmp_path / "edited.json").write_text(json.dumps(calibration.to_json() | changes))
        with pytest.raises(Refusal, match="its identity says otherwise"):
            Calibration.load(tmp_path / "edited.json")


def test_right_sentences_are_sure_and_no_null_is_answered(made: Any) -> None:
    calibration, found, watched = made
    own, nulls = gathered(found, watched, Reference(sentences=calibration.sentences, embedder=EMBEDDER))
    assert len(own.right) == 2 * 3 * 60 and len(set(own.group.tolist())) == 60  # a word's three are judged together
    token = np.array([kind_of(row) == "token" for row in own.evidence])
    p = np.array([one.probability or 0.0 for one in calibration.predict(own.evidence)])
    assert p[token & own.right].mean() > 0.8 and p[token & ~own.right].mean() < 0.3
    assert calibration.line is not None and calibration.reliability.answered > 0.3
    assert len(nulls) == 48 and FAKE not in {text.null for text in nulls}
    assert set(calibration.reliability.nulls) == {text.null for text in nulls}
    assert np.mean([any(one.answered for one in calibration.predict(text.evidence)) for text in nulls]) <= 0.02
    assert not {name for row in own.evidence for name, value in row.items() if value is not None} & {
        "detection", "words_held", "named_share", "one_word_share"
    }  # fmt: skip


def test_held_out_documents_of_other_words_are_refused() -> None:
    with pytest.raises(Refusal, match=r"calibrating by where words stand in held-out documents: the verdicts agree"):
        of(made_world(moved=7), OF_VECTORS)


def test_words_that_stand_together_are_one_group() -> None:
    texts = [f"the river {k} and its banks" if k % 3 else f"rivers {k} of nothing else, harbour" for k in range(30)]
    apart = standing(texts, ["river", "banks", "harbour"])
    assert apart.toarray().sum(axis=0).tolist() == [30, 20, 10]
    assert len(set(components(standing(texts[:20] + ["no", "none"] * 8, ["banks", "harbour"])).tolist())) == 2
    assert len(set(components(standing(texts[:20] + ["no"] * 20, ["river", "banks"])).tolist())) == 1


# --- a run of vectors -------------------------------------------------------------------------------------------------


def run_of(folder: Path, naming: bool, layout: str | None = "vectors") -> RunFolder:
    """Twelve vectors' texts, which name what their rows write, or say nothing of them."""
    rng = np.random.default_rng(7)
    texts = [made_text(word(200 + k), word(200 + k if naming else 250 + k), rng, sure=2.0) for k in range(12)]
    rows = [one.text.row.model_copy(update={"condition": "writes", "feature": str(k)}) for k, one in enumerate(texts)]
    entry = {"name": "writes", "route": "map", "washout": "on-shell", "verbalizer": "av", "reading": "writes"}
    dictionary = {"ref": "p.npy", "at": "p.npy", "digest": "e" * 40} | ({"layout": layout} if layout else {})
    settings = {"map": "aligned", "washout": "on-shell", "samples": 1, "temperature": 0.0, "max_new_tokens": 60}
    run = RunFolder.create(folder, {
        "source": IDENTITY.source, "target": IDENTITY.target, "features": [row.feature for row in rows],
        "rows": len(rows), "conditions": [entry], "dictionary": dictionary, "settings": settings,
        "verbalizers": {"by": {"name": "av"}}, "plan_digest": "0" * 64,
    })  # fmt: skip
    run.append([row.to_json() for row in rows])
    run.write_lens({"writes": {str(k): dict(zip(("source", "carried"), one.text.lens or (), strict=True))
                                for k, one in enumerate(texts)}})  # fmt: skip
    return RunFolder.open(folder)


@pytest.mark.parametrize("naming", [True, False])
def test_vectors_that_say_nothing_get_no_confident_sentence(
    made: Any, tmp_path: Path, naming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(tmp_path / "run", naming)
    run = JudgedRun.of(folder)
    refuse_another_run(made[0], run, "pair.json", EMBEDDER.name)
    told = calibrated_claims(run, made[0], {}, EMBEDDER)
    token = [one for row in told["claims"]["writes"] for one in row.claims if one.kind == "token"]
    assert len(token) == 12 and all(one.status == "unchecked" for one in token)
    assert sum(bool(one.answered) for one in token) == (12 if naming else 0)
    scores = Scores(format=FORMAT).model_copy(update=told)
    folder.write_scores(scores.to_json())
    page = write_page(folder, folder.page).read_text()
    assert "made directions, not on latents (60 words)" in page and f"P {token[0].probability:.2f}" in page
    assert "checked against where its feature fires" not in page and "documents they fire in support" not in page
    show_calibration(scores)
    assert "made directions, not on latents" in " ".join(capsys.readouterr().out.split())
    said = " ".join(believed(with_scores(folder.rows(), scores.to_json(), folder.manifest), folder.manifest))
    assert ("Believe of 12 of 12 texts" in said) if naming else said.startswith("Believe no sentence")


def test_neither_serves_for_the_other(made: Any, of_latents: Calibration, tmp_path: Path) -> None:
    vectors, rows = (JudgedRun.of(run_of(tmp_path / str(kind), True, kind)) for kind in ("vectors", None))
    assert identity_of_run(vectors) == OF_VECTORS
    told = (
        "pair.json: it was calibrated on made directions, not on latents, and this run is of a dictionary's latents; "
    )
    with pytest.raises(Refusal, match=told):
        refuse_another_run(made[0], rows, "pair.json", EMBEDDER.name)
    told = "pair.json: it was calibrated on a dictionary's latents, and this run is of vectors without an encoder; "
    with pytest.raises(Refusal, match=told):
        refuse_another_run(of_latents, vectors, "pair.json", EMBEDDER.name)


# --- in the small world -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors(world: World) -> Path:
    """Two of the dictionary's rows, in a file without an encoder."""
    np.save(world.root / "probe.npy", world.rows[:2])
    return world.root / "probe.npy"


def test_neither_serves_for_the_other_before_anything_is_read(
    made: Any, of_latents: Calibration, world: World, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Readings, "aligned", lambda *_, **__: pytest.fail("texts were read"))
    probe, sae, options = open_dictionary(vectors, site=world.source), world.request().open(), Options(max_new_tokens=6)
    files: list[Path] = []
    for calibration, own in ((made[0], probe), (of_latents, sae)):
        identity = run_identity(own, world.target, options, plain({"name": "av"}), ("map",))
        files.append(tmp_path / f"{len(files)}.json")
        calibration.model_copy(update={"identity": identity}).save(files[-1])
    how: dict[str, Any] = {"by": world.av, "texts": world.root / "texts.txt", "max_new_tokens": 6, "reading": "writes"}
    with pytest.raises(Refusal, match="on made directions, not on latents, and this run is of a dictionary's latents"):
        explain(sae, out=tmp_path / "a", confidence=files[0], **how)
    with pytest.raises(Refusal, match="on a dictionary's latents, and this run is of vectors without an encoder"):
        explain(probe, out=tmp_path / "b", confidence=files[1], **how)
    with pytest.raises(Refusal, match="which is of a dictionary, and none is named"):
        Opened.open(world.target, by=world.av, confidence=files[1], options=options)
    with pytest.raises(Refusal, match="the source it was calibrated on is .*llama:1, and this run's is .*gemma:1"):
        Opened.open(world.target, by=world.av, confidence=files[0], options=options)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_what_is_read_and_said_is_told() -> None:
    assert Sizes().words == 134 and Sizes(latents=20).words == 20
    told = cost(Sizes(latents=60, nulls=12), ["a"] * 5, ["b"] * 3, made=True)
    assert (
        told
        == "this reads 5 documents with both models, looks words up in 3 that no model reads, and says about 84 texts"
    )


@pytest.mark.parametrize("reading", ["fires", "both"])
def test_vectors_have_no_reading_of_where_they_fire(
    world: World, vectors: Path, reading: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "speakers", lambda *_, **__: pytest.fail("a verbalizer was opened"))
    with pytest.raises(Refusal, match=f"calibrating the reading '{reading}' of .*which fire nowhere; leave --reading"):
        room.calibrate(open_dictionary(vectors, site=world.source), by=world.av, reading=reading)


def test_texts_with_too_few_words_are_refused(world: World, vectors: Path, tmp_path: Path) -> None:
    texts = [f"{text} once more" for text in (world.root / "texts.txt").read_text().splitlines()]
    with pytest.raises(Refusal, match=r"on made directions: \d+ words? stands? .*20 are the fewest; read more texts"):
        how: dict[str, Any] = {"out": tmp_path / "pair.json", "max_new_tokens": 6}
        room.calibrate(open_dictionary(vectors, site=world.source), by=world.av, texts=texts, **how)
    assert not (tmp_path / "pair.json").exists()


@pytest.fixture(scope="module")
def worded(world: World) -> Path:
    """Texts of which each holds two of the words that both tokenizers have whole."""
    rng, lead = np.random.default_rng(0), "this sentence is as long as all of the others before it says"
    lines = [f"{lead} {' and '.join(rng.choice(WHOLE, 2, replace=False))} {k}" for k in range(600)]
    (world.root / "worded.txt").write_text("\n".join(lines))
    return world.root / "worded.txt"


def test_the_command_reads_says_and_goes_on(
    world: World, vectors: Path, worded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By models of chance nothing is borne out, and no file written; what a stopped one kept is gone on with."""
    asked = [
        *("calibrate", str(vectors), "--by", world.av, "--source", str(world.source), "--latents", "20"),
        *("--texts", str(worded), "--nulls", "3", "--max-new-tokens", "6", "-o", str(world.root / "vectors.json")),
    ]
    others = set((world.root / "cache" / "calibration").glob("*/run"))
    said = command(monkeypatch, capsys, *asked)
    assert said.code == 1 and "calibrating by where words stand" in said.err
    assert "calibrated on made directions, not on latents: 20 words" in " ".join(said.err.split())
    (run,) = set((world.root / "cache" / "calibration").glob("*/run")) - others
    whole = (run / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    counts = Counter(row["condition"] for row in rows)
    assert counts == {"writes": 60, "random": 3, "shuffled map": 3, "background": 1}
    (run / "rows.jsonl").write_text("".join(whole.splitlines(keepends=True)[:40]) + '{"torn')
    monkeypatch.setattr(inputs, "read_pairs", lambda *_, **__: pytest.fail("it was read anew"))
    again = command(monkeypatch, capsys, *asked)
    assert again.code == 1 and "calibrating by where words stand" in again.err
    assert (run / "rows.jsonl").read_text() == whole and not (world.root / "vectors.json").exists()


class Knowing(ScriptedVerbalizer):
    """Names the word whose direction is nearest, and says it the readier the nearer it is."""

    def __init__(self, words: Directions) -> None:
        said = [f'The final token is "{word}".' for word in words.ids]
        super().__init__(words.site, words.d_model, lambda vector: said[int(np.argmax(words.unit @ vector))])
        self.words = words

    def verbalize(self, vectors: Any, **how: Any) -> list[Explanation]:
        near = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ self.words.unit.T
        said = super().verbalize(vectors, **how)
        return [replace(one, log_probability=float(most)) for one, most in zip(said, near.max(axis=1), strict=True)]


@dataclass(frozen=True)
class Lens:
    """Writes the words whose rows are nearest."""

    rows: Directions

    def top(self, unit: Any) -> list[list[str]]:
        return [[self.rows.ids[k] for k in near[:3]] for near in np.argsort(-(unit @ self.rows.unit.T), axis=1)]


def test_a_made_direction_is_sure_and_noise_is_not(
    world: World, worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, by a verbalizer that knows where the map puts words: probes of words, and vectors of nothing."""
    texts = worded.read_text().splitlines()
    pairs = read_pairs(Reader.open(world.source), Reader.open(world.target), texts)
    rows = mean_differences(pairs, WHOLE, world.source)
    noise = like_activations(pairs.x, world.source, WHOLE[:12], seed=11)
    np.savez(tmp_path / "probes.npz", probes=np.concatenate([rows.unit[:12], noise.unit]))
    opened = open_dictionary(tmp_path / "probes.npz", site=world.source)
    crossing = fit_crossing(opened, world.target, texts=texts)
    by = Knowing(crossing.directions(rows, "map"))
    lenses = SimpleNamespace(source=Lens(rows), target=Lens(by.words), shared=None)
    monkeypatch.setattr(Readings, "lenses", lenses)
    real, kept = room.work_of, list[room.Work]()
    monkeypatch.setattr(room, "work_of", lambda *words: kept.append(real(*words)) or kept[-1])
    how: dict[str, Any] = {"by": by, "washout": "none", "max_new_tokens": 60}
    made = room.calibrate(opened, out=tmp_path / "pair.json", texts=texts, latents=120, nulls=30, **how)
    assert made.on == MADE and made.identity.dictionary == "" and (made.reliability.auroc or 0) > 0.9
    nulls = [one for one in kept[0].verdicts.texts if one.null]
    assert {one.null for one in nulls} == set(NULLS) - {FAKE}
    for one in nulls:  # the row was swapped on its way: what the direction writes at the source is its own
        if one.null == ANOTHER and one.feature.endswith(" at 1"):
            own = one.feature.removesuffix(" at 1")
            assert one.text.lens is not None and one.text.lens[0][0] == own and f'"{own}"' not in one.text.row.text
    run = explain(opened, out=tmp_path / "run", confidence=tmp_path / "pair.json", through=crossing, **how)
    scores = Scores.of(run.folder.scores, "scores")
    sure = [one.claims[0].probability or 0.0 for one in scores.claims["writes"]]
    assert len(sure) == 24 and min(sure[:12]) > 0.9 and np.mean(sure[12:]) < 0.3
    # In 24 dimensions noise is near some word too often: no line is safe, and that is said in its place.
    assert re.search("answers nothing .*of the texts of the null '.*' would be answered wrongly", made.told)
    assert not any(one.claims[0].answered for one in scores.claims["writes"])
    assert scores.calibration is not None and scores.calibration.on == MADE
    assert score_run(run.folder, confidence=tmp_path / "pair.json").claims == scores.claims
