"""Every published layout gives the planted rows and site, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import dictionary_folders as made
from dictionary_folders import ARRAYS, BLOCK, D_IN, D_SAE, turned
from dragoman.core import Refusal, Site
from dragoman.dictionaries import DictionaryRef, open_dictionary
from dragoman.dictionaries.layouts import LAYOUTS
from reading import read_directions, read_encoder

MAKERS: dict[str, tuple[Callable[[Path], Path], Site | None]] = {
    "SAELens": (lambda root: made.saelens(root / "s"), Site("m", BLOCK)),
    "Gemma Scope": (made.gemma_scope, Site("google/gemma-2-2b", BLOCK)),
    "Gemma Scope 2": (made.gemma_scope_2, Site("google/gemma-3-12b-it", BLOCK)),
    "Llama Scope": (made.llama_scope, Site("meta-llama/Llama-3.1-8B", BLOCK)),
    "dictionary_learning": (made.dictionary_learning, Site("Qwen/Qwen2.5-7B-Instruct", BLOCK)),
    "sparsify": (made.sparsify, None),
    "Qwen-Scope": (made.qwen_scope, Site("Qwen/Qwen3-8B-Base", BLOCK)),
}
SITE = Site("m", BLOCK)
NO_BLOCK = "not the output of a block"
MLP = "blocks.20.hook_mlp_out"
LN = "blocks.20.ln2.hook_normalized"


def test_every_layout_has_a_maker() -> None:
    assert {layout.name for layout in LAYOUTS} == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_each_layout_gives_its_rows_size_and_site(tmp_path: Path, name: str) -> None:
    make, site = MAKERS[name]
    path = make(tmp_path)
    found = open_dictionary(path).weights
    assert (found.layout, found.d_sae, found.d_in) == (name, D_SAE, D_IN)
    assert found.stated.site == site and found.stated.block == BLOCK
    np.testing.assert_array_equal(found.rows([5, 0, 23]), ARRAYS["W_dec"][[5, 0, 23]])
    directions = read_directions(path, site=site or SITE, features=[23, 1], d_model=D_IN)
    np.testing.assert_allclose(directions.unit * directions.norms[:, None], ARRAYS["W_dec"][[23, 1]], rtol=1e-5)
    assert directions.ids == ("23", "1")
    with pytest.raises(Refusal, match=r"says block 20; use it at :20"):
        read_directions(path, site=Site("m", BLOCK + 1), features=[0])
    if site is None:
        with pytest.raises(Refusal, match="names no model; name the site"):
            read_directions(path, features=[0])


def test_other_one_file_decoders_are_known_by_their_arrays(tmp_path: Path) -> None:
    path = made.goodfire(tmp_path)
    found = read_directions(path, site=Site("meta-llama/Llama-3.3-70B-Instruct", BLOCK), features=[4])
    np.testing.assert_allclose(found.unit[0] * found.norms[0], ARRAYS["W_dec"][4], rtol=1e-5)
    with pytest.raises(Refusal, match="says block 20"):
        read_directions(path, site=Site("m", 50), features=[4])


def test_a_folder_of_layers_wants_one_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"a file for each layer \(layer20.sae.pt, ...\); name the file of one layer"):
        read_directions(made.qwen_scope(tmp_path).parent, site=SITE)


def test_chanind_matryoshka_under_its_repository_path(tmp_path: Path) -> None:
    folder = made.saelens(
        tmp_path / "qwen2.5-7B-it-layer-20-saes" / "pile" / "matryoshka" / "k-100",
        metadata={
            "model_name": "Qwen/Qwen2.5-7B-Instruct",
            "hook_name": "blocks.20.hook_resid_post",
            "sae_lens_version": "6.0.0",
            "matryoshka_widths": [4, 12, 24],
        },
    )
    assert read_directions(folder, features=[3]).site == Site("Qwen/Qwen2.5-7B-Instruct", 20)
    assert read_encoder(folder).architecture == "jumprelu"


# Sites


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: made.gemma_scope_2(root, hf_hook_point_in="model.layers.20.self_attn.o_proj.input"), NO_BLOCK),
        (lambda root: made.gemma_scope_2(root, hf_hook_point_in="model.layers.19.output"), "but its hook_layer 20"),
        (lambda root: made.llama_scope(root, hook_point_in=MLP, hook_point_out=MLP), NO_BLOCK),
        (lambda root: made.dictionary_learning(root, submodule_name="attention_out_layer_20"), NO_BLOCK),
        (lambda root: made.dictionary_learning(root, submodule_name="resid_post_layer_19"), "hook_layer 20"),
        (lambda root: made.dictionary_learning(root, layer=0, io="in", submodule_name=None), "enters block 0"),
        (lambda root: made.sparsify(root, "layers.20.mlp"), NO_BLOCK),
        (lambda root: made.sparsify(root, "embed_tokens"), NO_BLOCK),
    ],
)
def test_what_is_no_residual_stream_is_refused(tmp_path: Path, change: Callable[[Path], Path], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_directions(change(tmp_path), site=SITE, features=[0])


def test_gemma_scope_attention_and_mlp_repositories_are_refused(tmp_path: Path) -> None:
    folder = made.gemma_scope(tmp_path)
    for place in ("mlp", "att"):
        (tmp_path / "gemma-scope-2b-pt-res").rename(tmp_path / f"gemma-scope-2b-pt-{place}")
        moved = tmp_path / f"gemma-scope-2b-pt-{place}" / folder.relative_to(tmp_path / "gemma-scope-2b-pt-res")
        with pytest.raises(Refusal, match="does not hold the output of a block"):
            read_directions(moved, site=SITE)
        (tmp_path / f"gemma-scope-2b-pt-{place}").rename(tmp_path / "gemma-scope-2b-pt-res")


def test_activations_taken_before_a_block_belong_to_the_block_before(tmp_path: Path) -> None:
    folder = made.dictionary_learning(tmp_path, io="in", submodule_name=None)
    assert read_directions(folder, features=[0]).site.block == BLOCK - 1


def test_a_transcoder_writes_where_its_output_is(tmp_path: Path) -> None:
    hooks = {"model_name": "m", "hook_name": "blocks.20.ln2.hook_normalized", "hook_name_out": "blocks.20.hook_mlp_out"}
    folder = made.saelens(tmp_path / "t", architecture="jumprelu_transcoder", d_out=D_IN, d_in=99, metadata=hooks)
    assert read_directions(folder, features=[0]).site == Site("m", 20)
    with pytest.raises(Refusal, match="is a transcoder, which reads another place than it writes"):
        read_encoder(folder)
    made.saelens(folder, architecture="transcoder", metadata={"model_name": "m", "hook_layer_out": 7})
    assert read_directions(folder, features=[0]).site == Site("m", 7)
    del hooks["hook_name_out"]
    made.saelens(folder, architecture="transcoder", d_out=D_IN, metadata=hooks)
    with pytest.raises(Refusal, match="only what it reads, not where its decoder writes"):
        read_directions(folder, features=[0])
    places = [f"model.layers.20.{when}_feedforward_layernorm.output" for when in ("pre", "post")]
    scope = made.gemma_scope_2(tmp_path, hf_hook_point_in=places[0], hf_hook_point_out=places[1])
    assert read_directions(scope, features=[0]).site == Site("google/gemma-3-12b-it", 20)
    with pytest.raises(Refusal, match="is a transcoder"):
        read_encoder(scope)
    sparse = made.sparsify(tmp_path, "layers.20.mlp", transcode=True)
    assert read_directions(sparse, site=SITE, features=[0]).site == SITE
    llama = made.llama_scope(tmp_path, hook_point_in=LN, hook_point_out=MLP)
    assert read_directions(llama, features=[0]).site.block == 20


def test_a_transcoder_across_layers_is_refused(tmp_path: Path) -> None:
    cube = {**ARRAYS, "W_dec": np.ones((D_SAE, 3, D_IN), np.float32)}
    with pytest.raises(Refusal, match=r"no 2-D w_dec among .* but one of shape \(24, 3, 8\)"):
        read_directions(made.gemma_scope_2(tmp_path, cube))


def test_gemma_scope_2_without_a_configuration_says_its_site_by_name(tmp_path: Path) -> None:
    folder = made.gemma_scope_2(tmp_path)
    (folder / "config.json").unlink()
    assert read_directions(folder, features=[0]).site == Site("google/gemma-3-12b-it", BLOCK)
    small = tmp_path / "gemma-scope-2-270m-pt"
    (tmp_path / "gemma-scope-2-12b-it").rename(small)
    moved = small / folder.relative_to(tmp_path / "gemma-scope-2-12b-it")
    assert read_directions(moved, features=[0]).site.model == "google/gemma-3-270m"


# Orientation


def square(*, unit: bool, tied: bool, flipped: bool) -> dict[str, np.ndarray]:
    a = made.planted(3, 16, 16)
    if unit:
        a["W_dec"] /= np.linalg.norm(a["W_dec"], axis=1, keepdims=True)
    if tied:
        a["W_enc"] = turned(a["W_dec"]) + 0.3 * a["W_enc"]
    if flipped:
        a["W_dec"] = turned(a["W_dec"])
    return a


@pytest.mark.parametrize(("unit", "tied"), [(True, False), (False, True), (True, True)])
def test_a_square_decoder_shows_which_way_it_lies(tmp_path: Path, unit: bool, tied: bool) -> None:
    config = {"d_in": 16, "d_sae": 16}
    good = made.saelens(tmp_path / "good", square(unit=unit, tied=tied, flipped=False), **config)
    want = square(unit=unit, tied=tied, flipped=False)["W_dec"]
    np.testing.assert_allclose(read_directions(good, features=[2]).norms[0], np.linalg.norm(want[2]), rtol=1e-5)
    bad = made.saelens(tmp_path / "bad", square(unit=unit, tied=tied, flipped=True), **config)
    with pytest.raises(Refusal, match=r"W_dec of shape \(16, 16\) is transposed: its columns are the features"):
        read_directions(bad, features=[2])
    turned_back = read_directions(bad, features=[2], orientation="columns")
    np.testing.assert_array_equal(turned_back.unit, read_directions(good, features=[2]).unit)


def test_a_square_decoder_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    arrays = square(unit=False, tied=False, flipped=False)
    folder = made.saelens(tmp_path, arrays, d_in=16, d_sae=16)
    with pytest.raises(Refusal, match=r"nothing shows whether its rows or its columns.*say it with --orientation rows"):
        read_directions(folder, features=[2])
    found = read_directions(folder, features=[2], orientation="rows")
    np.testing.assert_allclose(found.unit * found.norms[:, None], arrays["W_dec"][[2]], rtol=1e-5)


def test_an_asked_orientation_cannot_contradict_the_shapes(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"shape \(24, 8\) but cfg.json says d_sae 24 and d_in 8"):
        read_directions(made.saelens(tmp_path), features=[0], orientation="columns")
    with pytest.raises(Refusal, match="features as rows or as columns"):
        read_directions(tmp_path, features=[0], orientation="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Gemma Scope", "Gemma Scope 2", "Llama Scope"])
def test_transposed_decoders_are_told_from_their_biases(tmp_path: Path, name: str) -> None:
    make = {"Gemma Scope": made.gemma_scope, "Gemma Scope 2": made.gemma_scope_2, "Llama Scope": made.llama_scope}[name]
    path = make(tmp_path, {**ARRAYS, "W_dec": turned(ARRAYS["W_dec"])})
    with pytest.raises(Refusal, match="is transposed"):
        read_directions(path, features=[0])
    right = read_directions(path, features=[9], orientation="columns" if name != "Llama Scope" else "rows")
    np.testing.assert_allclose(right.unit * right.norms[:, None], ARRAYS["W_dec"][[9]], rtol=1e-5)


def test_vector_files_that_lie_across_are_refused_not_turned(tmp_path: Path) -> None:
    rows = made.planted(1, 40, 16)["W_dec"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(tmp_path / "v.npy", turned(rows))
    for given_width in (None, 16):
        with pytest.raises(Refusal, match=r"shape \(16, 40\) seems to hold one vector a column"):
            read_directions(tmp_path / "v.npy", site=SITE, d_model=given_width)
    right = read_directions(tmp_path / "v.npy", site=SITE, orientation="columns", features=[7])
    np.testing.assert_allclose(right.unit[0], rows[7], rtol=1e-6)
    with pytest.raises(Refusal, match="width 16 is not the width 12"):
        read_directions(tmp_path / "v.npy", site=SITE, orientation="columns", d_model=12)


# References


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("sae:gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71#7", None),
        ("hf:chanind/qwen2.5-7B-it-layer-20-saes@db8c88b4/pile/matryoshka/k-100#982", None),
        ("hf:org/repo", None),
        ("hf:org/repo/", "hf:org/repo"),
        ("chanind/qwen2.5-7B-it-layer-20-saes/pile/k-100", "hf:chanind/qwen2.5-7B-it-layer-20-saes/pile/k-100"),
        ("Qwen/SAE-Res-L0_50/layer20.sae.pt#1,2", "hf:Qwen/SAE-Res-L0_50/layer20.sae.pt#1,2"),
        ("file:probe.npz#v[3]", None),
        ("file:a b/probe.npy#[3,4]", None),
        ("./probe.safetensors#mean", "file:./probe.safetensors#mean"),
        ("/data/sae", "file:/data/sae"),
    ],
)
def test_references_print_in_one_form(text: str, printed: str | None) -> None:
    assert str(DictionaryRef.parse(text)) == (printed or text)


_WORD = st.text("abcXYZ019._-", min_size=1, max_size=8).filter(lambda w: w.strip(".") == w)


@given(
    kind=st.sampled_from(["sae", "hf", "file"]),
    words=st.lists(_WORD, min_size=2, max_size=5),
    revision=st.none() | _WORD,
    indices=st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
)
def test_every_reference_parses_back_to_itself(
    kind: Any, words: list[str], revision: str | None, indices: tuple[int, ...]
) -> None:
    if kind == "file":
        ref = DictionaryRef(kind=kind, place="/".join(words), key=revision, indices=indices)
    elif kind == "hf":
        inside = "/".join(words[2:])
        ref = DictionaryRef(kind=kind, place="/".join(words[:2]), inside=inside, revision=revision, indices=indices)
    else:
        ref = DictionaryRef(kind=kind, place=words[0], inside="/".join(words[1:]), indices=indices)
    assert DictionaryRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["sae:release-only", "hf:one", "hf:org/repo/../../etc", "file:", "hf:a/b#x", "sae:r/x#1.5"]
)
def test_references_of_no_known_form_are_refused(text: str) -> None:
    with pytest.raises(Refusal, match=r"known form; name it as sae:RELEASE/SAE_ID"):
        DictionaryRef.parse(text)


def test_pages_and_neuronpedia_ids_are_not_dictionaries() -> None:
    for text in ("np:gemma-2-2b/20-gemmascope-res-16k/123", "https://example.org/x"):
        with pytest.raises(Refusal, match="it is the address of a page"):
            DictionaryRef.parse(text)


def test_what_is_there_as_a_path_is_that_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made.saelens(tmp_path / "org" / "repo")
    assert DictionaryRef.parse("org/repo#3").kind == "file"
    assert read_directions("file:org/repo", features=[3]).ids == ("3",)


def test_a_reference_names_features_and_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.eye(3), b=2 * np.eye(3))
    found = read_directions(f"file:{tmp_path}/v.npz#b[2,0]", site=SITE)
    assert found.ids == ("2", "0") and found.norms[0] == 2
    with pytest.raises(Refusal, match="its features are named twice"):
        read_directions(f"file:{tmp_path}/v.npz#b[2]", site=SITE, features=[1])


# What a hostile folder may hold


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path / "s")
    for name in ("cfg.json", "sae_weights.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(Refusal, match=f"{name}: it is a link that leads out of its folder"):
            read_directions(folder)
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)
    (folder / "inside").mkdir()
    (folder / "cfg.json").rename(folder / "inside" / "cfg.json")
    (folder / "cfg.json").symlink_to(Path("inside") / "cfg.json")
    assert len(read_directions(folder)) == D_SAE
    (tmp_path / "by-link").symlink_to(folder)
    assert len(read_directions(tmp_path / "by-link")) == D_SAE


def test_the_hub_caches_links_are_its_own(tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    folder = made.saelens(root / "snapshots" / "abc" / "pile" / "k-100")
    (root / "blobs").mkdir()
    (folder / "sae_weights.safetensors").rename(root / "blobs" / "sha")
    (folder / "sae_weights.safetensors").symlink_to(root / "blobs" / "sha")
    assert len(read_directions(folder)) == D_SAE
    (root / "blobs" / "sha").rename(tmp_path / "elsewhere")
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="leads out of its folder"):
        read_directions(folder)


def test_hooks_out_of_a_file_keep_the_sentence_one(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path, metadata={"model_name": "m", "hook_name": "blocks.1\n" * 500})
    with pytest.raises(Refusal) as error:
        read_directions(folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("[" * 100_000, "cfg.json: it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"d_sae": -3}', "its d_sae is '?-3'?, not a natural number"),
        ('{"d_sae": "many"}', "its d_sae is 'many', not a natural number"),
        ('{"d_sae": true}', "its d_sae is 'True', not a natural number"),
        ('{"d_sae": 1e300}', "its d_sae is '1000"),
    ],
)
def test_odd_configurations_are_one_sentence(tmp_path: Path, config: str, why: str) -> None:
    folder = made.saelens(tmp_path)
    (folder / "cfg.json").write_text(config)
    with pytest.raises(Refusal, match=why) as error:
        read_directions(folder, site=SITE)
    assert "\n" not in str(error.value)


def test_a_configuration_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path)
    with (folder / "cfg.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(Refusal, match="8589934592 bytes, too many for settings"):
        read_directions(folder)


def test_labels_of_a_file_lie_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(4))
    (tmp_path / "labels.json").write_text(json.dumps({"2": "law"}))
    assert read_directions(tmp_path / "v.npy", site=SITE, features=[2, 3]).labels == ("law", "")


def test_labels_beside_a_dictionary_are_refused_where_one_is_for_a_feature_after_the_last(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path)
    (folder / "labels.json").write_text(json.dumps({"2": "law", str(D_SAE): "of another"}))
    why = f"labels.json: there is one for feature {D_SAE}, and the dictionary ends at {D_SAE - 1}; put this dictionary"
    with pytest.raises(Refusal, match=why):
        _ = open_dictionary(folder).labels
    (folder / "labels.json").write_text(json.dumps({"2": "law", str(D_SAE - 1): "last"}))
    assert open_dictionary(folder).labels == {"2": "law", str(D_SAE - 1): "last"}


def test_a_key_makes_a_dictionarys_file_a_file_of_vectors(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path)
    found = read_directions(folder / "sae_weights.safetensors", site=Site("m", 3), key="W_dec", features=[1])
    np.testing.assert_allclose(found.unit[0] * found.norms[0], ARRAYS["W_dec"][1], rtol=1e-5)
    assert read_directions(folder / "sae_weights.safetensors", features=[1]).site == Site("m", BLOCK)


def test_half_precision_and_float8_rows_are_widened(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    rows = torch.from_numpy(ARRAYS["W_dec"].copy())
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        save_torch({"v": rows.to(dtype)}, tmp_path / "v.safetensors")
        found = read_directions(tmp_path / "v.safetensors", site=SITE, features=[3])
        want = rows.to(dtype).float().numpy()[3]
        np.testing.assert_allclose(found.unit[0] * found.norms[0], want, rtol=1e-5)


def test_doubles_are_vectors_too(tmp_path: Path) -> None:
    save_file({"v": np.arange(12.0).reshape(3, 4)}, tmp_path / "v.safetensors")
    assert read_directions(tmp_path / "v.safetensors", site=SITE, features=[1]).d_model == 4
