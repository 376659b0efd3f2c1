"""The first blocks of a model, told from its configuration and the headers of its weights: what is behind them is left.

In: a model's folder, a block, shapes of the stored tensors. Out: a configuration of blocks 0 to that one; None where
the whole model has to be opened: its family is not known to make the same of fewer blocks, it has no more, its weights
are packed, or the stored blocks are not exactly those of the whole model, which then is refused by whoever opens it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForCausalLM

from dragoman.models.bounds import quantised, quietly, without_numbers
from dragoman.models.sizes import HEAD, place_of, readable_in_part

Shapes = Mapping[str, tuple[int, ...]]


def first_blocks(told: Any, stated: Mapping[str, Any], shapes: Shapes, block: int) -> tuple[Any, int] | None:
    """A configuration of blocks 0 to ``block``, and how many the whole model has; None as the module says.

    Args:
        told: transformers' configuration of a folder that the checks of ``load.open_weights`` have let pass.
        stated: its config.json.
        shapes: of all stored tensors.
        block: the last that is wanted.
    """
    text = told.get_text_config()
    count = getattr(text, "num_hidden_layers", None)
    if (
        not readable_in_part(told.model_type, text.model_type)
        or quantised(stated)
        or not isinstance(count, int)
        or block + 1 >= count
    ):
        return None
    if not _whole(told, text, stated, shapes):
        return None
    cut = copy.deepcopy(told)
    shorter = cut.get_text_config()
    for name, value in list(vars(shorter).items()):
        if isinstance(value, list | tuple) and len(value) == count:
            setattr(shorter, name, value[: block + 1])
    shorter.num_hidden_layers = block + 1
    return cut, count


def _whole(told: Any, text: Any, stated: Mapping[str, Any], shapes: Shapes) -> bool:
    """Whether the stored blocks are those of the whole model, tensor by tensor, and its output layer is there."""
    with quietly():
        whole = without_numbers(AutoModelForCausalLM, told, stated)
    tied = bool(getattr(told, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False))
    heads = [tuple(shape) for name, shape in shapes.items() if HEAD.search(name)]
    return _of_blocks(shapes) == _of_blocks(whole.shapes) and (tied or heads == [whole.head])


def _of_blocks(shapes: Shapes) -> dict[tuple[int, str], tuple[int, ...]]:
    """Shapes of the tensors of decoder blocks, by block and name in it, wherever the blocks stand."""
    found = ((place_of(name), shape) for name, shape in shapes.items())
    return {place: tuple(shape) for place, shape in found if place is not None}
