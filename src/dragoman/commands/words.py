"""Options that several commands share, and their words as values.

In: ``NAME=VALUE``, ids with commas. Out: a contract's settings, ids. Refuses words of another form, empty ids, and
what is given twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dragoman.core import Refusal
from dragoman.store.spans import shown

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


ArrayKey = Annotated[str | None, typer.Option("--key", help="Which array of a file of vectors that holds several.")]
Lying = Annotated[
    Literal["rows", "columns"] | None,
    typer.Option(
        "--orientation", help="Which way the dictionary's features lie in its decoder, where its files do not show it."
    ),
]
Width = Annotated[
    int | None, typer.Option("--d-model", help="Width of the stream, where a file of vectors does not show it.", min=1)
]
TopK = Annotated[int | None, typer.Option("--k", help="Features a TopK keeps, where its files do not say.", min=1)]


def features_from(words: str | None) -> tuple[str, ...]:
    """Ids between commas; none where nothing was said.

    Raises:
        Refusal: an id is empty, or stands there twice.
    """
    if words is None:
        return ()
    ids = [word.strip() for word in words.split(",")]
    if "" in ids:
        raise Refusal(
            f"features '{shown(words)}'",
            "an id is empty",
            "write ids with a comma between them, such as --features 982,1748, or leave --features out for all",
        )
    twice = next((name for place, name in enumerate(ids) if name in ids[:place]), None)
    if twice is not None:
        raise Refusal(f"features '{shown(words)}'", f"{shown(twice)} is there twice", "name every feature once")
    return tuple(ids)


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
