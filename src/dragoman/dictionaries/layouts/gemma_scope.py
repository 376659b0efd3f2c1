"""Gemma Scope, both releases: JumpReLU in one ``params.npz`` or ``params.safetensors`` a folder.

In: of the first release a folder with ``params.npz`` (W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc, b_dec,
threshold), named ``.../layer_20/width_16k/average_l0_71`` in a repository ``google/gemma-scope-2b-pt-res``; there is no
configuration, so names say the site. Of the second, ``params.safetensors`` with lower-case names and, nearly always,
``config.json`` (architecture "jump_relu", model_name, and Hugging Face's hook points hf_hook_point_in and
hf_hook_point_out). Out: what a `Layout` finds; a transcoder's rows live where it writes. Refuses attention and MLP
dictionaries, cross-layer transcoders (w_dec with a third axis) and other architectures.

Semantics: the JumpReLU of arXiv 2408.05147: p = x W_enc + b_enc, max(p, 0) where p > threshold; b_dec is not taken off.
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
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored
from dragoman.store.spans import shown

FIRST = Named(file="params.npz")
_REPOSITORY = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<kind>pt|it)-(?P<place>res|mlp|att|transcoders)(?:-\w+)?$")
_LAYER = re.compile(r"layer_(\d+)$")

CONFIG = "config.json"
SECOND = Named(file="params.safetensors", w_enc="w_enc", w_dec="w_dec")
_LAYER_2 = re.compile(r"layer_(\d+)_")
_REPOSITORY_2 = re.compile(r"gemma-scope-2-(?P<size>\d+[bm])-(?P<kind>pt|it)$")
# Read below, or said of what the dictionary is: none of these changes what fires.
_READ = ("architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out")
_HARMLESS = frozenset({*_READ, "width", "l0", "layer", "type", "affine_connection"})
_KINDS = ("resid_post", "attn_out", "mlp_out", "transcoder")


def _encoder(transcodes: bool, config: Mapping[str, Any], stored: Stored) -> Encoder:
    """The encoder of either release, whole."""
    if transcodes:
        raise layout.no_encoder(stored.what)
    if config.get("architecture", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise Refusal(stored.what, f"architecture '{shown(config['architecture'])}' is not known", "use jump_relu")
    layout.refuse_unread(stored.what, config, _HARMLESS, CONFIG)
    parts = stored.read("threshold")
    threshold = layout.everywhere(stored.arrays.array("threshold").whole(), parts["b_enc"].size)
    return Encoder(**parts, architecture="jumprelu", threshold=threshold, apply_b_dec_to_input=False, site=stored.site)


def _open_first(folder: Folder) -> Found:
    """A dictionary of the first release."""
    layer = next((int(m[1]) for part in reversed(folder.parts) if (m := _LAYER.search(part))), None)
    # A cached repository's folder is called models--org--name.
    named = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    stated = Stated(block=layer, by="its folder's name")
    if named is not None:
        if named["place"] in ("mlp", "att") or "embedding" in folder.parts:
            why = f"{named[0]} does not hold the output of a block"
            raise Refusal(f"dictionary {folder.label}", why, "use a dictionary of a repository ending in -res")
        instructed = "-it" if named["kind"] == "it" else ""
        stated = Stated(model=f"google/gemma-2-{named['size']}{instructed}", block=layer, by="its name")
    transcodes = named is not None and named["place"] == "transcoders"
    make = partial(_encoder, transcodes, {})
    return Found(names=FIRST, arrays=folder.arrays(FIRST.file), stated=stated, make=make)


def _open_second(folder: Folder) -> Found:
    """A dictionary of the second release."""
    config = layout.config_of(folder, CONFIG) if CONFIG in folder.names else {}
    out = config.get("hf_hook_point_out")
    # A transcoder says where it writes, or its folder is called so.
    writes = (out is not None and out != config.get("hf_hook_point_in")) or "transcoder" in _kind(folder)
    return Found(
        names=SECOND,
        stated=_stated(folder, config, writes),
        make=partial(_encoder, writes, config),
        arrays=folder.arrays(SECOND.file),
    )


def _kind(folder: Folder) -> str:
    """The part of the path that says what the dictionary was trained on, such as ``resid_post_all``."""
    return next((part for part in reversed(folder.parts) if part.startswith(_KINDS)), "")


def _stated(folder: Folder, config: Mapping[str, Any], writes: bool) -> Stated:
    """The site, by the configuration, else by the names on the way."""
    what = f"dictionary {folder.label}"
    layer = next((int(m[1]) for part in reversed(folder.parts) if (m := _LAYER_2.match(part))), None)
    hook = config.get("hf_hook_point_out") if writes else config.get("hf_hook_point_in")
    if hook is None and writes and config:
        why = f"it is a transcoder and its {CONFIG} does not say where it writes"
        raise Refusal(what, why, "add hf_hook_point_out")
    if hook is not None:
        block = layout.residual_block(what, str(hook), layer, writes=writes)
    elif _kind(folder).startswith(("attn_out", "mlp_out")):
        raise Refusal(what, f"{_kind(folder)} is not the output of a block", "use one under resid_post")
    else:
        block = layer
    return Stated(model=_model(folder, config), block=block, by=f"its {CONFIG}" if config else "its name")


def _model(folder: Folder, config: Mapping[str, Any]) -> str | None:
    """The model, as the hub calls it: configs write gemma-v3 for gemma-3, and the 270m base has no suffix."""
    found = next((m for part in folder.parts if (m := _REPOSITORY_2.search(part))), None)
    named = layout.word(config, "model_name", CONFIG) or (f"gemma-3-{found['size']}-{found['kind']}" if found else "")
    if not named:
        return None
    named = named.removeprefix("google/").replace("-v3", "-3")
    return f"google/{named.replace('-pt', '') if '270m' in named else named}"


LAYOUT = Layout(
    name="Gemma Scope",
    described=f"a Gemma Scope folder ({FIRST.file})",
    files=(FIRST.file,),
    needs=(frozenset({FIRST.file}),),
    open=_open_first,
)
LAYOUT_2 = Layout(
    name="Gemma Scope 2",
    described=f"a Gemma Scope 2 folder ({SECOND.file} and {CONFIG})",
    files=(SECOND.file,),
    needs=(frozenset({SECOND.file}),),
    open=_open_second,
)
