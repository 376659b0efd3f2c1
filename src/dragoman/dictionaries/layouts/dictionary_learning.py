"""dictionary_learning (and what is trained with it, such as andyrdt's): ``ae.pt`` beside ``config.json``.

In: a folder with ``ae.pt`` (encoder.weight (d_sae, d_in), encoder.bias, decoder.weight (d_in, d_sae), bias or b_dec, k,
threshold; or W_enc, W_dec, b_enc, b_dec as JumpReLU and Matryoshka have them) and ``config.json`` (trainer: dict_class,
activation_dim, dict_size, k, layer, lm_name, submodule_name). Out: a `Weights`. Refuses gated encoders, a BatchTopK
whose threshold was never learnt (-1), and submodules that are not a block.

Semantics: each class's ``encode`` in ``dictionary.py`` and ``trainers/*.py``: AutoEncoder takes its bias off and, as
loaded there, has its decoder's lengths moved into the encoder; AutoEncoderNew takes nothing off; TopK and BatchTopK
take b_dec off, the second keeps what exceeds its threshold; JumpReluAutoEncoder takes nothing off. Activation
normalisation was folded into the biases when the file was saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from dragoman.core import Refusal, Site
from dragoman.dictionaries.encoder import Architecture, Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import (
    Layout,
    Orientation,
    Stated,
    Weights,
    config_of,
    everywhere,
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
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays, shown

WEIGHTS, CONFIG = "ae.pt", "config.json"
DESCRIBED = f"a dictionary_learning folder ({WEIGHTS} and {CONFIG})"
_ARCHITECTURES: dict[str, Architecture] = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
_NOTHING_OFF = ("AutoEncoderNew", "JumpReluAutoEncoder")


def _recognises(folder: Folder) -> bool:
    return {WEIGHTS, CONFIG} <= folder.names


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a folder."""
    what = f"dictionary {folder.label}"
    config = config_of(folder, CONFIG)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise Refusal(f"{folder.where}/{CONFIG}", "it describes no trainer", "fetch the dictionary again")
    arrays = folder.arrays(WEIGHTS)
    # nn.Linear keeps a decoder (d_in, d_sae), a bare parameter (d_sae, d_in).
    linear = "decoder.weight" in arrays.names
    name = "decoder.weight" if linear else "W_dec"
    encoder = "encoder.weight" if linear else "W_enc"
    decoder = two_d(arrays, name, f"dictionary {folder.where}/{WEIGHTS}", DESCRIBED)
    d_sae, d_in = number(trainer, "dict_size", CONFIG), number(trainer, "activation_dim", CONFIG)
    across = lies_across(
        decoder,
        Evidence(
            what=what,
            name=name,
            expected="columns" if linear else "rows",
            d_sae=d_sae if d_sae is not None else length(arrays, "encoder.bias" if linear else "b_enc"),
            d_in=d_in if d_in is not None else length(arrays, _bias(arrays)),
            said_by=CONFIG,
            asked=orientation,
            encoder=partial(_encoder_rows, arrays, linear) if encoder in arrays.names else None,
        ),
    )
    stated = _stated(what, trainer, config.get("buffer"))
    make = partial(_encoder, folder, config, across, stated, k)
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _encoder_rows(arrays: Arrays, linear: bool, features: Sequence[int]) -> NDArray[Any]:
    """Encoder rows (n, d_in) of some features."""
    return arrays.array("encoder.weight").rows(features) if linear else arrays.array("W_enc").columns(features).T


def _bias(arrays: Arrays) -> str:
    """What the decoder's bias is called."""
    return next((n for n in ("b_dec", "bias", "decoder.bias", "decoder_bias") if n in arrays.names), "b_dec")


def _stated(what: str, trainer: Mapping[str, Any], buffer: Any) -> Stated:
    """Model and block; the submodule is a block, unless it is called otherwise."""
    layer = number(trainer, "layer", CONFIG)
    called = trainer.get("submodule_name")
    if called is not None:
        found = residual_block(what, str(called), layer, writes=_is_transcoder(buffer))
        layer = found if layer is None else layer
    # A buffer of a submodule's inputs holds what enters that block.
    if isinstance(buffer, Mapping) and buffer.get("io") == "in" and layer is not None:
        layer = Site.block_before(layer, what)
    return Stated(model=word(trainer, "lm_name", CONFIG), block=layer, by=f"its {CONFIG}")


def _is_transcoder(buffer: Any) -> bool:
    return isinstance(buffer, Mapping) and buffer.get("io") == "in_and_out"


def _encoder(
    folder: Folder, config: Mapping[str, Any], across: bool, stated: Stated, k: int | None, arrays: Arrays
) -> Encoder:
    """The encoder, whole."""
    what, trainer = f"encoder of {folder.label}", config["trainer"]
    if _is_transcoder(config.get("buffer")):
        raise no_encoder(what)
    named = str(trainer.get("dict_class"))
    if named not in _ARCHITECTURES:
        raise Refusal(what, f"dict_class '{shown(named)}' is not known", f"use {', '.join(_ARCHITECTURES)}")
    linear = "decoder.weight" in arrays.names
    encoder, bias = ("encoder.weight", "encoder.bias") if linear else ("W_enc", "b_enc")
    decoder = "decoder.weight" if linear else "W_dec"
    need(arrays, [encoder, bias, decoder, _bias(arrays)], what, WEIGHTS)
    b_enc = arrays.array(bias).whole()
    architecture = _ARCHITECTURES[named]
    return Encoder(
        W_enc=floats(arrays.array(encoder).whole(), turned=linear),
        b_enc=floats(b_enc),
        b_dec=floats(arrays.array(_bias(arrays)).whole()),
        W_dec=floats(arrays.array(decoder).whole(), turned=across),
        architecture=architecture,
        k=one_k(what, k, _k(what, arrays, trainer), CONFIG) if architecture == "topk" else None,
        threshold=_threshold(what, named, arrays, b_enc.size) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=named not in _NOTHING_OFF,
        rescale_by_decoder_norm=named == "AutoEncoder",
        site=stated.site,
    )


def _k(what: str, arrays: Arrays, trainer: Mapping[str, Any]) -> int | None:
    """K of the settings; the weights', where they have it, must be the same."""
    said = number(trainer, "k", CONFIG)
    stored = None
    if "k" in arrays.names and arrays.array("k").shape == ():
        stored = number({"k": arrays.array("k").whole().item()}, "k", WEIGHTS)
    if said is not None and stored is not None and said != stored:
        raise Refusal(what, f"{CONFIG} says k {said} and {WEIGHTS} {stored}", "fetch the dictionary again")
    return said if said is not None else stored


def _threshold(what: str, named: str, arrays: Arrays, d_sae: int) -> Any:
    """Each feature's own, or the one number a BatchTopK learnt."""
    if "threshold" not in arrays.names:
        raise Refusal(
            what,
            f"{WEIGHTS} has no threshold, and without it a {named} says nothing of a single row",
            "use a newer release of the dictionary",
        )
    threshold = arrays.array("threshold").whole()
    if named != "JumpReluAutoEncoder" and threshold.size == 1 and threshold.item() < 0:
        raise Refusal(what, f"its threshold is {threshold.item():g}, so it was never learnt", "train it to the end")
    return floats(everywhere(threshold, d_sae))


LAYOUT = Layout(name="dictionary_learning", described=DESCRIBED, files=(WEIGHTS,), recognises=_recognises, open=_open)
