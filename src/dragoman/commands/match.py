"""``dragoman match``: which latent of another dictionary fires where a feature fires.

In: words of the command line. Out: a table on stdout, or JSON. Refuses what ``dragoman.runs.match`` refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import put, put_record, talking
from dragoman.commands.tables import show_table
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    Device,
    Dtype,
    Labels,
    MaxTexts,
    Sae,
    Seed,
    Source,
    TextColumn,
    Texts,
    features_from,
    named,
)
from dragoman.core import Site

if TYPE_CHECKING:
    from dragoman.runs.match import Match, Matching


def match(
    sae: Sae,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", callback=named, help="An SAE of another model or block, as SAE is named.")
    ],
    features: Annotated[
        str | None,
        typer.Option(metavar="IDS", rich_help_panel=EXPLAINED, help="Features of SAE, as of explain; not top:N."),
    ] = None,
    source: Source = None,
    target: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="MODEL:BLOCK",
            rich_help_panel=CROSSES,
            help="Where OTHER lives, if it does not say.",
        ),
    ] = None,
    labels: Labels = None,
    other_labels: Annotated[
        str | None,
        typer.Option(
            callback=named,
            metavar="EXPORT",
            rich_help_panel=CROSSES,
            help="Folder or address of a Neuronpedia export with OTHER's labels.",
        ),
    ] = None,
    texts: Texts = None,
    text_column: TextColumn = None,
    max_texts: MaxTexts = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="All of it on stdout as JSON.")
    ] = False,
) -> None:
    """Tell which latent of another dictionary fires where a feature fires, with its label: no verbalizer has a part.

    A second opinion beside a verbalizer's words, where the other model's dictionary has labels.
    """
    from dragoman.dictionaries import open_dictionary
    from dragoman.runs.match import match as found_in
    from dragoman.runs.texts import Texts as BothTexts

    asked = features_from(features)
    here, there = (None if one is None else Site.parse(one) for one in (source, target))
    read = BothTexts.read(texts, column=text_column, most=max_texts)
    with talking() as talk:
        opened, beside = (
            open_dictionary(name, site=site, labels=export)
            for name, site, export in ((sae, here, labels), (other, there, other_labels))
        )
        told = found_in(opened, beside, features=asked, texts=read, seed=seed, dtype=dtype, device=device, talk=talk)
    if as_json:
        put_record("matching", told.to_json(), indent=1)
        return
    show(told)


def show(told: Matching) -> None:
    """The matches, best first, and what chance gives."""
    order = sorted(told.matches, key=lambda one: (not one.above_chance, not one.often, -one.r))
    heads = ("feature", "latent", "r", "in thirds", "of it", "of latent", "docs")
    show_table(f"{told.source} beside {told.target}", heads, map(_cells, order), words=2)
    if told.line is None:
        put("none of these fires in enough of these texts: give more, or other ones")
        return
    often = [one for one in told.matches if one.often]
    above = sum(one.above_chance for one in often)
    put(f"{above} of {len(often)} that fire often are matched: in each third above {told.line:.2f},")
    put("the most that any latent reaches where documents are dealt anew")
    put("r: correlation over tokens of documents that had no part in the choice;")
    put("of it: of the feature's firing tokens, where the latent fires; of latent: back;")
    put("firing together is not meaning the same")


def _cells(one: Match) -> list[str]:
    """A row of the table."""
    feature = f"{one.feature} {one.label}".strip()
    if not one.often:
        return [feature, "fires too rarely", "", "", "", "", f"{one.documents}"]
    found = f"{one.latent} {one.latent_label}".strip() if one.above_chance else "none"
    shares = [f"{one.shared:.0%}", f"{one.returned:.0%}"]
    return [feature, found, f"{one.r:.2f}", f"{one.low:.2f} to {one.high:.2f}", *shares, f"{one.documents}"]
