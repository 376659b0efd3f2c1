"""``dragoman doctor``: examine a dictionary, a verbalizer and what lies between them, before their words are believed.

In: references. Out: findings (or JSON) on stdout; exit code 1 if one of them is a fault. Refuses a call that
names nothing to examine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import console, put_record
from dragoman.commands.words import (
    EXPLAINED,
    MACHINE,
    VERBALIZER,
    ArrayKey,
    Base,
    ContractName,
    Device,
    Dtype,
    Lying,
    Settings,
    TopK,
    folder_path,
    named,
    settings_from,
)
from dragoman.core import Refusal, Site

if TYPE_CHECKING:
    from dragoman.doctor import Finding


def doctor(
    sae: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="SAE",
            rich_help_panel=EXPLAINED,
            help="Dictionary: tiny-sae, a folder, sae:RELEASE/SAE_ID or hf:ORG/REPO/PATH.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="MODEL:BLOCK",
            rich_help_panel=EXPLAINED,
            help="Where the directions live; default: what the dictionary says.",
        ),
    ] = None,
    key: ArrayKey = None,
    orientation: Lying = None,
    k: TopK = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            parser=folder_path,
            metavar="FILE",
            rich_help_panel=EXPLAINED,
            help="Texts for the source model (.txt, .jsonl, .gz); default: six of our own.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="AV",
            rich_help_panel=VERBALIZER,
            help="Verbalizer: tiny-gemma-av, a folder, or a hub id (ORG/NAME, ORG/NAME/FOLDER).",
        ),
    ] = None,
    native: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="AV",
            rich_help_panel=VERBALIZER,
            help="A verbalizer of the source model, examined too.",
        ),
    ] = None,
    contract: ContractName = None,
    setting: Settings = None,
    base: Base = None,
    ar: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="AR",
            rich_help_panel=VERBALIZER,
            help="A reconstructor (text back to vector); only its files are checked.",
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=MACHINE, help="Findings as JSON.")] = False,
) -> None:
    """Examine a dictionary and a verbalizer for what goes wrong in silence, before you believe their words.

    Each finding says what was measured, against what, and what to do; the exit code is 1 if one is a fault.

    Without options it examines the two small models that ship.
    """
    from dragoman.doctor import examine, open_subject
    from dragoman.models.load import check_device
    from dragoman.models.sizes import check_read
    from dragoman.store import read_texts

    if not any((sae, by, source, native, ar)):
        sae, by, native = "tiny-sae", "tiny-gemma-av", "tiny-smollm2-av"
    if source and not sae and not by:
        raise Refusal("doctor", "a source alone says nothing about a dictionary or a verbalizer", "pass --sae or --by")
    check_device(device)
    if source is not None:
        check_read(Site.parse(source))
    started = time.monotonic()
    found = examine(
        open_subject(
            sae=sae,
            sae_how={"key": key, "orientation": orientation, "k": k},
            by=by,
            source=source,
            contract=contract,
            settings=settings_from(setting or []),
            base=base,
            ar=ar,
            texts=read_texts(texts) if texts else None,
            dtype=dtype,
            device=device,
        )
    )
    if native is not None:
        found += examine(open_subject(by=native, dtype=dtype, device=device))
    _tell(found, time.monotonic() - started, as_json=as_json)


def _tell(found: list[Finding], seconds: float, *, as_json: bool) -> None:
    """Findings on stdout, and exit code 1 if one is a fault."""
    from dragoman.doctor.finding import as_json as jsoned
    from dragoman.doctor.finding import faults, sheet

    if as_json:
        put_record("findings", jsoned(found, seconds), indent=1)
    else:
        console().print(sheet(found, seconds))
    if faults(found):
        raise typer.Exit(1)
