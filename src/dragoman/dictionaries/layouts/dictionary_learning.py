"""dictionary_learning (and what is trained with it, such as andyrdt's): ``ae.pt`` beside ``config.json``.

In: a folder with ``ae.pt`` (encoder.weight (d_sae, d_in), encoder.bias, decoder.weight (d_in, d_sae), bias or b_dec, k,
threshold; or W_enc, W_dec, b_enc, b_dec as JumpReLU and Matryoshka have them) and ``config.json`` (trainer: dict_class,
activation_dim, dict_size, k, layer, lm_name, submodule_name). Out: what a `Layout` finds. Refuses gated encoders, a
BatchTopK whose threshold was never learnt (-1), and submodules that are not a block.

Semantics: each class's ``encode`` in ``dictionary.py`` and ``trainers/*.py``: AutoEncoder takes its bias off and, as
loaded there, has its decoder's lengths moved into the encoder; AutoEncoderNew takes nothing off; TopK and BatchTopK
take b_dec off, the second keeps what exceeds its threshold; JumpReluAutoEncoder takes nothing off. Activation
normalisation was folded into the biases when the file was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dragoman.core import Refusal, Site
from dragoman.dictionaries import layout
from dragoman.dictionaries.encoder import Architecture, Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored
from dragoman.store.spans import Arrays, shown

WEIGHTS, CONFIG = "ae.pt", "config.json"
# nn.Linear keeps a decoder (d_in, d_sae), a bare parameter (d_sae, d_in).
_BARE = Named(file=WEIGHTS)
_LINEAR = Named(
    file=WEIGHTS, w_enc="encoder.weight", b_enc="encoder.bias", w_dec="decoder.weight", linear=True, features="columns"
)
_BIASES = ("b_dec", "bias", "decoder.bias", "decoder_bias")
_ARCHITECTURES: dict[str, Architecture] = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
_NOTHING_OFF = ("AutoEncoderNew", "JumpReluAutoEncoder")


def _open(folder: Folder) -> Found:
    """The dictionary of a folder."""
    config = layout.config_of(folder, CONFIG)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise Refusal(f"{folder.where}/{CONFIG}", "it describes no trainer", "fetch the dictionary again")
    arrays = folder.arrays(WEIGHTS)
    names = _LINEAR if _LINEAR.w_dec in arrays.names else _BARE
    return Found(
        names=replace(names, b_dec=next((name for name in _BIASES if name in arrays.names), "b_dec")),
        stated=_stated(f"dictionary {folder.label}", trainer, config.get("buffer")),
        make=partial(_encoder, config),
        arrays=arrays,
        d_sae=layout.number(trainer, "dict_size", CONFIG),
        d_in=layout.number(trainer, "activation_dim", CONFIG),
        said_by=CONFIG,
    )


def _stated(what: str, trainer: Mapping[str, Any], buffer: Any) -> Stated:
    """Model and block; the submodule is a block, unless it is called otherwise."""
    layer = layout.number(trainer, "layer", CONFIG)
    called = trainer.get("submodule_name")
    if called is not None:
        found = layout.residual_block(what, str(called), layer, writes=_is_transcoder(buffer))
        layer = found if layer is None else layer
    # A buffer of a submodule's inputs holds what enters that block.
    if isinstance(buffer, Mapping) and buffer.get("io") == "in" and layer is not None:
        layer = Site.block_before(layer, what)
    return Stated(model=layout.word(trainer, "lm_name", CONFIG), block=layer, by=f"its {CONFIG}")


def _is_transcoder(buffer: Any) -> bool:
    return isinstance(buffer, Mapping) and buffer.get("io") == "in_and_out"


def _encoder(config: Mapping[str, Any], stored: Stored) -> Encoder:
    """The encoder, whole."""
    what, arrays, trainer = stored.what, stored.arrays, config["trainer"]
    if _is_transcoder(config.get("buffer")):
        raise layout.no_encoder(what)
    named = str(trainer.get("dict_class"))
    if named not in _ARCHITECTURES:
        raise Refusal(what, f"dict_class '{shown(named)}' is not known", f"use {', '.join(_ARCHITECTURES)}")
    parts, architecture = stored.read(), _ARCHITECTURES[named]
    return Encoder(
        **parts,
        architecture=architecture,
        k=stored.k(_k(what, arrays, trainer), CONFIG) if architecture == "topk" else None,
        threshold=_threshold(what, named, arrays, parts["b_enc"].size) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=named not in _NOTHING_OFF,
        rescale_by_decoder_norm=named == "AutoEncoder",
        site=stored.site,
    )


def _k(what: str, arrays: Arrays, trainer: Mapping[str, Any]) -> int | None:
    """K of the settings; the weights', where they have it, must be the same."""
    said = layout.number(trainer, "k", CONFIG)
    stored = None
    if "k" in arrays.names and arrays.array("k").shape == ():
        stored = layout.number({"k": arrays.array("k").whole().item()}, "k", WEIGHTS)
    if said is not None and stored is not None and said != stored:
        raise Refusal(what, f"{CONFIG} says k {said} and {WEIGHTS} {stored}", "fetch the dictionary again")
    return said if said is not None else stored


def _threshold(what: str, named: str, arrays: Arrays, d_sae: int) -> Any:
    """Each feature's own, or the one number a BatchTopK learnt."""
    if "threshold" not in arrays.names:
        why = f"{WEIGHTS} has no threshold, and without it a {named} says nothing of a single row"
        raise Refusal(what, why, "use a newer release of the dictionary")
    threshold = arrays.array("threshold").whole()
    if named != "JumpReluAutoEncoder" and threshold.size == 1 and threshold.item() < 0:
        raise Refusal(what, f"its threshold is {threshold.item():g}, so it was never learnt", "train it to the end")
    return layout.everywhere(threshold, d_sae)


LAYOUT = Layout(
    name="dictionary_learning",
    described=f"a dictionary_learning folder ({WEIGHTS} and {CONFIG})",
    files=(WEIGHTS,),
    needs=(frozenset({WEIGHTS, CONFIG}),),
    open=_open,
)
