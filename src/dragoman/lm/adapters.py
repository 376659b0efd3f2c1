"""What ``adapter_config.json`` says of a LoRA adapter, looked at before PEFT acts on it.

In: an adapter's folder. Out: its settings. Refuses files that are no JSON object, fields of another type, ranks that
the weights do not have, and patterns of module names that could take for ever. Holds for verbalizers, which may use all
that PEFT can do, and for reconstructors, which may not (`reconstruct.files`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store import ArraysFile, read_json
from dragoman.store.spans import shown
from dragoman.verbalize.fields import Natural, Part, Width, checked

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA_A = re.compile(r"\.lora_(?:embedding_)?A(?:\.default)?(?:\.weight)?$")
# A pattern of names is tried on every module; these are what makes one take for ever.
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
_REPEATED = re.compile(r"(?<!\\)[*+{]")
_MOST_REPEATED = 4


class Places(Part):
    """How large an adapter's matrices are and where they go."""

    r: Width | None = None
    target_modules: str | list[str] | None = None
    rank_pattern: dict[str, Width] | None = None
    alpha_pattern: dict[str, float] | None = None
    layers_to_transform: Natural | list[Natural] | None = None
    layers_pattern: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None


def read_settings(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` as it is written.

    Raises:
        Refusal: it is missing, is not JSON, or is no object.
    """
    path = folder / ADAPTER
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise Refusal(f"{path}", "it is not a mapping of names to values", "get the published file again")
    return settings


def check_places(settings: dict[str, Any], folder: Path) -> None:
    """Refuse the settings of a LoRA adapter that PEFT could choke on, as the module says."""
    path = folder / ADAPTER
    told = checked(Places, settings, f"{path}")
    patterns = [told.target_modules, told.exclude_modules, told.layers_pattern]
    refuse_slow([p for p in patterns if isinstance(p, str)], path)
    refuse_slow([*(told.rank_pattern or {}), *(told.alpha_pattern or {})], path)
    ranks = [*([] if told.r is None else [told.r]), *(told.rank_pattern or {}).values()]
    if ranks and (folder / ADAPTER_WEIGHTS).is_file():
        refuse_rank(ranks, folder / ADAPTER_WEIGHTS, path)


def refuse_rank(ranks: Iterable[int], weights: Path, path: Path) -> None:
    """Refuse ranks that the weights do not have: room for them is made before the weights are put there."""
    shapes = ArraysFile(weights).shapes
    there = max((shape[0] for name, shape in shapes.items() if _LORA_A.search(name) and len(shape) > 1), default=0)
    if max(ranks) > there:
        raise Refusal(
            f"{path}", f"it states rank {max(ranks)}, {weights.name} has rank {there}", "use files of one checkpoint"
        )


def refuse_slow(patterns: Iterable[str], path: Path) -> None:
    """Refuse a pattern of module names that is none, or could take for ever to fail."""
    for pattern in patterns:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what re means to read otherwise some day is no plain pattern either
                re.compile(pattern)
            good = len(pattern) < 2000 and not _REPEATED_GROUP.search(pattern)
        except (re.error, RecursionError, OverflowError, Warning):
            good = False
        if not good or any(len(_REPEATED.findall(part)) > _MOST_REPEATED for part in _alternatives(pattern)):
            raise Refusal(
                f"{path}", f"its pattern '{shown(pattern)}' is no plain pattern of module names", "list the modules"
            )


def _alternatives(pattern: str) -> list[str]:
    """The parts of a pattern between the bars that stand in no bracket."""
    parts, depth = [""], 0
    for at, letter in enumerate(pattern):
        plain = at == 0 or pattern[at - 1] != "\\"
        depth += (letter == "(") - (letter == ")") if plain else 0
        if letter == "|" and plain and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
