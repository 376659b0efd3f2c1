"""How many blocks a model has and how wide its stream is, without opening it; what cannot live there is refused early.

In: a site, a width. Out: nothing. Refuses blocks that the model does not have, and rows of another width; and models
that will be read and are nowhere. What is not known without fetching a model is not checked here: whoever opens it
checks again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.models.folder import CONFIG, read_config
from dragoman.models.resolve import cached, config_of
from dragoman.verbalizers import registry

# Text models in which a block knows nothing of how many come after it. The tests hold each, bit for bit.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2")
_WRAPPERS = ("gemma3",)  # multimodal ones whose text model is among them
_BLOCK = re.compile(r"(?:^|\.)layers\.(?P<number>\d+)\.(?P<rest>(?!.*rotary_emb\.).+)$")
# A vision tower has layers too; it is never called, so what becomes of it changes no word.
OF_VISION = re.compile(r"(?:^|\.)(?:vision_tower|vision_model|multi_modal_projector)\.")
HEAD = re.compile(r"(?:^|\.)lm_head\.weight$")
_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model")


class Sizes(NamedTuple):
    """Of a model; None where nothing tells it."""

    blocks: int | None
    width: int | None


def sizes_of(model: str) -> Sizes:
    """By the model's config.json, where that is on this machine, else by the registry of checkpoints."""
    folder = _folder(model)
    if folder is not None and (folder / CONFIG).is_file():
        return _told(read_config(folder))
    same = [c for c in registry.checkpoints() if registry.same_model(model, c.base)]
    blocks, widths = {c.n_blocks for c in same if c.n_blocks}, {c.d_model for c in same if c.d_model}
    return Sizes(blocks.pop() if len(blocks) == 1 else None, widths.pop() if len(widths) == 1 else None)


def _told(config: Mapping[str, object]) -> Sizes:
    text = config.get("text_config")
    told: Mapping[str, object] = {**config, **text} if isinstance(text, dict) else config
    return Sizes(_number(told, _BLOCKS), _number(told, _WIDTH))


def model_ref(site: Site) -> str:
    """How the model of a site is opened."""
    return f"{site.model}@{site.revision}" if site.revision else site.model


def readable_in_part(family: object, text_family: object) -> bool:
    """Whether models of a type, and of the text model in it, can be opened up to a block and give the same there."""
    return text_family in FAMILIES and (family == text_family or family in _WRAPPERS)


def place_of(name: str) -> tuple[int, str] | None:
    """The decoder block that a stored tensor belongs to, and its name there; None for all other tensors."""
    found = _BLOCK.search(name)
    return (int(found["number"]), found["rest"]) if found and not OF_VISION.search(name) else None


def check_place(site: Site, width: int | None = None, what: str = "directions") -> None:
    """Refuse a block that the model does not have, or rows of another width than its stream.

    Args:
        site: where something is said to live.
        width: of its rows; None where nobody knows yet.
        what: what lives there, for the sentence.

    Raises:
        Refusal: as said.
    """
    _refuse_place(site, width, what, sizes_of(site.model))


def check_read(site: Site, width: int | None = None, what: str = "directions") -> None:
    """The same of a model that will be opened, which has to be there: of the hub's, config.json alone is asked for.

    Raises:
        Refusal: as ``check_place``, and as ``resolve.config_of``.
    """
    config = config_of(model_ref(site))
    _refuse_place(site, width, what, _told(config) if config else sizes_of(site.model))


def _refuse_place(site: Site, width: int | None, what: str, sizes: Sizes) -> None:
    blocks, own = sizes
    if blocks is not None and site.block >= blocks:
        raise Refusal(f"{what} at {site}", f"{site.model} has {blocks} blocks", f"name one from 0 to {blocks - 1}")
    if own is not None and width is not None and own != width:
        why = f"they are {width} wide, and the stream of {site.model} is {own} wide"
        raise Refusal(f"{what} at {site}", why, "name the model that they were made for")


def _folder(model: str) -> Path | None:
    """Its folder, where it is here; nothing is fetched or converted for it."""
    if model in tiny.MODELS:
        return None
    try:
        path = Path(model).expanduser()
        return path if path.is_dir() else cached(model)
    except (OSError, ValueError, RuntimeError):  # a name that is none is refused by whoever opens it
        return None


def _number(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    found = next((config[name] for name in names if name in config), None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None
