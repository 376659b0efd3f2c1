"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``, matrices as ``torch.nn.Linear`` has them.

In: a folder with ``final.safetensors`` (encoder.weight (d_sae, d_model), encoder.bias, decoder.weight (d_model, d_sae),
decoder.bias), or the newer ``config.json`` and ``sae_weights.safetensors`` (with log_jumprelu_threshold). Out: a
`Weights`; a transcoder's rows live at ``hook_point_out``. Refuses gated linear encoders, per-batch normalisation,
dataset-wise normalisation whose norms are not stored, and TopK that chooses by decoder length.

Semantics: the authors' ``SparseAutoEncoder.encode`` of November 2024: x times sqrt(d_model) over the dataset's average
norm, minus the decoder bias where the settings say so, then p > jump_relu_threshold **in those normalised units**.
(SAELens multiplies that threshold by the factor once more; the authors' own code does not.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder, Normalize
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import (
    Layout,
    Orientation,
    Stated,
    Weights,
    config_of,
    everywhere,
    factor,
    flag,
    floats,
    length,
    need,
    no_encoder,
    number,
    one_k,
    residual_block,
    two_d,
)
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays, shown

FILES = (
    ("hyperparams.json", "checkpoints/final.safetensors"),
    ("hyperparams.json", "final.safetensors"),
    ("config.json", "sae_weights.safetensors"),
)
WEIGHTS = "sae_weights.safetensors"  # of the newer release
DESCRIBED = "a Llama Scope folder (hyperparams.json and checkpoints/final.safetensors)"
_NAMED = re.compile(r"Llama3_1-8B-Base-L\d+[RAM]|Llama3_1-8B-Base-L\d+TC")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The folder, its settings and weights."""

    folder: Folder
    config: Mapping[str, Any]
    said_by: str
    weights: str
    arrays: Arrays


def _files(folder: Folder) -> tuple[str, str] | None:
    return next(((c, w) for c, w in FILES if {c, w} <= folder.names), None)


def _recognises(folder: Folder) -> bool:
    return _files(folder) is not None


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    what = f"dictionary {folder.label}"
    said_by, weights = _files(folder) or FILES[0]
    config, arrays = config_of(folder, said_by), folder.arrays(weights)
    decoder = two_d(arrays, "decoder.weight", f"dictionary {folder.where}/{weights}", DESCRIBED)
    d_model, d_sae = number(config, "d_model", said_by), number(config, "d_sae", said_by)
    grown = number(config, "expansion_factor", said_by)
    if d_sae is None and d_model is not None and grown is not None:
        d_sae = d_model * grown
    across = lies_across(
        decoder,
        Evidence(
            what=what,
            name="decoder.weight",
            expected="columns",
            d_sae=d_sae if d_sae is not None else length(arrays, "encoder.bias"),
            d_in=d_model if d_model is not None else length(arrays, "decoder.bias"),
            said_by=said_by,
            asked=orientation,
            encoder=arrays.array("encoder.weight").rows if "encoder.weight" in arrays.names else None,
        ),
    )
    hook_in, hook_out = config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))
    writes = hook_in != hook_out
    block = None if hook_out is None else residual_block(what, str(hook_out), None, writes=writes)
    named = any(_NAMED.search(part) for part in folder.parts)
    stated = Stated(model="meta-llama/Llama-3.1-8B" if named else None, block=block, by=f"its {said_by}")
    files = _Opened(folder=folder, config=config, said_by=said_by, weights=weights, arrays=arrays)
    make = partial(_encoder, files, across, stated, writes, k)
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _encoder(files: _Opened, across: bool, stated: Stated, writes: bool, k: int | None, arrays: Arrays) -> Encoder:
    """The encoder, whole."""
    files = replace(files, arrays=arrays)
    what, config = f"encoder of {files.folder.label}", files.config
    if writes:
        raise no_encoder(what)
    if flag(config, "use_glu_encoder", files.said_by):
        raise Refusal(what, "its encoder is gated (use_glu_encoder), which is not done here", "use another dictionary")
    act = str(config.get("act_fn", "relu")).lower()
    if act not in ("relu", "topk", "jumprelu"):
        raise Refusal(what, f"act_fn '{shown(act)}' is not known", "use relu, topk or jumprelu")
    need(arrays, ["encoder.weight", "encoder.bias", "decoder.weight"], what, files.weights)
    bias = arrays.array("encoder.bias").whole()
    decoder = floats(arrays.array("decoder.weight").whole(), turned=across)
    if act == "topk" and flag(config, "sparsity_include_decoder_norm", files.said_by):
        raise Refusal(what, "its TopK chooses by decoder length, which is not done here", "use a JumpReLU one")
    has_bias = "decoder.bias" in arrays.names
    normalize, factors = _normalised(what, files)
    return Encoder(
        W_enc=floats(arrays.array("encoder.weight").whole(), turned=True),
        b_enc=floats(bias),
        b_dec=floats(arrays.array("decoder.bias").whole() if has_bias else np.zeros(decoder.shape[1], np.float32)),
        W_dec=decoder,
        architecture="topk" if act == "topk" else "jumprelu" if act == "jumprelu" else "relu",
        k=one_k(what, k, number(config, "top_k", files.said_by), files.said_by) if act == "topk" else None,
        threshold=_threshold(what, files, decoder) if act == "jumprelu" else None,
        apply_b_dec_to_input=has_bias and flag(config, "apply_decoder_bias_to_pre_encoder", files.said_by),
        normalize=normalize,
        input_factor=factors[0],
        output_factor=factors[1],
        site=stated.site,
    )


def _threshold(what: str, files: _Opened, decoder: np.ndarray) -> Any:
    """One threshold for all, or the newer release's own for each, which is held against p times the decoder length."""
    if "log_jumprelu_threshold" in files.arrays.names:
        stored = files.arrays.array("log_jumprelu_threshold").whole()
        # A dead feature's decoder has no length, and its threshold is out of reach.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            each = everywhere(np.exp(stored.astype(np.float64)), len(decoder))
            if len(each) != len(decoder):
                raise Refusal(
                    what, f"{len(each)} thresholds do not fit {len(decoder)} features", "fetch the dictionary again"
                )
            lengths = np.linalg.norm(decoder, axis=1)
            return floats(
                each / lengths if flag(files.config, "sparsity_include_decoder_norm", files.said_by) else each
            )
    value = factor(files.config.get("jump_relu_threshold"))
    if value is None:
        raise Refusal(what, f"{files.said_by} has no jump_relu_threshold", "fetch the dictionary again")
    return floats(everywhere(np.array(value), len(decoder)))


def _normalised(what: str, files: _Opened) -> tuple[Normalize, tuple[float, float | None]]:
    """What is done to the input: nothing, each row to length sqrt(d_model), or all by the dataset's average."""
    said = str(files.config.get("norm_activation", "none"))
    if said in ("none", "inference"):
        return "none", (1.0, None)
    if said == "token-wise":
        return "constant_norm_rescale", (1.0, None)
    if said != "dataset-wise":
        raise Refusal(what, f"norm_activation is '{shown(said)}', which depends on the batch", "use another dictionary")
    norms = files.config.get("dataset_average_activation_norm")
    read, written = (_norm(norms, files.config, key) for key in ("in", "out"))
    if read is None:
        raise Refusal(
            what,
            "it was trained on activations scaled by the dataset's average norm, which is not stored",
            f"add dataset_average_activation_norm to {files.said_by}",
        )
    encoder = two_d(files.arrays, "encoder.weight", what, DESCRIBED)
    root = math.sqrt(encoder.shape[1])
    return "factor", (root / read, root / (written or read))


def _norm(norms: Any, config: Mapping[str, Any], key: str) -> float | None:
    """The average norm "in" or "out", also where it is listed by hook point; None where it is not a length."""
    if not isinstance(norms, Mapping):
        return None
    hook = config.get(f"hook_point_{key}", config.get("hook_point_in"))
    value = factor(norms.get(key, norms.get(hook) if isinstance(hook, str) else None))
    return value if value is not None and value > 0 else None


LAYOUT = Layout(
    name="Llama Scope",
    described=DESCRIBED,
    files=("final.safetensors", WEIGHTS),
    recognises=_recognises,
    open=_open,
)
