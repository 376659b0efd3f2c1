"""``dragoman export``: a run's explanations as files that somebody else's tool reads.

In: a run folder, a condition of it, what the features and the author are called elsewhere. Out: Neuronpedia's
explanation batches and what its importer needs beside them, or what ``dragoman.exports`` writes; a copy of the run
gives the same bytes. Refuses conditions the run does not have, random directions, an author that is none, a source that
is not the run's own place in the model, and options of another format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import put, put_record, tell, tell_lines
from dragoman.commands.words import RunOrRuns, file_path, out_folder
from dragoman.store.spans import meant

if TYPE_CHECKING:
    from dragoman.report.opened import ShownRun
    from dragoman.store import RunFolder

FORMATS = ("neuronpedia", "delphi", "circuit-tracer", "csv", "parquet", "hub")
_OTHER_WAY = "without access to its bucket: POST /api/feature/upload-batch takes features with their explanations"


def export(
    run: RunOrRuns,
    model_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Neuronpedia's id of the source model, for example qwen2.5-7b-it.")
    ] = None,
    source_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Neuronpedia's id of the source, for example 20-matryoshka-65k.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            parser=out_folder,
            metavar="FOLDER",
            help="Folder to write; of neuronpedia the one to write v1/MODEL/SOURCE/explanations into.",
        ),
    ] = Path("export"),
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="neuronpedia; delphi (explanation files for its scorers); circuit-tracer (labels of graphs, pages of "
            "features); csv; parquet; hub (a data set with its card).",
        ),
    ] = "neuronpedia",
    condition: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which of the run's conditions; default: both readings, washed, or its only foreign one.",
        ),
    ] = None,
    type_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the method there; default: dragoman_foreign-av or dragoman_native-av; a reading's ends in "
            "_fires or _writes.",
        ),
    ] = None,
    explanation_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model there; default: the verbalizer.")
    ] = None,
    author_id: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Id of the author there, a user of the receiving database; rows without one are rejected.",
        ),
    ] = "",
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows a file.", min=1)] = 1024,
    resid_pre: Annotated[
        bool, typer.Option("--resid-pre", help="The source counts the block it enters, one above the run's.")
    ] = False,
    hookpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="delphi's name of the place; default: layers.BLOCK of the run's source."),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            parser=file_path, metavar="FILE", help="A graph of circuit-tracer, to be written again with these labels."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence on the data set's card, such as cc-by-4.0.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, as one JSON object.")] = False,
) -> None:
    """Write a run's explanations as files that other tools read (nothing is uploaded)."""
    from dragoman.core import Refusal
    from dragoman.exports.neuronpedia import Asked, write_neuronpedia
    from dragoman.neuronpedia import must_exist
    from dragoman.report.opened import ShownRun
    from dragoman.store import RunFolder
    from dragoman.store.apart import tokens_apart, windows_apart
    from dragoman.store.runsets import one_run, runs_of

    if format_ not in FORMATS:
        raise Refusal(
            f"format '{format_}'", f"known are {', '.join(FORMATS)}", meant(format_, FORMATS, "use one of these")
        )
    of_formats = {"hookpoint": hookpoint, "graph": graph, "licence": licence, "model-id": model_id}
    _refuse_other_formats(format_, of_formats | {"source-id": source_id, "author-id": author_id or None})
    if format_ == "circuit-tracer":
        _tell_paths(_circuit(runs_of(run), out, condition, graph), {"format": format_} if as_json else None)
        return
    folder = RunFolder.open(one_run(run, f"--format {format_}"))
    shown = ShownRun.of(folder, windows=False)
    _tell_wrong(folder.path, shown)
    if format_ != "neuronpedia":
        paths = _written(format_, folder, shown, out, condition, hookpoint=hookpoint, licence=licence)
        _tell_paths(paths, {"format": format_} if as_json else None)
        return
    with windows_apart(folder) as contexts:
        made = write_neuronpedia(
            replace(shown, contexts=contexts),
            out,
            f"{run}",
            Asked(
                model_id=model_id,
                source_id=source_id,
                author_id=author_id,
                condition=condition,
                type_name=type_name,
                explanation_model=explanation_model,
                batch_size=batch_size,
                resid_pre=resid_pre,
            ),
            tokens_apart(folder),
        )
    names, empty, source, paths = made.conditions, made.empty, made.source, made.paths
    if empty:
        tell(
            f"left out {empty} {'features whose explanation is' if len(names) == 1 else 'explanations that are'} empty"
        )
    there = must_exist(source, author_id)
    needed = "".join(f"\n  {table}: {row}" for table, row in there)
    tell_lines(f"the receiving database must hold, before this goes in (see README.md beside):{needed}")
    tell(_OTHER_WAY)
    summary: dict[str, object] = {"source": str(source), "condition": ", ".join(names)}
    summary |= {"explanations": made.explanations, "empty": empty}
    summary["must_exist"] = [{"table": table, "row": row} for table, row in there]
    _tell_paths(paths, summary if as_json else None)


