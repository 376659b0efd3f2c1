"""Agreement of two verbalizers over what nulls give: scripted ones of which it is known what they share."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dragoman import Refusal, compare, explain, rank
from dragoman.comparison import agreement as room
from dragoman.comparison import compare_runs
from dragoman.comparison.page import write_comparison, write_ranking
from dragoman.comparison.ranked import rank_runs
from dragoman.comparison.records import AgreementOverNulls
from dragoman.core import Directions, Site, Talk
from dragoman.embed import LexicalEmbedder
from dragoman.maps import Moments
from dragoman.models.prompts import Activations
from dragoman.runs.nulls import shuffled
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.stats.agreement import NullPairs, agreement
from dragoman.store import RunFolder, digest
from judging import whole
from nursery import Nursery, wait_until
from small_world import World, command

IDS = [str(k) for k in range(40)]
NULLS = [f"null-{k}" for k in range(40)]
Says = Callable[[str], str]


def truth(name: str) -> str:
    """What a verbalizer that reads well says: its own words of each feature, none of a null's."""
    if not name.startswith("null"):
        return f"mention thing{name} and part{name} of kind{name}"
    return noise("truth")(name)


def also_truth(name: str) -> str:
    return truth(name) + " indeed" if not name.startswith("null") else noise("also")(name)


def same(_name: str) -> str:
    return "text about people and places"


def noise(whose: str) -> Says:
    """Other words for every feature and null."""
    return lambda name: " ".join(f"word{digest(whose, name, str(k))[:6]}" for k in range(4))


def half(whose: str) -> Says:
    """One and the same sentence of every second feature and null, others of the rest."""
    return lambda name: f"shared saying of {name}" if int(digest(name)[:4], 16) % 2 else noise(whose)(name)


@pytest.fixture(autouse=True)
def words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("paired", "ranked"):
        monkeypatch.setattr(
            f"dragoman.comparison.{module}.packaged_embedder", lambda _talk: CachedEmbedder(LexicalEmbedder())
        )


def spoken(path: Path, says: Says, *, ids: list[str] = IDS, nulls: int = 40, target: str = "n:2", **more: Any) -> Any:
    """A run by a verbalizer of the folder's name, with nulls in its folder."""
    entry = {"name": "fires", "route": "map", "washout": "on-shell", "verbalizer": path.name}
    told = {
        "dragoman": "0.1.0", "source": "m:1", "target": target, "dictionary": {"ref": "sae", "digest": digest("sae")},
        "verbalizers": {"by": {"checkpoint": path.name}}, "features": ids, "conditions": [entry], **more,
    }  # fmt: skip
    run = RunFolder.create(path, {"plan_digest": digest(path.name), **told})
    run.append([whole({"feature": f, "condition": "fires", "sample": 0, "text": says(f)}) for f in ids])
    if nulls:
        entry = entry | {"name": "random", "null": "random directions", "drawn": "these"}
        told |= {"features": NULLS[:nulls], "conditions": [entry], "plan_digest": digest(path.name, "nulls")}
        inside = RunFolder.create(path / "nulls", told)
        rows = [{"feature": f, "condition": "random", "sample": 0, "text": says(f)} for f in NULLS[:nulls]]
        inside.append([whole(row) for row in rows])
    return run


def found_of(a: RunFolder, b: RunFolder, **how: Any) -> AgreementOverNulls:
    """Agreement of two runs."""
    return rank_runs([a, b], **how).conditions[0].over_nulls[0]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [(truth, also_truth, 1.0), (same, same, 0.0), (truth, noise("it"), 0.0), (half("a"), half("b"), None)],
)
def test_what_is_left_of_agreement_is_what_was_planted(tmp_path: Path, one: Says, other: Says, share: float) -> None:
    found = found_of(spoken(tmp_path / "a", one), spoken(tmp_path / "b", other))
    assert found.corrected is not None and found.share is not None and found.null_share is not None
    assert found.corrected_low is not None and found.corrected_high is not None and not found.why
    assert {null.null: null.pairs for null in found.nulls} == {"dealt": 2 * 2 * 190, "random directions": 40}
    if share == 1.0:
        assert found.share == 1.0 and found.corrected > 0.9 and found.corrected_low > 0.8
        assert all(one.agreed and one.p <= 0.05 for one in found.features)
    else:  # also where they share a saying of every second feature: of every second null they do as well
        assert abs(found.corrected) < 0.12 and found.corrected_low <= 0 <= found.corrected_high
    if share == 0.0:
        assert sum(one.agreed for one in found.features) <= 2
    assert all(one.agreed == (one.p <= 0.05) for one in found.features)


