"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``, matrices as ``torch.nn.Linear`` has them.

In: a folder with ``final.safetensors`` (encoder.weight (d_sae, d_model), encoder.bias, decoder.weight (d_model, d_sae),
decoder.bias), or the newer ``config.json`` and ``sae_weights.safetensors`` (with log_jumprelu_threshold). Out: what a
`Layout` finds; a transcoder's rows live at ``hook_point_out``. Refuses gated linear encoders, per-batch normalisation,
dataset-wise normalisation whose norms are not stored, TopK that chooses by decoder length, what is no plain SAE
(``sae_type``), and settings that nothing here reads, but for those that only training, devices or speed go by.

Semantics: the authors' ``SparseAutoEncoder.encode`` of November 2024: x times sqrt(d_model) over the dataset's average
norm, minus the decoder bias where the settings say so, then p > jump_relu_threshold **in those normalised units**.
(SAELens multiplies that threshold by the factor once more; the authors' own code does not.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Architecture, Encoder, Normalize
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored
from dragoman.store.spans import shown

FILES = (
    ("hyperparams.json", "checkpoints/final.safetensors"),
    ("hyperparams.json", "final.safetensors"),
    ("config.json", "sae_weights.safetensors"),
)
_NAMES = Named(
    file="",
    w_enc="encoder.weight",
    b_enc="encoder.bias",
    w_dec="decoder.weight",
    b_dec="decoder.bias",
    linear=True,
    features="columns",
    biased=False,
)
# Every field of the authors' configurations of an SAE that `_encoder` reads, and that it need not read.
_READ = {
    "d_model", "d_sae", "expansion_factor", "hook_point_in", "hook_point_out", "act_fn", "top_k", "jump_relu_threshold",
    "norm_activation", "dataset_average_activation_norm", "use_glu_encoder", "sparsity_include_decoder_norm",
    "apply_decoder_bias_to_pre_encoder", "sae_type",
}  # fmt: skip
_IN_TRAINING = {
    "decoder_exactly_fixed_norm", "decoder_exactly_unit_norm", "force_unit_decoder_norm", "bias_init_method",
    "decoder_bias_init_method", "geometric_median_max_iter", "init_decoder_norm", "init_encoder_norm",
    "init_encoder_with_decoder_transpose", "lp", "l1_coefficient", "l1_coefficient_warmup_steps", "initial_k",
    "k_warmup_steps", "use_batch_norm_mse", "use_ghost_grads", "use_auxk", "k_aux", "aux_coefficient",
    "dead_threshold", "jumprelu_threshold_window", "jumprelu_threshold_grad_scale",
}  # fmt: skip
_AROUND = {
    "device", "dtype", "seed", "tp_size", "ddp_size", "use_ddp", "n_devices", "sae_pretrained_name_or_path",
    "sae_from_pretrained_path", "from_pretrained_path", "strict_loading", "exp_name", "exp_series", "exp_result_dir",
    "exp_result_path", "cache_dir", "use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel",
    "sparsity_threshold_for_csr", "promote_act_fn_dtype", "use_decoder_bias", "model_name", "dataset_path",
    "is_dataset_tokenized", "is_dataset_on_disk", "context_size", "use_cached_activations", "cached_activations_path",
    "n_tokens_in_buffer", "store_batch_size", "total_training_tokens",
}  # fmt: skip
_KNOWN = frozenset(_READ | _IN_TRAINING | _AROUND)
_ARCHITECTURES: dict[str, Architecture] = {"relu": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_NAMED = re.compile(r"Llama3_1-8B-Base-L\d+[RAM]|Llama3_1-8B-Base-L\d+TC")


def _open(folder: Folder) -> Found:
    """The dictionary of a folder."""
    said_by, weights = next(((c, w) for c, w in FILES if {c, w} <= folder.names), FILES[0])
    config, arrays = layout.config_of(folder, said_by), folder.arrays(weights)
    d_model, d_sae, grown = (layout.number(config, key, said_by) for key in ("d_model", "d_sae", "expansion_factor"))
    if d_sae is None and d_model is not None and grown is not None:
        d_sae = d_model * grown
    hook_in, hook_out = config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))
    writes = hook_in != hook_out
    block = None
    if hook_out is not None:
        block = layout.residual_block(f"dictionary {folder.label}", str(hook_out), None, writes=writes)
    named = any(_NAMED.search(part) for part in folder.parts)
    return Found(
        names=replace(_NAMES, file=weights),
        stated=Stated(model="meta-llama/Llama-3.1-8B" if named else None, block=block, by=f"its {said_by}"),
        make=partial(_encoder, config, said_by, writes),
        arrays=arrays,
        d_sae=d_sae,
        d_in=d_model,
        said_by=said_by,
    )


