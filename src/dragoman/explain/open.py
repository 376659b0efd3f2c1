"""From references to things: the dictionary's directions and labels, the verbalizers, the texts.

In: a ``Request``. Out: Directions with labels, open verbalizers, texts. Refuses references that lead nowhere, and
checkpoints whose contract nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dragoman import tiny
from dragoman.core import Directions, Refusal
from dragoman.dictionaries import Dictionary, Encoder, open_dictionary
from dragoman.explain.request import Request, Talk
from dragoman.models.decode import LocalVerbalizer
from dragoman.models.resolve import hub_place
from dragoman.store import read_jsonl, read_texts
from dragoman.verbalizers import registry


def open_for(request: Request) -> Dictionary:
    """The dictionary that is asked for, with the labels that are asked for.

    Raises:
        Refusal: whatever `open_dictionary` refuses.
    """
    return open_dictionary(
        request.dictionary,
        site=request.source,
        labels=request.labels,
        resid_pre=request.resid_pre,
        key=request.key,
        orientation=request.orientation,
        d_model=request.d_model,
        k=request.k,
    )


def encoder_of(dictionary: Dictionary) -> Encoder:
    """The dictionary's encoder, whole.

    Raises:
        Refusal: it cannot be read or used; the sentence says how to do without it.
    """
    with _without():
        return dictionary.need_encoder()


def refuse_unusable_encoder(dictionary: Dictionary, request: Request) -> None:
    """Refuse, before any model is opened for it, an encoder that could not be used later; only headers are read.

    Raises:
        Refusal: as ``encoder_of``, and of plain vectors where the route needs an encoder.
    """
    with _without():
        dictionary.check_encoder(required=request.route not in ("map", "auto"))


@contextmanager
def _without() -> Iterator[None]:
    """Refusals of an encoder, with the way to carry the dictionary's rows that needs none."""
    try:
        yield
    except Refusal as refusal:
        instead = f"{refusal.instead}, or carry its rows without an encoder: --map post --route map"
        raise Refusal(refusal.what, refusal.why, instead) from refusal


def tell_dead(directions: Directions, talk: Talk) -> None:
    """Say how many features were set aside because they have no direction."""
    dead, first = len(directions.dead), ", ".join(directions.dead[:5])
    if dead:
        more = ", ..." if dead > 5 else ""
        talk.say(
            f"set aside {dead} of {dead + len(directions)} features whose rows are zero and have no direction"
            f" ({first}{more})"
        )


def open_verbalizer(ref: str, request: Request, *, native: bool = False) -> LocalVerbalizer:
    """A verbalizer, fed as its sidecar says, as the registry knows, or as the request says (which is for ``by``)."""
    said = (None, {}, None) if native else (request.contract, request.settings, request.base)
    return LocalVerbalizer(ref, **how_fed(ref, *said), dtype=request.dtype, device=request.device)


def how_fed(ref: str, contract: str | None, settings: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """``contract``, ``settings`` and ``base`` of a verbalizer: what is said, and else what the registry knows.

    Raises:
        Refusal: the registry is sure and is contradicted; or not sure, and nobody says; or knows that the verbalizer
            lies in a sub-folder of its repository.
    """
    known = registry.find(ref)
    if known is None:
        return {"contract": contract, "settings": settings or None, "base": base}
    place = hub_place(ref)
    if known.folder and place and not place.inside and not Path(ref).exists():
        raise Refusal(
            f"verbalizer {ref}", f"it lies in a folder of that repository, {known.folder}", f"use {known.ref}"
        )
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


def default_texts(texts: str | None, split: str = "map") -> list[str]:
    """Texts of a file, or those that come with the embedded pair.

    ``split``: "map", a thousand sentences; "direct", nine thousand openings; "all", both.
    """
    if texts is not None:
        return read_texts(Path(texts))
    wanted = ("map", "direct") if split == "all" else (split,)
    rows = read_jsonl(tiny.data("tiny-documents"))
    return [row["text"] for name in wanted for row in rows if row["split"] == name]
