"""``dragoman fit`` and ``dragoman inspect``: a crossing made once, kept as a folder, and what it is worth.

In: words of the command line. Out: a crossing's folder, its report on stdout. Refuses what ``dragoman.fit_crossing``
and ``Crossing.load`` refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dragoman.commands.printing import put, put_record, talking
from dragoman.commands.tables import show_table
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    VERBALIZER,
    ArrayKey,
    Base,
    ContractName,
    Device,
    Dtype,
    Lying,
    MapKind,
    MaxTexts,
    On,
    OutCrossing,
    Sae,
    Seed,
    Settings,
    Source,
    TextColumn,
    Texts,
    TopK,
    Width,
    Workers,
    features_from,
    finite,
    folder_path,
    named,
    settings_from,
)
from dragoman.core import Refusal, Site
from dragoman.store.outputs import refuse_there


def fit(
    sae: Sae,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            rich_help_panel=EXPLAINED,
            help="Ids that will be asked for, as in explain. Of more than 8192 features only these, the 50 nearest "
            "of each and 2000 drawn at random are watched where they fire; without it the 2000 alone. What is not "
            "watched crosses by the map.",
        ),
    ] = None,
    source: Source = None,
    key: ArrayKey = None,
    orientation: Lying = None,
    d_model: Width = None,
    k: TopK = None,
    target: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="MODEL:BLOCK",
            rich_help_panel=CROSSES,
            help="Where it should lead; or name the verbalizer with --by.",
        ),
    ] = None,
    map_kind: MapKind = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", rich_help_panel=CROSSES, help="Of --map post: ridge or procrustes.")
    ] = "ridge",
    lam: Annotated[
        float,
        typer.Option(
            callback=finite,
            metavar="NUMBER",
            rich_help_panel=CROSSES,
            help="Ridge penalty of --map post, above 0, in activations' own units.",
        ),
    ] = 100.0,
    texts: Texts = None,
    text_column: TextColumn = None,
    max_texts: MaxTexts = None,
    by: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="AV",
            rich_help_panel=VERBALIZER,
            help="The verbalizer it should lead to; its weights are not read.",
        ),
    ] = None,
    contract: ContractName = None,
    setting: Settings = None,
    base: Base = None,
    out: OutCrossing = Path("crossing"),
    dtype: Dtype = "float32",
    device: Device = "cpu",
    on: On = None,
    workers: Workers = None,
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="Its index on stdout as JSON, as inspect gives it.")
    ] = False,
) -> None:
    """Fit what carries a dictionary's features to a verbalizer's model, once; explain --through uses it.

    Reads both models over the same texts and writes a folder that can be shared.
    """
    from dragoman.dictionaries import open_dictionary
    from dragoman.maps.artifact import inspect_crossing
    from dragoman.maps.diagnostics import usable
    from dragoman.models.decode import site_of_verbalizer
    from dragoman.models.load import check_device
    from dragoman.models.sizes import check_read
    from dragoman.runs.crossings import check_asked, check_fit_on, check_method, fit_crossing
    from dragoman.runs.texts import Texts as BothTexts

    if (by is None) == (target is None):
        raise Refusal("fit", "it leads to one verbalizer or one place", "pass --by AV, or --target MODEL:BLOCK")
    kind = "aligned" if map_kind is None else map_kind
    check_method(kind, method, lam)
    check_device(device)
    check_fit_on(kind, on, workers, device)
    asked, fed = features_from(features), settings_from(setting or [])
    check_asked(kind, asked)
    stated = Site.parse(source) if source is not None else None
    there = Site.parse(target) if target is not None else None
    refuse_there(out)
    read = BothTexts.read(texts, column=text_column, most=max_texts)
    with talking() as talk:
        opened = open_dictionary(sae, site=stated, key=key, orientation=orientation, d_model=d_model, k=k)
        check_read(opened.site, opened.d_model)  # before the verbalizer is fetched
        there = there or site_of_verbalizer(str(by), contract, fed, base)
        crossing = fit_crossing(
            opened,
            there,
            map=kind,  # type: ignore[arg-type]
            method=method,  # type: ignore[arg-type]
            lam=lam,
            features=asked,
            texts=read,
            seed=seed,
            dtype=dtype,
            device=device,
            on=on,
            workers=workers,
            talk=talk,
        )
        crossing.save(out)
    if as_json:
        put_record("crossing", inspect_crossing(out).to_json(), indent=1)
        return
    if crossing.map is not None:
        word, why = usable(crossing.map.report["held_out"])
        put(f"{word}: {why}")
        show_held_out(crossing.map.report["held_out"])
    put(f"crossing: {out}")
    put(f"next: dragoman explain {sae} --through {out} --by {by or 'AV'} --features IDS")


def inspect(
    crossing: Annotated[Path, typer.Argument(parser=folder_path, metavar="CROSSING", help="What dragoman fit wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Its index on stdout as JSON.")] = False,
) -> None:
    """Tell where a crossing leads, and how good it is on texts it was not fitted on, beside its baselines."""
    from dragoman.maps.artifact import inspect_crossing, lines_of
    from dragoman.maps.diagnostics import usable_means

    index = inspect_crossing(crossing)
    if as_json:
        put_record("crossing", index.to_json(), indent=1)
        return
    for line in lines_of(index):
        put(line)
    put(usable_means())
    show_held_out(index.held_out)


def show_held_out(held_out: Mapping[str, float]) -> None:
    """How good a map is on texts it was not fitted on; every number beside what means nothing would reach."""
    from dragoman.maps.diagnostics import beside_baselines

    rows = [
        [measure, *("" if one is None else f"{one:.3f}" for one in numbers)]
        for measure, *numbers in beside_baselines(held_out)
    ]
    title = f"on {held_out['n']:.0f} rows of texts it was not fitted on"
    show_table(title, ("measure", "this map", "the mean alone", "rows dealt"), rows)
