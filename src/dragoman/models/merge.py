"""Add a LoRA adapter to the weights of its base, and check that the sum computes what PEFT computes unmerged.

In: a base model, an adapter's folder (or, for reconstructors, PEFT's tuner with the adapter in it). Out: the model with
the adapter in its weights, and how far it is from PEFT's own answers on a few tokens. Refuses adapters that are no
LoRA, that do not fit, that PEFT cannot merge, and sums that compute something else.

Weights that several modules share (input and output embeddings of a tied model) are parted before an adapter is
added: PEFT unmerged adapts one module and leaves the other as it is.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dragoman.core import Refusal
from dragoman.models.adapters import ADAPTER_WEIGHTS, check_places, read_settings, refuse_settings
from dragoman.models.load import hidden_of, text_stack
from dragoman.models.sizes import OF_VISION
from dragoman.store import ArraysFile
from dragoman.store.spans import shown

ROWS, TOKENS = 3, 4  # of what is read before and after merging: one prefill of a dozen tokens
# Largest relative error that rounding explains: of one layer's output on the same input, and of the model's. In half
# precision the model's grows with its depth (0.23 after 18 blocks of honest sums), so there the layers decide.
LIMITS = {torch.float32: (1e-4, 1e-3), torch.float16: (3e-3, 0.2), torch.bfloat16: (2e-2, 1.0)}
WRAPPERS = r"(?:(?:base_model|backbone|model|language_model|text_model)\.)*"
_PEFT = "base_model.model."
# What PEFT raises on settings and tensors that it cannot use.
_RAISED = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ImportError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a merged model compares with PEFT unmerged on the same tokens.

    ``layer``: the adapted layer that is farthest off and ``error``: its output's relative error, same input; ``limit``:
    what rounding explains. ``whole`` and ``whole_limit``: the same of the whole model's output.
    """

    layer: str
    error: float
    limit: float
    whole: float
    whole_limit: float

    @property
    def holds(self) -> bool:
        """Whether both errors are within their limits; what is no number is not."""
        return self.error <= self.limit and self.whole <= self.whole_limit


class Unmerged:
    """What a model with an adapter carried along answers on a few tokens: kept to compare the merged one with."""

    def __init__(self, net: Any, what: str, *, tokens: Iterable[int] = ()) -> None:
        """Read a few tokens, ``tokens`` among them, with a base model that has PEFT's layers in it, unwrapped."""
        self._what, self._ids = what, _ids(net, tokens)
        ends = [net.get_input_embeddings(), net.get_output_embeddings()]
        self._calls: dict[str, tuple[tuple[Any, ...], dict[str, object], torch.Tensor]] = {}
        handles, above = [], "\0"
        for name, module in net.named_modules():
            if (_adapted(module) or any(module is end for end in ends)) and not name.startswith(above):
                above = f"{name}."
                handles.append(module.register_forward_hook(self._keep(name), with_kwargs=True))
        try:
            self._whole = self._answer(net)
        finally:
            for handle in handles:
                handle.remove()
        if not torch.isfinite(self._whole).all():
            raise Refusal(
                what,
                f"with its adapter the model's outputs in {str(self._whole.dtype).removeprefix('torch.')} are not "
                "finite numbers",
                "use bfloat16 or float32",
            )

    def _keep(self, name: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, object], output: Any) -> None:
            self._calls[name] = args, kwargs, hidden_of(output).clone()

        return hook

    def _answer(self, net: Any) -> torch.Tensor:
        with torch.inference_mode():
            return net(input_ids=self._ids, use_cache=False)[0]

    def compared(self, net: Any) -> Agreement:
        """How far a merged model is from this one; refuse one that rounding does not explain."""
        limit, whole_limit = LIMITS[self._whole.dtype]
        whole = _error(self._answer(net), self._whole)
        errors = {"": 0.0}
        with torch.inference_mode():
            for name, (args, kwargs, output) in self._calls.items():
                errors[name] = _error(hidden_of(net.get_submodule(name)(*args, **kwargs)), output)
        # NaN is larger than any number here.
        layer = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
        found = Agreement(layer=layer, error=errors[layer], limit=limit, whole=whole, whole_limit=whole_limit)
        if not found.holds:
            raise Refusal(
                self._what,
                f"merged into its base, its adapter does not compute what PEFT computes unmerged (largest relative "
                f"error of a layer {found.error:.2g} in {layer}, at most {limit:g}; of the output {whole:.2g}, at most "
                f"{whole_limit:g})",
                "use its authors' merged model",
            )
        return found


