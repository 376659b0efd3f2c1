"""The command line: words in, exit codes out. stdout is data, stderr is talk.

0 done, 1 refused (one sentence), 2 usage, 130 interrupted. Heavy rooms are imported inside the commands, so that help
is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dragoman.commands.boundary import Command, Commands, Debug, Verbose, end_refused
from dragoman.commands.boundary import run as run_commands
from dragoman.commands.calibrate import calibrate
from dragoman.commands.checkpoints import checkpoints
from dragoman.commands.compare import compare
from dragoman.commands.confidence import confidence as confidence_commands
from dragoman.commands.crossings import fit, inspect
from dragoman.commands.doctor import doctor
from dragoman.commands.examples import examples
from dragoman.commands.explain import explain
from dragoman.commands.export import export
from dragoman.commands.label import label
from dragoman.commands.match import match
from dragoman.commands.printing import put, put_record, talking, tell
from dragoman.commands.rank import rank
from dragoman.commands.serve import serve
from dragoman.commands.show import show_scores
from dragoman.commands.view import view
from dragoman.commands.words import (
    MACHINE,
    Ar,
    ArLayout,
    ConfidenceFile,
    Device,
    Dtype,
    Out,
    Run,
    RunOrRuns,
    Seed,
    known_dtype,
    out_file,
)
from dragoman.core import Refusal

app = typer.Typer(
    cls=Commands,
    help="Put the features of one language model into words, with a verbalizer that was trained for another.\n\n"
    "A verbalizer is a model that says what a vector of its own residual stream means. To begin: [bold]dragoman "
    "demo[/] tries it offline, [bold]dragoman checkpoints --for MODEL:BLOCK[/] names verbalizers for a model, "
    "[bold]dragoman explain[/] runs one.",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; a refusal is one sentence and exit code 1."""
    run_commands(app, "dragoman")


def _tell_version(wanted: bool) -> None:
    if wanted:
        import dragoman

        put(f"dragoman {dragoman.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DRAGOMAN_DEBUG", help="Show where in the code a command ended.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Let through what libraries say, and every sentence of the demo.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_tell_version, is_eager=True, help="Tell the version, and end.")
    ] = False,
) -> None:
    """Options of every command."""
    Debug.wanted, Verbose.wanted = debug, verbose


@app.command(cls=Command, epilog=examples("demo"))
def demo(
    out: Out = Path("runs/demo"),
    features: Annotated[
        int, typer.Option(metavar="N", help="Features per category, 45 categories, most selective first.", min=1, max=5)
    ] = 1,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Recompute the direct route's statistics (about half an hour on 2 cores)."),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            callback=lambda value: None if value is None else known_dtype(value),
            metavar="NAME",
            rich_help_panel=MACHINE,
            help="float32, bfloat16 or float16; if none, bfloat16 unless the processor is slower at it.",
        ),
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=MACHINE, help="Scores on stdout as JSON.")] = False,
) -> None:
    """Try it on two small models that ship: SmolLM2's features in Gemma's words, scored, with a page. No network."""
    from dragoman.commands.show import show_conditions
    from dragoman.commands.verdict import show_demo_verdict, show_three
    from dragoman.demo import READINGS, SCORE, SHOW, STEPS, demo_options, experiment, listed
    from dragoman.models.load import check_device, quicker_dtype
    from dragoman.report import write_page
    from dragoman.report.opened import Manifest
    from dragoman.scoring import score_run

    check_device(device)
    with talking(STEPS, quiet=not Verbose.wanted) as talk:
        asked, how = listed(ranks=features), demo_options(seed=seed)
        kind = dtype or quicker_dtype(device)
        run = experiment(asked, how, out, talk, dtype=kind, device=device, from_scratch=from_scratch)
        talk.step(SCORE)
        scores = score_run(run, seed=seed, device=device, say=talk.say)
        talk.step(SHOW)
        page = write_page(run, run.page)
    if as_json:
        put_record("scores", scores.to_json())
        return
    show_three(run.rows(), scores, Manifest.of(run.manifest, "the manifest"), READINGS)
    show_demo_verdict(scores, READINGS)
    put("")
    show_conditions(scores, f"{run.manifest['source']} in the words of {run.manifest['target']}", notes=False)
    put("")
    put("what the columns mean, nulls, maps and every text: the page")
    put(f"page: {page}")
    put("next: dragoman explain tiny-sae --features 4497,1505 --by tiny-gemma-av")


for command in (explain, fit, inspect, calibrate):
    app.command(cls=Command, epilog=examples(command.__name__))(command)


@app.command(cls=Command, epilog=examples("score"))
def score(
    run: RunOrRuns,
    ar: Ar = None,
    ar_layout: ArLayout = None,
    confidence: ConfidenceFile = None,
    steer: Annotated[
        bool, typer.Option("--steer", help="Also steer the target's model by the carried rows; opens that model.")
    ] = False,
    generate: Annotated[
        bool,
        typer.Option(
            "--generate", help="Also let the source's model write from the texts: do features fire on that? Opens it."
        ),
    ] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=MACHINE, help="Scores on stdout as JSON.")] = False,
) -> None:
    """Judge a run's texts: by natives, every null, planted categories, contexts, what a reconstructor reads in them.

    A run needs native texts (explain --native), categories (tiny-sae), contexts (an encoder), --ar, or a confidence.

    Writes scores.json, which dragoman report then shows. Of a folder of runs all are judged, each by itself.
    """
    from dragoman.models.load import check_device
    from dragoman.scoring import score_run
    from dragoman.store import RunFolder
    from dragoman.store.runsets import runs_of

    folders = [RunFolder.open(path) for path in runs_of(run)]
    check_device(device)
    refused = list[Refusal]()
    for folder in folders:
        several = {} if folder.path == run else {"run": folder.path.name}
        try:
            with talking() as talk:
                if several:
                    talk.say(f"scoring {folder.path}")
                scores = score_run(
                    folder,
                    seed=seed,
                    device=device,
                    ar=ar,
                    layout=ar_layout,
                    dtype=dtype,
                    confidence=confidence,
                    steer=steer,
                    generate=generate,
                    say=talk.say,
                    progress=talk.towards("writing passages"),
                )
        except Refusal as refusal:
            if not several:
                raise
            refused.append(Refusal(f"{folder.path.name}: {refusal.what}", refusal.why, refusal.instead))
            continue
        if as_json:
            put_record("scores", {**several, **scores.to_json()})
            continue
        if several:
            put("")
            put(f"{folder.path.name}: {folder.manifest.get('source')}")
        show_scores(scores.to_json(), folder.manifest)
    end_refused(refused, len(folders), "runs")


@app.command(cls=Command, epilog=examples("report"))
def report(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", parser=out_file, metavar="FILE", help="Page to write; default: page.html in the run."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Where the page is, as JSON.")] = False,
) -> None:
    """Write the run's page: static HTML, nothing loaded from anywhere."""
    from dragoman.report import write_page
    from dragoman.store import RunFolder

    folder = RunFolder.open(run)
    page = write_page(folder, out or folder.page, lambda wrong: tell(f"{run}: {wrong}"))
    if as_json:
        put_record("page", {"page": str(page)})
    else:
        put(f"page: {page}")


for command in (label, view, compare, rank, match, serve, checkpoints, doctor, export):
    app.command(cls=Command, epilog=examples(command.__name__))(command)
app.add_typer(confidence_commands, name="confidence")

if __name__ == "__main__":
    main()
