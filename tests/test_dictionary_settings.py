"""Settings that change what fires or where rows point: done as their own library does, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import dictionary_folders as made
from dictionary_folders import ARRAYS, BLOCK, D_IN, D_SAE
from dragoman.core import Refusal, Site
from dragoman.dictionaries import hub, opened
from dragoman.dictionaries.folder import LocalFolder
from dragoman.dictionaries.layouts.saelens import KNOWN
from reading import check_encoder, read_directions, read_encoder

X = np.random.default_rng(7).standard_normal((40, D_IN)) * 2 + 0.5
SITE = Site("m", BLOCK)
WHITE = "covariance_whitening"


# --- whitened checkpoints ---------------------------------------------------------------------------------------------


def whitening(d: int = D_IN) -> dict[str, np.ndarray]:
    """As SAELens estimates it: eigenvectors of a covariance, in float64."""
    rng = np.random.default_rng(3)
    turned, _ = np.linalg.qr(rng.standard_normal((d, d)))
    values = rng.uniform(0.05, 20, d)
    return {
        "mean": rng.standard_normal(d),
        "matrix": turned / np.sqrt(values),
        "inverse_matrix": np.sqrt(values)[:, None] * turned.T,
    }


def checkpoint(folder: Path, white: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A folder saved before its training ended."""
    made.saelens(folder, **{"architecture": "topk", "k": 3, "normalize_activations": WHITE, **config})
    white = whitening() if white is None else white
    save_file({name: np.ascontiguousarray(a) for name, a in white.items()}, folder / "activation_whitening.safetensors")
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": None, "has_whitening": True}))
    return folder


def folded(rescaled: bool, off: bool) -> dict[str, np.ndarray]:
    """What SAELens' own folding at the end of training makes of the weights (fold_W_dec_norm first, where rescaled)."""
    w = {name: array.astype(np.float64) for name, array in ARRAYS.items()}
    white, mean = whitening(), whitening()["mean"]
    if rescaled:
        lengths = np.linalg.norm(w["W_dec"], axis=1)
        w["W_dec"], w["W_enc"], w["b_enc"] = w["W_dec"] / lengths[:, None], w["W_enc"] * lengths, w["b_enc"] * lengths
    w["W_enc"] = white["matrix"] @ w["W_enc"]
    if not off:
        w["b_enc"] = w["b_enc"] - mean @ w["W_enc"]
    w["W_dec"] = w["W_dec"] @ white["inverse_matrix"]
    w["b_dec"] = w["b_dec"] @ white["inverse_matrix"] + mean
    return w


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("off", [True, False])
def test_a_whitened_checkpoint_is_what_folding_makes_of_it(tmp_path: Path, rescaled: bool, off: bool) -> None:
    folder = checkpoint(tmp_path / "c", rescale_acts_by_decoder_norm=rescaled, apply_b_dec_to_input=off)
    want = folded(rescaled, off)
    rows = read_directions(folder)
    true = want["W_dec"] / np.linalg.norm(want["W_dec"], axis=1, keepdims=True)
    np.testing.assert_allclose(rows.unit, true, atol=1e-6)
    np.testing.assert_allclose(read_directions(folder, features=[5, 2]).unit, true[[5, 2]], atol=1e-6)
    before = (X - want["b_dec"] if off else X) @ want["W_enc"] + want["b_enc"]
    kept = np.argsort(-before, axis=1)[:, :3]
    fired = np.zeros_like(before)
    np.put_along_axis(fired, kept, np.maximum(np.take_along_axis(before, kept, 1), 0), 1)
    encoder = read_encoder(folder)
    np.testing.assert_allclose(encoder.encode(X), fired, atol=1e-4)
    np.testing.assert_allclose(encoder.reconstruct(X), fired @ want["W_dec"] + want["b_dec"], atol=1e-3)
    check_encoder(folder)


def test_rows_as_they_are_stored_would_point_elsewhere(tmp_path: Path) -> None:
    stored = ARRAYS["W_dec"] / np.linalg.norm(ARRAYS["W_dec"], axis=1, keepdims=True)
    found = read_directions(checkpoint(tmp_path / "c")).unit
    assert np.mean(np.sum(stored * found, axis=1)) < 0.5


def test_whitening_that_is_not_there_is_refused_wherever_rows_are_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "activation_whitening.safetensors").unlink()
    for read in (read_directions, read_encoder):
        with pytest.raises(
            Refusal, match=r"its rows are of whitened activations \(covariance_whitening\), and without"
        ):
            read(folder)


