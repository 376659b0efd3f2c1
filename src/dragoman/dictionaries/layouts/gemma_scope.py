"""Gemma Scope (the first): one ``params.npz`` a folder, JumpReLU.

In: a folder with ``params.npz`` (W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc, b_dec, threshold), named
``.../layer_20/width_16k/average_l0_71`` in a repository ``google/gemma-scope-2b-pt-res``; there is no configuration, so
names say the site. Out: a `Weights`. Refuses the attention and MLP repositories.

Semantics: the JumpReLU of arXiv 2408.05147: p = x W_enc + b_enc, max(p, 0) where p > threshold; b_dec is not taken off.
"""

from __future__ import annotations

import re
from functools import partial

from dragoman.core import Refusal
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Layout, Named, Orientation, Stated, Weights
from dragoman.store.spans import Arrays

NAMES = Named(file="params.npz")
_REPOSITORY = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<kind>pt|it)-(?P<place>res|mlp|att|transcoders)(?:-\w+)?$")
_LAYER = re.compile(r"layer_(\d+)$")


def _recognises(folder: Folder) -> bool:
    return NAMES.file in folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    del k  # no TopK here
    what = f"dictionary {folder.label}"
    stated, place = _stated(folder, what)
    make = partial(_encoder, f"encoder of {folder.label}", stated, place)
    arrays = folder.arrays(NAMES.file)
    return NAMES.weights(folder, arrays, LAYOUT, what=what, stated=stated, asked=orientation, make=make)


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


def _encoder(what: str, stated: Stated, place: str, across: bool, arrays: Arrays) -> Encoder:
    """The encoder, whole."""
    if place == "transcoders":
        raise layout.no_encoder(what)
    return jumprelu(NAMES, arrays, across, what, stated)


def jumprelu(names: Named, arrays: Arrays, across: bool, what: str, stated: Stated) -> Encoder:
    """The encoder of either release of Gemma Scope."""
    parts = names.read(arrays, across, what, "threshold")
    threshold = layout.everywhere(arrays.array("threshold").whole(), parts["b_enc"].size)
    return Encoder(
        **parts,
        architecture="jumprelu",
        threshold=layout.floats(threshold),
        apply_b_dec_to_input=False,
        site=stated.site,
    )


LAYOUT = Layout(
    name="Gemma Scope",
    described=f"a Gemma Scope folder ({NAMES.file})",
    files=(NAMES.file,),
    recognises=_recognises,
    open=_open,
)
