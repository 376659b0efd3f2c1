"""``dragoman confidence fit`` and ``recalibrate``: how sure to be, learnt from explanations that somebody checked.

In: a run, a file of checked rows. Out: a file of confidences, their reliability on stdout. Refuses what
``dragoman.confidence.checked`` refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.boundary import Command, Commands
from dragoman.commands.examples import examples
from dragoman.commands.printing import put, put_record, talking
from dragoman.commands.words import (
    MACHINE,
    SAYS,
    Ar,
    ArLayout,
    ConfidenceFile,
    Device,
    Dtype,
    OutJson,
    Run,
    Seed,
    file_path,
)
from dragoman.core import Refusal

if TYPE_CHECKING:
    from dragoman.confidence.checked import Reliability
    from dragoman.confidence.model import ConfidenceSet

confidence = typer.Typer(
    cls=Commands,
    help="Learn how sure to be from explanations you have checked: a CSV or JSON lines with the columns feature, "
    "condition (where a run has several) and right (true or false); a CSV may write them in capitals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Checked = Annotated[
    Path,
    typer.Option(
        "--checked",
        parser=file_path,
        metavar="FILE",
        rich_help_panel=SAYS,
        help="What you checked: a CSV, with commas, or JSON lines; feature, condition, right.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=MACHINE, help="How reliable they are, on stdout as JSON.")
]


@confidence.command(cls=Command, epilog=examples("fit confidence"))
def fit(
    run: Run,
    checked: Checked,
    ar: Ar = None,
    ar_layout: ArLayout = None,
    out: OutJson = Path("confidence.json"),
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit confidences on a run's evidence, from 40 checked explanations or more, 8 right and 8 wrong at least."""
    from dragoman.models.load import check_device
    from dragoman.scoring import fit_from
    from dragoman.store import RunFolder

    check_device(device)
    _refuse_same(checked, out)
    folder = RunFolder.open(run)
    with talking() as talk:
        made = fit_from(folder, checked, ar=ar, layout=ar_layout, dtype=dtype, device=device, seed=seed, say=talk.say)
    _keep(*made, out, as_json=as_json)


@confidence.command(cls=Command, epilog=examples("recalibrate"))
def recalibrate(
    run: Run,
    checked: Checked,
    confidence: ConfidenceFile = None,
    ar: Ar = None,
    ar_layout: ArLayout = None,
    out: OutJson = Path("confidence.json"),
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Keep the order of confidences that exist, and fit how sure to be anew, from 30 checked explanations or more."""
    from dragoman.models.load import check_device
    from dragoman.scoring import recalibrate_from
    from dragoman.store import RunFolder

    check_device(device)
    _refuse_same(checked, out)
    folder = RunFolder.open(run)
    with talking() as talk:
        made = recalibrate_from(
            folder, checked, confidence, ar=ar, layout=ar_layout, dtype=dtype, device=device, seed=seed, say=talk.say
        )
    _keep(*made, out, as_json=as_json)


def _refuse_same(checked: Path, out: Path) -> None:
    """Refuse to write over what somebody checked by hand."""
    if out.exists() and checked.exists() and out.samefile(checked):
        raise Refusal(f"{out}", "it is the file of checked explanations", "name another file with -o")


def _keep(made: ConfidenceSet, reliability: Reliability, out: Path, *, as_json: bool) -> None:
    """Write the set, and show what it is worth."""
    from dataclasses import asdict

    from dragoman.confidence.checked import reliability_lines
    from dragoman.store import plain

    made.save(out)
    if as_json:
        put_record("reliability", {"confidences": str(out), **plain(asdict(reliability))})
        return
    for line in reliability_lines(reliability):
        put(line)
    put(f"confidences: {out}")
