"""How a published checkpoint is opened: what a person says, and else what dragoman's registry knows.

In: a reference, and what is said of it. Out: the arguments of `decode.Verbalizer`, the layout of a reconstructor.
Refuses words that contradict the registry, checkpoints of which neither knows enough, and repositories that hold the
checkpoint in a folder further down.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.models.resolve import hub_place
from dragoman.verbalizers import registry


def how_fed(ref: str, contract: str | None, settings: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """``contract``, ``settings`` and ``base`` of a verbalizer: what is said, and else what the registry knows.

    Raises:
        Refusal: the registry is sure and is contradicted; or not sure, and nobody says; or knows that the verbalizer
            lies in a sub-folder of its repository.
    """
    known = registry.find(ref)
    if known is None:
        return {"contract": contract, "settings": settings or None, "base": base}
    _refuse_top(f"verbalizer {ref}", ref, known.folder, known.ref)
    if known.usable:
        stated = {"contract": known.contract, **known.settings}
        given = {**({"contract": contract} if contract else {}), **settings}
        odd = next((name for name in given if name in stated and given[name] != stated[name]), None)
        if odd:
            raise Refusal(
                f"{odd} {given[odd]!r} for {ref}",
                f"it was trained with {odd} {stated[odd]!r}, as dragoman's registry knows",
                "leave it out, or, where the registry is wrong, pass a copy of the checkpoint in a folder of your own",
            )
    return {
        "contract": contract or registry.contract_of(ref),
        "settings": {**known.settings, **settings} or None,
        "base": base or known.switches.stacked_on,
    }


def layout_of(ref: str, layout: str | None) -> str:
    """The layout of a reconstructor: what is said, and else what the registry knows.

    Raises:
        Refusal: nobody knows it, the registry knows another one, or the reconstructor's folder in the repository.
    """
    known = registry.find(ref)
    if known is not None:
        _refuse_top(f"reconstructor {ref}", ref, known.ar_folder, known.reader_ref)
    sure = known.reader_layout if known else None
    if layout and sure and layout != sure:
        raise Refusal(
            f"layout '{layout}' for {ref}", f"it is laid out as {sure}, as dragoman's registry knows", "leave it out"
        )
    named = layout or sure
    if named is None:
        raise Refusal(
            f"reconstructor {ref}",
            "its layout is not known, and its files do not say",
            "pass --ar-layout kitft or --ar-layout easynla, as its authors say",
        )
    return named


def _refuse_top(what: str, ref: str, folder: str | None, whole: str | None) -> None:
    """Refuse a repository by its bare name where the checkpoint lies in a folder of it."""
    place = hub_place(ref)
    if folder and place and not place.inside and not Path(ref).exists():
        raise Refusal(what, f"it lies in a folder of that repository, {folder}", f"use {whole}")