def _tell_wrong(run: Path, shown: ShownRun) -> None:
    """What is said of a run whose map is unusable, and of one that is not finished."""
    for told in filter(None, (shown.manifest.distrust, shown.unfinished)):
        tell(f"{run}: {told}")


def _tell_paths(paths: Sequence[Path], summary: Mapping[str, object] | None) -> None:
    """What was written, a path a line, or as one JSON object."""
    if summary is not None:
        put_record("export", {**summary, "files": [str(p) for p in paths]})
        return
    for path in paths:
        put(path)


def _refuse_other_formats(format_: str, given: Mapping[str, object]) -> None:
    """Refuse options that the format does not read, for they would be dropped silently."""
    from dragoman.core import Refusal

    read = {"neuronpedia": ("model-id", "source-id", "author-id"), "delphi": ("hookpoint",), "hub": ("licence",)}
    read["circuit-tracer"] = ("graph",)
    odd = next((name for name, value in given.items() if value is not None and name not in read.get(format_, ())), None)
    if odd is not None:
        whose = next(name for name, options in read.items() if odd in options)
        raise Refusal(f"--{odd} beside --format {format_}", f"it is of --format {whose}", "leave it out")


def _written(
    format_: str,
    folder: RunFolder,
    shown: ShownRun,
    out: Path,
    condition: str | None,
    *,
    hookpoint: str | None,
    licence: str | None,
) -> list[Path]:
    """Write another format than Neuronpedia's and circuit-tracer's."""
    from dragoman.core import Site
    from dragoman.exports.delphi import write_delphi
    from dragoman.exports.entries import entries_of_run
    from dragoman.exports.hub import write_dataset
    from dragoman.exports.neuronpedia import default_conditions
    from dragoman.exports.tables import write_csv, write_parquet
    from dragoman.store.outputs import refuse_there

    asked = [condition] if condition else []
    if format_ in ("csv", "parquet", "hub"):
        entries = entries_of_run(shown, asked)
        if format_ == "hub":
            return write_dataset(out, entries, shown, licence=licence)
        path = out / f"explanations.{format_}"
        refuse_there(path)
        return [(write_csv if format_ == "csv" else write_parquet)(path, entries)]
    (name,) = asked or default_conditions(shown, f"{folder.path}")[:1]
    entries = entries_of_run(shown, [name], samples=False)
    block = Site.parse(shown.manifest.source).block
    return write_delphi(out, entries, f"layers.{block}" if hookpoint is None else hookpoint)


def _circuit(runs: Sequence[Path], out: Path, condition: str | None, graph: Path | None) -> list[Path]:
    """Write labels of one run, or of all runs of a folder, a layer each."""
    from dragoman.core import Site
    from dragoman.exports.circuit import Block, write_circuit
    from dragoman.exports.entries import entries_of_run
    from dragoman.exports.neuronpedia import default_conditions
    from dragoman.report.opened import ShownRun
    from dragoman.store import RunFolder
    from dragoman.store.apart import lens_apart, tokens_apart, windows_apart

    blocks = list[Block]()
    with ExitStack() as stack:
        for path in runs:
            folder = RunFolder.open(path)
            shown = ShownRun.of(folder, windows=False)
            (name,) = [condition] if condition else default_conditions(shown, f"{path}")[:1]
            contexts = stack.enter_context(windows_apart(folder))
            tokens, lens = tokens_apart(folder), stack.enter_context(lens_apart(folder, name))
            entries = entries_of_run(shown, [name], samples=False)
            _tell_wrong(path, shown)
            layer, distrust = Site.parse(shown.manifest.source).block, shown.manifest.distrust
            blocks.append(
                Block(layer=layer, entries=entries, contexts=contexts, tokens=tokens, lens=lens, distrust=distrust)
            )
        return write_circuit(out, blocks, graph)
