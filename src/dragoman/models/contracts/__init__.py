"""How published verbalizers want to be fed: one file, one contract, found by its file's name (a hyphen for its ``_``).

In: the name a person or the registry gives, and the file beside a checkpoint. Out: that contract, ready to feed.
Refuses unknown names, checkpoints whose file does not say which contract they want when nobody else does, and names
that the file contradicts. A contract hands the engine token ids, embeddings and hooks; the engine knows no names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from dragoman.core import Refusal
from dragoman.store.spans import meant, shown
from dragoman.verbalizers.sidecar import refuse_reader

if TYPE_CHECKING:
    from dragoman.models.contracts.base import CheckpointRequest, Contract

_NOT_CONTRACTS = ("base",)


def contract_names() -> tuple[str, ...]:
    """Names of all contracts, sorted; loads none of them."""
    return _names_in(tuple(__path__))


@cache
def _names_in(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Every opening of a checkpoint asks for each name some ten times: the folders are listed once."""
    found = (module.name for module in pkgutil.iter_modules(folders))
    return tuple(sorted(name.replace("_", "-") for name in found if name not in _NOT_CONTRACTS))


def contract_class(name: str) -> type[Contract]:
    """The contract of a name; refuse unknown ones.

    A contract's file holds exactly one class of its own that derives from ``Contract``.
    """
    if name not in contract_names():
        known = contract_names()
        raise Refusal(
            f"contract '{shown(name)}'", f"known are {', '.join(known)}", meant(str(name), known, "pass one of these")
        )
    from dragoman.models.contracts.base import Contract

    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (found,) = (
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Contract) and thing.__module__ == module.__name__
    )
    return found


def contract_for(request: CheckpointRequest, name: str | None) -> Contract:
    """The contract a checkpoint is fed by; ``name`` None takes the one that its file itself names, and no other.

    Raises:
        Refusal: nobody says which, or the name contradicts the file, or the contract lacks something.
    """
    stated = request.stated if name is None or request.has_file else {}
    if name is None:
        refuse_reader(stated, request.sidecar_name)
    named = stated.get("contract")  # no published sidecar has this field yet
    name = name or (named if isinstance(named, str) else _claimed(request, stated))
    chosen = contract_class(name)
    why = f"its sidecar names contract '{shown(named)}'" if named not in (None, name) else chosen.contradiction(stated)
    if why:
        raise Refusal(f"contract '{name}' for {request.sidecar_name}", why, "pass the contract it was trained in")
    return chosen(_with_settings(request, stated))


def _with_settings(request: CheckpointRequest, stated: Mapping[str, Any]) -> CheckpointRequest:
    """With the settings that its sidecar holds for whoever says none; refuse words that contradict them."""
    kept = stated.get("settings")
    if not isinstance(kept, Mapping) or not kept:
        return request
    odd = next((key for key in kept if key in request.settings and request.settings[key] != kept[key]), None)
    if odd is not None:
        why = f"it says {shown(odd)} {shown(kept[odd])}, and the setting says {shown(request.settings[odd])}"
        raise Refusal(request.sidecar_name, why, "leave the setting out")
    return replace(request, settings={**{str(key): value for key, value in kept.items()}, **request.settings})


def _claimed(request: CheckpointRequest, stated: Mapping[str, Any]) -> str:
    """The one contract whose own way of writing sidecars this is."""
    claiming = [name for name in contract_names() if contract_class(name).claims(stated)]
    if len(claiming) != 1:
        instead = f"pass --contract with one of {', '.join(contract_names())}, as the checkpoint's authors tell it"
        raise Refusal(request.sidecar_name, "the sidecar does not say which contract its vector is fed by", instead)
    return claiming[0]
