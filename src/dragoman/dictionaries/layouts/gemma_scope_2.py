"""Gemma Scope 2: ``params.safetensors`` with lower-case names and a ``config.json`` with Hugging Face hook points.

In: a folder with ``params.safetensors`` (w_enc (d_in, d_sae), w_dec (d_sae, d_in), b_enc, b_dec, threshold) and, nearly
always, ``config.json`` (architecture "jump_relu", model_name, hf_hook_point_in, hf_hook_point_out). Out: a
`Weights`; a transcoder's rows live where it writes. Refuses attention and MLP dictionaries, cross-layer transcoders
(w_dec with a third axis) and other architectures.

Semantics: as Gemma Scope: p = x w_enc + b_enc, max(p, 0) where p > threshold; b_dec is not taken off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import (
    Layout,
    Orientation,
    Stated,
    Weights,
    config_of,
    no_encoder,
    refuse_unread,
    residual_block,
    two_d,
    word,
)
from dragoman.dictionaries.layouts.jumprelu import JumpReLU
from dragoman.store.spans import Arrays, shown

WEIGHTS, CONFIG = "params.safetensors", "config.json"
DESCRIBED = f"a Gemma Scope 2 folder ({WEIGHTS} and {CONFIG})"
_LAYER = re.compile(r"layer_(\d+)_")
_REPOSITORY = re.compile(r"gemma-scope-2-(?P<size>\d+[bm])-(?P<kind>pt|it)$")
# Read above, or said of what the dictionary is: none of these changes what fires.
_READ = ("architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out")
_HARMLESS = frozenset({*_READ, "width", "l0", "layer", "type", "affine_connection"})
_KINDS = ("resid_post", "attn_out", "mlp_out", "transcoder")


def _recognises(folder: Folder) -> bool:
    return WEIGHTS in folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    del k  # no TopK here
    what = f"dictionary {folder.label}"
    config = config_of(folder, CONFIG) if CONFIG in folder.names else {}
    arrays = folder.arrays(WEIGHTS)
    weights = JumpReLU(arrays=arrays, file=WEIGHTS, w_enc="w_enc", w_dec="w_dec")
    decoder = two_d(arrays, weights.w_dec, f"dictionary {folder.where}/{WEIGHTS}", DESCRIBED)
    across = weights.lies_across(decoder, what, orientation)
    reads_elsewhere = _writes(folder, config)
    stated = _stated(folder, what, config, reads_elsewhere)
    make = partial(_encoder, folder, config, weights, across, stated, reads_elsewhere)
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _writes(folder: Folder, config: Mapping[str, Any]) -> bool:
    """Whether it is a transcoder: it says where it writes, or its folder is called so."""
    out = config.get("hf_hook_point_out")
    return (out is not None and out != config.get("hf_hook_point_in")) or "transcoder" in _kind(folder)


def _kind(folder: Folder) -> str:
    """The part of the path that says what the dictionary was trained on, such as ``resid_post_all``."""
    return next((part for part in reversed(folder.parts) if part.startswith(_KINDS)), "")


def _stated(folder: Folder, what: str, config: Mapping[str, Any], writes: bool) -> Stated:
    """The site, by the configuration, else by the names on the way."""
    layer = next((int(m[1]) for part in reversed(folder.parts) if (m := _LAYER.match(part))), None)
    hook = config.get("hf_hook_point_out") if writes else config.get("hf_hook_point_in")
    if hook is None and writes and config:
        raise Refusal(
            what, f"it is a transcoder and its {CONFIG} does not say where it writes", "add hf_hook_point_out"
        )
    if hook is not None:
        block = residual_block(what, str(hook), layer, writes=writes)
    elif _kind(folder).startswith(("attn_out", "mlp_out")):
        raise Refusal(what, f"{_kind(folder)} is not the output of a block", "use one under resid_post")
    else:
        block = layer
    return Stated(model=_model(folder, config), block=block, by=f"its {CONFIG}" if config else "its name")


def _model(folder: Folder, config: Mapping[str, Any]) -> str | None:
    """The model, as the hub calls it: configs write gemma-v3 for gemma-3, and the 270m base has no suffix."""
    found = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    named = str(word(config, "model_name", CONFIG) or (f"gemma-3-{found['size']}-{found['kind']}" if found else ""))
    if not named:
        return None
    named = named.removeprefix("google/").replace("-v3", "-3")
    return f"google/{named.replace('-pt', '') if '270m' in named else named}"


def _encoder(
    folder: Folder,
    config: Mapping[str, Any],
    weights: JumpReLU,
    across: bool,
    stated: Stated,
    writes: bool,
    arrays: Arrays,
) -> Encoder:
    """The encoder, whole."""
    what = f"encoder of {folder.label}"
    if writes:
        raise no_encoder(what)
    if config.get("architecture", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise Refusal(what, f"architecture '{shown(config['architecture'])}' is not known", "use jump_relu")
    refuse_unread(what, config, _HARMLESS, CONFIG)
    return replace(weights, arrays=arrays).encoder(what, across, stated.site)


LAYOUT = Layout(name="Gemma Scope 2", described=DESCRIBED, files=(WEIGHTS,), recognises=_recognises, open=_open)
