"""Dictionaries on the command line: dead features, ids, options that say how they lie, labels, encoders that go not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import dictionary_folders as made
from ar_checkpoints import WIDTH
from asking import directions_of, explain
from dictionary_folders import ARRAYS, D_SAE
from dragoman.core import Refusal, Site
from dragoman.neuronpedia import Explained, parse, write_explanations
from dragoman.runs import speakers as running
from dragoman.store import RunFolder
from reading import check_encoder, read_directions, read_encoder
from small_world import D_SAE as MANY
from small_world import Said, World, command, decoder
from tiny_checkpoints import BLOCK

Dragoman = Callable[..., Said]


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def refused(said: Said) -> str:
    """The one sentence of a refusal; progress bars leave an empty line before it."""
    assert said.code == 1 and not said.out
    sentence = said.err.strip()
    assert sentence.startswith("dragoman: ") and "\n" not in sentence, said.err
    return sentence


def sae(folder: Path, dead: tuple[int, ...] = (), **config: Any) -> Path:
    """The world's dictionary, some of its rows zero, its configuration changed."""
    folder.mkdir(parents=True)
    w = decoder()
    arrays = {"W_enc": w.T.copy(), "b_enc": np.zeros(MANY, "f4"), "b_dec": np.zeros(WIDTH, "f4")}
    rows = w.copy()
    rows[list(dead)] = 0
    save_file({**arrays, "W_dec": rows}, folder / "sae_weights.safetensors")
    hook = {"hook_name": f"blocks.{BLOCK}.hook_resid_post", "model_name": "m"}
    base = {"architecture": "topk", "k": 8, "d_in": WIDTH, "d_sae": MANY, "metadata": hook}
    (folder / "cfg.json").write_text(json.dumps(base | config))
    return folder


def explaining(world: World, dictionary: Path | str, out: Path, *more: str) -> list[str]:
    return [
        *("explain", str(dictionary), "--by", world.av, "--source", str(world.source), "--max-new-tokens", "4"),
        *("--texts", str(world.root / "texts.txt"), "-o", str(out), *more),
    ]


# --- dead features ----------------------------------------------------------------------------------------------------


def test_dead_features_are_left_out_of_a_whole_dictionary_and_named(tmp_path: Path) -> None:
    arrays = {**ARRAYS, "W_dec": ARRAYS["W_dec"].copy()}
    arrays["W_dec"][[2, 9]] = 0
    arrays["W_dec"][5] *= 1e-20
    found = read_directions(made.saelens(tmp_path / "s", arrays))
    assert found.dead == ("2", "5", "9") and len(found) == D_SAE - 3
    np.testing.assert_array_equal(found.unit[2], read_directions(tmp_path / "s", features=[3]).unit[0])
    assert read_directions(tmp_path / "s", features=[3]).dead == ()
    assert found.pick(["3"]).dead == found.dead
    for ask in (lambda: read_directions(tmp_path / "s", features=[3, 5]), lambda: found.pick(["5"])):
        with pytest.raises(Refusal, match="feature 5 of .*its row is zero.*dead feature.*leave it out of --features"):
            ask()


def test_nothing_but_dead_features_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 8), np.float32))
    with pytest.raises(Refusal, match="all its rows are zero"):
        read_directions(tmp_path / "v.npy", site=Site("m", 1))


def test_a_row_of_nan_is_damage_and_refuses_the_whole(tmp_path: Path) -> None:
    rows = np.eye(4, 8, dtype=np.float32)
    rows[1, 0] = np.nan
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(Refusal, match="feature 1 of v.npy: its row is not finite.*fetch the file again"):
        read_directions(tmp_path / "v.npy", site=Site("m", 1))


def test_a_dead_feature_elsewhere_stops_nothing_on_the_default_route(
    dragoman: Dragoman, world: World, tmp_path: Path
) -> None:
    folder = sae(tmp_path / "sae", dead=(4, 9))
    said = dragoman(*explaining(world, folder, tmp_path / "run", "--features", "3"))
    assert said.code == 0, said.err
    told = " ".join(said.err.split())
    assert told.count("set aside 2 of 30 features whose rows are zero and have no direction (4, 9)") == 1
    run = RunFolder.open(tmp_path / "run")
    assert {row["feature"] for row in run.rows()} == {"3"} and run.manifest["dictionary"]["dead"] == 2
    assert "feature 4 of" in refused(dragoman(*explaining(world, folder, tmp_path / "no", "--features", "3,4")))
    assert not (tmp_path / "no").exists()


