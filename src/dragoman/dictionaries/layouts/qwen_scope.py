"""One ``.pt`` file a layer, both matrices as ``torch.nn.Linear`` has them: Qwen-Scope, Goodfire, DeepSeek-R1's.

In: a file ``layer20.sae.pt`` (Qwen-Scope: W_enc (d_sae, d_in), W_dec (d_in, d_sae), b_enc, b_dec), or any ``.pt`` with
encoder_linear and decoder_linear (Goodfire) or encoder and decoder (DeepSeek-R1) weights and biases. Out: what a
`Layout` finds. Refuses a folder of many layers when none is named, and a Qwen-Scope encoder whose k no name says.

Semantics: Qwen-Scope's model card: x W_enc^T + b_enc, the k largest kept, hooked on the block's output; its
repository's name says k (``SAE-Res-Qwen3-8B-Base-W64K-L0_50``). (The card's snippet has no ReLU; the k largest of tens
of thousands are positive, and a negative one is no activation.) Goodfire and DeepSeek-R1: ReLU, nothing taken off the
input.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import TORCH, Folder
from dragoman.dictionaries.layout import Found, Layout, Named, Stated, Stored

_FILE = re.compile(r"layer(\d+)\.sae\.pt$")
_REPOSITORY = re.compile(r"SAE-Res-(?P<model>Qwen.+?)-W\d+K-L0_(?P<k>\d+)$")
_QWEN = Named(file="", linear=True, features="columns")
_OTHERS = tuple(
    replace(_QWEN, w_enc=f"{e}.weight", b_enc=f"{e}.bias", w_dec=f"{d}.weight", b_dec=f"{d}.bias")
    for e, d in (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
)
_LAYER = re.compile(r"-l(\d+)\.pth?$")


def _layers(folder: Folder) -> list[str]:
    return sorted(name for name in folder.names if _FILE.search(name))


def _fits(folder: Folder) -> bool:
    """By the file's name; other ``.pt`` files by what they hold, when one of these was named."""
    if folder.focus is None:
        return bool(_layers(folder))
    if PurePath(folder.focus).suffix.lower() not in TORCH:
        return False
    return bool(_FILE.search(folder.focus)) or any(
        {names.w_enc, names.w_dec} <= set(folder.arrays(folder.focus).names) for names in _OTHERS
    )


def _open(folder: Folder) -> Found:
    """The dictionary of a file."""
    if folder.focus is None:
        first = _layers(folder)[0]
        why = f"it holds a file for each layer ({first}, ...)"
        raise Refusal(f"folder {folder.where}", why, "name the file of one layer")
    arrays = folder.arrays(folder.focus)
    found = next((names for names in (_QWEN, *_OTHERS) if names.w_dec in arrays.names), _QWEN)
    stated, k = _stated(folder, folder.focus)
    return Found(
        label=f"{folder.label}/{folder.focus}",
        names=replace(found, file=folder.focus),
        stated=stated,
        make=partial(_encoder, k),
        arrays=arrays,
    )


def _stated(folder: Folder, name: str) -> tuple[Stated, int | None]:
    """What the names say: the block by the file's, model and k by the repository's."""
    layer = _FILE.search(name) or _LAYER.search(name)
    found = next((m for part in folder.parts if (m := _REPOSITORY.search(part))), None)
    stated = Stated(
        model=f"Qwen/{found['model']}" if found else None, block=int(layer[1]) if layer else None, by="its file's name"
    )
    return stated, int(found["k"]) if found else None


def _encoder(said_k: int | None, stored: Stored) -> Encoder:
    """The encoder, whole."""
    k = stored.k(said_k, "its repository's name")
    parts = stored.read()
    topk = stored.names.w_enc == _QWEN.w_enc
    if topk and k is None:
        why = "it is a TopK, and its k stands in the repository's name only"
        raise Refusal(stored.what, why, "keep that name (SAE-Res-...-L0_50) on the way to the file, or say it with --k")
    return Encoder(
        **parts,
        architecture="topk" if topk else "relu",
        k=k if topk else None,
        apply_b_dec_to_input=False,
        site=stored.site,
    )


LAYOUT = Layout(name="Qwen-Scope", described="a Qwen-Scope file (layer20.sae.pt)", fits=_fits, open=_open)