def test_the_order_of_runs_and_the_command_decide_nothing(tmp_path: Path) -> None:
    a, b = spoken(tmp_path / "a", half("a")), spoken(tmp_path / "b", half("b"), ids=IDS[::-1])
    found = json.dumps(found_of(a, b).to_json())
    assert found == json.dumps(found_of(b, a).to_json()) == json.dumps(found_of(a, b).to_json())
    told = compare_runs(a, b).pairs[0].over_nulls
    assert told is not None and found == json.dumps(told.to_json()) != json.dumps(found_of(a, b, seed=1).to_json())


def test_the_share_on_nulls_is_of_the_half_that_no_line_was_chosen_on() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(16):
        values = rng.normal(size=40)
        pairs = NullPairs(name="x", values=values, half=np.arange(40) % 2)
        own = rng.normal(size=60)
        found = agreement(own, np.arange(60) % 2, [pairs], rng=np.random.default_rng(1))
        shares.append((found.share, found.shares["x"], found.corrected_low <= 0 <= found.corrected_high))
        lines = [np.sort(values[k::2])[-1] for k in (0, 1)]  # of twenty, the highest has one in 21 above it
        assert found.lines["x"] == lines
        assert found.shares["x"] == np.mean([values[k] > lines[1 - k % 2] for k in range(40)])
        assert_array_equal(found.agreed, [own[k] > lines[1 - k % 2] for k in range(60)])
        counts = [1 + (values[1 - k % 2 :: 2] >= own[k]).sum() for k in range(60)]
        assert_array_equal(found.p, np.array(counts) / 21)
    means = np.mean(shares, axis=0)
    assert 0.01 < means[1] < 0.1 and 0.01 < means[0] < 0.1 and means[2] > 0.8
    with pytest.raises(Refusal, match="pass more nulls"):
        agreement(np.ones(60), np.arange(60) % 2, [], rng=rng)


def test_the_stricter_null_gives_the_line() -> None:
    weak, strict = np.zeros(400), np.linspace(0, 1, 40)
    nulls = [
        NullPairs(name="dealt", values=weak, half=np.arange(400) % 2, units=np.zeros((400, 2), int)),
        NullPairs(name="random", values=strict, half=np.arange(40) % 2),
    ]
    found = agreement(np.full(30, 0.5), np.arange(30) % 2, nulls, rng=np.random.default_rng(0))
    assert found.null == "random" and found.shares["dealt"] == 0 and not found.agreed.any()
    assert agreement(np.full(30, 0.5), np.arange(30) % 2, nulls[:1], rng=np.random.default_rng(0)).agreed.all()


def test_small_samples_get_no_verdict_and_missing_nulls_are_told(tmp_path: Path) -> None:
    few = found_of(spoken(tmp_path / "a", truth, ids=IDS[:19]), spoken(tmp_path / "b", truth, ids=IDS[:19]))
    assert (
        few.corrected is None
        and few.features == ()
        and "of features in both there are 19, and 20 are the fewest" in few.why
    )
    bare = found_of(spoken(tmp_path / "c", truth, nulls=0), spoken(tmp_path / "d", truth))
    assert [one.null for one in bare.nulls] == ["dealt"] and bare.corrected and "said no directions" in bare.why
    some = found_of(spoken(tmp_path / "e", truth, nulls=39), spoken(tmp_path / "f", truth))
    assert [one.null for one in some.nulls] == ["dealt"] and "only 39 directions" in some.why