def test_a_whole_dictionary_is_explained_without_its_dead_features(world: World, tmp_path: Path) -> None:
    folder = sae(tmp_path / "sae", dead=tuple(range(2, MANY)))
    run = explain(world.request(dictionary=str(folder), features=(), map="post", route="map"), tmp_path / "run")
    assert [row["feature"] for row in run.rows()] == ["0", "1"] and run.manifest["dictionary"]["dead"] == MANY - 2


# --- ids on the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", ",", " ", "0,", ",0", "0,,3", "0, ,3"])
def test_an_empty_id_is_refused_and_never_means_all(
    dragoman: Dragoman, world: World, tmp_path: Path, words: str
) -> None:
    said = refused(dragoman(*explaining(world, world.sae, tmp_path / "run", "--features", words)))
    assert "an id is empty" in said and "--features 982,1748" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "why"), [("0,3,0", "0 is there twice"), ("0,00", "named twice, by 0 and by 00"), ("x", "30 features")]
)
def test_ids_given_twice_or_unknown_are_refused(
    dragoman: Dragoman, world: World, tmp_path: Path, words: str, why: str
) -> None:
    assert why in refused(dragoman(*explaining(world, world.sae, tmp_path / "run", "--features", words)))


# --- numbers that are no directions -----------------------------------------------------------------------------------

BITS = (ARRAYS["W_dec"].view(np.uint32) >> 16).astype(np.uint16)  # as bfloat16 is kept where numpy has no word for it


@pytest.mark.parametrize("kind", ["uint16", "int8", "int64", "uint8", "bool"])
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "pt"])
def test_whole_numbers_are_no_directions(tmp_path: Path, kind: str, suffix: str) -> None:
    rows, path = BITS.astype(kind), tmp_path / f"v.{suffix}"
    if suffix == "npy":
        np.save(path, rows)
    elif suffix == "npz":
        np.savez(path, v=rows)
    elif suffix == "safetensors":
        save_file({"v": rows}, path)
    else:
        import torch

        torch.save({"v": torch.from_numpy(rows.copy())}, path)
    with pytest.raises(Refusal, match=rf"its numbers are whole ones \({kind}\)"):
        read_directions(path, site=Site("m", 1), features=[1])


def test_whole_numbers_in_a_dictionary_are_refused_for_rows_and_encoder(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path / "s", {**ARRAYS, "W_dec": BITS})
    scope = made.gemma_scope(tmp_path, {**ARRAYS, "W_dec": BITS})
    for where in (folder, scope):
        for read in (read_directions, read_encoder, check_encoder):
            with pytest.raises(Refusal, match=r"its numbers are whole ones \(uint16\)"):
                read(where)
    made.saelens(tmp_path / "t", {**ARRAYS, "threshold": np.ones(D_SAE, np.int32)})
    with pytest.raises(Refusal, match="whole ones"):
        read_encoder(tmp_path / "t")


def test_real_bfloat16_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensor = torch.from_numpy(ARRAYS["W_dec"].copy()).to(torch.bfloat16)
    save_torch({"v": tensor}, tmp_path / "v.safetensors")
    torch.save({"v": tensor}, tmp_path / "v.pt")
    for name in ("v.safetensors", "v.pt"):
        norms = read_directions(tmp_path / name, site=Site("m", 1)).norms
        np.testing.assert_allclose(norms, np.linalg.norm(ARRAYS["W_dec"], axis=1), rtol=1e-2)


# --- how it lies, said on the command line ----------------------------------------------------------------------------


def test_what_a_file_does_not_show_can_be_said(dragoman: Dragoman, world: World, tmp_path: Path) -> None:
    rows = decoder()
    np.savez(tmp_path / "v.npz", a=rows.T, b=rows[:2])
    words = explaining(
        world, tmp_path / "v.npz", tmp_path / "run", "--features", "3", "--map", "post", "--route", "map"
    )
    assert "name one of them: FILE#KEY, or --key KEY" in refused(dragoman(*words))
    said = refused(dragoman(*words, "--key", "a", "--d-model", str(WIDTH)))
    assert "say which are the vectors with --orientation columns" in said
    done = dragoman(*words, "--key", "a", "--orientation", "columns", "--d-model", str(WIDTH))
    assert done.code == 0, done.err
    run = RunFolder.open(tmp_path / "run")
    np.testing.assert_allclose(run.vectors()[0]["source"], rows[[3]], atol=1e-6)
    settings = run.manifest["settings"]
    assert (settings["key"], settings["orientation"], settings["d_model"]) == ("a", "columns", WIDTH)


