"""Each layout's encoder against an independent reading of its project's forward: one row, one feature at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dictionary_folders as made
from dictionary_folders import ARRAYS, BLOCK, D_IN, D_SAE
from dragoman.core import Refusal, Site
from dragoman.dictionaries import Encoder
from reading import read_encoder

X = np.random.default_rng(7).standard_normal((30, D_IN)).astype(np.float32) * 2 + 0.5
A = {name: array.astype(np.float64) for name, array in ARRAYS.items()}
LENGTHS = [math.sqrt(sum(v * v for v in row)) for row in A["W_dec"]]


def before(x: Any, *, off: bool) -> list[float]:
    """Pre-activations of one row, by the definition of a matrix product."""
    seen = [x[i] - (A["b_dec"][i] if off else 0.0) for i in range(D_IN)]
    return [sum(seen[i] * A["W_enc"][i, j] for i in range(D_IN)) + A["b_enc"][j] for j in range(D_SAE)]


def relu(p: list[float]) -> list[float]:
    return [max(v, 0.0) for v in p]


def top(p: list[float], k: int) -> list[float]:
    kept = sorted(range(len(p)), key=lambda j: -p[j])[:k]
    return [max(p[j], 0.0) if j in kept else 0.0 for j in range(len(p))]


def above(p: list[float], threshold: Any) -> list[float]:
    each = [threshold] * len(p) if isinstance(threshold, float) else threshold
    return [max(v, 0.0) if v > t else 0.0 for v, t in zip(p, each, strict=True)]


def decoded(acts: list[float]) -> np.ndarray:
    return np.array([sum(acts[j] * A["W_dec"][j, i] for j in range(D_SAE)) + A["b_dec"][i] for i in range(D_IN)])


def agree(encoder: Encoder, one: Callable[[Any], list[float]]) -> np.ndarray:
    """The encoder gives what one row after the other gives; sparse, and not empty."""
    want = np.array([one(row.astype(np.float64)) for row in X])
    got = encoder.encode(X)
    assert got.dtype == np.float32 and 0 < (got > 0).mean() < 1
    np.testing.assert_array_equal(got > 0, want > 0)
    np.testing.assert_allclose(got, want, atol=2e-5)
    return want


def rebuilt(encoder: Encoder, want: list[np.ndarray]) -> None:
    np.testing.assert_allclose(encoder.reconstruct(X), np.array(want), atol=1e-4)


# SAELens


@pytest.mark.parametrize("off", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_saelens_forward(tmp_path: Path, architecture: str, off: bool) -> None:
    encoder = read_encoder(made.saelens(tmp_path, architecture=architecture, k=3, apply_b_dec_to_input=off))
    one = {"standard": relu, "jumprelu": lambda p: above(p, A["threshold"]), "topk": lambda p: top(p, 3)}[architecture]
    acts = agree(encoder, lambda x: one(before(x, off=off)))
    rebuilt(encoder, [decoded(list(row)) for row in acts])
    assert encoder.site == Site("m", BLOCK)


def test_saelens_topk_that_rescales_divides_again_when_it_decodes(tmp_path: Path) -> None:
    encoder = read_encoder(made.saelens(tmp_path, architecture="topk", k=3, rescale_acts_by_decoder_norm=True))
    scaled = lambda x: [p * n for p, n in zip(before(x, off=True), LENGTHS, strict=True)]  # noqa: E731
    acts = agree(encoder, lambda x: top(scaled(x), 3))
    rebuilt(encoder, [decoded([a / n for a, n in zip(row, LENGTHS, strict=True)]) for row in acts])


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_saelens_batchtopk_is_a_jumprelu_at_its_learnt_threshold(tmp_path: Path, architecture: str) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if name != "threshold"}
    learnt = {**arrays, "topk_threshold": np.array(0.9)}
    folder = made.saelens(tmp_path, learnt, architecture=architecture, k=3, rescale_acts_by_decoder_norm=True)
    scaled = lambda x: [p * n for p, n in zip(before(x, off=True), LENGTHS, strict=True)]  # noqa: E731
    agree(read_encoder(folder), lambda x: above(scaled(x), 0.9))
    for odd in (arrays, {**arrays, "topk_threshold": np.array(0.0)}):
        made.saelens(tmp_path, odd, architecture=architecture, k=3)
        with pytest.raises(Refusal, match="holds no learnt threshold that would say which of one row"):
            read_encoder(folder)
    made.saelens(tmp_path, arrays)
    with pytest.raises(Refusal, match=r"sae_weights.safetensors has no threshold"):
        read_encoder(folder)


def test_saelens_constant_norm_rescale(tmp_path: Path) -> None:
    encoder = read_encoder(made.saelens(tmp_path, normalize_activations="constant_norm_rescale"))
    factor = lambda x: math.sqrt(D_IN) / math.sqrt(sum(v * v for v in x))  # noqa: E731
    acts = agree(encoder, lambda x: above(before(x * factor(x), off=True), A["threshold"]))
    rebuilt(encoder, [decoded(list(row)) / factor(x.astype(np.float64)) for row, x in zip(acts, X, strict=True)])
    assert not encoder.encode(np.zeros((1, D_IN))).tolist()[0][0] > 1e6  # a zero row is no division by zero


def test_saelens_layer_norm(tmp_path: Path) -> None:
    encoder = read_encoder(made.saelens(tmp_path, normalize_activations="layer_norm"))

    def parts(x: np.ndarray) -> tuple[float, float]:
        mean = sum(x) / D_IN
        return mean, math.sqrt(sum((v - mean) ** 2 for v in x) / (D_IN - 1))

    def one(x: np.ndarray) -> list[float]:
        mean, deviation = parts(x)
        return above(before((x - mean) / (deviation + 1e-5), off=True), A["threshold"])

    acts = agree(encoder, one)
    back = [parts(x.astype(np.float64)) for x in X]
    rebuilt(encoder, [decoded(list(row)) * s + m for row, (m, s) in zip(acts, back, strict=True)])


@pytest.mark.parametrize("where", ["cfg", "scaler"])
def test_saelens_expected_average_needs_its_factor(tmp_path: Path, where: str) -> None:
    said = {"normalize_activations": "expected_average_only_in"}
    folder = made.saelens(tmp_path, **said)
    with pytest.raises(Refusal, match="scaled to an expected average, and the factor is not stored"):
        read_encoder(folder)
    if where == "cfg":
        made.saelens(tmp_path, **said, norm_scaling_factor=0.25)
    else:
        made.written(folder, "activation_scaler.json", {"scaling_factor": 0.25})
    # SAELens folds: W_enc * s, W_dec / s, b_dec / s, the bias then taken off the bare input.
    encoder = read_encoder(folder)
    acts = agree(encoder, lambda x: above(before(x * 0.25, off=True), A["threshold"]))
    rebuilt(encoder, [decoded(list(row)) / 0.25 for row in acts])


def test_saelens_finetuned_scaling_is_refused_unless_it_is_one(tmp_path: Path) -> None:
    folder = made.saelens(tmp_path, {**ARRAYS, "scaling_factor": np.ones(D_SAE, np.float32)})
    assert read_encoder(folder).d_sae == D_SAE
    made.saelens(tmp_path, {**ARRAYS, "scaling_factor": np.full(D_SAE, 2, np.float32)})
    with pytest.raises(Refusal, match="fine-tuned with a scaling_factor"):
        read_encoder(folder)


# Gemma Scope


@pytest.mark.parametrize("make", [made.gemma_scope, made.gemma_scope_2])
def test_gemma_scopes_forward(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    encoder = read_encoder(make(tmp_path))
    acts = agree(encoder, lambda x: above(before(x, off=False), A["threshold"]))
    rebuilt(encoder, [decoded(list(row)) for row in acts])


def test_gemma_scopes_that_are_not_jumprelu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="architecture 'gated' is not known"):
        read_encoder(made.gemma_scope_2(tmp_path, architecture="gated"))
    (tmp_path / "gemma-scope-2b-pt-transcoders").mkdir()
    folder = made.gemma_scope(tmp_path)
    moved = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3"
    folder.rename(moved)
    with pytest.raises(Refusal, match="is a transcoder"):
        read_encoder(moved)


# Llama Scope


@pytest.mark.parametrize("off", [True, False])
def test_llama_scopes_forward_compares_in_normalised_units(tmp_path: Path, off: bool) -> None:
    encoder = read_encoder(made.llama_scope(tmp_path, apply_decoder_bias_to_pre_encoder=off))
    s_in, s_out = math.sqrt(D_IN) / 2.5, math.sqrt(D_IN) / 3.5
    acts = agree(encoder, lambda x: [p if p > 0.7 else 0.0 for p in before(x * s_in, off=off)])
    rebuilt(encoder, [decoded(list(row)) / s_out for row in acts])


def test_llama_scope_token_wise_and_topk(tmp_path: Path) -> None:
    folder = made.llama_scope(
        tmp_path, act_fn="topk", top_k=3, norm_activation="token-wise", sparsity_include_decoder_norm=False
    )
    factor = lambda x: math.sqrt(D_IN) / math.sqrt(sum(v * v for v in x))  # noqa: E731
    agree(read_encoder(folder), lambda x: top(before(x * factor(x), off=False), 3))


def test_a_llama_scope_that_is_no_topk_needs_no_top_k(tmp_path: Path) -> None:
    encoder = read_encoder(made.llama_scope(tmp_path, top_k=0.5))
    assert encoder.architecture == "jumprelu" and encoder.k is None


def test_llama_scope_of_the_newer_release_has_thresholds_for_each_feature(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "encoder.weight": made.turned(ARRAYS["W_enc"]),
        "encoder.bias": ARRAYS["b_enc"],
        "decoder.weight": made.turned(ARRAYS["W_dec"]),
        "decoder.bias": ARRAYS["b_dec"],
        "log_jumprelu_threshold": np.log(ARRAYS["threshold"]),
    }
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    hook = "blocks.20.hook_resid_post"
    config = {"d_model": D_IN, "expansion_factor": D_SAE // D_IN, "hook_point_in": hook, "hook_point_out": hook}
    config |= {"act_fn": "jumprelu", "norm_activation": "inference", "sparsity_include_decoder_norm": True}
    made.written(tmp_path, "config.json", config)
    # Chosen by p times the decoder's length, kept as p.
    keep = lambda p: [v if v * n > t else 0.0 for v, n, t in zip(p, LENGTHS, A["threshold"], strict=True)]  # noqa: E731
    agree(read_encoder(tmp_path), lambda x: [max(v, 0.0) for v in keep(before(x, off=False))])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"dataset_average_activation_norm": None}, "the dataset's average norm, which is not stored"),
        ({"dataset_average_activation_norm": {"in": 0}}, "the dataset's average norm, which is not stored"),
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise', which depends on the batch"),
        ({"use_glu_encoder": True}, "its encoder is gated"),
        ({"act_fn": "gelu"}, "act_fn 'gelu' is not known"),
        ({"act_fn": "topk", "top_k": 3}, "its TopK chooses by decoder length"),
        ({"jump_relu_threshold": None}, "has no jump_relu_threshold"),
    ],
)
def test_llama_scopes_it_does_not_know_are_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_encoder(made.llama_scope(tmp_path, **config))


# dictionary_learning


def test_dictionary_learnings_autoencoder_moves_decoder_lengths_into_the_encoder(tmp_path: Path) -> None:
    encoder = read_encoder(made.dictionary_learning(tmp_path, "AutoEncoder"))
    acts = agree(encoder, lambda x: [p * n for p, n in zip(relu(before(x, off=True)), LENGTHS, strict=True)])
    rebuilt(encoder, [decoded([a / n for a, n in zip(row, LENGTHS, strict=True)]) for row in acts])


@pytest.mark.parametrize(
    ("dict_class", "one"),
    [
        ("AutoEncoderNew", lambda x: relu(before(x, off=False))),
        ("AutoEncoderTopK", lambda x: top(relu(before(x, off=True)), 3)),
        ("BatchTopKSAE", lambda x: above(relu(before(x, off=True)), float(np.float32(0.8)))),
        ("MatryoshkaBatchTopKSAE", lambda x: above(relu(before(x, off=True)), float(np.float32(0.8)))),
        (
            "JumpReluAutoEncoder",
            lambda x: relu([p * (p > t) for p, t in zip(before(x, off=False), A["threshold"], strict=True)]),
        ),
    ],
)
def test_dictionary_learnings_forwards(tmp_path: Path, dict_class: str, one: Callable[[Any], list[float]]) -> None:
    encoder = read_encoder(made.dictionary_learning(tmp_path, dict_class))
    acts = agree(encoder, one)
    rebuilt(encoder, [decoded(list(row)) for row in acts])
    assert encoder.site == Site("Qwen/Qwen2.5-7B-Instruct", BLOCK)


def test_dictionary_learnings_it_does_not_know_are_refused(tmp_path: Path) -> None:
    import torch

    with pytest.raises(Refusal, match=r"its threshold is -1, so it was never learnt"):
        read_encoder(made.dictionary_learning(tmp_path / "a", more={"threshold": torch.tensor(-1.0)}))
    with pytest.raises(Refusal, match="dict_class 'GatedAutoEncoder' is not known"):
        read_encoder(made.dictionary_learning(tmp_path / "b", "GatedAutoEncoder"))
    with pytest.raises(Refusal, match=r"config.json says k 4 and ae.pt 3"):
        read_encoder(made.dictionary_learning(tmp_path / "c", "AutoEncoderTopK", k=4))
    with pytest.raises(Refusal, match="is a transcoder"):
        read_encoder(made.dictionary_learning(tmp_path / "d", io="in_and_out"))
    old = made.dictionary_learning(tmp_path / "e")
    state = torch.load(old / "ae.pt", weights_only=True)
    del state["threshold"]
    torch.save(state, old / "ae.pt")
    with pytest.raises(Refusal, match="without it a BatchTopKSAE says nothing of a single row"):
        read_encoder(old)
    made.written(old, "config.json", {"trainer": 3})
    with pytest.raises(Refusal, match="describes no trainer"):
        read_encoder(old)


# sparsify, Qwen-Scope, Goodfire


def test_sparsifys_forward(tmp_path: Path) -> None:
    encoder = read_encoder(made.sparsify(tmp_path))
    acts = agree(encoder, lambda x: top(relu(before(x, off=True)), 3))
    rebuilt(encoder, [decoded(list(row)) for row in acts])


def test_sparsifys_groupmax(tmp_path: Path) -> None:
    def one(x: Any) -> list[float]:
        p, out = relu(before(x, off=True)), [0.0] * D_SAE
        for group in range(4):
            members = range(group * 6, group * 6 + 6)
            best = max(members, key=lambda j: p[j])
            out[best] = p[best]
        return out

    agree(read_encoder(made.sparsify(tmp_path, activation="groupmax", k=4)), one)
    with pytest.raises(Refusal, match="24 features do not make 5 groups"):
        read_encoder(made.sparsify(tmp_path / "odd", activation="groupmax", k=5))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"signed": True}, "it is signed"),
        ({"activation": "softmax"}, "activation 'softmax' is not known"),
        ({"transcode": True}, "is a transcoder"),
        ({"k": 0}, "its k is 0 for 24 features"),
    ],
)
def test_sparsifys_it_does_not_know_are_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_encoder(made.sparsify(tmp_path, **config))


def test_qwen_scopes_forward(tmp_path: Path) -> None:
    path = made.qwen_scope(tmp_path)
    agree(read_encoder(path), lambda x: top(before(x, off=False), 3))
    moved = tmp_path / path.name
    path.rename(moved)
    with pytest.raises(Refusal, match="its k stands in the repository's name only"):
        read_encoder(moved)
    assert read_encoder(moved, k=5).k == 5


def test_goodfires_forward(tmp_path: Path) -> None:
    agree(read_encoder(made.goodfire(tmp_path)), lambda x: relu(before(x, off=False)))


def test_a_file_of_vectors_has_no_encoder(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(4))
    with pytest.raises(Refusal, match="a file of vectors has no encoder"):
        read_encoder(tmp_path / "v.npy")


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(tmp_path: Path, factor: float) -> None:
    a = {name: ARRAYS[name] for name in ("W_enc", "b_enc", "b_dec", "W_dec")}
    with pytest.raises(Refusal, match="its normalisation factor is"):
        Encoder(**a, architecture="relu", normalize="factor", input_factor=factor)


def test_an_encoder_cannot_be_changed_and_read_only_arrays_are_not_copied() -> None:
    a = {name: ARRAYS[name].copy() for name in ("W_enc", "b_enc", "b_dec", "W_dec")}
    a["W_dec"].flags.writeable = False
    encoder = Encoder(**a, architecture="relu")
    assert encoder.W_dec is a["W_dec"]
    a["W_enc"][:] = 0
    assert encoder.W_enc.any() and not encoder.W_enc.flags.writeable