def test_features_that_fire_together_are_not_dealt_to_each_other(tmp_path: Path) -> None:
    runs = [spoken(tmp_path / name, truth) for name in "ab"]
    apart = found_of(*runs)
    windows = {f: {"firing": [f"window {int(f) // 2}"] * 3, "silent": ["none"] * 3} for f in IDS}
    runs[0].write_contexts(windows)
    together = found_of(*runs)
    assert together.nulls[0].pairs < apart.nulls[0].pairs and (together.units, together.unit) == (20, "topics")
    runs[1].write_contexts({f: one | {"firing": ["one window"] * 3} for f, one in windows.items()})
    assert [one.null for one in found_of(*runs).nulls] == ["random directions"]


def test_nulls_of_other_directions_or_one_verbalizer_tell_nothing(tmp_path: Path) -> None:
    a, b = (spoken(tmp_path / name, truth) for name in "ab")
    manifest = b.path / "nulls" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"these"', '"others"'))
    assert [one.null for one in found_of(a, RunFolder.open(b.path)).nulls] == ["dealt"]
    mine = spoken(tmp_path / "c", truth, verbalizers={"by": {"checkpoint": "a"}})
    assert rank_runs([a, mine]).conditions[0].over_nulls == () and compare_runs(a, mine).pairs[0].over_nulls is None
    with pytest.raises(Refusal, match="it takes 2 to 20"):
        rank_runs([a])
    with pytest.raises(Refusal, match="compare runs of one dictionary"):
        rank_runs([a, spoken(tmp_path / "d", truth, dictionary={"ref": "other", "digest": "0" * 64})])
    with pytest.raises(Refusal, match="they have no feature in common"):
        rank_runs([a, spoken(tmp_path / "e", truth, ids=[f"1{f}" for f in IDS if int(f) > 9][:20], target="k:3")])


def test_two_verbalizers_of_one_run_are_told_by_compare(tmp_path: Path) -> None:
    ways = {"fires": ("av", None), "native": ("own", None), "lost": ("av", "random"), "lost_native": ("own", "random")}
    entries = [
        {"name": name, "route": "map", "washout": "on-shell", "verbalizer": who} | ({"null": null} if null else {})
        for name, (who, null) in ways.items()
    ]
    verbalizers = {"by": {"checkpoint": "av"}, "native": {"checkpoint": "own"}}
    run = spoken(tmp_path / "a", truth, nulls=0, verbalizers=verbalizers, conditions=entries)
    said = {"native": also_truth, "lost": truth, "lost_native": also_truth}
    for name, says in said.items():
        ids = NULLS if "lost" in name else IDS
        run.append([whole({"feature": f, "condition": name, "sample": 0, "text": says(f)}) for f in ids])
    run = RunFolder.open(run.path)
    found = compare_runs(run, run, conditions=["fires=native"]).pairs[0].over_nulls
    assert found is not None and not found.why and found.share == 1.0
    assert [one.null for one in found.nulls] == ["dealt", "random directions"]


def test_a_run_with_one_condition_stands_beside_each_of_another_s(tmp_path: Path) -> None:
    both = [{"name": n, "route": "map", "washout": "on-shell", "verbalizer": "a"} for n in ("fires", "writes")]
    a = spoken(tmp_path / "a", truth, conditions=both)
    a.append([whole({"feature": f, "condition": "writes", "sample": 0, "text": noise("x")(f)}) for f in IDS])
    own = [{"name": "washed", "route": "identity", "washout": "on-shell", "verbalizer": "b"}]
    b = spoken(tmp_path / "b", truth, conditions=own, target="m:1", nulls=0)
    rows = [whole({"feature": f, "condition": "washed", "sample": 0, "text": truth(f)}) for f in IDS]
    other = RunFolder.create(tmp_path / "c", {**b.manifest, "plan_digest": "c"})
    other.append(rows)
    found = rank_runs([RunFolder.open(a.path), other]).conditions
    assert [one.conditions for one in found] == [("fires", "washed"), ("writes", "washed")]
    assert [one.over_nulls[0].share for one in found] == [1.0, 0.0]


def test_texts_without_a_word_agree_on_nothing(tmp_path: Path) -> None:
    silent = found_of(*(spoken(tmp_path / name, lambda f: "" if len(f) < 3 else truth(f)) for name in "ab"))
    assert silent.share == 0.0 and {one.likeness for one in silent.features} == {0.0}


