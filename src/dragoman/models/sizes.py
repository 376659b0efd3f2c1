"""How many blocks a model has and how wide its stream is, without opening it; what cannot live there is refused early.

In: a site, a width. Out: nothing. Refuses blocks that the model does not have, and rows of another width. What is not
known without fetching a model is not checked here: whoever opens it checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.models.folder import CONFIG, read_config
from dragoman.models.resolve import cached
from dragoman.verbalizers import registry

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
        config = read_config(folder)
        text = config.get("text_config")
        told: Mapping[str, object] = {**config, **text} if isinstance(text, dict) else config
        return Sizes(_number(told, _BLOCKS), _number(told, _WIDTH))
    same = [c for c in registry.checkpoints() if registry.same_model(model, c.base)]
    blocks, widths = {c.n_blocks for c in same if c.n_blocks}, {c.d_model for c in same if c.d_model}
    return Sizes(blocks.pop() if len(blocks) == 1 else None, widths.pop() if len(widths) == 1 else None)


def check_place(site: Site, width: int | None = None, what: str = "directions") -> None:
    """Refuse a block that the model does not have, or rows of another width than its stream.

    Args:
        site: where something is said to live.
        width: of its rows; None where nobody knows yet.
        what: what lives there, for the sentence.

    Raises:
        Refusal: as said.
    """
    blocks, own = sizes_of(site.model)
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
