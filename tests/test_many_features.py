"""Runs of more features than can be compared with one another: estimates of some, single features of all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Directions, Refusal, Site
from dragoman.report import write_page
from dragoman.report.headline import compared_words
from dragoman.scores import Scores
from dragoman.scoring import JudgedRun, claim_scores, judge_run, run_evidence
from dragoman.scoring.labels import label_scores
from dragoman.scoring.measures import measure_scores
from dragoman.scoring.reconstruction import reconstruction_scores
from dragoman.stats.lift import lift_per_feature, own_lift, similarity
from dragoman.stats.reconstruct import among_drawn, centred_cosines, per_direction
from dragoman.store import RunFolder
from dragoman.store.labels import ContextLabels
from dragoman.store.scored import scores_of
from judging import whole
from word_hash import HashEmbedder

N, DRAWN, SITE = 60, 24, Site.parse("target:1")
WORDS = ["rain", "bees", "chess", "opera", "law", "bread", "wine", "trains"]
FEATURES = [str(k) for k in range(N)]


def planted(path: Path, *, native: bool = True) -> RunFolder:
    """Texts and windows name the topic of their feature, one text in five another one."""
    rng = np.random.default_rng(4)

    def text(k: int, right: bool = True) -> str:
        topic = WORDS[k % len(WORDS)] if right else str(rng.choice(WORDS))
        more = " ".join(rng.choice(WORDS, 4))
        return f"Texts about {topic}, {topic} {k} and {topic}. The words “{topic}” and “{more.split()[0]}” stand out."

    conditions = [
        {"name": "plain", "washout": "none", "route": "map", "verbalizer": "av"},
        {"name": "random", "washout": "none", "route": "map", "verbalizer": "av", "null": "random directions"},
    ]
    rows = [{"feature": f, "condition": "plain", "text": text(k, k % 5 > 0)} for k, f in enumerate(FEATURES)]
    rows += [{"feature": f"r{k}", "condition": "random", "text": " ".join(rng.choice(WORDS, 6))} for k in range(9)]
    if native:
        conditions.insert(0, {"name": "native", "washout": "none", "verbalizer": "own"})
        rows += [{"feature": f, "condition": "native", "text": text(k)} for k, f in enumerate(FEATURES)]
    info = {f: {"category": WORDS[k % len(WORDS)]} for k, f in enumerate(FEATURES)}
    run = RunFolder.create(path, {
        "plan_digest": "x", "source": "source:1", "target": str(SITE), "conditions": conditions, "features": FEATURES,
        "feature_info": info, "category_words": {word: [word] for word in WORDS},
    })  # fmt: skip
    run.append([whole(row | {"sample": 0}) for row in rows])
    others = [f"other {k}" for k in range(0 if native else 20)]
    run.write_contexts({
        f: {
            "firing": [f"here {WORDS[k % len(WORDS)]} {WORDS[k % len(WORDS)]} {k} {j}" for j in range(4)],
            "silent": [f"there {' '.join(rng.choice(WORDS, 2))} {j}" for j in range(4)],
            "words": {WORDS[k % len(WORDS)]: 0.8}, "forms": {},
        }
        for k, f in enumerate([*FEATURES, *others])
    })  # fmt: skip
    run.write_lens(
        {"plain": {f: {"source": [WORDS[k % 8], "a"], "carried": [WORDS[k % 8]]} for k, f in enumerate(FEATURES)}}
    )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return planted(tmp_path_factory.mktemp("many") / "run")


@pytest.fixture(scope="module")
def dense(run: RunFolder) -> Scores:
    """What is scored where all features are compared."""
    return judge_run(JudgedRun.of(run), HashEmbedder(), seed=1, also=[HashEmbedder()])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may have no more than so many features compared, and blocks hold seven."""
    monkeypatch.setattr("dragoman.scoring.judged_run.MOST_COMPARED", DRAWN)
    for module in ("judged_run", "by_windows", "claims", "confidence", "reconstruction"):
        monkeypatch.setattr(f"dragoman.scoring.{module}.BLOCK", 7)


def test_lift_of_single_features_needs_no_matrix() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 50, 8)).astype(np.float32)
    assert np.allclose(own_lift(first, second), lift_per_feature(similarity(first, second)), atol=1e-12)
    with pytest.raises(Refusal, match="three features at least"):
        own_lift(first[:2], second[:2])
    with pytest.raises(Refusal, match="NaN"):
        own_lift(first * np.float32(np.nan), second)


@pytest.mark.usefixtures("few")
def test_the_same_features_are_drawn_for_all_conditions_and_by_the_same_seed_again(run: RunFolder) -> None:
    whole_run = JudgedRun.of(run)
    one = whole_run.compared(3)
    assert whole_run.many and len(one.features) == DRAWN and not one.many and one.compared(3) is one
    assert list(one.texts["native"]) == list(one.texts["plain"]) == one.features == whole_run.compared(3).features
    assert one.features != whole_run.compared(4).features
    assert len(one.texts["random"]) == 9 and set(one.dealt["random"]) <= set(one.features)
    assert {row.feature for row in one.rows if row.condition == "plain"} == set(one.features) == set(one.contexts)
    assert set(one.category) == set(one.features)