def test_samples_count_by_their_mean_over_pairs(tmp_path: Path) -> None:
    runs = [spoken(tmp_path / name, truth, nulls=0) for name in "ab"]
    again = spoken(tmp_path / "c", truth, nulls=0)
    again.append([whole({"feature": f, "condition": "fires", "sample": 1, "text": noise("x")(f)}) for f in IDS])
    once, twice = found_of(*runs), found_of(runs[0], RunFolder.open(again.path))
    place = LexicalEmbedder().encode([truth(IDS[0]), noise("x")(IDS[0])]).astype(float)
    assert once.features[0].likeness == 1.0
    assert twice.features[0].likeness == pytest.approx((1 + place[0] @ place[1]) / 2, abs=1e-5)


def test_texts_are_embedded_once_under_one_bar_and_it_is_said_that_the_embedder_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Counted(LexicalEmbedder):
        asked: list[list[str]] = []

        def encode(self, texts: Any) -> Any:
            self.asked.append(list(texts))
            return super().encode(texts)

    monkeypatch.setattr("dragoman.models.embedder.SentenceEmbedder", Counted)
    monkeypatch.setattr("dragoman.models.embedder.packaged_folder", lambda: tmp_path)
    for module in ("paired", "ranked"):
        monkeypatch.setattr(f"dragoman.comparison.{module}.packaged_embedder", room.packaged_embedder)
    a, b = spoken(tmp_path / "a", truth), spoken(tmp_path / "b", also_truth)
    said, steps = list[str](), list[tuple[str, int, int]]()
    for make in (lambda talk: rank([a.path, b.path], talk=talk), lambda talk: compare(a.path, b.path, talk=talk)):
        for some in (Counted.asked, said, steps):
            some.clear()
        make(Talk(say=said.append, bar=lambda *step: steps.append(step)))
        assert said == ["opening the sentence embedder all-MiniLM-L6-v2, which tells how alike texts are"]
        assert steps == [("embedding texts", done, 160) for done in (0, 64, 128, 160)]
        assert [len(some) for some in Counted.asked] == [64, 64, 32] and len(set(sum(Counted.asked, []))) == 160
    few = [spoken(tmp_path / name, truth, ids=IDS[:19]).path for name in "cd"]
    rank(few, talk=Talk(say=said.append))
    assert len(said) == 1, "of too few features for a verdict it is not opened"
    for words in (("rank", str(a.path), str(b.path)), ("compare", str(a.path), str(b.path), "--json")):
        shown = command(monkeypatch, capsys, *words)
        assert said[0] in " ".join(shown.err.split()) and "embedding texts: 0 of 160" in shown.err


def test_screen_json_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    a, b = spoken(tmp_path / "a", truth), spoken(tmp_path / "b", also_truth)
    for name in ("rank", "compare"):
        shown = command(monkeypatch, capsys, name, "a", "b")
        assert shown.code == 0, shown.err
        assert max(map(len, shown.out.splitlines())) <= 80
        told = " ".join(shown.out.split())
        assert "they agree on 100% of 40 features [91%, 100%], on nulls" in told and "agreement above nulls: " in told
    made = json.loads(command(monkeypatch, capsys, "compare", "a", "b", "--json").out)
    assert made["pairs"][0]["over_nulls"]["features"][0].keys() == {"feature", "likeness", "p", "agreed"}
    page = write_comparison(compare_runs(a, b), a, b, tmp_path / "page.html").read_text()
    assert page.count("; agreed, p ") == len(IDS) and "share habits" in page
    assert "on nulls" in write_ranking(rank_runs([a, b]), tmp_path / "table.html").read_text()
    assert room.DEALT in page