def merge_adapter(net: Any, folder: Path, what: str, device: str) -> tuple[Any, Agreement]:
    """The base model with a LoRA adapter added to its weights; refuse one that does not fit, whole or in part.

    Merged rather than carried along, in every dtype: one product per layer instead of three. The update is computed
    in float32 and the sum rounded once.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    settings = read_settings(folder)
    if settings.get("peft_type") != "LORA":
        kind = shown(settings.get("peft_type"))
        raise Refusal(what, f"its adapter is of type {kind}, not LoRA", "merge it into its base")
    check_places(settings, folder)
    refuse_settings(settings, what, plain=False)
    tensors = _tensors(folder / ADAPTER_WEIGHTS, device)
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        # No initialisation that is let through matters once the tensors are in place; this one adds nothing before.
        config.inference_mode, config.init_lora_weights = True, True
        own, trained = _prefixes(net, tensors)
        if own != trained:
            tensors = {name_here(name, own, trained): tensor for name, tensor in tensors.items()}
            settle_names(config, net, own, trained)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tied weights and of tensors without a place; both are met
            adapted: Any = PeftModel(net, config)
            placed = set_peft_model_state_dict(adapted, tensors, "default")
    except _RAISED as err:
        why = f"its adapter does not fit the base model ({' '.join(str(err).split())[:160]})"
        raise Refusal(what, why, "use the base model the adapter was trained on") from err
    missing, extra = _of_text(_unset(adapted, placed.missing_keys)), _of_text(placed.unexpected_keys)
    if missing or extra:
        why = f"{len(missing)} of its adapter's tensors are missing and {len(extra)} have no place in the base"
        raise Refusal(what, why, "use the base model the adapter was trained on")
    merged, agreement = merged_alike(adapted.eval(), adapted.get_base_model(), what, tokens=_trained_tokens(config))
    return merged.eval().requires_grad_(False), agreement


def merged_alike(adapted: Any, net: Any, what: str, *, tokens: Iterable[int] = ()) -> tuple[Any, Agreement]:
    """Merge, and compare with what was computed before merging.

    ``adapted``: PEFT's model or tuner, in eval mode. ``net``: the module inside it whose output is compared; PEFT's
    layers are replaced in place. ``tokens``: ids that must be among those read.
    """
    before = Unmerged(net, what, tokens=tokens)
    _part_shared(net)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns that weights are no longer tied: they were parted above
            merged = adapted.merge_and_unload(safe_merge=True)
    except _RAISED as err:
        why = f"PEFT cannot merge its adapter ({' '.join(str(err).split())[:160]})"
        raise Refusal(what, why, "use its authors' merged model") from err
    return merged, before.compared(net)


def _adapted(module: object) -> bool:
    """Whether it is a layer that PEFT put around one of the base's."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)


def _part_shared(net: Any) -> None:
    """Give each module its own copy of a weight that it shares with a module PEFT adapts."""
    adapted = {id(p) for module in net.modules() if _adapted(module) for p in module.parameters()}
    met: set[int] = set()
    for module in net.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in met and id(weight) in adapted:
                setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
            met.add(id(weight))


def _ids(net: Any, tokens: Iterable[int]) -> torch.Tensor:
    """A few ids spread over the first half of the vocabulary (images' ids stand at its ends), and those asked for."""
    table = net.get_input_embeddings().weight
    rows, count = len(table), ROWS * TOKENS
    ids = [(k + 1) * rows // (2 * count + 2) for k in range(count)]
    asked = sorted({t for t in tokens if 0 <= t < rows})[:count]
    asked += ids[: -len(asked) % TOKENS]
    return torch.tensor(ids + asked, device=table.device).reshape(-1, TOKENS)


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    got, wanted = got.double(), wanted.double()
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-300))


def _tensors(path: Path, device: str) -> dict[str, torch.Tensor]:
    """The adapter's tensors; pickles beside them are not read."""
    if not path.is_file():
        raise Refusal(f"{path.parent}", f"the folder holds no {path.name}", "download the adapter's weights")
    ArraysFile(path)
    try:
        return load_file(path, device=device)
    except SafetensorError as err:
        raise Refusal(f"{path}", f"it is not a whole safetensors file ({err})", "get the file again") from err