def _encoder(config: Mapping[str, Any], said_by: str, writes: bool, stored: Stored) -> Encoder:
    """The encoder, whole."""
    what = stored.what
    if writes:
        raise layout.no_encoder(what)
    if layout.flag(config, "use_glu_encoder", said_by):
        raise Refusal(what, "its encoder is gated (use_glu_encoder), which is not done here", "use another dictionary")
    kind = config.get("sae_type", "sae")
    if kind != "sae":
        raise Refusal(what, f"its sae_type is '{shown(kind)}', which encodes otherwise", "use a plain SAE")
    layout.refuse_unread(what, config, _KNOWN, said_by)
    act = str(config.get("act_fn", "relu")).lower()
    if act not in _ARCHITECTURES:
        raise Refusal(what, f"act_fn '{shown(act)}' is not known", "use relu, topk or jumprelu")
    by_length = layout.flag(config, "sparsity_include_decoder_norm", said_by)
    if act == "topk" and by_length:
        raise Refusal(what, "its TopK chooses by decoder length, which is not done here", "use a JumpReLU one")
    parts = stored.read()
    has_bias = stored.names.b_dec in stored.arrays.names
    normalize, factors = _normalised(stored, config, said_by)
    return Encoder(
        **parts,
        architecture=_ARCHITECTURES[act],
        k=stored.k(layout.number(config, "top_k", said_by), said_by) if act == "topk" else None,
        threshold=_threshold(stored, config, said_by, parts["W_dec"], by_length) if act == "jumprelu" else None,
        apply_b_dec_to_input=has_bias and layout.flag(config, "apply_decoder_bias_to_pre_encoder", said_by),
        normalize=normalize,
        input_factor=factors[0],
        output_factor=factors[1],
        site=stored.site,
    )


def _threshold(
    stored: Stored, config: Mapping[str, Any], said_by: str, decoder: NDArray[Any], by_length: bool
) -> Floats:
    """One threshold for all, or the newer release's own for each, which is held against p times the decoder length."""
    if "log_jumprelu_threshold" in stored.arrays.names:
        logs = stored.arrays.array("log_jumprelu_threshold").whole()
        # A dead feature's decoder has no length, and its threshold is out of reach.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            each = layout.everywhere(np.exp(logs.astype(np.float64)), len(decoder))
            if len(each) != len(decoder):
                why = f"{len(each)} thresholds do not fit {len(decoder)} features"
                raise Refusal(stored.what, why, "fetch the dictionary again")
            return layout.floats(each / np.linalg.norm(decoder, axis=1)) if by_length else each
    value = layout.factor(config.get("jump_relu_threshold"))
    if value is None:
        raise Refusal(stored.what, f"{said_by} has no jump_relu_threshold", "fetch the dictionary again")
    return layout.everywhere(np.array(value), len(decoder))


def _normalised(
    stored: Stored, config: Mapping[str, Any], said_by: str
) -> tuple[Normalize, tuple[float, float | None]]:
    """What is done to the input: nothing, each row to length sqrt(d_model), or all by the dataset's average."""
    said = str(config.get("norm_activation", "none"))
    if said in ("none", "inference"):
        return "none", (1.0, None)
    if said == "token-wise":
        return "constant_norm_rescale", (1.0, None)
    if said != "dataset-wise":
        why = f"norm_activation is '{shown(said)}', which depends on the batch"
        raise Refusal(stored.what, why, "use another dictionary")
    norms = config.get("dataset_average_activation_norm")
    read, written = (_norm(norms, config, key) for key in ("in", "out"))
    if read is None:
        why = "it was trained on activations scaled by the dataset's average norm, which is not stored"
        raise Refusal(stored.what, why, f"add dataset_average_activation_norm to {said_by}")
    encoder = layout.two_d(stored.arrays, _NAMES.w_enc, stored.what, LAYOUT.described)
    root = math.sqrt(encoder.shape[1])
    return "factor", (root / read, root / (written or read))


def _norm(norms: Any, config: Mapping[str, Any], key: str) -> float | None:
    """The average norm "in" or "out", also where it is listed by hook point; None where it is not a length."""
    if not isinstance(norms, Mapping):
        return None
    hook = config.get(f"hook_point_{key}", config.get("hook_point_in"))
    value = layout.factor(norms.get(key, norms.get(hook) if isinstance(hook, str) else None))
    return value if value is not None and value > 0 else None


LAYOUT = Layout(
    name="Llama Scope",
    described="a Llama Scope folder (hyperparams.json and checkpoints/final.safetensors)",
    files=("final.safetensors", "sae_weights.safetensors"),
    needs=tuple(map(frozenset, FILES)),
    open=_open,
)
