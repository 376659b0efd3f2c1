"""``dragoman export``: a run's explanations as files that somebody else's tool reads.

In: a run folder, a condition of it, what the features and the author are called elsewhere. Out: Neuronpedia's
explanation batches and what its importer needs beside them, or what ``dragoman.exports`` writes; a copy of the run
gives the same bytes. Refuses conditions the run does not have, random directions, an author that is none, a source that
is not the run's own place in the model, and options of another format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import put, put_record, tell, tell_lines
from dragoman.commands.words import Run, file_path, out_folder
from dragoman.exports.names import without_folders
from dragoman.store.spans import meant

if TYPE_CHECKING:
    from dragoman.neuronpedia import Explained
    from dragoman.records import ConditionEntry, Row
    from dragoman.report.opened import ShownRun

FORMATS = ("neuronpedia", "delphi", "circuit-tracer", "csv", "parquet", "hub")
_OTHER_WAY = "without access to its bucket: POST /api/feature/upload-batch takes features with their explanations"
PREFERRED = "washed"


def export(
    run: Run,
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
    from dragoman.core import Refusal, Site
    from dragoman.neuronpedia import NeuronpediaRef, must_exist, refuse_elsewhere, write_explanations
    from dragoman.report.opened import ShownRun
    from dragoman.store import RunFolder

    if format_ not in FORMATS:
        raise Refusal(
            f"format '{format_}'", f"known are {', '.join(FORMATS)}", meant(format_, FORMATS, "use one of these")
        )
    of_formats = {"hookpoint": hookpoint, "graph": graph, "licence": licence, "model-id": model_id}
    _refuse_other_formats(format_, of_formats | {"source-id": source_id, "author-id": author_id or None})
    shown = ShownRun.of(RunFolder.open(run))
    if format_ != "neuronpedia":
        paths = _written(format_, shown, run, out, condition, hookpoint=hookpoint, graph=graph, licence=licence)
        _tell_paths(paths, {"format": format_} if as_json else None)
        return
    if model_id is None or source_id is None:
        missing = "--model-id" if model_id is None else "--source-id"
        raise Refusal("an export for Neuronpedia", "it files explanations by model and source", f"pass {missing} ID")
    source = NeuronpediaRef(model=model_id, source=source_id)
    instead = "name the source of the run's own dictionary (--resid-pre for one that counts the block it enters)"
    own = Site.parse(shown.manifest.source)
    refuse_elsewhere(source, own, resid_pre=resid_pre, whose="the run's", instead=instead)
    names = [condition] if condition else default_conditions(shown, run)
    entries = [next((one for one in shown.conditions if one.name == name), None) for name in names]
    explained: list[Explained] = []
    empty = 0
    for name, one in zip(names, entries, strict=True):
        some, without = chosen(shown, run, name, one)
        method = f"{type_name or method_of(one)}{f'_{name}' if _is_reading(one) else ''}"
        explained += [replace(each, type_name=method) for each in some]
        empty += without
    entry = entries[0]
    verbalizer = entry.verbalizer if entry else ""
    paths = write_explanations(
        out,
        source,
        explained,
        type_name=type_name or method_of(entry),
        model_name=explanation_model or without_folders(verbalizer or shown.manifest.target),
        author=author_id,
        batch_size=batch_size,
    )
    if empty:
        tell(
            f"left out {empty} {'features whose explanation is' if len(names) == 1 else 'explanations that are'} empty"
        )
    there = must_exist(source, author_id)
    needed = "".join(f"\n  {table}: {row}" for table, row in there)
    tell_lines(f"the receiving database must hold, before this goes in (see README.md beside):{needed}")
    tell(_OTHER_WAY)
    summary: dict[str, object] = {"source": str(source), "condition": ", ".join(names)}
    summary |= {"explanations": len(explained), "empty": empty}
    summary["must_exist"] = [{"table": table, "row": row} for table, row in there]
    _tell_paths(paths, summary if as_json else None)


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
    shown: ShownRun,
    run: Path,
    out: Path,
    condition: str | None,
    *,
    hookpoint: str | None,
    graph: Path | None,
    licence: str | None,
) -> list[Path]:
    """Write another format than Neuronpedia's."""
    from dragoman.core import Site
    from dragoman.exports.circuit import write_circuit
    from dragoman.exports.delphi import write_delphi
    from dragoman.exports.entries import entries_of_run
    from dragoman.exports.hub import write_dataset
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
    (name,) = asked or default_conditions(shown, run)[:1]
    entries = entries_of_run(shown, [name], samples=False)
    block = Site.parse(shown.manifest.source).block
    if format_ == "delphi":
        return write_delphi(out, entries, f"layers.{block}" if hookpoint is None else hookpoint)
    how = {"contexts": shown.contexts, "lens": shown.lens.get(name, {}), "graph": graph}
    return write_circuit(out, entries, block, **how)


