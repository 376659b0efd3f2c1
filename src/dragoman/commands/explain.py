"""``dragoman explain``: a dictionary's features in the words of a verbalizer.

In: words of the command line. Out: a run folder, rows on stdout. Refuses what ``dragoman.explain`` refuses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dragoman.commands.forecast import show_forecast
from dragoman.commands.printing import put, put_record, talking
from dragoman.commands.show import rows_of, show_calibration, show_rows
from dragoman.commands.verdict import show_believed
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    SAYS,
    VERBALIZER,
    ArrayKey,
    AtToken,
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
    MaxTexts,
    On,
    OutRuns,
    PromptFile,
    PromptTexts,
    ReadingOf,
    ResidPre,
    SaesUnlessPrompt,
    Seed,
    Settings,
    Source,
    TextColumn,
    Texts,
    TopK,
    Width,
    Workers,
    features_from,
    file_path,
    finite,
    folder_path,
    named,
    settings_from,
)
from dragoman.core import MOST_SAMPLES, MOST_TOGETHER, MOST_TOKENS, Refusal, Site
from dragoman.store.spans import shown

if TYPE_CHECKING:
    from dragoman.runs.forecast import Forecast


def explain(
    sae: SaesUnlessPrompt = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            rich_help_panel=EXPLAINED,
            help="982,1748, 0-99, all, @FILE, top:100 (those that fire most often) or random:100. Several are joined "
            "by commas, and a file has one id a line. Default: those the dictionary's name gives, or all.",
        ),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            parser=file_path,
            metavar="FILE",
            rich_help_panel=EXPLAINED,
            help="The features that the nodes of a circuit-tracer graph are of, in each dictionary's layer; export "
            "--graph writes their labels into a copy.",
        ),
    ] = None,
    source: Source = None,
    prompt: PromptTexts = None,
    prompts: PromptFile = None,
    at: AtToken = None,
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
    text_column: TextColumn = None,
    max_texts: MaxTexts = None,
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
            help="Explanations per feature. The first is the likeliest, the others are drawn, to see how sure.",
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
    out: OutRuns = Path("runs/explain"),
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
    on: On = None,
    workers: Workers = None,
    seed: Seed = 0,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=MACHINE,
            help="Tell what it would take (models, files to fetch, memory at the peak, tokens, time, disk), and end.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="Rows, or what it would take, on stdout as JSON.")
    ] = False,
) -> None:
    """Put a dictionary's features, or activations at tokens of prompts, into the words of a verbalizer.

    The verbalizer may be of another model or of their own. Writes rows and a page into a folder.

    Several dictionaries of one model give a run each in one folder, which view, score and export take whole.

    The doctor looks at the verbalizers first, and a fault ends it there.
    """
    from dragoman.dictionaries import open_dictionary
    from dragoman.dictionaries.several import named as each_dictionary
    from dragoman.exports.circuit import features_of_graph
    from dragoman.maps import Crossing
    from dragoman.models.asked import check_engine, check_on, refuse_beside_server
    from dragoman.runs.given import opened_crossing
    from dragoman.runs.options import Options
    from dragoman.runs.texts import Texts as BothTexts
    from dragoman.store.outputs import check_run

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
    asked, fed = features_from(features), settings_from(setting or [])
    refs, several = each_dictionary(sae or [])
    alone = refs[0] if refs else None
    stated = Site.parse(source) if source is not None and not several else None
    options = Options(map="aligned" if kind is None else kind, **how)
    read_as: dict[str, Any] = {"key": key, "orientation": orientation, "d_model": d_model, "k": k}
    read_as |= {"labels": labels, "resid_pre": resid_pre}
    refuse_beside_server(engine, native, on)
    if dry:
        _refuse_beside_dry_run(on, prompted=bool(prompt) or prompts is not None)
    if several:
        if prompt or prompts is not None or at is not None:
            raise Refusal("prompts beside several dictionaries", "they are read at one place", "name one, or none")
        _refuse_words_of_features(graph, asked, confidence)
        from dragoman.commands.several import work_on_several

        work_on_several(
            refs,
            out,
            source=source,
            read_as=read_as,
            features=asked,
            graph=graph,
            as_json=as_json,
            dry=dry,
            by=by,
            native=native,
            fed={"contract": contract, "settings": fed, "base": base},
            options=how,
            through=through,
            map=kind,
            texts=None if texts is None else BothTexts.read(texts, column=text_column, most=max_texts),
            confidence=confidence,
            how={"dtype": dtype, "device": device, "engine": engine, "compiled": compiled},
            on=on,
            workers=workers,
        )
        return
    check_run(out)
    read_as["site"] = stated
    if dry:
        _prompts(None, None, at)
        check_engine(engine)
        _refuse_words_of_features(graph, asked, confidence)
        crossing = opened_crossing(through, texts, kind)
        forecast = _forecast(
            alone,
            read_as,
            graph,
            by=by,
            native=native,
            fed={"contract": contract, "settings": fed, "base": base},
            features=asked,
            through=crossing,
            options=replace(options, map=crossing.recipe) if crossing is not None else options,
            texts=BothTexts.read(texts, column=text_column, most=max_texts),
            confidence=confidence,
            dtype=dtype,
            device=device,
            engine=engine,
            out=out,
        )
        put_record("forecast", forecast.to_json()) if as_json else show_forecast(forecast)
        return
    # What computes is loaded where something is computed.
    from dragoman.models.decode import site_of_verbalizer
    from dragoman.models.load import check_device
    from dragoman.models.prompts import activations
    from dragoman.models.sizes import check_read
    from dragoman.runs.explain import explain as run_explain
    from dragoman.runs.prompted import refuse_of_features

    check_device(device)
    check_engine(engine)
    check_on(on, workers, device)
    prompted = _prompts(prompt, prompts, at)
    if prompted is not None:
        named = {
            "--features": asked,
            "--graph": graph,
            "--labels": labels,
            "--resid-pre": resid_pre,
            "--confidence": confidence,
        }
        refuse_of_features(options, **named)
    _refuse_nothing(alone, prompted, stated)
    _refuse_words_of_features(graph, asked, confidence)
    crossing = None if through is None else Crossing.load(through)
    read = BothTexts.read(texts, column=text_column, most=max_texts)
    with talking() as talk:
        opened = None if alone is None else open_dictionary(alone, **read_as)
        what: Any = opened
        chosen: Any = asked
        if graph is not None and opened is not None:
            of_graph = opened.features(features_of_graph(graph, opened.site.block))
            what, chosen = replace(of_graph, by_id=frozenset()), None  # a graph names them, no person
        if prompted is not None:
            where: Any = stated if opened is None else opened.site
            check_read(where)  # before a verbalizer is fetched, and that before the source's model is opened
            site_of_verbalizer(by, contract, fed, base, engine=engine)
            what = activations(where, prompted, "last" if at is None else at, dtype=dtype, device=device, talk=talk)
        run = run_explain(
            what,
            features=None if prompted is not None else chosen,
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
            on=on,
            workers=workers,
            talk=talk,
            **how,
        )
        page = run.write_page()
    rows = rows_of(run.folder)
    if as_json:
        for row in rows:
            put_record("row", row)
    else:
        show_rows(rows, run.manifest)
        show_calibration(run.scores)
        put(f"page: {page}")
        show_believed(rows, run.manifest, run.path)


def _forecast(sae: str | None, read_as: dict[str, Any], graph: Path | None, **how: Any) -> Forecast:
    """What explaining would take."""
    from dragoman.dictionaries import Asked, open_dictionary
    from dragoman.exports.circuit import features_of_graph
    from dragoman.runs.dry_run import dry_run

    if sae is None:
        raise typer.BadParameter("Name an SAE.", param_hint="'SAE'")
    opened = open_dictionary(sae, **read_as)
    if graph is not None:
        how["features"] = Asked.parse(",".join(map(str, features_of_graph(graph, opened.site.block))))
    return dry_run(opened, **how)


def _refuse_nothing(sae: str | None, prompted: object, stated: Site | None) -> None:
    """Refuse a command that names nothing to explain, or prompts that no model is named for."""
    if sae is None and prompted is None:
        raise typer.BadParameter("Name an SAE, or a text with --prompt.", param_hint="'SAE'")
    if sae is None and stated is None:
        raise Refusal("prompts", "nothing says which model reads them, and where", "say --source MODEL:BLOCK")


def _refuse_beside_dry_run(on: str | None, *, prompted: bool) -> None:
    """Refuse what nothing is reckoned for."""
    if prompted:
        raise Refusal("--dry-run beside prompts", "it is reckoned for a dictionary's features", "leave one out")
    if on is not None:
        raise Refusal("--dry-run beside --on", "it is reckoned for this process alone", "leave one out")


def _refuse_words_of_features(graph: Path | None, asked: object, confidence: Path | None) -> None:
    """Refuse features said twice, and a file of confidences that is none."""
    from dragoman.scoring import check_confidence

    if graph is not None and asked is not None:
        raise Refusal("--graph beside --features", "both say which features", "use one of the two")
    if confidence is not None:
        check_confidence(confidence)


def _prompts(texts: list[str] | None, file: Path | None, at: str | None) -> list[str] | Path | None:
    """The prompts that are asked for, if any; refuse them said twice, and a token of none."""
    if texts and file is not None:
        raise Refusal("--prompts beside --prompt", "they are two ways to say the same", "use one of the two")
    if at is not None and not at.strip():
        raise Refusal("--at", "it is empty", "write last, all, a word of the prompt, or a position (#7)")
    if at is not None and not texts and file is None:
        raise Refusal(f"--at {shown(at)}", "there is no prompt", "pass it with --prompt TEXT, or leave it out")
    return file if file is not None else texts or None
