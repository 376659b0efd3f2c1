"""``dragoman label``: what a language model makes of the texts in which features fire, beside a verbalizer's words.

In: words of the command line. Out: labels and what they are worth on stdout, or JSON; a file in the run's folder.
Refuses what ``dragoman.runs.label`` refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import console, put_record, styled, talking
from dragoman.commands.tables import show_table
from dragoman.commands.words import MACHINE, Device, Dtype, Run, Seed, named

if TYPE_CHECKING:
    from dragoman.runs.label import Labelled


def label(
    run: Run,
    model: Annotated[
        str,
        typer.Option(
            "--with",
            callback=named,
            metavar="MODEL",
            help="An instruct model with a chat template: tiny-smollm2, a folder, or a hub id.",
        ),
    ],
    windows: Annotated[
        int,
        typer.Option(metavar="N", help="The most windows of a feature that it is shown, out of half of them.", min=2),
    ] = 8,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="Labels and scores on stdout as JSON.")
    ] = False,
) -> None:
    """Let a language model label a run's features from texts in which they fire: what a verbalizer has to beat.

    It is shown half of a feature's windows; labels and the run's texts are judged by the other half. The same command
    goes on where it stopped.
    """
    from dragoman.runs.label import label as labelled

    with talking() as talk:
        told = labelled(run, model, windows=windows, dtype=dtype, device=device, seed=seed, talk=talk)
    if as_json:
        put_record("labels", told.to_json())
        return
    _show(told)


def _show(told: Labelled) -> None:
    """Every label, then what they and the run's texts are worth."""
    from dragoman.commands.show import show_label_scores

    of = told.scores.per_feature[told.scores.label] if told.scores else ()
    area = {one.feature: f"{one.auroc:.2f}" for one in of}
    rows = [[one.feature, one.label or "(nothing)", f"{one.windows}", area.get(one.feature, "")] for one in told.labels]
    show_table(f"labels from contexts by {told.made.model}", ("feature", "label", "from", "AUROC"), rows, words=2)
    if told.unlabelled:
        fire = "feature fires" if told.unlabelled == 1 else "features fire"
        console().print(styled(f"{told.unlabelled} {fire} in too few windows for a label", "dim"))
    if told.scores:
        show_label_scores(told.scores)
