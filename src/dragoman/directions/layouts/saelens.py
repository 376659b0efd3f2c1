"""SAELens' own folders, and what is published in them (chanind's Matryoshka, andyrdt's conversions, transcoders).

In: a folder with ``cfg.json`` and ``sae_weights.safetensors`` (W_dec (d_sae, d_in), W_enc (d_in, d_sae), b_enc, b_dec,
threshold). Out: a `Dictionary`. A transcoder's rows live where its decoder writes (``hook_name_out``). Refuses a
transcoder that says only what it reads, BatchTopK without its learnt threshold, activation scaling whose factor is not
stored, and architectures it does not know.

Semantics: SAELens 6, ``saes/sae.py``, ``jumprelu_sae.py``, ``topk_sae.py``, ``batchtopk_sae.py``,
``loading/pretrained_sae_loaders.py`` (older configs).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dragoman.core import Refusal
from dragoman.directions.encoder import Architecture, Encoder, Normalize
from dragoman.directions.folder import Folder
from dragoman.directions.layout import (
    Dictionary,
    Layout,
    Orientation,
    Stated,
    config_of,
    everywhere,
    factor,
    floats,
    length,
    need,
    no_encoder,
    number,
    residual_block,
    two_d,
    word,
)
from dragoman.directions.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays, shown

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
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


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Dictionary:
    """The dictionary of a folder; its weights' header is read, no numbers (but where nothing declares shapes)."""
    what = f"dictionary {folder.label}"
    config = _flat(config_of(folder, CONFIG))
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
    reader = partial(_encoder, folder, config, arrays, across, stated, k)
    return Dictionary(name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, encoder=reader)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Newer releases' nested ``metadata`` laid under the top level."""
    nested = config.get("metadata")
    return {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in config.items() if v is not None}}


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
    return Stated(model=word(config, "model_name", CONFIG), block=block, by=f"its {CONFIG}")


def _encoder(
    folder: Folder,
    config: Mapping[str, Any],
    arrays: Arrays,
    across: bool,
    stated: Stated,
    k: int | None,
) -> Encoder:
    """The encoder, whole."""
    what = f"encoder of {folder.label}"
    architecture = _architecture(what, config)
    need(arrays, ["W_enc", "b_enc", "b_dec", "W_dec"], what, WEIGHTS)
    if "scaling_factor" in arrays.names and not (arrays.array("scaling_factor").whole() == 1).all():
        raise Refusal(what, "it was fine-tuned with a scaling factor, which is not done here", "fold it into W_dec")
    bias = arrays.array("b_enc").whole()
    decoder = arrays.array("W_dec")
    arguments = config.get("activation_fn_kwargs")
    if architecture == "topk" and k is None:  # a BatchTopK's k may be a fraction, and is not needed
        k = number(config if "k" in config else arguments if isinstance(arguments, Mapping) else {}, "k", CONFIG)
    normalize, factor = _normalised(what, folder, config)
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
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        rescale_by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)),
        normalize=normalize,
        input_factor=factor,
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
