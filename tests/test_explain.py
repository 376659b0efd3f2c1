"""The main job on tiny random checkpoints in local folders: the same path that hub ids and packaged names take."""

import html
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

from asking import Asked, explain
from dragoman import cli
from dragoman.commands.show import show_rows
from dragoman.core import Refusal, Site, Talk
from dragoman.demo import demo_options
from dragoman.models.harvest import Reader
from dragoman.models.paired import activations_at, direct_statistics, harvest
from dragoman.report import write_page
from dragoman.runs.options import check_route
from dragoman.store import RunFolder, read_arrays
from embedded_once import shared
from judging import judged, whole
from nursery import HERE, Nursery, wait_until
from tiny_checkpoints import CORPUS, WIDTH, save_checkpoint, sidecar_of
from word_hash import HashEmbedder

TEXTS = [f"{' '.join(CORPUS)[13 * (i % 60) : 13 * (i % 60) + 160]} number {i}" for i in range(120)]
FEATURES = tuple(str(i) for i in range(6))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Source (Llama) with a native verbalizer, target (Gemma 3) with a verbalizer, an SAE, texts."""
    root = tmp_path_factory.mktemp("world")
    for family in ("llama", "gemma3"):
        folder = root / family
        sidecar = sidecar_of(family) | {"base_checkpoint": str(folder)}
        save_checkpoint(folder, family, sidecar=sidecar)
    rng = np.random.default_rng(0)
    block = sidecar_of("llama")["extraction_layer_index"]
    write_sae(root / "sae", rng, WIDTH["llama"], block)
    (root / "texts.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(root / "cache"))
        shared(patch)
        yield {
            "root": root,
            "source": Site(str(root / "llama"), block),
            "av": str(root / "gemma3"),
            "native": str(root / "llama"),
        }


def write_sae(folder: Path, rng: np.random.Generator, d: int, block: int) -> None:
    from safetensors.numpy import save_file

    folder.mkdir()
    w = rng.standard_normal((50, d)).astype(np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    arrays = {"W_dec": w, "W_enc": w.T.copy(), "b_enc": np.zeros(50, np.float32), "b_dec": np.zeros(d, np.float32)}
    save_file(arrays, folder / "sae_weights.safetensors")
    config = {
        "architecture": "topk",
        "k": 8,
        "d_in": d,
        "d_sae": 50,
        "metadata": {"hook_name": f"blocks.{block}.hook_resid_post", "model_name": "m"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))


def asked(world: dict[str, Any]) -> dict[str, Any]:
    """By the post's map, which is quick, unless a test says otherwise."""
    return {
        "dictionary": str(world["root"] / "sae"), "features": FEATURES, "by": world["av"], "source": world["source"],
        "native": world["native"], "texts": str(world["root"] / "texts.txt"), "max_new_tokens": 12, "batch_size": 4,
        "map": "post", "route": "map",
    }  # fmt: skip


def request(world: dict[str, Any], **changes: Any) -> Asked:
    return Asked(**(asked(world) | changes))


def test_explain_leaves_rows_vectors_and_a_manifest_that_can_make_it_again(
    world: dict[str, Any], tmp_path: Path
) -> None:
    run = explain(request(world), tmp_path / "run")
    rows = run.rows()
    assert [r["condition"] for r in rows] == ["native"] * 6 + ["washed"] * 6
    assert all(0 <= r["card"]["coverage"] <= 1 for r in rows[6:])
    vectors, _ = run.vectors()
    assert vectors["washed"].shape == (6, WIDTH["gemma3"]) and vectors["native"].shape == (6, WIDTH["llama"])
    manifest = run.manifest
    assert manifest["source"] == str(world["source"]) and manifest["map_report"]["ridge"]["n"] == 24
    for part in ("versions", "seeds", "digests", "verbalizers", "plan_digest", "dictionary", "background"):
        assert manifest[part], part


def test_the_vectors_of_the_run_are_the_post_s_formulas(world: dict[str, Any], tmp_path: Path) -> None:
    run = explain(request(world, washout="0.3", native=None), tmp_path / "run")
    source, target = (Reader.open(s) for s in (world["source"], Site.parse(run.manifest["target"])))
    rows = harvest(source, target, [" ".join(t.split()) for t in TEXTS])
    order = np.random.default_rng(0).permutation(120)[24:]
    x, y = rows.x[order].astype(float), rows.y[order].astype(float)
    xc, yc = x - x.mean(0), y - y.mean(0)
    weight = np.linalg.solve(xc.T @ xc + 100 * np.eye(xc.shape[1]), xc.T @ yc)
    w_dec = read_arrays(world["root"] / "sae" / "sae_weights.safetensors")[0]["W_dec"][:6]
    d = w_dec @ weight
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    b = rows.background.mean / np.linalg.norm(rows.background.mean)
    v = 0.3 * d + 0.7 * b
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(run.vectors()[0]["washed"], v, atol=2e-4)


