"""``dragoman explain``: a dictionary's features in the words of a verbalizer.

In: words of the command line. Out: a run folder, rows on stdout. Refuses what ``dragoman.explain`` refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dragoman.commands.printing import put, put_json, talking
from dragoman.commands.show import show_rows, with_scores
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    SAYS,
    VERBALIZER,
    ArrayKey,
    Base,
    Compile,
    ConfidenceFile,
    ContractName,
    Device,
    Dtype,
    Engine,
    Labels,
    Lying,
    MapKind,
    Out,
    ReadingOf,
    ResidPre,
    Sae,
    Seed,
    Settings,
    Source,
    Texts,
    TopK,
    Width,
    features_from,
    finite,
    folder_path,
    named,
    settings_from,
)
from dragoman.core import MOST_SAMPLES, MOST_TOGETHER, MOST_TOKENS, Site


def explain(
    sae: Sae,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            rich_help_panel=EXPLAINED,
            help="For example 982,1748; default: those the dictionary's name gives, or all.",
        ),
    ] = None,
    source: Source = None,
    key: ArrayKey = None,
    orientation: Lying = None,
    d_model: Width = None,
    k: TopK = None,
    labels: Labels = None,
    resid_pre: ResidPre = False,
    through: Annotated[
        Path | None,
        typer.Option(
            parser=folder_path,
            metavar="CROSSING",
            rich_help_panel=CROSSES,
            help="A crossing that dragoman fit wrote; else fit one.",
        ),
    ] = None,
    reading: ReadingOf = None,
    route: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=CROSSES,
            help="In place of the readings, one condition by this route to the verbalizer's model: map (fitted on "
            "texts read by both), direct (what it holds where the feature fires), blend, dictionary (direct, with "
            "other features held fixed), auto: each feature by map, direct or blend, as its diagnostics say, or "
            "as-is: unchanged, to a neighbouring block of the same model.",
        ),
    ] = None,
    map_kind: MapKind = None,
    washout: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=CROSSES,
            help="How much of that model's usual activation is mixed in: on-shell, none, projected, or the direction's "
            "share between 0 and 1.",
        ),
    ] = "on-shell",
    texts: Texts = None,
    by: Annotated[
        str,
        typer.Option(
            callback=named,
            metavar="AV",
            rich_help_panel=VERBALIZER,
            help="Verbalizer: tiny-gemma-av, a folder, or a hub id (ORG/NAME, ORG/NAME/FOLDER).",
        ),
    ] = "tiny-gemma-av",
    contract: ContractName = None,
    setting: Settings = None,
    base: Base = None,
    native: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="AV",
            rich_help_panel=VERBALIZER,
            help="A verbalizer of the source model itself, to compare with.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_SAMPLES,
            rich_help_panel=SAYS,
            help="Explanations per feature: the first the likeliest, the others drawn, to see how sure.",
        ),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            metavar="NUMBER",
            min=0.0,
            rich_help_panel=SAYS,
            help="What explanations are drawn at, but for the first of several; 0 is greedy. Default: 0 for one, 1 for "
            "several.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=MOST_TOKENS, rich_help_panel=SAYS, help="Longest answer, in tokens."),
    ] = 200,
    confidence: ConfidenceFile = None,
    out: Out = Path("runs/explain"),
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_TOGETHER,
            rich_help_panel=MACHINE,
            help="Directions handed over together. Default: what suits the engine.",
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    engine: Engine = "auto",
    compiled: Compile = False,
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="Rows on stdout as JSON lines.")
    ] = False,
) -> None:
    """Put a dictionary's features into the words of a verbalizer, of another model or of their own.

    The doctor looks at the verbalizers first, and a fault ends it there. Writes rows and a page into a folder.
    """
    from dragoman.dictionaries import open_dictionary
    from dragoman.maps import Crossing
    from dragoman.models.engines import check_engine
    from dragoman.models.load import check_device
    from dragoman.runs.explain import explain as run_explain
    from dragoman.runs.options import Options
    from dragoman.runs.texts import Texts as BothTexts
    from dragoman.scoring import confidence_set

    how: dict[str, Any] = {
        "reading": reading,
        "route": route,
        "washout": washout,
        "samples": samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "seed": seed,
    }
    kind: Any = map_kind  # a word that is none is refused by Options
    # Words are refused before the dictionary is opened, which may be far away.
    ids, stated = features_from(features), Site.parse(source) if source is not None else None
    fed, read = settings_from(setting or []), BothTexts.of(texts)
    Options(map="aligned" if kind is None else kind, **how)
    check_device(device)
    check_engine(engine)
    if confidence is not None:
        confidence_set(confidence)
    crossing = None if through is None else Crossing.load(through)
    with talking() as talk:
        opened = open_dictionary(
            sae,
            site=stated,
            labels=labels,
            resid_pre=resid_pre,
            key=key,
            orientation=orientation,
            d_model=d_model,
            k=k,
        )
        run = run_explain(
            opened.features(ids or None),
            by=by,
            contract=contract,
            settings=fed,
            base=base,
            out=out,
            through=crossing,
            native=native,
            map=kind,
            texts=None if texts is None else read,
            confidence=confidence,
            dtype=dtype,
            device=device,
            engine=engine,
            compiled=compiled,
            talk=talk,
            **how,
        )
        page = run.write_page()
    rows = with_scores(run.folder.rows(), run.folder.scores, run.manifest)
    if as_json:
        for row in rows:
            put_json(row)
    else:
        show_rows(rows, run.manifest)
        put(f"page: {page}")
