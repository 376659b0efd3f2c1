"""Answer the questions the seed post left open, on the embedded pair: ``python research/study.py post``.

In: a study's name. Out: rows under ``--work``; JSON, table and figure under ``--out``. Refuses unknown names. Hours on
a CPU, minutes on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli import talking
from dragoman.commands.boundary import Command, run
from dragoman.commands.printing import put
from dragoman.commands.words import Device, Dtype, Seed
from dragoman.core import Refusal

if TYPE_CHECKING:
    from dragoman.core import Talk

NAMES = ("post", "procrustes", "data", "depth", "washout", "drift", "trust")
DIRECTIONS = ("smollm2-to-gemma", "gemma-to-smollm2")

Name = Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}, or all.")]
Direction = Annotated[str, typer.Option(help=f"Which way the pair is crossed: both, {' or '.join(DIRECTIONS)}.")]
Features = Annotated[int | None, typer.Option(help="How many features; default: as the study needs.", min=27)]
Work = Annotated[Path, typer.Option(help="Folder of the runs; the same command goes on where it stopped.")]
Results = Annotated[Path, typer.Option(help="Folder of JSON, tables and figures.")]
BatchSize = Annotated[int, typer.Option(help="Explanations decoded together; a GPU takes 1024.", min=1)]
RowsOnly = Annotated[bool, typer.Option("--rows-only", help="Have everything said and read (on a GPU), judge nothing.")]
Finished = Annotated[bool, typer.Option("--finished", help="Judge the rows that lie in --work, make none.")]
Limit = Annotated[int | None, typer.Option(help="Read only so many texts of each kind: for a rehearsal.", min=30)]


def chosen(name: str, direction: str) -> tuple[Sequence[str], Sequence[str]]:
    """Studies and directions by name; refuse unknown ones."""
    if name not in (*NAMES, "all"):
        raise Refusal(f"study '{name}'", f"known are {', '.join(NAMES)}", "name one of these, or all")
    if direction not in (*DIRECTIONS, "both"):
        raise Refusal(f"direction '{direction}'", f"known are {', '.join(DIRECTIONS)}", "name one of these, or both")
    return (NAMES if name == "all" else (name,)), (DIRECTIONS if direction == "both" else (direction,))


def carry_out(
    names: Sequence[str],
    directions: Sequence[str],
    talk: Talk,
    *,
    work: Path,
    features: int | None,
    seed: int,
    device: str,
    dtype: str,
    batch_size: int,
    limit: int | None,
) -> None:
    """Rows and readings of every study in every direction."""
    from studies.ground import ground_of
    from studies.library import Library
    from studies.run import Voices, hear, say, study_of

    voices = Voices(device=device, dtype=dtype)
    for direction in directions:
        ground, library = ground_of(direction), Library(device=device, dtype=dtype, limit=limit, talk=talk)
        for name in names:
            study = study_of(name)
            run = say(study, ground, library, voices, work, n=features, seed=seed, batch_size=batch_size)
            hear(study, ground, run, voices, talk)


def main(
    name: Name,
    direction: Direction = "both",
    features: Features = None,
    work: Work = Path("runs/studies"),
    out: Results = Path("docs/results"),
    rows_only: RowsOnly = False,
    finished: Finished = False,
    limit: Limit = None,
    batch_size: BatchSize = 128,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Answer what the post left open, on the pair that ships: rows, then a table and a figure. Hours on a CPU."""
    names, directions = chosen(name, direction)
    with talking() as talk:
        if not finished:
            carry_out(
                names,
                directions,
                talk,
                work=work,
                features=features,
                seed=seed,
                device=device,
                dtype=dtype,
                batch_size=batch_size,
                limit=limit,
            )
        if not rows_only:
            from studies.results import written

            for each in names:
                put(written(each, work, out, seed=seed))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(cls=Command)(main)

if __name__ == "__main__":
    run(app, "study")
