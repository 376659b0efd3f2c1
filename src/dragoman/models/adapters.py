"""What ``adapter_config.json`` says of a LoRA adapter, looked at before PEFT acts on it.

In: an adapter's folder. Out: its settings, and the model that they name. Refuses files that are no JSON object, fields
of another type, ranks that the weights do not have, patterns of module names that could take for ever, initialisations
that change the base, settings whose effect cannot be merged or is not known, and bases that are quantised. Verbalizers
and reconstructors keep to one table of settings; reconstructors read the plain sum of A and B alone
(`reconstruct.contract`).
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.models.folder import ADAPTER, ADAPTER_WEIGHTS
from dragoman.models.resolve import HubPlace, hub_place
from dragoman.store import ArraysFile, read_json
from dragoman.store.spans import shown
from dragoman.verbalizers.sidecar import Natural, Part, Width, checked

_LORA_A = re.compile(r"\.lora_(?:embedding_)?A(?:\.default)?(?:\.weight)?$")
# A pattern of names is tried on every module; these are what makes one take for ever.
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
_REPEATED = re.compile(r"(?<!\\)[*+{]")
_MOST_REPEATED = 4
_MOST_NAMES = 20_000  # PEFT holds each of them against each module
# What the plain sum of A and B is told by.
PLAIN = (
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
)
# What PEFT does beyond it, can be merged, and is checked after merging.
_BEYOND = ("bias", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters")
# What changes nothing that a trained adapter computes; the configurations of initialisations are read with them.
_WITHOUT_EFFECT = (
    "peft_type",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "init_lora_weights",
)
# Initialisations that leave the base as it is. The others (pissa, olora, corda, loftq, lora_ga) take something off it.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_QUANTISED = ("quantization_config", "compression_config", "quantization")


class Places(Part):
    """How large an adapter's matrices are and where they go."""

    r: Width | None = None
    target_modules: str | list[str] | None = None
    rank_pattern: dict[str, Width] | None = None
    alpha_pattern: dict[str, float] | None = None
    layers_to_transform: Natural | list[Natural] | None = None
    layers_pattern: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None


def read_settings(folder: Path) -> dict[str, object]:
    """``adapter_config.json`` as it is written; refuse one that is missing, is not JSON, or is no object."""
    path = folder / ADAPTER
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise Refusal(f"{path}", "it is not a mapping of names to values", "get the published file again")
    return settings


def named_base(settings: Mapping[str, object], path: Path) -> str | None:
    """The model that an adapter's settings say it sits on, a repository at the revision they say.

    ``path``: the settings' file, for refusals. None where they name no model.
    """
    named, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not named:
        return None
    place = hub_place(str(named))
    here = os.path.exists(str(named))  # noqa: PTH110 (a name that no file can have is no folder here)
    if revision in (None, "", "main") or place is None or place.revision or here:
        return str(named)
    at = f"{place.repo}@{revision}" + (f"/{place.inside}" if place.inside else "")
    if not isinstance(revision, str) or hub_place(at) != HubPlace(place.repo, revision, place.inside):
        raise Refusal(f"{path}", f"its revision '{shown(revision)}' is none", "name the revision of its base")
    return at


def check_places(settings: dict[str, object], folder: Path) -> None:
    """Refuse the settings of a LoRA adapter that PEFT could choke on, as the module says."""
    path = folder / ADAPTER
    told = checked(Places, settings, f"{path}")
    for name, value in told:
        if isinstance(value, list | dict) and len(value) > _MOST_NAMES:
            why = f"its {name} has {len(value)} entries, and no model has modules for more than {_MOST_NAMES}"
            raise Refusal(f"{path}", why, "get the published file again")
    patterns = [told.target_modules, told.exclude_modules, told.layers_pattern]
    refuse_slow([p for p in patterns if isinstance(p, str)], path)
    # PEFT reads these lists as patterns too.
    lists = [told.modules_to_save, told.layers_pattern if isinstance(told.layers_pattern, list) else None]
    refuse_slow([p for patterns in lists for p in patterns or ()], path)
    refuse_slow([*(told.rank_pattern or {}), *(told.alpha_pattern or {})], path)
    ranks = [*([] if told.r is None else [told.r]), *(told.rank_pattern or {}).values()]
    if ranks and (folder / ADAPTER_WEIGHTS).is_file():
        refuse_rank(ranks, folder / ADAPTER_WEIGHTS, path)


def refuse_settings(settings: Mapping[str, Any], what: str, *, plain: bool) -> None:
    """Refuse settings that cannot be merged, or that nothing here knows: left out they would give other answers.

    ``what``: whose refusal it is. ``plain``: whether the sum of A and B is all that may be told.
    """
    known = {*PLAIN, *_WITHOUT_EFFECT, *(() if plain else _BEYOND)}
    told = {name: value for name, value in settings.items() if value and not (name == "bias" and value == "none")}
    odd = sorted(shown(name) for name in told if name not in known)
    if odd:
        why = "is not plain LoRA (bias)" if odd[0] == "bias" else f"uses {odd[0]}, which is not merged here"
        raise Refusal(what, f"its adapter {why}", "use its authors' merged model, or an adapter trained without it")
    start = settings.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _STARTS:
        raise Refusal(
            what,
            f"its adapter uses init_lora_weights={shown(start)}, which changes its base's weights at every load",
            "convert it to plain LoRA (PEFT's save_pretrained with path_initial_model_for_weight_conversion), "
            "or use its authors' merged model",
        )


def refuse_quantised(folder: Path, what: str) -> None:
    """Refuse a quantised base before it is loaded: the sum of weights and update would be quantised once more."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    for part in (config, config.get("text_config") if isinstance(config, dict) else None):
        stated = next((part[name] for name in _QUANTISED if part.get(name)), None) if isinstance(part, dict) else None
        if stated:
            method = stated.get("quant_method") if isinstance(stated, dict) else None
            raise Refusal(
                what,
                f"its base {folder.name} is quantised ({shown(method or 'by its config.json')}), "
                "and an adapter is merged into whole weights only",
                "name the model it was quantised from with --base",
            )


def scale_of(settings: Mapping[str, Any], module: str) -> float:
    """What B times A is multiplied by in a module: alpha over rank, or over its root for rank-stabilised adapters."""
    rank = _own(settings.get("rank_pattern"), module, settings.get("r", 1))
    alpha = _own(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 1))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _own(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> float:
    """A module's own value where a pattern has one: the first that is found, as PEFT does."""
    found = (v for k, v in (pattern or {}).items() if re.match(rf"(.*\.)?({k})$", module))
    return float(next(found, otherwise))


def refuse_rank(ranks: Iterable[int], weights: Path, path: Path) -> None:
    """Refuse ranks that the weights do not have: room for them is made before the weights are put there."""
    shapes = ArraysFile(weights).shapes
    there = max((shape[0] for name, shape in shapes.items() if _LORA_A.search(name) and len(shape) > 1), default=0)
    if max(ranks) > there:
        why = f"it states rank {max(ranks)}, {weights.name} has rank {there}"
        raise Refusal(f"{path}", why, "use files of one checkpoint")


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
            why = f"its pattern '{shown(pattern)}' is no plain pattern of module names"
            raise Refusal(f"{path}", why, "list the modules")


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
