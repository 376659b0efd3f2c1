"""Names of places in a model, as the field writes them: which block, and whether it is the block's output.

In: a hook's or module's name of TransformerLens, SAELens, Hugging Face, nnsight, dictionary_learning or sparsify. Out:
a `Hook`, or None where the name is none of these. This is the only table of such names; which block's output it is,
`dragoman.core.Site` says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Place = Literal["output", "input", "written", "inside"]

# Blocks' lists, by the model classes of transformers (Llama, Qwen, Gemma, Mistral: model.layers; multimodal ones:
# model.language_model.layers; GPT-2, Falcon, Bloom: transformer.h; Pythia: gpt_neox.layers; OPT: model.decoder.layers;
# MPT: transformer.blocks), with or without the wrappers around them.
_LIST = r"(?:(?:model|language_model|text_model|transformer|gpt_neox|decoder|base_model)\.)*(?:layers|h|blocks)"
_NUMBER = r"(?:\.(?P<block>\d{1,6})|\[(?P<index>\d{1,6})\])"
_TUPLE = r"(?:\.0|\[0\])?"  # a block's output is a tuple in most classes, and its first entry is the stream
_WHOLE = re.compile(
    rf"{_LIST}{_NUMBER}(?:\.(?:(?P<output>output|hook_out|hook_resid_post)|(?P<input>inputs?|hook_in|hook_resid_pre)){_TUPLE})?"
)
_IN_NAME = re.compile(r"resid_(?P<where>post|pre)_layer_(?P<block>\d{1,6})")
# What a block's MLP or attention adds to the stream: a direction of that block's output, and no encoder's input.
_WRITTEN = re.compile(
    rf"{_LIST}{_NUMBER}\.(?:hook_(?:mlp|attn)_out|mlp|post_feedforward_layernorm)(?:\.(?:output|hook_out){_TUPLE})?"
)
_INSIDE = re.compile(rf"{_LIST}{_NUMBER}\.[\w.\[\]]+")


@dataclass(frozen=True, slots=True)
class Hook:
    """A place of block ``block``: its "output", its "input", what its MLP or attention has "written", or "inside"."""

    block: int
    place: Place


def parsed(name: str) -> Hook | None:
    """The place that a name means; None for a name of another form."""
    found = _WHOLE.fullmatch(name)
    if found:
        return Hook(_block(found), "input" if found["input"] else "output")
    found = _IN_NAME.fullmatch(name)
    if found:
        return Hook(int(found["block"]), "output" if found["where"] == "post" else "input")
    found = _WRITTEN.fullmatch(name)
    if found:
        return Hook(_block(found), "written")
    found = _INSIDE.fullmatch(name)
    return Hook(_block(found), "inside") if found else None


def _block(found: re.Match[str]) -> int:
    return int(found["block"] or found["index"])