def _trained_tokens(config: Any) -> list[int]:
    """Ids whose rows the adapter itself trained."""
    stated = config.trainable_token_indices or []
    lists = stated.values() if isinstance(stated, dict) else [stated]
    return [int(token) for one in lists for token in one]


def _unset(adapted: Any, missing: Iterable[str]) -> list[str]:
    """The adapter's own tensors that no file gave; one that shares its numbers with a tensor that was given is set."""
    lacking = set(missing)
    places = dict(adapted.named_parameters(remove_duplicate=False))
    given = {id(place) for name, place in places.items() if name not in lacking}
    own = (name for name in sorted(lacking) if "lora_" in name or "default" in name.split("."))
    return [name for name in own if id(places.get(name)) not in given]


def _of_text(keys: Iterable[str]) -> list[str]:
    """Without those of a vision tower: trainers adapt it by accident, transformers renames it, no text passes it."""
    return [key for key in keys if not OF_VISION.search(key)]


def _prefixes(net: Any, names: Iterable[str]) -> tuple[str, str]:
    """What stands before the text model's modules here, and in an adapter's tensors; equal where these differ more."""
    stack = text_stack(net)
    own = next(f"{name}." if name else "" for name, module in net.named_modules() if module is stack)
    return own, trained_prefix((name.removeprefix(_PEFT) for name in names), own)


def trained_prefix(names: Iterable[str], own: str) -> str:
    """What stands before ``layers.`` in the modules an adapter was trained on; ``own`` where no one answer is known.

    A text model alone has ``model.``, one inside a multimodal model ``model.language_model.`` or, before
    transformers 4.52, ``language_model.model.``.
    """
    places = (re.match(rf"({WRAPPERS})(?:layers\.\d+|embed_tokens|norm)\.", name) for name in _of_text(names))
    found = {place[1] for place in places if place}
    return next(iter(found)) if len(found) == 1 else own


def name_here(name: str, own: str, trained: str) -> str:
    """An adapter's tensor by the name it has on this base."""
    outer = _PEFT if name.startswith(_PEFT) else ""
    inner = name.removeprefix(outer)
    if inner.startswith(trained) and not OF_VISION.search(inner):
        rest = inner.removeprefix(trained)
        if re.match(r"(?:layers\.\d+|embed_tokens|norm)\.", rest):
            return f"{outer}{own}{rest}"
    return outer + re.sub(rf"^{WRAPPERS}lm_head\.", "lm_head.", inner)


def settle_names(config: Any, net: Any, own: str, trained: str) -> None:
    """Turn patterns of an adapter's settings, which mean the names of training, into plain names of this base."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    then = {}
    for name, _module in net.named_modules():
        if name.startswith(own) and name != own.rstrip(".") and not OF_VISION.search(name):
            then[name] = trained + name.removeprefix(own)
        elif name.rpartition(".")[2] == "lm_head":
            then[name] = name
    if config.target_modules is not None and config.target_modules != "all-linear":
        config.target_modules = {here for here, there in then.items() if check_target_module_exists(config, there)}
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    for pattern in ("rank_pattern", "alpha_pattern"):
        stated: dict[str, object] = getattr(config, pattern) or {}
        keys = {here: get_pattern_key(list(stated), there) for here, there in then.items()}
        setattr(config, pattern, {re.escape(here): stated[key] for here, key in keys.items() if key in stated})

    # PEFT takes every module whose name ends so; a vision tower's must not be among them.
    if config.modules_to_save:
        ends = tuple(config.modules_to_save)
        config.modules_to_save = [here for here, there in then.items() if there.endswith(ends)]
    if isinstance(config.trainable_token_indices, dict):
        stated = config.trainable_token_indices
        keys = {here: next((k for k in stated if there.endswith(k)), None) for here, there in then.items()}
        config.trainable_token_indices = {here: stated[key] for here, key in keys.items() if key is not None}
    config.target_parameters = config.target_parameters and [
        own + name.removeprefix(trained) if trained and name.startswith(trained) else name
        for name in config.target_parameters
    ]