def method_of(entry: ConditionEntry | None) -> str:
    """What a condition's texts are made by, for those who read them elsewhere."""
    return f"dragoman_{'native' if entry and entry.route == 'identity' else 'foreign'}-av"


def _is_reading(entry: ConditionEntry | None) -> bool:
    return entry is not None and entry.reading == entry.name


def default_conditions(shown: ShownRun, run: Path) -> list[str]:
    """A feature's readings, washed if the run has it, else its only condition (a native one does not count)."""
    from dragoman.core import Refusal

    names = _conditions_of_features(shown.rows)
    if readings := [one.name for one in shown.conditions if _is_reading(one) and one.name in names]:
        return readings
    if PREFERRED in names:
        return [PREFERRED]
    foreign = [name for name in names if not name.startswith("native")] or names
    if len(foreign) != 1:
        raise Refusal(
            f"{run}", f"it has the conditions {', '.join(names) or 'none'}", "name one of features with --condition"
        )
    return foreign[:1]


def _conditions_of_features(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.condition for row in rows if row.kind in ("feature", "activation")))


def chosen(run: ShownRun, path: Path, name: str, entry: ConditionEntry | None) -> tuple[list[Explained], int]:
    """The explanations of a condition, first samples with the others in their notes; and how many were empty.

    Raises:
        Refusal: the run has no such condition, or it is one of random directions.
    """
    from dragoman.core import Refusal
    from dragoman.neuronpedia import Explained, short_label
    from dragoman.report.claims import claims_by_row

    rows = [row for row in run.rows if row.condition == name]
    if not rows or any(row.kind != "feature" for row in rows):
        there = ", ".join(_conditions_of_features(run.rows)) or "none"
        kinds = "activations at prompts" if rows and rows[0].token is not None else "random directions"
        why = f"it is of {kinds}, which nobody has an index for" if rows else "the run has no such condition"
        instead = f"its conditions of features are: {there}"
        if not rows:
            instead = meant(name, _conditions_of_features(run.rows), instead)
        raise Refusal(f"condition '{name}' of {path}", why, instead)
    by_feature: dict[str, list[Row]] = {}
    for row in rows:
        by_feature.setdefault(row.feature, []).append(row)
    common = _named(_provenance(run, name, entry))
    confidences = run.scores.confidence.per_feature.get(name, ()) if run.scores.confidence else ()
    by_id, by_row = {one.feature: one for one in confidences}, claims_by_row(run.scores)
    explained = []
    for feature, samples in by_feature.items():
        first, *others = sorted(samples, key=lambda row: row.sample)
        if short_label(first.text):
            card = first.card.model_dump(mode="json", exclude_unset=True) if first.card else None
            own = {"problems": list(first.problems), "card": card, "samples": [row.text for row in others]}
            notes = common | {key: value for key, value in own.items() if value}
            confidence = by_id.get(feature)
            if confidence is not None:
                notes["answered"] = confidence.answered
            if (claims := by_row.get((name, feature))) is not None:
                notes |= {"short": claims.label, "claims": [claim.to_json() for claim in claims.claims]}
            probability = confidence.probability if confidence else None
            explained.append(Explained(index=feature, text=first.text, confidence=probability, notes=notes))
    return explained, len(by_feature) - len(explained)


def _provenance(run: ShownRun, name: str, entry: ConditionEntry | None) -> dict[str, object]:
    """What every explanation's notes tell of the run and the condition."""
    manifest = run.manifest
    kept = ("reading", "route", "washout", "verbalizer")
    how: dict[str, object] = {} if entry is None else {key: getattr(entry, key) for key in kept}
    return {
        "dragoman": manifest.dragoman or None,
        "run": manifest.plan_digest[:16],
        "source": manifest.source,
        "target": manifest.target or None,
        "dictionary": manifest.dictionary,
        "condition": name,
        **{key: value for key, value in how.items() if value},
    }


def _named(entries: Mapping[str, object]) -> dict[str, object]:
    """A manifest's entries, their references without folders."""
    named = {key: _named(one) if isinstance(one, Mapping) else one for key, one in entries.items()}
    return {key: without_folders(one) if isinstance(one, str) else one for key, one in named.items()}
