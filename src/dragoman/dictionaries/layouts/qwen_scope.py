"""One ``.pt`` file a layer, both matrices as ``torch.nn.Linear`` has them: Qwen-Scope, Goodfire, DeepSeek-R1's.

In: a file ``layer20.sae.pt`` (Qwen-Scope: W_enc (d_sae, d_in), W_dec (d_in, d_sae), b_enc, b_dec), or any ``.pt`` with
encoder_linear and decoder_linear (Goodfire) or encoder and decoder (DeepSeek-R1) weights and biases. Out: a
`Weights`. Refuses a folder of many layers when none is named, and a Qwen-Scope encoder whose k no name says.

Semantics: Qwen-Scope's model card: x W_enc^T + b_enc, the k largest kept, hooked on the block's output; its
repository's name says k (``SAE-Res-Qwen3-8B-Base-W64K-L0_50``). (The card's snippet has no ReLU; the k largest of tens
of thousands are positive, and a negative one is no activation.) Goodfire and DeepSeek-R1: ReLU, nothing taken off the
input.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import PurePath

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import TORCH, Folder
from dragoman.dictionaries.layout import (
    Layout,
    Orientation,
    Stated,
    Weights,
    floats,
    length,
    need,
    one_k,
    two_d,
)
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays

DESCRIBED = "a Qwen-Scope file (layer20.sae.pt)"
_FILE = re.compile(r"layer(\d+)\.sae\.pt$")
_REPOSITORY = re.compile(r"SAE-Res-(?P<model>Qwen.+?)-W\d+K-L0_(?P<k>\d+)$")
# encoder weight, encoder bias, decoder weight, decoder bias
_NAMES = (
    ("W_enc", "b_enc", "W_dec", "b_dec"),
    ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"),
    ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"),
)
_LAYER = re.compile(r"-l(\d+)\.pth?$")


def _layers(folder: Folder) -> list[str]:
    return sorted(name for name in folder.names if _FILE.search(name))


def _recognises(folder: Folder) -> bool:
    """By the file's name; other ``.pt`` files by what they hold, when one of these was named."""
    if folder.focus is None:
        return bool(_layers(folder))
    if PurePath(folder.focus).suffix.lower() not in TORCH:
        return False
    return bool(_FILE.search(folder.focus)) or any(
        {names[0], names[2]} <= set(folder.arrays(folder.focus).names) for names in _NAMES[1:]
    )


def _open(folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
    """The dictionary of a file."""
    if folder.focus is None:
        first = _layers(folder)[0]
        raise Refusal(
            f"folder {folder.where}", f"it holds a file for each layer ({first}, ...)", "name the file of one layer"
        )
    what = f"dictionary {folder.label}/{folder.focus}"
    arrays = folder.arrays(folder.focus)
    names = next((names for names in _NAMES if names[2] in arrays.names), _NAMES[0])
    decoder = two_d(arrays, names[2], f"dictionary {folder.where}/{folder.focus}", DESCRIBED)
    across = lies_across(
        decoder,
        Evidence(
            what=what,
            name=names[2],
            expected="columns",
            d_sae=length(arrays, names[1]),
            d_in=length(arrays, names[3]),
            said_by="the length of its biases",
            asked=orientation,
            encoder=arrays.array(names[0]).rows if names[0] in arrays.names else None,
        ),
    )
    stated, said_k = _stated(folder)
    make = partial(_encoder, folder, names, across, stated, one_k(what, k, said_k, "its repository's name"))
    return Weights(
        name=what, layout=LAYOUT.name, decoder=decoder, across=across, stated=stated, arrays=arrays, make=make
    )


def _stated(folder: Folder) -> tuple[Stated, int | None]:
    """What the names say: the block by the file's, model and k by the repository's."""
    name = folder.focus or ""
    layer = _FILE.search(name) or _LAYER.search(name)
    found = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    stated = Stated(
        model=f"Qwen/{found['model']}" if found else None, block=int(layer[1]) if layer else None, by="its file's name"
    )
    return stated, int(found["k"]) if found else None


def _encoder(
    folder: Folder, names: tuple[str, str, str, str], across: bool, stated: Stated, k: int | None, arrays: Arrays
) -> Encoder:
    """The encoder, whole."""
    what = f"encoder of {folder.label}/{folder.focus}"
    need(arrays, names, what, folder.focus or "")
    topk = names[0] == "W_enc"
    if topk and k is None:
        raise Refusal(
            what,
            "it is a TopK, and its k stands in the repository's name only",
            "keep that name (SAE-Res-...-L0_50) on the way to the file, or say it with --k",
        )
    return Encoder(
        W_enc=floats(arrays.array(names[0]).whole(), turned=True),
        b_enc=floats(arrays.array(names[1]).whole()),
        b_dec=floats(arrays.array(names[3]).whole()),
        W_dec=floats(arrays.array(names[2]).whole(), turned=across),
        architecture="topk" if topk else "relu",
        k=k if topk else None,
        apply_b_dec_to_input=False,
        site=stated.site,
    )


LAYOUT = Layout(name="Qwen-Scope", described=DESCRIBED, recognises=_recognises, open=_open)
