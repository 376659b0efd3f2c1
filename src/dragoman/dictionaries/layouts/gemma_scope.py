"""Gemma Scope (the first): one ``params.npz`` a folder, JumpReLU.

In: a folder with ``params.npz`` (W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc, b_dec, threshold), named
``.../layer_20/width_16k/average_l0_71`` in a repository ``google/gemma-scope-2b-pt-res``; there is no configuration, so
names say the site. Out: a `Weights`. Refuses the attention and MLP repositories.

Semantics: the JumpReLU of arXiv 2408.05147: p = x W_enc + b_enc, max(p, 0) where p > threshold; b_dec is not taken off.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Layout, Orientation, Stated, Weights, no_encoder, two_d
from dragoman.dictionaries.layouts.jumprelu import JumpReLU
from dragoman.store.spans import Arrays

WEIGHTS = "params.npz"
DESCRIBED = f"a Gemma Scope folder ({WEIGHTS})"
_REPOSITORY = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<kind>pt|it)-(?P<place>res|mlp|att|transcoders)(?:-\w+)?$")
_LAYER = re.compile(r"layer_(\d+)$")


def _recognises(folder: Folder) -> bool:
    return WEIGHTS in folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    del k  # no TopK here
    what = f"dictionary {folder.label}"
    arrays = folder.arrays(WEIGHTS)
    weights = JumpReLU(arrays=arrays, file=WEIGHTS, w_enc="W_enc", w_dec="W_dec")
    decoder = two_d(arrays, weights.w_dec, f"dictionary {folder.where}/{WEIGHTS}", DESCRIBED)
    across = weights.lies_across(decoder, what, orientation)
    stated, place = _stated(folder, what)
    make = partial(_encoder, folder, weights, across, stated, place)
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _stated(folder: Folder, what: str) -> tuple[Stated, str]:
    """What the names on the way say; a cached repository's folder is called models--org--name."""
    layer = next((int(m[1]) for part in reversed(folder.parts) if (m := _LAYER.search(part))), None)
    found = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    if found is None:
        return Stated(block=layer, by="its folder's name"), ""
    if found["place"] in ("mlp", "att") or "embedding" in folder.parts:
        raise Refusal(
            what, f"{found[0]} does not hold the output of a block", "use a dictionary of a repository ending in -res"
        )
    instructed = "-it" if found["kind"] == "it" else ""
    return Stated(model=f"google/gemma-2-{found['size']}{instructed}", block=layer, by="its name"), found["place"]


def _encoder(folder: Folder, weights: JumpReLU, across: bool, stated: Stated, place: str, arrays: Arrays) -> Encoder:
    """The encoder, whole."""
    what = f"encoder of {folder.label}"
    if place == "transcoders":
        raise no_encoder(what)
    return replace(weights, arrays=arrays).encoder(what, across, stated.site)


LAYOUT = Layout(name="Gemma Scope", described=DESCRIBED, files=(WEIGHTS,), recognises=_recognises, open=_open)
