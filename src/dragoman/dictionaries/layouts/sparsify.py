"""EleutherAI's sparsify: ``sae.safetensors`` beside ``cfg.json``, in a folder named by its hookpoint.

In: a folder such as ``layers.20`` with ``sae.safetensors`` (encoder.weight (d_sae, d_in), encoder.bias, W_dec
(d_sae, d_in), b_dec) and ``cfg.json`` (d_in, num_latents or expansion_factor, k, activation, transcode). Out: a
`Weights`; a transcoder's rows live at its hookpoint, which is what it was trained to write. Refuses hookpoints
inside a block, signed encoders, and activations other than TopK and GroupMax.

Semantics: ``SparseCoder.encode`` and ``fused_encoder``: b_dec is taken off (not of transcoders), ReLU, then the k
largest, or the largest of each of k groups. (SAELens reads W_dec of such files transposed; sparsify itself does not.)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dragoman import hooks
from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import (
    Layout,
    Orientation,
    Stated,
    Weights,
    config_of,
    flag,
    floats,
    length,
    need,
    no_encoder,
    number,
    one_k,
    refuse_unread,
    residual_block,
    two_d,
)
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays, shown

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
_READ = ("activation", "d_in", "expansion_factor", "k", "num_latents", "signed", "skip_connection", "transcode")
_TRAINED = ("hookpoint", "multi_topk", "normalize_decoder")  # of interest while it was trained
_HARMLESS = frozenset({*_READ, *_TRAINED})
DESCRIBED = f"a sparsify folder ({WEIGHTS} and {CONFIG})"


def _recognises(folder: Folder) -> bool:
    return {WEIGHTS, CONFIG} <= folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    what = f"dictionary {folder.label}"
    config, arrays = config_of(folder, CONFIG), folder.arrays(WEIGHTS)
    decoder = two_d(arrays, "W_dec", f"dictionary {folder.where}/{WEIGHTS}", DESCRIBED)
    transcodes = flag(config, "transcode", CONFIG)
    d_in, d_sae = number(config, "d_in", CONFIG), number(config, "num_latents", CONFIG)
    grown = number(config, "expansion_factor", CONFIG)
    if not d_sae:  # 0 stands for "by the expansion factor"
        d_sae = d_in * grown if d_in is not None and grown is not None else length(arrays, "encoder.bias")
    across = lies_across(
        decoder,
        Evidence(
            what=what,
            name="W_dec",
            expected="rows",
            d_sae=d_sae,
            # A transcoder may write another width than it reads.
            d_in=length(arrays, "b_dec") if transcodes or d_in is None else d_in,
            said_by=CONFIG,
            asked=orientation,
            encoder=arrays.array("encoder.weight").rows if "encoder.weight" in arrays.names else None,
        ),
    )
    stated = _stated(what, folder, transcodes)
    make = partial(_encoder, folder, config, across, stated, k)
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _stated(what: str, folder: Folder, transcodes: bool) -> Stated:
    """The hookpoint is the folder's name; sparsify does not write the model into the folder."""
    named = (part for part in reversed(folder.parts) if hooks.parsed(part) or part.endswith("embed_tokens"))
    hook = next(named, None)
    if hook is None:
        return Stated(by="its folder's name")
    return Stated(block=residual_block(what, hook, None, writes=transcodes), by="its folder's name")


def _encoder(
    folder: Folder, config: Mapping[str, Any], across: bool, stated: Stated, k: int | None, arrays: Arrays
) -> Encoder:
    """The encoder, whole."""
    what = f"encoder of {folder.label}"
    if flag(config, "transcode", CONFIG):
        raise no_encoder(what)
    if flag(config, "signed", CONFIG):
        raise Refusal(what, "it is signed: its features also fire below zero", "use an unsigned dictionary")
    act = str(config.get("activation", "topk"))
    if act not in ("topk", "groupmax"):
        raise Refusal(what, f"activation '{shown(act)}' is not known", "use topk or groupmax")
    if flag(config, "skip_connection", CONFIG):
        raise Refusal(what, "it has a skip_connection beside its features, which is not done here", "use one without")
    refuse_unread(what, config, _HARMLESS, CONFIG)
    need(arrays, ["encoder.weight", "encoder.bias", "W_dec", "b_dec"], what, WEIGHTS)
    return Encoder(
        W_enc=floats(arrays.array("encoder.weight").whole(), turned=True),
        b_enc=floats(arrays.array("encoder.bias").whole()),
        b_dec=floats(arrays.array("b_dec").whole()),
        W_dec=floats(arrays.array("W_dec").whole(), turned=across),
        architecture="topk" if act == "topk" else "groupmax",
        k=one_k(what, k, number(config, "k", CONFIG), CONFIG),
        apply_b_dec_to_input=True,
        site=stated.site,
    )


LAYOUT = Layout(name="sparsify", described=DESCRIBED, files=(WEIGHTS,), recognises=_recognises, open=_open)
