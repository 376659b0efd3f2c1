"""The layouts dictionaries are published in, one module for each project.

In: a `Folder`. Out: the `Weights` it holds. To add a layout, write its module and name it here. Refuses folders that
no layout recognises, saying which are known.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.layout import Layout, Orientation, Stored, Weights, refuse_unread, residual_block, word
from dragoman.dictionaries.layouts import (
    dictionary_learning,
    gemma_scope,
    llama_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from dragoman.store.spans import listed

_PLACE = frozenset({"model_name", "hook_name", "dataset_path", "neuronpedia_id"})
LAYOUTS: tuple[Layout, ...] = (
    saelens.LAYOUT,
    gemma_scope.LAYOUT,
    gemma_scope.LAYOUT_2,
    llama_scope.LAYOUT,
    dictionary_learning.LAYOUT,
    sparsify.LAYOUT,
    qwen_scope.LAYOUT,
)
KNOWN = (
    "a folder of "
    + ", ".join(layout.name + (f" ({layout.files[0]})" if layout.files else "") for layout in LAYOUTS)
    + ", or a .safetensors, .npy, .npz, .pt, .csv, .jsonl, .parquet or .gguf file of vectors (n, d_model)"
)


def layout_of(folder: Folder) -> Layout | None:
    """The layout of a folder or file, None where none recognises it."""
    return next((layout for layout in LAYOUTS if layout.recognises(folder)), None)


def open_weights(folder: Folder, orientation: Orientation | None = None, k: int | None = None) -> Weights:
    """The dictionary of a folder; of its numbers nothing has been read yet.

    Raises:
        Refusal: when no layout recognises the folder, or its own refuses it.
    """
    layout = layout_of(folder)
    if layout is None:
        inside = sorted(getattr(folder, "entries", folder.names))
        why = f"unknown dictionary layout (it holds {listed(inside, 3) or 'nothing'})"
        raise Refusal(f"folder {folder.where}", why, f"name {KNOWN}")
    opened = layout.weights(folder, orientation, k)
    overrides = folder.extra.get("config_overrides", {})
    return opened if layout is saelens.LAYOUT or not overrides else _overridden(opened, overrides)


def _overridden(opened: Weights, overrides: Mapping[str, Any]) -> Weights:
    """A dictionary of another layout than SAELens' own, with what SAELens' registry says of it.

    Its place in a model is taken from there; another setting, whose meaning in that layout is not known, makes its
    encoder refused.
    """
    by = "SAELens' registry"
    stated = opened.stated
    model, hook = word(overrides, "model_name", by), word(overrides, "hook_name", by)
    if model is not None:
        stated = replace(stated, model=model, by=by)
    if hook is not None:
        stated = replace(stated, block=residual_block(opened.name, hook, None), by=by)

    def make(stored: Stored) -> Encoder:
        refuse_unread(f"encoder of {opened.name}", overrides, _PLACE, by)
        return opened.make(stored)

    return replace(opened, stated=stated, make=make)


__all__ = ["KNOWN", "LAYOUTS", "layout_of", "open_weights"]
