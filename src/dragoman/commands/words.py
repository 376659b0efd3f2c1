"""Options that several commands share, and their words as values.

In: ``NAME=VALUE``. Out: a contract's settings. Refuses words of another form, and a setting given twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dragoman.core import Refusal

ContractName = Annotated[
    str | None,
    typer.Option(
        help="How the verbalizer is fed: kitft, karvonen, oracle or universal; needed where neither its own "
        "files nor dragoman's registry say."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        help="What the contract leaves open, NAME=VALUE (block=20, norm=150, 'question=...'); may be repeated."
    ),
]


ConfidenceFile = Annotated[
    Path | None,
    typer.Option(
        "--confidence", help="File of fitted confidences: how likely each text is right; default: those that ship."
    ),
]


def settings_from(words: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as a dictionary; values are JSON where they can be, else text.

    Raises:
        Refusal: a word is not of that form, or a name stands there twice.
    """
    out: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise Refusal(f"setting '{word}'", "it is not NAME=VALUE", "write for example --setting norm=150")
        if name in out:
            raise Refusal(f"setting '{word}'", f"{name} is given twice", "give it once")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out