def test_a_topk_without_its_k_is_told_it(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sae(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    del config["k"]
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(Refusal, match="its k is None.*or carry its rows without an encoder: --map post --route map"):
        explain(world.request(dictionary=str(folder)), tmp_path / "no")
    explain(world.request(dictionary=str(folder), k=8, features=("3",)), tmp_path / "run")
    with pytest.raises(Refusal, match="cfg.json says k 8, not 5; leave --k out"):
        read_encoder(world.sae, k=5)


def test_a_key_or_k_that_nothing_would_read_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="array 'a' of .*: that is a folder, not a file of arrays"):
        read_directions(world.sae, key="a")
    for read in (read_encoder, check_encoder):
        with pytest.raises(Refusal, match="k 5 for dictionary .*: it is a jumprelu, no TopK; leave --k out"):
            read(made.saelens(tmp_path / "s"), k=5)


def test_what_is_said_of_a_dictionary_is_in_the_caches_key(world: World, tmp_path: Path) -> None:
    folder = sae(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    del config["k"]
    (folder / "cfg.json").write_text(json.dumps(config))
    runs = [
        explain(world.request(dictionary=str(folder), k=k, features=("3",)), tmp_path / str(k)).manifest["digests"]
        for k in (8, 4)
    ]
    assert runs[0]["aligned"] != runs[1]["aligned"]


@pytest.mark.parametrize("command", ["explain", "doctor"])
def test_the_options_that_refusals_name_exist(dragoman: Dragoman, command: str) -> None:
    said = dragoman(command, "--help-all").out
    assert all(name in said for name in ("--key", "--orientation", "--k "))


# --- encoders that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architecture": "gated"}, "architecture 'gated' is not known"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "center_writing_weights"),
        ({"architecture": "jumprelu"}, "has no threshold"),
        ({"k": 31}, "its k is 31 for 30 features"),
        ({"normalize_activations": "expected_average_only_in"}, "the factor is not stored"),
    ],
)
@pytest.mark.parametrize("way", [{}, {"map": "post", "route": "direct"}, {"map": "post", "route": "blend"}])
def test_an_encoder_that_cannot_be_used_is_refused_before_any_model_reads(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    why: str,
    way: dict[str, Any],
) -> None:
    folder = sae(tmp_path / "sae", **config)
    monkeypatch.setattr(running, "quick", lambda _verbalizers: pytest.fail("a model was run"))
    with pytest.raises(Refusal, match=f"{why}.*--map post --route map"):
        explain(world.request(dictionary=str(folder), **way), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", [{"route": "direct"}, {"route": "dictionary"}, {"map": "post", "route": "blend"}])
def test_vectors_are_refused_before_any_model_reads_by_routes_that_need_an_encoder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    np.save(tmp_path / "v.npy", decoder())
    monkeypatch.setattr(running, "quick", lambda _verbalizers: pytest.fail("a model was run"))
    with pytest.raises(Refusal, match="vectors v.npy: a file of vectors has no encoder.*--map post --route map"):
        explain(world.request(dictionary=str(tmp_path / "v.npy"), **way), tmp_path / "run")


def test_the_advice_to_carry_rows_alone_can_be_followed(world: World, tmp_path: Path) -> None:
    folder = sae(tmp_path / "sae", architecture="gated")
    run = explain(world.request(dictionary=str(folder), map="post", route="map"), tmp_path / "run")
    assert len(run.rows()) == 4


@pytest.mark.parametrize(
    "make",
    [
        made.saelens,
        made.gemma_scope,
        made.gemma_scope_2,
        made.llama_scope,
        made.dictionary_learning,
        made.sparsify,
        made.qwen_scope,
        made.goodfire,
    ],
)
def test_every_layouts_encoder_is_checked_without_its_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    where = make(tmp_path)
    read_encoder(where)
    from dragoman.dictionaries import folder

    shapes: list[tuple[int, ...]] = []
    real = folder.Outlines.array

    def seen(self: folder.Outlines, name: str) -> Any:
        found = real(self, name)
        shapes.append(found.shape)
        assert (len(found.shape) > 1) == (type(found).__name__ == "_Outline")
        return found

    monkeypatch.setattr(folder.Outlines, "array", seen)
    check_encoder(where)
    assert any(len(shape) == 2 for shape in shapes)


# --- labels of another source -----------------------------------------------------------------------------------------


def export(folder: Path, ref: str, hook: str | None = None, model: str | None = None) -> Path:
    """An export of labels, with a record that names its hook where one is given."""
    source = parse(ref)
    said = [Explained(index=str(i), text=f"label {i}") for i in range(5)]
    write_explanations(folder, source, said, type_name="t", model_name="m", author="someone")
    if hook is not None:
        record = {
            "id": source.source,
            "modelId": source.model,
            "saelensConfig": {"hook_name": hook, "model_name": model},
        }
        (folder / "v1" / source.path / "source.jsonl").write_text(json.dumps(record) + "\n")
    return folder / "v1" / source.path


def asking(world: World, labels: Path, model: str | None = None, **more: Any) -> tuple[str, ...]:
    source = world.source if model is None else Site(model, BLOCK)
    return directions_of(world.request(labels=str(labels), source=source, features=("3",), **more)).labels


def test_labels_of_another_block_are_refused(world: World, tmp_path: Path) -> None:
    other = export(tmp_path / "a", "np:gpt2-small/11-res-jb", "blocks.11.hook_resid_pre", "gpt2-small")
    with pytest.raises(Refusal, match=f"its rows live at block 10, the dictionary's at block {BLOCK}"):
        asking(world, other)
    bare = export(tmp_path / "b", "np:gpt2-small/11-res-jb")
    with pytest.raises(Refusal, match="its rows live at block 11.*pass the export of this dictionary's own source"):
        asking(world, bare)
    with pytest.raises(Refusal, match="is not in the residual stream"):
        asking(world, export(tmp_path / "c", f"np:gpt2-small/{BLOCK}-mlp", f"blocks.{BLOCK}.hook_mlp_out", "gpt2"))


@pytest.mark.parametrize("model", ["google/gemma-2-2b", "gemma-2-2b", "/models/gemma-2-2b", "EleutherAI/pythia-1b"])
@pytest.mark.parametrize("record", [True, False])
def test_labels_of_another_model_are_refused(world: World, tmp_path: Path, model: str, record: bool) -> None:
    hook = f"blocks.{BLOCK}.hook_resid_post" if record else None
    other = export(tmp_path, f"np:gpt2-small/{BLOCK}-res-jb", hook, "gpt2-small")
    with pytest.raises(Refusal, match="that is openai-community/gpt2, the dictionary's directions are of"):
        asking(world, other, model)


@pytest.mark.parametrize("model", [None, "openai-community/gpt2", "gpt2-small", "/models/gpt2"])
def test_labels_of_this_source_are_taken(world: World, tmp_path: Path, model: str | None) -> None:
    own = export(tmp_path / "a", f"np:gpt2-small/{BLOCK}-res", f"blocks.{BLOCK}.hook_resid_post", "gpt2-small")
    assert asking(world, own, model) == ("label 3",)
    assert asking(world, export(tmp_path / "b", f"np:gpt2-small/{BLOCK}-res"), model) == ("label 3",)
    entered = export(tmp_path / "c", f"np:gpt2-small/{BLOCK + 1}-res-jb")
    assert asking(world, entered, model, resid_pre=True) == ("label 3",)
    with pytest.raises(Refusal, match="--resid-pre for one that counts the block it enters"):
        asking(world, entered, model)


def test_another_sources_labels_are_refused_in_one_sentence(dragoman: Dragoman, world: World, tmp_path: Path) -> None:
    other = export(tmp_path / "e", "np:gpt2-small/11-res-jb")
    words = explaining(world, world.sae, tmp_path / "run", "--features", "3", "--labels", str(other))
    assert "labels for np:gpt2-small/11-res-jb" in refused(dragoman(*words))
    assert not (tmp_path / "run").exists()


def test_an_export_without_labels_says_so(world: World, tmp_path: Path) -> None:
    other = export(tmp_path, f"np:gpt2-small/{BLOCK}-res")
    shutil.rmtree(other / "explanations")
    (other / "explanations").mkdir()
    with pytest.raises(Refusal, match="there is no explanations/batch-0"):
        asking(world, other)
