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
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Architecture, Encoder, Normalize
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Layout, Named, Orientation, Stated, Weights
from dragoman.store.spans import Arrays, shown

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
_ARCHITECTURES: dict[str, Architecture] = {"relu": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_NAMED = re.compile(r"Llama3_1-8B-Base-L\d+[RAM]|Llama3_1-8B-Base-L\d+TC")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The folder, its settings and weights."""

    folder: Folder
    config: Mapping[str, Any]
    said_by: str
    names: Named
    arrays: Arrays


def _files(folder: Folder) -> tuple[str, str] | None:
    return next(((c, w) for c, w in FILES if {c, w} <= folder.names), None)


def _recognises(folder: Folder) -> bool:
    return _files(folder) is not None


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    what = f"dictionary {folder.label}"
    said_by, weights = _files(folder) or FILES[0]
    config, arrays = layout.config_of(folder, said_by), folder.arrays(weights)
    d_model, d_sae, grown = (layout.number(config, key, said_by) for key in ("d_model", "d_sae", "expansion_factor"))
    if d_sae is None and d_model is not None and grown is not None:
        d_sae = d_model * grown
    hook_in, hook_out = config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))
    writes = hook_in != hook_out
    block = None if hook_out is None else layout.residual_block(what, str(hook_out), None, writes=writes)
    named = any(_NAMED.search(part) for part in folder.parts)
    stated = Stated(model="meta-llama/Llama-3.1-8B" if named else None, block=block, by=f"its {said_by}")
    names = replace(_NAMES, file=weights)
    files = _Opened(folder=folder, config=config, said_by=said_by, names=names, arrays=arrays)
    return names.weights(
        folder,
        arrays,
        LAYOUT,
        what=what,
        stated=stated,
        asked=orientation,
        make=partial(_encoder, files, stated, writes, k),
        d_sae=d_sae,
        d_in=d_model,
        said_by=said_by,
    )


def _encoder(files: _Opened, stated: Stated, writes: bool, k: int | None, across: bool, arrays: Arrays) -> Encoder:
    """The encoder, whole."""
    files = replace(files, arrays=arrays)
    what, config = f"encoder of {files.folder.label}", files.config
    if writes:
        raise layout.no_encoder(what)
    if layout.flag(config, "use_glu_encoder", files.said_by):
        raise Refusal(what, "its encoder is gated (use_glu_encoder), which is not done here", "use another dictionary")
    act = str(config.get("act_fn", "relu")).lower()
    if act not in _ARCHITECTURES:
        raise Refusal(what, f"act_fn '{shown(act)}' is not known", "use relu, topk or jumprelu")
    if act == "topk" and layout.flag(config, "sparsity_include_decoder_norm", files.said_by):
        raise Refusal(what, "its TopK chooses by decoder length, which is not done here", "use a JumpReLU one")
    parts = files.names.read(arrays, across, what)
    has_bias = files.names.b_dec in arrays.names
    said_k = layout.number(config, "top_k", files.said_by)
    normalize, factors = _normalised(what, files)
    return Encoder(
        **parts,
        architecture=_ARCHITECTURES[act],
        k=layout.one_k(what, k, said_k, files.said_by) if act == "topk" else None,
        threshold=_threshold(what, files, parts["W_dec"]) if act == "jumprelu" else None,
        apply_b_dec_to_input=has_bias and layout.flag(config, "apply_decoder_bias_to_pre_encoder", files.said_by),
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
            each = layout.everywhere(np.exp(stored.astype(np.float64)), len(decoder))
            if len(each) != len(decoder):
                raise Refusal(
                    what, f"{len(each)} thresholds do not fit {len(decoder)} features", "fetch the dictionary again"
                )
            lengths = np.linalg.norm(decoder, axis=1)
            return layout.floats(
                each / lengths if layout.flag(files.config, "sparsity_include_decoder_norm", files.said_by) else each
            )
    value = layout.factor(files.config.get("jump_relu_threshold"))
    if value is None:
        raise Refusal(what, f"{files.said_by} has no jump_relu_threshold", "fetch the dictionary again")
    return layout.floats(layout.everywhere(np.array(value), len(decoder)))


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
    encoder = layout.two_d(files.arrays, _NAMES.w_enc, what, LAYOUT.described)
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
    recognises=_recognises,
    open=_open,
)