def test_one_command_has_nulls_said_by_both_and_goes_on_where_it_was_killed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, nursery: Nursery
) -> None:
    shutil.copytree(world.av, tmp_path / "again")
    sidecar = next((tmp_path / "again").glob("nla_meta*"))
    sidecar.write_text(sidecar.read_text() + "\n")
    ids = ",".join(map(str, range(22)))
    words = ["rank", world.sae, "--source", str(world.source), "--features", ids, "--reading", "writes"]
    words += ["--texts", str(world.root / "texts.txt"), "--max-new-tokens", "3", "-o", str(tmp_path / "out")]
    words += ["--by", world.av, "--by", str(tmp_path / "again"), "--json"]
    process = nursery.start(words, log=tmp_path / "said", SLOWLY="slow_explain", SECONDS="1", LOG=f"{tmp_path}/log")
    first = tmp_path / "out" / re.sub(r"[^\w.-]+", "-", world.av).strip("-.")
    batches, cut = tmp_path / "log", first / "nulls" / "rows.jsonl"  # the features' batch, and two of nulls
    wait_until(lambda: batches.exists() and batches.read_text().count("\n") == 3)
    os.kill(process, signal.SIGKILL)
    assert nursery.ended() == -signal.SIGKILL, (tmp_path / "said.err").read_text()
    before = cut.read_bytes()
    kept = before.count(b"\n")
    assert len(RunFolder.open(first).rows()) == 22 and 0 < kept < 80
    for name in ("compare", "rank"):
        refused = command(monkeypatch, capsys, name, str(first), str(first))
        assert (refused.code, refused.out) == (1, "")
        assert f"{first}/nulls: it holds {kept} of its 80 explanations; run the same rank" in refused.err
    refused = command(monkeypatch, capsys, *words, "--nulls", "60")
    assert refused.code == 1 and "opening" not in refused.err
    assert f"60 nulls: {first}/nulls is of 40; ask for 40, or remove that folder to have 60 said." in refused.err
    shown = command(monkeypatch, capsys, *words)
    assert shown.code == 0, shown.err
    assert cut.read_bytes().startswith(before) and f"kept {kept} rows that were there" in shown.err
    assert (first / "log.txt").read_text().endswith("done\n") and not (first / "nulls" / "log.txt").exists()
    (one,) = json.loads(shown.out)["conditions"][0]["over_nulls"]
    assert {null["null"]: null["pairs"] for null in one["nulls"] if null["null"] != "dealt"} == {
        "random directions": 40, "shuffled map": 40,
    }  # fmt: skip
    runs = [RunFolder.open(path / "nulls") for path in sorted((tmp_path / "out").iterdir())]
    vectors = [run.vectors()[0] for run in runs]
    assert_array_equal(vectors[0]["random"], vectors[1]["random"])
    texts = [[row["text"] for row in run.rows()] for run in runs]
    assert texts[0] == texts[1], "the same weights, killed or not"
    assert not np.allclose(vectors[0]["random"], vectors[0]["shuffled"])
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("rows.jsonl")}
    assert command(monkeypatch, capsys, *words).out == shown.out and len(kept) == 4
    assert kept == {path: path.read_bytes() for path in kept}
    odd = command(monkeypatch, capsys, *words, "--nulls", "7")
    assert odd.code == 1 and "7 nulls: a line is chosen on one half" in odd.err.replace("\n", " ")


def test_a_shuffled_map_s_images_have_the_target_s_covariance() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 3)) * [3.0, 1.0, 0.1]
    like = Directions.of(Site("m", 1), rng.normal(size=(4000, 3)), range(4000))
    found = shuffled(Moments.of(x, y), Site("n", 2), like, seed=1)
    rows = found.unit * found.norms[:, None]
    assert_allclose(np.cov(rows.T) / np.cov(rows.T)[0, 0], np.cov(y.T) / np.cov(y.T)[0, 0], atol=0.03)
    assert (
        found.site == Site("n", 2)
        and found.ids == like.ids
        and abs(np.corrcoef(rows[:, 0], like.unit[:, 0])[0, 1]) < 0.05
    )


def test_nulls_of_activations_are_refused(tmp_path: Path) -> None:
    rows = Directions.of(Site("m", 1), np.eye(3), ["a", "b", "c"])
    with pytest.raises(Refusal, match="nulls of activations: agreement is told of features"):
        explain(Activations(directions=rows, tokens=()), by="av", out=tmp_path / "run", nulls=40)
