"""EleutherAI's sparsify: ``sae.safetensors`` beside ``cfg.json``, in a folder named by its hookpoint.

In: a folder such as ``layers.20`` with ``sae.safetensors`` (encoder.weight (d_sae, d_in), encoder.bias, W_dec (d_sae,
d_in), b_dec) and ``cfg.json`` (d_in, num_latents or expansion_factor, k, activation, transcode). Out: what a `Layout`
finds; a transcoder's rows live at its hookpoint, which is what it was trained to write. Refuses hookpoints inside a
block, signed encoders, and activations other than TopK and GroupMax.

Semantics: ``SparseCoder.encode`` and ``fused_encoder``: b_dec is taken off (not of transcoders), ReLU, then the k
largest, or the largest of each of k groups. (SAELens reads W_dec of such files transposed; sparsify itself does not.)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dragoman.core import Hook, Refusal
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored
from dragoman.store.spans import shown

CONFIG = "cfg.json"
NAMES = Named(file="sae.safetensors", w_enc="encoder.weight", b_enc="encoder.bias", linear=True)
_READ = ("activation", "d_in", "expansion_factor", "k", "num_latents", "signed", "skip_connection", "transcode")
_TRAINED = ("hookpoint", "multi_topk", "normalize_decoder")  # of interest while it was trained
_HARMLESS = frozenset({*_READ, *_TRAINED})


def _open(folder: Folder) -> Found:
    """The dictionary of a folder."""
    config = layout.config_of(folder, CONFIG)
    transcodes = layout.flag(config, "transcode", CONFIG)
    d_in, d_sae, grown = (layout.number(config, key, CONFIG) for key in ("d_in", "num_latents", "expansion_factor"))
    if not d_sae:  # 0 stands for "by the expansion factor"
        d_sae = d_in * grown if d_in is not None and grown is not None else None
    return Found(
        names=NAMES,
        stated=_stated(folder, transcodes),
        make=partial(_encoder, config),
        arrays=folder.arrays(NAMES.file),
        d_sae=d_sae,
        d_in=None if transcodes else d_in,  # a transcoder may write another width than it reads
        said_by=CONFIG,
    )


def _stated(folder: Folder, transcodes: bool) -> Stated:
    """The hookpoint is the folder's name; sparsify does not write the model into the folder."""
    named = (part for part in reversed(folder.parts) if Hook.parse(part) or part.endswith("embed_tokens"))
    hook = next(named, None)
    if hook is None:
        return Stated(by="its folder's name")
    block = layout.residual_block(f"dictionary {folder.label}", hook, None, writes=transcodes)
    return Stated(block=block, by="its folder's name")


def _encoder(config: Mapping[str, Any], stored: Stored) -> Encoder:
    """The encoder, whole."""
    what = stored.what
    if layout.flag(config, "transcode", CONFIG):
        raise layout.no_encoder(what)
    if layout.flag(config, "signed", CONFIG):
        raise Refusal(what, "it is signed: its features also fire below zero", "use an unsigned dictionary")
    act = str(config.get("activation", "topk"))
    if act not in ("topk", "groupmax"):
        raise Refusal(what, f"activation '{shown(act)}' is not known", "use topk or groupmax")
    if layout.flag(config, "skip_connection", CONFIG):
        raise Refusal(what, "it has a skip_connection beside its features, which is not done here", "use one without")
    layout.refuse_unread(what, config, _HARMLESS, CONFIG)
    return Encoder(
        **stored.read(),
        architecture="topk" if act == "topk" else "groupmax",
        k=stored.k(layout.number(config, "k", CONFIG), CONFIG),
        apply_b_dec_to_input=True,
        site=stored.site,
    )


LAYOUT = Layout(
    name="sparsify",
    described=f"a sparsify folder ({NAMES.file} and {CONFIG})",
    files=(NAMES.file,),
    needs=(frozenset({NAMES.file, CONFIG}),),
    open=_open,
)
