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
from functools import partial
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Layout, Named, Orientation, Stated, Weights
from dragoman.dictionaries.layouts.gemma_scope import jumprelu
from dragoman.store.spans import Arrays, shown

CONFIG = "config.json"
NAMES = Named(file="params.safetensors", w_enc="w_enc", w_dec="w_dec")
_LAYER = re.compile(r"layer_(\d+)_")
_REPOSITORY = re.compile(r"gemma-scope-2-(?P<size>\d+[bm])-(?P<kind>pt|it)$")
# Read above, or said of what the dictionary is: none of these changes what fires.
_READ = ("architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out")
_HARMLESS = frozenset({*_READ, "width", "l0", "layer", "type", "affine_connection"})
_KINDS = ("resid_post", "attn_out", "mlp_out", "transcoder")


def _recognises(folder: Folder) -> bool:
    return NAMES.file in folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    del k  # no TopK here
    what = f"dictionary {folder.label}"
    config = layout.config_of(folder, CONFIG) if CONFIG in folder.names else {}
    writes = _writes(folder, config)
    stated = _stated(folder, what, config, writes)
    make = partial(_encoder, f"encoder of {folder.label}", config, stated, writes)
    arrays = folder.arrays(NAMES.file)
    return NAMES.weights(folder, arrays, LAYOUT, what=what, stated=stated, asked=orientation, make=make)


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
        block = layout.residual_block(what, str(hook), layer, writes=writes)
    elif _kind(folder).startswith(("attn_out", "mlp_out")):
        raise Refusal(what, f"{_kind(folder)} is not the output of a block", "use one under resid_post")
    else:
        block = layer
    return Stated(model=_model(folder, config), block=block, by=f"its {CONFIG}" if config else "its name")


def _model(folder: Folder, config: Mapping[str, Any]) -> str | None:
    """The model, as the hub calls it: configs write gemma-v3 for gemma-3, and the 270m base has no suffix."""
    found = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    named = str(
        layout.word(config, "model_name", CONFIG) or (f"gemma-3-{found['size']}-{found['kind']}" if found else "")
    )
    if not named:
        return None
    named = named.removeprefix("google/").replace("-v3", "-3")
    return f"google/{named.replace('-pt', '') if '270m' in named else named}"


def _encoder(
    what: str, config: Mapping[str, Any], stated: Stated, writes: bool, across: bool, arrays: Arrays
) -> Encoder:
    """The encoder, whole."""
    if writes:
        raise layout.no_encoder(what)
    if config.get("architecture", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise Refusal(what, f"architecture '{shown(config['architecture'])}' is not known", "use jump_relu")
    layout.refuse_unread(what, config, _HARMLESS, CONFIG)
    return jumprelu(NAMES, arrays, across, what, stated)


LAYOUT = Layout(
    name="Gemma Scope 2",
    described=f"a Gemma Scope 2 folder ({NAMES.file} and {CONFIG})",
    files=(NAMES.file,),
    recognises=_recognises,
    open=_open,
)