@pytest.mark.usefixtures("few")
def test_estimates_are_of_the_drawn_features_and_near_those_of_all(run: RunFolder, dense: Scores) -> None:
    found = judge_run(JudgedRun.of(run), HashEmbedder(), seed=1, also=[HashEmbedder()])
    assert found.compared is not None and found.compared.to_json() == {"drawn": DRAWN, "features": N}
    assert dense.compared is None and "compared" not in dense.to_json()
    assert found.lift["plain"].extra["features_p"] < 0.01 and found.nulls["plain"]["other features"].top1.n
    for few_of, all_of in ((found.lift["plain"], dense.lift["plain"]), (found.lift["random"], dense.lift["random"])):
        assert abs(few_of.value - all_of.value) < 0.12
    assert found.detection and dense.detection
    assert [row.features for row in found.detection.table] == [DRAWN, 9, DRAWN]
    assert abs(found.detection.table[0].value - dense.detection.table[0].value) < 0.1


@pytest.mark.usefixtures("few")
def test_single_features_are_told_of_as_where_all_are_compared(run: RunFolder, dense: Scores) -> None:
    found = judge_run(JudgedRun.of(run), HashEmbedder(), seed=1)
    for condition in ("native", "plain", "random"):
        ours, theirs = found.per_feature[condition], dense.per_feature[condition]
        assert [one.feature for one in ours] == [one.feature for one in theirs]
        assert [one.names_category for one in ours] == [one.names_category for one in theirs]
        if condition != "native":
            assert np.allclose([one.lift for one in ours], [one.lift for one in theirs], atol=1e-6)  # type: ignore[misc]
    assert found.detection and dense.detection and len(found.detection.per_feature["plain"]) == N
    assert found.detection.per_feature == dense.detection.per_feature