def test_whitening_that_nothing_speaks_of_is_refused_unless_it_is_said_to_be_over(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c", normalize_activations="none")
    with pytest.raises(Refusal, match=r"says nothing of covariance_whitening.*is not sure"):
        read_directions(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": None, "has_whitening": False}))
    np.testing.assert_allclose(
        read_directions(folder, features=[1]).norms, np.linalg.norm(ARRAYS["W_dec"][1]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"inverse_matrix": np.eye(D_IN - 1)}, r"no inverse_matrix of shape \(8, 8\)"),
        ({"inverse_matrix": np.full((D_IN, D_IN), np.nan)}, "inverse_matrix holds numbers that are not finite"),
        (
            {"inverse_matrix": np.eye(D_IN, dtype=np.uint16)},
            "inverse_matrix holds numbers that are not finite or not real",
        ),
    ],
)
def test_a_broken_inverse_is_refused_for_rows_and_encoder(
    tmp_path: Path, change: dict[str, np.ndarray], why: str
) -> None:
    folder = checkpoint(tmp_path / "c", whitening() | change)
    for read in (read_directions, read_encoder, check_encoder):
        with pytest.raises(Refusal, match=why):
            read(folder)


def test_matrices_that_are_not_each_others_inverse_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c", whitening() | {"matrix": np.eye(D_IN)})
    with pytest.raises(Refusal, match="are not each other's inverse"):
        read_encoder(folder)