@pytest.mark.parametrize("route", ["direct", "blend"])
def test_the_other_routes_run_from_texts_when_features_fire_often_enough(
    world: dict[str, Any], tmp_path: Path, route: str
) -> None:
    run = explain(request(world, route=route, native=None), tmp_path / "run")
    assert {r["condition"] for r in run.rows()} == {route}


def test_a_feature_that_fires_too_rarely_is_refused_by_the_direct_route(world: dict[str, Any], tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("\n".join(" ".join(t.split()) for t in TEXTS[:6]))
    with pytest.raises(Refusal, match="fires too rarely"):
        explain(request(world, route="direct", native=None, texts=str(few)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_model_to_itself_crosses_by_identity(world: dict[str, Any], tmp_path: Path) -> None:
    run = explain(request(world, by=world["native"], native=None, washout="none"), tmp_path / "run")
    w_dec = read_arrays(world["root"] / "sae" / "sae_weights.safetensors")[0]["W_dec"][:6]
    np.testing.assert_allclose(run.vectors()[0]["plain"], w_dec, atol=1e-6)


def test_a_second_call_reuses_everything_and_says_so(world: dict[str, Any], tmp_path: Path) -> None:
    from dragoman.core import Talk

    first = explain(request(world), tmp_path / "run").rows()
    said: list[str] = []
    again = explain(request(world), tmp_path / "run", Talk(say=said.append)).rows()
    assert again == first
    assert any(s.startswith("reused harvest") for s in said) and any("kept 12 rows" in s for s in said)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"features": ("3", "50")}, "50"),
        ({"dictionary": "no-such-thing"}, "no such folder or file here"),
        ({"washout": "2"}, "washout '2'"),
        ({"route": "teleport"}, "route 'teleport'"),
        ({"source": Site("m", 0)}, "block"),
        ({"by": "sae"}, "no such folder here"),
        ({"samples": 4, "temperature": 0.0}, "4 samples at temperature 0: greedy decoding says the same thing"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    world: dict[str, Any], tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence):
        explain(request(world, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_samples_begin_with_what_one_sample_says(world: dict[str, Any], tmp_path: Path) -> None:
    one = explain(request(world, native=None), tmp_path / "one")
    several = explain(request(world, native=None, samples=3), tmp_path / "several")
    texts = [[r["raw"] for r in several.rows() if r["sample"] == k] for k in range(3)]
    assert texts[0] == [r["raw"] for r in one.rows()]
    assert texts[1] != texts[0] and texts[1] != texts[2]
    assert (one.manifest["settings"]["temperature"], several.manifest["settings"]["temperature"]) == (0.0, 1.0)
    likelier = [[r["log_probability"] for r in several.rows() if r["sample"] == k] for k in (0, 1)]
    assert np.mean(likelier[0]) > np.mean(likelier[1])


def test_the_folder_of_another_run_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    explain(request(world, native=None), tmp_path / "run")
    with pytest.raises(Refusal, match="another run"):
        explain(request(world, native=None, washout="none"), tmp_path / "run")


def test_too_few_documents_are_refused(world: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS[:3]))
    with pytest.raises(Refusal, match="it holds 3 texts, and the map is judged on a fifth of them"):
        explain(request(world, native=None, texts=str(tmp_path / "two.txt")), tmp_path / "run")


def test_direct_statistics_read_in_chunks_equal_one_pass(
    world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dragoman.models import paired
    from reading import read_encoder

    readers = [Reader.open(s) for s in (world["source"], Site(world["av"], 1))]
    encoder = read_encoder(world["root"] / "sae")
    whole, background, _ = direct_statistics(*readers, encoder, TEXTS)
    monkeypatch.setattr(paired, "CHUNK", 7)
    monkeypatch.setattr("dragoman.models.encoding._CELLS", 50 * 50)
    pieces, other, _ = direct_statistics(*readers, encoder, TEXTS)
    np.testing.assert_allclose(pieces.beta(), whole.beta(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(pieces.n_eff, whole.n_eff, rtol=1e-3)
    np.testing.assert_allclose(other.mean, background.mean, atol=1e-5)


def test_an_activation_is_read_at_the_token_that_ends_where_asked(world: dict[str, Any]) -> None:
    reader = Reader.open(world["source"], whole=True)
    ends = [len(t) for t in TEXTS[:5]]
    rows, which = activations_at(reader, TEXTS[:5], ends)
    for row, text in zip(rows, [TEXTS[i] for i in which], strict=True):
        ids = reader.tokenizer(text, return_tensors="pt")
        hidden = reader.model(**ids, output_hidden_states=True).hidden_states[reader.site.block + 1]
        np.testing.assert_allclose(row, hidden[0, -1].numpy(), atol=1e-4)


def test_score_and_report_follow_a_run(world: dict[str, Any], tmp_path: Path) -> None:
    run = typer.testing.CliRunner().invoke
    explain(request(world), tmp_path / "run")
    assert run(cli.app, ["score", str(tmp_path / "run")]).exit_code == 0
    assert RunFolder.open(tmp_path / "run").scores["table"][0]["condition"] == "native"  # type: ignore[index]
    assert run(cli.app, ["report", str(tmp_path / "run")]).exit_code == 0
    assert "<html" in (tmp_path / "run" / "page.html").read_text()


def test_a_refusal_is_one_sentence_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    code = "from dragoman.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": HERE},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("dragoman: ") and done.stderr.count("\n") == 1 and "not a run folder" in done.stderr


def test_words_of_the_washout_are_checked() -> None:
    for good in ("none", "on-shell", "0.3"):
        check_route("map", good)
    for bad in ("0", "1", "1.5", "some", "nan"):
        with pytest.raises(Refusal, match="washout"):
            check_route("map", bad)


def test_judging_separates_right_texts_from_shuffled_ones(tmp_path: Path) -> None:
    words = {"bees": ["bees", "honey"], "chess": ["chess"], "rain": ["rain", "storms"], "wine": ["wine"]}
    info = {str(i): {"category": c} for i, c in enumerate(words)}
    texts = {str(i): f"A passage about {c} and more {c}" for i, c in enumerate(words)}
    manifest = {
        "plan_digest": "x", "feature_info": info, "category_words": words,
        "conditions": [
            {"name": "native"}, {"name": "washed"}, {"name": "shuffled"},
            {"name": "random_washed", "null": "random directions"},
        ],
    }  # fmt: skip
    run = RunFolder.create(tmp_path / "run", manifest)
    turned = {f: texts[str((int(f) + 1) % 4)] for f in texts}
    said = {
        "native": texts,
        "washed": texts,
        "shuffled": turned,
        "random_washed": {f"random-{f}": t for f, t in turned.items()},
    }
    for condition, by_feature in said.items():
        run.append(
            [whole({"feature": f, "condition": condition, "sample": 0, "text": t}) for f, t in by_feature.items()]
        )
    table = {r["condition"]: r for r in judged(run, HashEmbedder(), seed=0)["table"]}
    assert table["washed"]["lift"]["value"] > 0.2 > 0 > table["shuffled"]["lift"]["value"]
    assert table["washed"]["category"]["value"] == 1.0 and table["washed"]["category"]["random"] == 0.0
    assert table["shuffled"]["category"]["value"] == 0.0


def test_a_run_without_natives_or_planted_truth_has_nothing_to_be_judged_by(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"plan_digest": "x", "conditions": [{"name": "washed"}]})
    run.append([whole({"feature": "1", "condition": "washed", "sample": 0, "text": "words"})])
    with pytest.raises(Refusal, match="nothing to judge by"):
        judged(run, HashEmbedder(), seed=0)


def test_explain_killed_ten_times_ends_with_the_rows_of_one_that_was_not(
    world: dict[str, Any], tmp_path: Path, nursery: Nursery
) -> None:
    arguments = [
        *("explain", str(world["root"] / "sae"), "--by", world["av"], "--native", world["native"]),
        *("--source", str(world["source"]), "--texts", str(world["root"] / "texts.txt"), "--max-new-tokens", "8"),
        *("--features", ",".join(map(str, range(8))), "--batch-size", "2"),
        *("--samples", "3", "--temperature", "1", "-o"),
    ]
    cache = world["root"] / "cache"
    assert nursery.run([*arguments, str(tmp_path / "whole")], cache=cache, here=True) == 0
    whole = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    chance, rows, kills = random.Random(7), tmp_path / "torn" / "rows.jsonl", 0
    for _ in range(10):
        before = rows.stat().st_size if rows.exists() else 0
        child = nursery.start([*arguments, str(tmp_path / "torn")], cache=cache)
        wait_until(lambda before=before: rows.exists() and rows.stat().st_size > before)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        kills += nursery.ended() == -signal.SIGKILL
        assert whole.startswith(rows.read_bytes().rpartition(b"\n")[0])
    assert nursery.run([*arguments, str(tmp_path / "torn")], cache=cache) == 0
    assert rows.read_bytes() == whole
    assert kills == 10


@pytest.mark.parametrize("route", ["map", "direct", "dictionary", "blend", "auto"])
def test_every_route_crosses_by_aligned_tokens_with_a_full_card(
    world: dict[str, Any], tmp_path: Path, route: str
) -> None:
    run = explain(request(world, route=route, map="aligned", washout="on-shell"), tmp_path / "run")
    rows = run.rows()
    name = {"map": "washed"}.get(route, route)
    assert [r["condition"] for r in rows] == ["native"] * len(FEATURES) + [name] * len(FEATURES)
    for row in rows[len(FEATURES) :]:
        assert row["card"]["cycle"] is not None and row["card"]["purity"] is not None and row["card"]["route"]
    assert run.manifest["map_report"]["ridge"]["n"] > 50


def test_by_auto_each_feature_crosses_by_its_own_route(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = explain(request(world, map=None, route="auto"), tmp_path / "run")
    own = [r for r in run.rows() if r["condition"] == "auto"]
    assert [r["feature"] for r in own] == list(FEATURES) and all(r["card"]["route_why"] for r in own)
    told = run.manifest["conditions"][1]
    assert (told["name"], told["route"], told["map"]) == ("auto", "auto", "aligned")
    assert (run.manifest["settings"]["map"], run.manifest["settings"]["route"]) == ("aligned", "auto")
    page = html.unescape(write_page(run, run.page).read_text())
    for row in own:
        assert f"carried by route {row['card']['route']} ({row['card']['route_why']})" in page
    show_rows(run.rows())
    shown = capsys.readouterr().out
    assert all(f"[auto: {row['card']['route']}]" in shown for row in own) and "[native]" in shown


def test_vectors_without_an_encoder_cross_by_the_map_which_says_why(world: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "probes.npy", np.random.default_rng(1).standard_normal((3, WIDTH["llama"])).astype(np.float32))
    probes = {"dictionary": str(tmp_path / "probes.npy"), "features": (), "native": None}
    run = explain(request(world, **probes, map="aligned", route="auto"), tmp_path / "run")
    why = "no feature was watched in these texts, so there is no other"
    assert [(r["condition"], r["card"]["route"], r["card"]["route_why"]) for r in run.rows()] == [
        ("auto", "map", why)
    ] * 3
    by_map = explain(request(world, **probes, map="aligned"), tmp_path / "map")
    np.testing.assert_allclose(run.vectors()[0]["auto"], by_map.vectors()[0]["washed"], atol=1e-6)
    with pytest.raises(Refusal, match="a file of vectors has no encoder"):
        explain(request(world, **probes, map="aligned", route="direct"), tmp_path / "direct")


def test_a_route_between_a_model_and_itself_is_none(world: dict[str, Any], tmp_path: Path) -> None:
    run = explain(request(world, by=world["native"], native=None, map="aligned", route="auto"), tmp_path / "run")
    assert [(c["name"], c["route"]) for c in run.manifest["conditions"]] == [("washed", "identity")]
    assert {r["condition"] for r in run.rows()} == {"washed"}


def test_the_demo_asks_for_the_posts_map() -> None:
    made = demo_options()
    assert (made.map, made.route, made.samples, made.drawn_at) == ("post", "map", 1, 0.0)


def test_a_route_counted_on_aligned_tokens_is_refused_without_them(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="counted on aligned tokens; say --map aligned, or --route map"):
        explain(request(world, route="auto"), tmp_path / "run")


def test_plain_vectors_have_no_encoder_and_cross_by_the_map_alone(world: dict[str, Any], tmp_path: Path) -> None:
    rows = read_arrays(world["root"] / "sae" / "sae_weights.safetensors")[0]["W_dec"]
    np.save(tmp_path / "rows.npy", rows)
    said: list[str] = []
    asked = request(world, dictionary=str(tmp_path / "rows.npy"), map="aligned", native=None)
    run = explain(asked, tmp_path / "run", talk=Talk(say=said.append))
    assert "file rows.npy holds vectors without an encoder, so there is no route but the map" in said
    assert [r["condition"] for r in run.rows()] == ["washed"] * len(FEATURES)
    with pytest.raises(Refusal, match="vectors rows.npy: a file of vectors has no encoder"):
        explain(replace(asked, route="direct"), tmp_path / "direct")


def test_an_encoder_that_cannot_be_used_is_refused_where_pairs_of_tokens_are_read(
    world: dict[str, Any], tmp_path: Path
) -> None:
    write_sae(tmp_path / "sae", np.random.default_rng(0), WIDTH["llama"], world["source"].block)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config | {"architecture": "gated"}))
    with pytest.raises(Refusal, match="encoder of sae: architecture 'gated' is not known"):
        explain(request(world, dictionary=str(tmp_path / "sae"), map="aligned"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