@pytest.mark.usefixtures("few")
def test_nothing_is_held_against_all_features(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = list[tuple[int, int]]()

    def watched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        shapes.append((len(first), len(second)))
        return similarity(first, second)

    for module in ("judged_run", "judge"):
        monkeypatch.setattr(f"dragoman.scoring.{module}.similarity", watched)
    judge_run(JudgedRun.of(run), HashEmbedder(), seed=0)
    assert shapes and max(max(shape) for shape in shapes) <= DRAWN


def test_windows_without_natives_tell_of_single_features(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = planted(tmp_path / "run", native=False)
    dense = judge_run(JudgedRun.of(run), HashEmbedder(), seed=0)
    request.getfixturevalue("few")
    found = judge_run(JudgedRun.of(run), HashEmbedder(), seed=0)
    assert found.window_lift["plain"].n == DRAWN and dense.window_lift["plain"].n == N
    ours, theirs = ([(m.feature, m.window_lift) for m in one.measured["plain"]] for one in (found, dense))
    assert [f for f, _ in ours] == [f for f, _ in theirs]
    assert np.allclose([v for _, v in ours], [v for _, v in theirs], atol=1e-6)  # type: ignore[misc]


def test_sentences_are_held_against_a_few_drawn_features(
    run: RunFolder, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = claim_scores(JudgedRun.of(run), HashEmbedder())
    request.getfixturevalue("few")
    assert claim_scores(JudgedRun.of(run), HashEmbedder()) == dense  # fewer features than would be drawn
    monkeypatch.setattr("dragoman.scoring.claims.FEW", 40)
    found = claim_scores(JudgedRun.of(run), HashEmbedder(), seed=2)
    assert [one.feature for one in found["plain"]] == FEATURES
    themes = [
        (a, b)
        for x, y in zip(found["plain"], dense["plain"], strict=True)
        for a, b in zip(x.claims, y.claims, strict=True)
    ]
    assert np.mean([a.status == b.status for a, b in themes]) > 0.9
    assert claim_scores(JudgedRun.of(run), HashEmbedder(), seed=2) == found


class Reader:
    """A reconstructor that finds most of a text's own direction."""

    name, site, identity = "reader", SITE, {"kind": "planted"}  # noqa: RUF012

    def __init__(self, by_text: dict[str, np.ndarray]) -> None:
        self._by_text, self.read = by_text, list[int]()

    def reconstruct(self, texts: list[str]) -> np.ndarray:
        self.read.append(len(texts))
        return np.stack([self._by_text[text] for text in texts])


def rows_of_directions() -> Directions:
    return Directions.of(SITE, np.random.default_rng(1).normal(size=(N, 32)).astype(np.float32), FEATURES)


@pytest.mark.usefixtures("few")
def test_texts_are_read_back_among_the_drawn_directions(run: RunFolder) -> None:
    judged, rows = JudgedRun.of(run), rows_of_directions()
    noise = np.random.default_rng(2).normal(size=(N, 32)).astype(np.float32) / 8
    texts = [judged.texts[c][f] for c in ("plain", "native") for f in FEATURES]
    reader: Any = Reader(dict(zip(texts, np.concatenate([rows.unit + noise] * 2), strict=True)))
    dense = reconstruction_scores(judged.rows, rows, reader).per_feature["plain"]
    reader.read.clear()
    drawn = judged.compared(0).texts
    found = reconstruction_scores(judged.rows, rows, reader, among=drawn)
    ours = {one.feature: one for one in found.per_feature["plain"]}
    assert [row.n for row in found.table] == [DRAWN, DRAWN] and list(ours) == FEATURES
    assert max(reader.read[1:]) <= 7 and sum(reader.read) <= 2 * N
    assert np.allclose([ours[one.feature].cosine for one in dense], [one.cosine for one in dense], atol=0.1)
    assert all(one.nearest == one.feature and one.rank == 1 for one in ours.values())
    assert np.allclose([ours[one.feature].lift for one in dense], [one.lift for one in dense], atol=0.15)


def test_a_direction_beside_the_drawn_ones_has_the_numbers_it_has_among_them() -> None:
    rng, rows = np.random.default_rng(5), rows_of_directions()
    read = (rows.unit + rng.normal(size=(N, 32)) / 6).astype(np.float32)
    drawn, last = rows.pick(FEATURES[:-1]), rows.pick(FEATURES[-1:])
    s = centred_cosines(read[:-1], drawn, site=SITE)
    shuffled = float((s.sum() - np.trace(s)) / ((N - 1) * (N - 2)))
    (one,) = among_drawn(read[-1:], last, read[:-1], drawn, shuffled)
    dense = per_direction(centred_cosines(read, rows, site=SITE), rows)[-1]
    assert one["rank"] == dense["rank"] and one["nearest"] == dense["nearest"]
    assert abs(one["cosine"] - dense["cosine"]) < 0.02 and abs(one["lift"] - dense["lift"]) < 0.03


def test_evidence_of_single_texts_is_what_it_is_of_all(run: RunFolder, request: pytest.FixtureRequest) -> None:
    dense = run_evidence(JudgedRun.of(run), HashEmbedder())
    request.getfixturevalue("few")
    found = run_evidence(JudgedRun.of(run), HashEmbedder())
    assert {c: list(by) for c, by in found.items()} == {c: list(by) for c, by in dense.items()}
    for name in ("detection", "detection_cosine", "context_gap", "tokens"):
        assert found["plain"]["3"][name] == dense["plain"]["3"][name]


@pytest.mark.usefixtures("few")
def test_labels_and_measures_are_of_the_drawn_features(run: RunFolder) -> None:
    judged = JudgedRun.of(run)
    assert {one.n for one in measure_scores(judged.compared(0))["plain"].values()} == {DRAWN}
    head = {"format": 1, "holds": "labels from contexts", "model": "m", "files": "", "dtype": "", "prompt": ""}
    told: Any = {
        "head": head | {"windows": 4, "tokens": 9},
        "by_feature": {
            f: {"feature": f, "label": WORDS[k % 8], "windows": 2, "shown": ""} for k, f in enumerate(FEATURES)
        },
    }
    found = label_scores(judged, labels_of(told), HashEmbedder(), seed=0)
    if found is not None:  # half of the windows are held back
        assert [row.features for row in found.table] == [DRAWN] * 3
        assert all(len(some) == N for some in found.per_feature.values())


def labels_of(told: dict[str, Any]) -> ContextLabels:
    from dragoman.records import ContextLabel, LabelsHead

    by = {f: ContextLabel.of(one, "it") for f, one in told["by_feature"].items()}
    return ContextLabels(head=LabelsHead.of(told["head"], "it"), by_feature=by)


@pytest.mark.usefixtures("few")
def test_page_and_screen_say_that_features_were_drawn(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dragoman.commands.show import show_scores

    judged = JudgedRun.of(run)
    scores = judge_run(judged, HashEmbedder(), seed=0)
    scores = scores.model_copy(update={"claims": claim_scores(judged, HashEmbedder())})
    run.write_scores(scores)
    told = f"Estimates are of {DRAWN} features, drawn at random from the {N}"
    assert told in compared_words(scores) and not compared_words(scores.model_copy(update={"compared": None}))
    text = write_page(run, tmp_path / "page.html").read_text()
    sentences = re.search(r"The documents they fire in support [^<]*", text)
    assert told in text and sentences
    show_scores(scores, run.manifest)
    assert told in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("dragoman.report.page.LISTED", N - 1)  # an overview, without texts and single features
    overview = write_page(run, tmp_path / "overview.html").read_text()
    assert told in overview and sentences.group() in overview and "to search and read them" in overview.lower()
    monkeypatch.setattr("dragoman.store.scored.WHOLE", 10)
    assert scores_of(run) == scores.model_copy(update={"plan_digest": None})