# --- settings of SAELens' configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "center_writing_weights 'True'"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, "fold_ln 'True'"),
        ({"model_from_pretrained_kwargs": {"first_n_layers": 3}}, "first_n_layers '3'"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": "false"}}, "center_writing_weights 'false'"),
        ({"metadata": {"hook_name": "layers.20", "model_from_pretrained_kwargs": {"fold_ln": True}}}, "fold_ln"),
        ({"model_from_pretrained_kwargs": "fold_ln"}, "model_from_pretrained_kwargs is 'fold_ln', not an object"),
        ({"finetuning_scaling_factor": True}, "fine-tuned with a finetuning_scaling_factor"),
        ({"finetuning_scaling_factor": "False"}, "finetuning_scaling_factor is 'False', not true or false"),
        ({"hook_head_index": 0}, "its hook_head_index is 0"),
        ({"normalize_activations": "constant_scalar_rescale"}, "normalize_activations is 'constant_scalar_rescale'"),
        ({"normalize_activations": "anthropic"}, "normalize_activations is 'anthropic'"),
        ({"activation_fn": "tanh-relu"}, "its activation_fn is 'tanh-relu' under architecture 'jumprelu'"),
        ({"input_scale": 0.5}, r"what the setting input_scale \('0.5'\) of cfg.json does"),
        ({"rotate_input": True}, "what the setting rotate_input"),
        ({"model_kwargs": {"start_at_layer": 2}}, "what the setting model_kwargs"),
    ],
)
def test_a_setting_that_changes_what_fires_is_refused_by_name(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    folder = made.saelens(tmp_path / "s", **config)
    for read in (read_encoder, check_encoder):
        with pytest.raises(Refusal, match=why):
            read(folder)
    if not isinstance(config.get("model_from_pretrained_kwargs"), str):
        assert len(read_directions(folder, site=SITE)) == D_SAE, "its rows point where they point"


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    harmless = {name: 3 for name in KNOWN if name.startswith(("l1", "lr", "adam", "wandb", "n_b", "train", "lp"))}
    off = {"rotate_input": False, "input_scale": 0, "clamp": None, "post_processing": "none", "steps": []}
    loading = {"device": "cuda", "center_writing_weights": False, "fold_ln": None, "center_unembed": True}
    folder = made.saelens(
        tmp_path, **harmless, **off, model_from_pretrained_kwargs=loading, finetuning_scaling_factor=False
    )
    want = read_encoder(made.saelens(tmp_path / "plain"))
    np.testing.assert_array_equal(read_encoder(folder).encode(X), want.encode(X))


def test_an_array_that_nothing_here_reads_is_refused(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path, {**ARRAYS, "r_mag": np.ones(D_SAE, np.float32)})
    with pytest.raises(Refusal, match="what its array r_mag does is not known here"):
        read_encoder(folder)


def test_a_threshold_beside_an_activation_without_one_is_refused(tmp_path: Path) -> None:
    for config in ({"architecture": "relu"}, {"architecture": "topk", "k": 3}, {"architecture": None}):
        folder = made.saelens(tmp_path / "s", ARRAYS, **config)
        for read in (read_encoder, check_encoder):
            with pytest.raises(Refusal, match="its file holds a threshold, and by cfg.json it is '.*', which has none"):
                read(folder)
        made.saelens(tmp_path / "s", ARRAYS | {"threshold": np.zeros(D_SAE, np.float32)}, **config)
        read_encoder(folder)


def test_a_k_that_is_told_twice_and_differs_is_refused(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path, architecture="topk", k=3, activation_fn_kwargs={"k": 5})
    for read in (read_encoder, check_encoder):
        with pytest.raises(Refusal, match="its cfg.json says k 3 and 5"):
            read(folder)
    want = read_encoder(made.saelens(tmp_path / "b", architecture="topk", activation_fn_kwargs={"k": 5}))
    same = read_encoder(made.saelens(tmp_path / "c", architecture="topk", k=5, activation_fn_kwargs={"k": 5}))
    np.testing.assert_array_equal(want.encode(X), same.encode(X))


def test_finetuned_factors_are_refused_under_both_names_unless_they_are_ones(tmp_path: Path) -> None:
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        ones = {**ARRAYS, name: np.ones(D_SAE, np.float32)}
        read_encoder(made.saelens(tmp_path / name, ones, finetuning_scaling_factor=True))
        made.saelens(tmp_path / name, {**ARRAYS, name: np.full(D_SAE, 2, np.float32)})
        with pytest.raises(Refusal, match=f"fine-tuned with a {name}"):
            read_encoder(tmp_path / name)


def test_the_revision_a_model_was_loaded_at_is_part_of_the_site(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path / "s", model_from_pretrained_kwargs={"revision": "step1000"})
    assert read_directions(folder).site == Site("m", BLOCK, "step1000") == read_encoder(folder).site
    assert read_directions(folder, site=SITE).site == SITE
    with pytest.raises(Refusal, match="says revision step1000 of its model"):
        read_directions(folder, site=Site("m", BLOCK, "main"))
    made.saelens(tmp_path / "s", model_from_pretrained_kwargs={"checkpoint_value": 512})
    with pytest.raises(Refusal, match="loaded with checkpoint_value 512, a checkpoint of its training"):
        read_directions(folder)


# --- switches that are text -------------------------------------------------------------------------------------------

SWITCHES: dict[str, Callable[[Path, Any], Path]] = {
    "apply_b_dec_to_input": lambda root, v: made.saelens(root / "s", apply_b_dec_to_input=v),
    "rescale_acts_by_decoder_norm": lambda root, v: made.saelens(root / "s", rescale_acts_by_decoder_norm=v),
    "finetuning_scaling_factor": lambda root, v: made.saelens(root / "s", finetuning_scaling_factor=v),
    "transcode": lambda root, v: made.sparsify(root, transcode=v),
    "signed": lambda root, v: made.sparsify(root, signed=v),
    "skip_connection": lambda root, v: made.sparsify(root, skip_connection=v),
    "use_glu_encoder": lambda root, v: made.llama_scope(root, use_glu_encoder=v),
    "apply_decoder_bias_to_pre_encoder": lambda root, v: made.llama_scope(root, apply_decoder_bias_to_pre_encoder=v),
    "sparsity_include_decoder_norm": lambda root, v: made.llama_scope(
        root, act_fn="topk", top_k=3, sparsity_include_decoder_norm=v
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["false", "False", 0, [True]])
def test_a_switch_that_is_not_true_or_false_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(Refusal, match=f"its {name} is '.*', not true or false"):
        read_encoder(SWITCHES[name](tmp_path, value))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_is_off_or_not_there_is_off(tmp_path: Path, name: str) -> None:
    assert read_encoder(SWITCHES[name](tmp_path / "a", False)).d_sae == D_SAE
    assert read_encoder(SWITCHES[name](tmp_path / "b", None)).d_sae == D_SAE


def test_settings_that_other_layouts_do_not_know_are_refused(tmp_path: Path) -> None:
    layouts = (made.sparsify, made.gemma_scope_2, made.llama_scope)
    for folder in (make(tmp_path, normalize_io=True) for make in layouts):
        with pytest.raises(Refusal, match="what the setting normalize_io"):
            read_encoder(folder)


def test_what_only_training_or_devices_go_by_says_nothing_of_a_llama_scope(tmp_path: Path) -> None:
    """As its authors' published files have them."""
    plain = read_encoder(made.llama_scope(tmp_path / "a"))
    training = {"l1_coefficient": 8e-5, "init_encoder_with_decoder_transpose": True, "k_warmup_steps": 0.1, "lp": 1}
    around = {"device": "cuda", "seed": 42, "dtype": "torch.bfloat16", "tp_size": 1, "sae_type": "sae"}
    told = read_encoder(made.llama_scope(tmp_path / "b", **training, **around))
    x = np.random.default_rng(0).normal(size=(5, plain.d_in)).astype(np.float32)
    assert np.array_equal(told.encode(x), plain.encode(x))


@pytest.mark.parametrize("kind", ["crosscoder", "clt", "lorsa", 1, True])
def test_a_llama_scope_that_is_no_plain_sae_has_no_encoder_here(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(Refusal, match="its sae_type is .*, which encodes otherwise"):
        read_encoder(made.llama_scope(tmp_path, sae_type=kind))


# --- SAELens' registry ------------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], str]:
    """A release of one dictionary, with these overrides; gives its reference."""

    def release(folder: Path, overrides: str) -> str:
        package = tmp_path / "lib" / "sae_lens"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('must not be imported')")
        (package / "pretrained_saes.yaml").write_text(
            f"wg:\n  repo_id: org/repo\n  config_overrides: {overrides}\n  saes:\n  - id: l8\n    path: l8\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path / "lib"))

        def local(_ref: Any, extra: dict[str, Any]) -> LocalFolder:
            found = LocalFolder(folder)
            found.extra = extra
            return found

        monkeypatch.setattr(hub, "hub_folder", local)
        monkeypatch.setattr(opened, "pinned", lambda ref: ref)
        return "sae:wg/l8"

    return release


def test_a_releases_overrides_are_applied(tmp_path: Path, released: Callable[[Path, str], str]) -> None:
    folder = made.saelens(tmp_path / "s", normalize_activations="none")
    ref = released(folder, "{normalize_activations: constant_norm_rescale, dataset_path: x}")
    want = read_encoder(made.saelens(tmp_path / "w", normalize_activations="constant_norm_rescale"))
    got = read_encoder(ref)
    assert got.normalize == "constant_norm_rescale"
    np.testing.assert_array_equal(got.encode(X), want.encode(X))
    assert (got.encode(X) > 0).sum() != (read_encoder(folder).encode(X) > 0).sum()


def test_a_releases_loading_options_are_refused_by_name(tmp_path: Path, released: Callable[[Path, str], str]) -> None:
    ref = released(
        made.saelens(tmp_path / "s"), "{model_from_pretrained_kwargs: {center_writing_weights: true}, odd_scale: 2}"
    )
    with pytest.raises(Refusal, match="odd_scale"):
        read_encoder(ref)
    assert len(read_directions(ref)) == D_SAE


def test_a_releases_place_in_the_model_is_taken(tmp_path: Path, released: Callable[[Path, str], str]) -> None:
    ref = released(made.saelens(tmp_path / "s"), "{model_name: other, hook_name: blocks.12.hook_resid_post}")
    assert read_directions(ref).site == Site("other", 12) == read_encoder(ref).site


def test_overrides_reach_other_layouts_too(tmp_path: Path, released: Callable[[Path, str], str]) -> None:
    ref = released(made.llama_scope(tmp_path), "{model_name: other, dataset_path: x}")
    assert read_directions(ref).site == Site("other", BLOCK) == read_encoder(ref).site


def test_overrides_that_other_layouts_cannot_take_are_refused(
    tmp_path: Path, released: Callable[[Path, str], str]
) -> None:
    ref = released(made.llama_scope(tmp_path), "{normalize_activations: layer_norm}")
    with pytest.raises(Refusal, match=r"what the setting normalize_activations .* of SAELens' registry does"):
        read_encoder(ref)
    with pytest.raises(Refusal, match="what the setting normalize_activations"):
        check_encoder(ref)


def test_overrides_that_are_no_settings_are_refused(tmp_path: Path, released: Callable[[Path, str], str]) -> None:
    with pytest.raises(Refusal, match="its config_overrides are"):
        read_directions(released(made.saelens(tmp_path / "s"), "layer_norm"))
