"""SAELens' own folders, and what is published in them (chanind's Matryoshka, andyrdt's conversions, transcoders).

In: a folder with ``cfg.json`` and ``sae_weights.safetensors`` (W_dec (d_sae, d_in), W_enc (d_in, d_sae), b_enc, b_dec,
threshold). Out: a `Weights`. A transcoder's rows live where its decoder writes (``hook_name_out``). Refuses a
transcoder that says only what it reads, BatchTopK without its learnt threshold, activation scaling or whitening that is
not stored, architectures and settings it does not know (see ``saelens_settings``).

Rows of a dictionary that was trained on a centred stream (center_writing_weights) are taken: they are right up to their
mean over the stream's width, which no LayerNorm sees; its encoder is refused.

Semantics: SAELens 6, ``saes/sae.py``, ``jumprelu_sae.py``, ``topk_sae.py``, ``batchtopk_sae.py``,
``loading/pretrained_sae_loaders.py`` (older configs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Architecture, Encoder, Normalize
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
    word,
)
from dragoman.dictionaries.layouts.saelens_settings import CONFIG, merged, refuse_odd_settings, revision
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.dictionaries.whitening import Whitening, unwhitened
from dragoman.store.spans import Arrays, shown

WEIGHTS, SCALER = "sae_weights.safetensors", "activation_scaler.json"
WHITENING, WHITE = "activation_whitening.safetensors", "covariance_whitening"
DESCRIBED = f"a SAELens folder ({CONFIG} and {WEIGHTS} with W_dec)"
_ARCHITECTURES: dict[str, Architecture] = {
    "topk": "topk",
    "relu": "relu",
    "standard": "relu",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
_BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")


def _recognises(folder: Folder) -> bool:
    return {CONFIG, WEIGHTS} <= folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder; its weights' header is read, no numbers (but where nothing declares shapes)."""
    what = f"dictionary {folder.label}"
    raw = config_of(folder, CONFIG)
    overrides = folder.extra.get("config_overrides", {})
    config = merged(raw, overrides)
    arrays = folder.arrays(WEIGHTS)
    decoder = two_d(arrays, "W_dec", f"dictionary {folder.where}/{WEIGHTS}", DESCRIBED)
    transcoder = _is_transcoder(config)
    d_sae = number(config, "d_sae", CONFIG)
    d_in = number(config, "d_out" if transcoder else "d_in", CONFIG)
    across = lies_across(
        decoder,
        Evidence(
            what=f"dictionary {folder.where}/{WEIGHTS}",
            name="W_dec",
            expected="rows",
            d_sae=d_sae if d_sae is not None else length(arrays, "b_enc"),
            d_in=d_in if d_in is not None else length(arrays, "b_dec"),
            said_by=CONFIG if d_sae is not None or d_in is not None else "the length of its biases",
            asked=orientation,
            encoder=(lambda ids: arrays.array("W_enc").columns(ids).T) if "W_enc" in arrays.names else None,
        ),
    )
    stated = _stated(what, config, transcoder)
    white = _whitening(what, folder, config)
    opened = _Opened(folder=folder, raw={**raw, **overrides}, config=config, white=white)
    return Weights(
        name=what,
        layout=LAYOUT.name,
        decoder=decoder,
        across=across,
        stated=stated,
        arrays=arrays,
        make=partial(_encoder, opened, across, stated, k),
        unwhitened=None if white is None else partial(unwhitened, arrays=white, what=what),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The folder, its configuration as it is written and as it is meant, and the whitening's file, if there is one."""

    folder: Folder
    raw: Mapping[str, Any]
    config: Mapping[str, Any]
    white: Arrays | None


def _whitening(what: str, folder: Folder, config: Mapping[str, Any]) -> Arrays | None:
    """The whitening's file of a checkpoint that was saved before whitening was folded into its weights.

    Raises:
        Refusal: whitened weights without it, or it beside weights that are said not to be whitened.
    """
    said = config.get("normalize_activations") == WHITE
    told = flag(config_of(folder, SCALER), "has_whitening", SCALER, usual=True) if SCALER in folder.names else True
    held = WHITENING in folder.names and told
    if said and not held:
        raise Refusal(
            what,
            f"its rows are of whitened activations ({WHITE}), and without {WHITENING} nobody knows where they point",
            "fetch that file too, or the checkpoint of the end of training",
        )
    if held and not said:
        raise Refusal(
            what,
            f"{WHITENING} lies beside it, and its {CONFIG} says nothing of {WHITE}: whether its rows are of whitened"
            " activations is not sure",
            "fetch configuration and weights of the same checkpoint",
        )
    return folder.arrays(WHITENING) if said else None


def _is_transcoder(config: Mapping[str, Any]) -> bool:
    return (
        "transcoder" in str(config.get("architecture", ""))
        or config.get("hook_name_out") is not None
        or config.get("hook_layer_out") is not None
    )


def _stated(what: str, config: Mapping[str, Any], transcoder: bool) -> Stated:
    """Where the decoder's rows live."""
    hook, layer = config.get("hook_name") or config.get("hook_point"), number(config, "hook_layer", CONFIG)
    if transcoder:
        hook = config.get("hook_name_out")
        layer = number(config, "hook_layer_out" if "hook_layer_out" in config else "layer_out", CONFIG)
        if hook is None and layer is None:
            raise Refusal(
                what,
                f"it is a transcoder and its {CONFIG} says only what it reads, not where its decoder writes",
                "add hook_name_out",
            )
    block = layer if hook is None else residual_block(what, str(hook), layer, writes=transcoder)
    return Stated(
        model=word(config, "model_name", CONFIG),
        block=block,
        revision=revision(what, config),
        by=f"its {CONFIG}",
    )


def _encoder(opened: _Opened, across: bool, stated: Stated, k: int | None, arrays: Arrays) -> Encoder:
    """The encoder, whole."""
    what, folder, config = f"encoder of {opened.folder.label}", opened.folder, opened.config
    architecture = _architecture(what, config)
    need(arrays, ["W_enc", "b_enc", "b_dec", "W_dec"], what, WEIGHTS)
    refuse_odd_settings(what, opened.raw, config, arrays)
    bias = arrays.array("b_enc").whole()
    decoder = arrays.array("W_dec")
    arguments = config.get("activation_fn_kwargs")
    if architecture == "topk":  # a BatchTopK's k may be a fraction, and is not needed
        said = number(config if "k" in config else arguments if isinstance(arguments, Mapping) else {}, "k", CONFIG)
        k = one_k(what, k, said, CONFIG)
    normalize, factor = _normalised(what, folder, config)
    # Of outlines too: the file is asked for, and its three arrays are looked at.
    white = None if opened.white is None else Whitening.read(opened.white, decoder.shape[0 if across else 1], what)
    return Encoder(
        W_enc=floats(arrays.array("W_enc").whole()),
        b_enc=floats(bias),
        b_dec=floats(arrays.array("b_dec").whole()),
        W_dec=floats(decoder.whole(), turned=across),
        architecture=architecture,
        k=k if architecture == "topk" else None,
        threshold=_threshold(what, str(config.get("architecture")), arrays, bias.size)
        if architecture == "jumprelu"
        else None,
        apply_b_dec_to_input=flag(config, "apply_b_dec_to_input", CONFIG, usual=True),
        rescale_by_decoder_norm=flag(config, "rescale_acts_by_decoder_norm", CONFIG),
        normalize=normalize,
        input_factor=factor,
        whitening=white,
        site=stated.site,
    )


def _architecture(what: str, config: Mapping[str, Any]) -> Architecture:
    """Which activation, from the config; older releases call it activation_fn_str."""
    named = str(config.get("architecture") or "standard")
    if _is_transcoder(config):
        raise no_encoder(what)
    activation = config.get("activation_fn") or config.get("activation_fn_str")
    if named == "standard" and activation is not None:
        named = str(activation)
    elif named in _ARCHITECTURES and activation not in (None, "relu", named):
        raise Refusal(
            what, f"its activation_fn is '{shown(activation)}' under architecture '{named}'", "use one of relu"
        )
    if named not in _ARCHITECTURES:
        raise Refusal(what, f"architecture '{shown(named)}' is not known", f"use {', '.join(sorted(_ARCHITECTURES))}")
    if config.get("reshape_activations", "none") not in ("none", False):
        raise Refusal(
            what,
            f"reshape_activations is '{shown(config['reshape_activations'])}', which is not done here",
            "use a dictionary of the residual stream",
        )
    return _ARCHITECTURES[named]


def _threshold(what: str, named: str, arrays: Arrays, d_sae: int) -> Any:
    """A JumpReLU's threshold; a BatchTopK that was saved while training holds one number for all features."""
    if "threshold" in arrays.names:
        return floats(everywhere(arrays.array("threshold").whole(), d_sae))
    learnt = arrays.array("topk_threshold").whole() if "topk_threshold" in arrays.names else None
    if learnt is not None and learnt.size == 1 and learnt.item() > 0:
        return floats(everywhere(learnt, d_sae))
    if named in _BATCHTOPK:
        raise Refusal(
            what,
            "a BatchTopK keeps k features of a batch on average, and its file holds no learnt threshold"
            " that would say which of one row",
            "save it for inference with SAELens (as jumprelu)",
        )
    raise Refusal(what, f"{WEIGHTS} has no threshold", "fetch the dictionary again")


def _normalised(what: str, folder: Folder, config: Mapping[str, Any]) -> tuple[Normalize, float]:
    """What is done to the input, and the factor where it is one."""
    said = config.get("normalize_activations", "none")
    if said in (None, False, "none"):
        return "none", 1.0
    if said == WHITE:
        return "whitening", 1.0
    if said in ("constant_norm_rescale", "layer_norm"):
        return said, 1.0
    if said not in (True, "expected_average_only_in"):
        raise Refusal(
            what, f"normalize_activations is '{shown(said)}', which is not known", "use a dictionary without it"
        )
    stored = folder.extra.get("norm_scaling_factor", config.get("norm_scaling_factor"))
    if stored is None and SCALER in folder.names:
        stored = config_of(folder, SCALER).get("scaling_factor")
    scale = factor(stored)
    if scale is None:
        raise Refusal(
            what,
            "it was trained on activations scaled to an expected average, and the factor is not stored",
            f"add norm_scaling_factor to {CONFIG}, or name it by its SAELens release",
        )
    return "factor", scale


LAYOUT = Layout(name="SAELens", described=DESCRIBED, files=(WEIGHTS,), recognises=_recognises, open=_open)
