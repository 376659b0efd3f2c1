"""``dragoman serve``: explanations over HTTP, from one verbalizer that stays open, on this machine alone.

In: words of the command line. Out: a server on 127.0.0.1 until it is ended. Refuses what opening refuses, a port that
is taken, and a server where the libraries for it are not installed.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from dragoman.commands.printing import put, talking, tell
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    VERBALIZER,
    Base,
    ConfidenceFile,
    ContractName,
    Device,
    Dtype,
    Labels,
    MapKind,
    MaxTexts,
    ReadingOf,
    ResidPre,
    Settings,
    Source,
    TextColumn,
    Texts,
    folder_path,
    named,
    settings_from,
)
from dragoman.core import Site
from dragoman.store.libraries import refuse_absent

_SERVER = ("fastapi", "uvicorn", "prometheus_client")
BOUNDS = "Bounds of requests"


def serve(
    sae: Annotated[
        str | None,
        typer.Argument(
            metavar="SAE",
            callback=named,
            help="Dictionary whose features may be asked for, as of explain; without one name --source, and ask for "
            "vectors or prompts.",
        ),
    ] = None,
    source: Source = None,
    labels: Labels = None,
    resid_pre: ResidPre = False,
    prompts: Annotated[
        bool,
        typer.Option(
            "--prompts",
            rich_help_panel=EXPLAINED,
            help="Prompts may be asked for too; opens the source's model, which reads them.",
        ),
    ] = False,
    by: Annotated[
        str,
        typer.Option(callback=named, metavar="AV", rich_help_panel=VERBALIZER, help="Verbalizer, as of explain."),
    ] = "tiny-gemma-av",
    contract: ContractName = None,
    setting: Settings = None,
    base: Base = None,
    through: Annotated[
        Path | None,
        typer.Option(
            parser=folder_path,
            metavar="CROSSING",
            rich_help_panel=CROSSES,
            help="A crossing that dragoman fit wrote; else one is fitted before the first answer.",
        ),
    ] = None,
    reading: ReadingOf = None,
    route: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=CROSSES, help="In place of the readings, as of explain."),
    ] = None,
    map_kind: MapKind = None,
    washout: Annotated[str, typer.Option(metavar="SHARE", rich_help_panel=CROSSES, help="As of explain.")] = "on-shell",
    texts: Texts = None,
    text_column: TextColumn = None,
    max_texts: MaxTexts = None,
    confidence: ConfidenceFile = None,
    port: Annotated[
        int,
        typer.Option(metavar="N", help="Port on this machine; 0 takes any that is free.", min=0, max=65535),
    ] = 8766,
    most_vectors: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=4096, rich_help_panel=BOUNDS, help="Features, vectors or tokens in one request."
        ),
    ] = 64,
    most_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=32_768, rich_help_panel=BOUNDS, help="Of one explanation.")
    ] = 512,
    waiting: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=1000, rich_help_panel=BOUNDS, help="Requests that may wait for the one verbalizer."
        ),
    ] = 8,
    seconds: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=86_400, rich_help_panel=BOUNDS, help="Until a request is given up."),
    ] = 600,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Answer requests for explanations over HTTP, on this machine alone, from a verbalizer that stays open.

    POST /explain takes features, vectors or prompts; GET /health, /metrics and /openapi.json tell the rest. One request
    is worked on at a time.
    """
    from dragoman.runs.options import Options

    refuse_absent("the service", *_SERVER, extra="serve")
    if sae is None and source is None:
        raise typer.BadParameter("Name an SAE, or a site with --source.", param_hint="'SAE'")
    kind: Any = map_kind  # words that are none are refused by Options
    asked: Any = reading
    by_route: Any = route
    options = Options(map="aligned" if kind is None else kind, reading=asked, route=by_route, washout=washout)
    stated, fed = Site.parse(source) if source is not None else None, settings_from(setting or [])
    from dragoman.dictionaries import open_dictionary
    from dragoman.models.load import check_device
    from dragoman.runs.opened import Opened
    from dragoman.runs.texts import Texts as BothTexts
    from dragoman.serving.app import serve as answer
    from dragoman.serving.asked import Bounds
    from dragoman.view.here import HOST, bound

    check_device(device)
    read = BothTexts.read(texts, column=text_column, most=max_texts)
    bounds = Bounds(vectors=most_vectors, tokens=most_tokens, waiting=waiting, seconds=seconds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with all that has to be let go
    with bound(port) as listening:
        with talking() as talk:
            what: Any = stated
            if sae is not None:
                what = open_dictionary(sae, labels=labels, resid_pre=resid_pre, site=stated)
            opened = Opened.open(
                what,
                by=by,
                through=through,
                contract=contract,
                settings=fed,
                base=base,
                texts=None if texts is None else read,
                options=options,
                prompts=prompts,
                confidence=confidence,
                dtype=dtype,
                device=device,
                talk=talk,
            )
        put(f"http://{HOST}:{listening.getsockname()[1]}/explain")
        tell("answers on this machine alone; see /openapi.json for what may be asked; Ctrl-C ends")
        with suppress(KeyboardInterrupt):
            answer(opened, listening, bounds)
