"""The command line: words in, exit codes out. stdout is data, stderr is talk.

0 done, 1 refused (one sentence), 2 usage, 130 interrupted. Heavy rooms are imported inside the commands, so that help
is instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dragoman import tiny
from dragoman.commands.boundary import Commands, Debug
from dragoman.commands.boundary import run as run_commands
from dragoman.commands.checkpoints import checkpoints
from dragoman.commands.doctor import doctor
from dragoman.commands.export import export
from dragoman.commands.printing import console, put, put_json, spoken
from dragoman.commands.show import show_map, show_rows, show_scores, with_confidence
from dragoman.commands.words import (
    METHODS,
    MOST_SAMPLES,
    MOST_TOKENS,
    ArrayKey,
    ConfidenceFile,
    ContractName,
    Device,
    Dtype,
    Lying,
    Out,
    OutFile,
    Run,
    Seed,
    Settings,
    Texts,
    TopK,
    Width,
    features_from,
    finite,
    folder_path,
    named,
    out_file,
    settings_from,
)
from dragoman.core import Refusal, Site

if TYPE_CHECKING:
    from dragoman.explain import Talk

app = typer.Typer(
    cls=Commands,
    help="Put the features of one language model into words, with a verbalizer that was trained for another.\n\n"
    "A verbalizer is a model that says what a vector of its own residual stream means. To begin: [bold]dragoman "
    "demo[/] tries it offline, [bold]dragoman checkpoints --for MODEL:BLOCK[/] names verbalizers for a model, "
    "[bold]dragoman explain[/] runs one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; a refusal is one sentence and exit code 1."""
    run_commands(app, "dragoman")


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DRAGOMAN_DEBUG", help="Show where in the code a command ended.")
    ] = False,
) -> None:
    """Options of every command."""
    Debug.wanted = debug


@contextmanager
def talking() -> Iterator[Talk]:
    """Progress bars and sentences on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dragoman.explain import Talk

    shown = console(stderr=True)
    columns = (
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown) as progress:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(spoken(what), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield Talk(say=lambda text: shown.print(spoken(text)), bar=bar)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    features: Annotated[
        int, typer.Option(help="Features per category, 45 categories, most selective first.", min=1, max=5)
    ] = 1,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Recompute the direct route's statistics (about half an hour on 2 cores)."),
    ] = False,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Try it on two small models that ship: SmolLM2's features in Gemma's words, scored, with a page. No network."""
    from dragoman.demo import experiment, listed, request_for
    from dragoman.models.device import check_device
    from dragoman.report import write_page
    from dragoman.score import score_run

    check_device(device)
    with talking() as talk:
        request = request_for(listed(ranks=features), seed=seed, dtype=dtype, device=device)
        run = experiment(request, out, talk, from_scratch=from_scratch)
        talk.say("scoring")
        scores = score_run(run, seed=seed, device=device, say=talk.say)
        page = write_page(run, run.page)
    show_scores(scores.to_json(), run.manifest)
    put(f"page: {page}")


@app.command()
def explain(
    dictionary: Annotated[
        str,
        typer.Argument(
            callback=named,
            help="SAE or vectors: tiny-sae, a folder, a file (probes.npz#KEY), sae:RELEASE/SAE_ID, hf:ORG/REPO/PATH, "
            "or a Neuronpedia id or address (then with --labels).",
        ),
    ],
    by: Annotated[
        str,
        typer.Option(
            callback=named, help="Verbalizer: tiny-gemma-av, a folder, or a hub id (ORG/NAME, ORG/NAME/FOLDER)."
        ),
    ] = "tiny-gemma-av",
    features: Annotated[
        str | None, typer.Option(help="Ids, for example 982,1748; default: those the dictionary's name gives, or all.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(callback=named, help="Where the directions live, MODEL:BLOCK, if the dictionary does not say."),
    ] = None,
    route: Annotated[
        str,
        typer.Option(
            help="How they cross to the verbalizer's model: map (fitted on texts read by both), direct (what it holds "
            "where the feature fires), blend, dictionary (direct, with other features held fixed), or auto: each "
            "feature by map, direct or blend, as its diagnostics say."
        ),
    ] = "auto",
    map_kind: Annotated[
        str,
        typer.Option(
            "--map", help="aligned: tokens that end together; post: texts pooled, the post's recipe (with --route map)."
        ),
    ] = "aligned",
    washout: Annotated[
        str,
        typer.Option(
            help="How much of that model's usual activation is mixed in: on-shell, none, projected, or the direction's "
            "share between 0 and 1."
        ),
    ] = "on-shell",
    contract: ContractName = None,
    setting: Settings = None,
    base: Annotated[
        str | None, typer.Option(callback=named, help="Model the verbalizer's adapter sits on, if it names none.")
    ] = None,
    key: ArrayKey = None,
    orientation: Lying = None,
    d_model: Width = None,
    k: TopK = None,
    labels: Annotated[
        str | None,
        typer.Option(callback=named, help="Folder or address of a Neuronpedia export with the dictionary's labels."),
    ] = None,
    resid_pre: Annotated[
        bool, typer.Option("--resid-pre", help="That export's source counts the block it enters, one above its own.")
    ] = False,
    native: Annotated[
        str | None, typer.Option(callback=named, help="A verbalizer of the source model itself, to compare with.")
    ] = None,
    texts: Texts = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Explanations per feature: the first the likeliest, the others drawn, to see how sure.",
            min=1,
            max=MOST_SAMPLES,
        ),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="What explanations are drawn at, but for the first of several; 0 is greedy. Default: 0 for one, 1 for "
            "several.",
            min=0.0,
            callback=finite,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1, max=MOST_TOKENS)] = 200,
    batch_size: Annotated[int, typer.Option(help="Directions decoded together.", min=1)] = 64,
    confidence: ConfidenceFile = None,
    out: Out = Path("runs/explain"),
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Rows on stdout as JSON lines.")] = False,
) -> None:
    """Put a dictionary's features into the words of a verbalizer, of another model or of their own.

    The doctor looks at the verbalizers first, and a fault ends it there. Writes rows and a page into a folder.
    """
    from dragoman.explain import Request
    from dragoman.explain import explain as run_explain
    from dragoman.models.device import check_device
    from dragoman.report import write_page
    from dragoman.score import add_confidence, confidence_set
    from dragoman.study import check_samples

    request = Request(
        dictionary=dictionary,
        features=features_from(features),
        by=by,
        source=Site.parse(source) if source is not None else None,
        contract=contract,
        settings=settings_from(setting or []),
        base=base,
        native=native,
        key=key,
        orientation=orientation,
        d_model=d_model,
        k=k,
        labels=labels,
        resid_pre=resid_pre,
        route=route,  # type: ignore[arg-type]
        washout=washout,
        map=map_kind,  # type: ignore[arg-type]
        texts=texts,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        device=device,
    )
    request.check()
    check_samples(request.samples, request.drawn_at)
    check_device(device)
    if confidence is not None:
        confidence_set(confidence)  # refused before anything dear is done
    with talking() as talk:
        run = run_explain(request, out, talk)
        add_confidence(run, confidence, talk.say, device=device)
        page = write_page(run, run.page)
    rows = with_confidence(run.rows(), run.scores)
    if as_json:
        for row in rows:
            put_json(row)
    else:
        show_rows(rows)
        put(f"page: {page}")


@app.command()
def harvest(
    source: Annotated[str, typer.Argument(callback=named, help="MODEL:BLOCK")] = str(tiny.SOURCE),
    target: Annotated[str, typer.Argument(callback=named, help="MODEL:BLOCK")] = str(tiny.TARGET),
    texts: Texts = None,
    out: OutFile = Path("harvest.safetensors"),
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """First step of a map by hand: read two models over the same texts, one pooled row per text and model."""
    from dragoman.explain import Request, harvested
    from dragoman.models.device import check_device

    sites = Site.parse(source), Site.parse(target)
    check_device(device)
    how = {"texts": texts, "dtype": dtype, "device": device}
    request = Request(dictionary="", features=(), by="", map="post", route="map", **how)
    with talking() as talk:
        rows, _ = harvested(request, *sites, talk)
    rows.save(out)
    put(f"{out}: {len(rows.x)} texts, {rows.x.shape[1]} -> {rows.y.shape[1]}")


@app.command()
def fit(
    rows: Annotated[Path, typer.Argument(parser=folder_path, metavar="ROWS", help="What harvest wrote.")],
    method: Annotated[str, typer.Option(help="ridge or procrustes.")] = "ridge",
    lam: Annotated[
        float, typer.Option(callback=finite, help="Ridge penalty, in the activations' own units.", min=0.0)
    ] = 100.0,
    seed: Seed = 0,
    out: OutFile = Path("map.safetensors"),
) -> None:
    """Second step: fit a map on a harvest, and judge it on the fifth of the texts that it did not see."""
    from dragoman.maps import fit_pooled
    from dragoman.models.paired import Harvest

    if method not in METHODS:
        raise Refusal(f"method '{method[:40]}'", f"known are {', '.join(METHODS)}", "use one of these")
    read = Harvest.load(rows)
    made, _ = fit_pooled(read.x, read.y, read.source, read.target, lam=lam, seed=seed, method=method)  # type: ignore[arg-type]
    made.save(out)
    show_map({made.method: made.report["held_out"]})
    put(f"map: {out}")


@app.command()
def score(
    run: Run,
    ar: Annotated[
        str | None,
        typer.Option(
            callback=named,
            help="A reconstructor (text back to vector) of source or target: tiny-smollm2-ar, a folder, a hub id.",
        ),
    ] = None,
    ar_layout: Annotated[
        str | None, typer.Option(help="How it is laid out: kitft or easynla; needed where the registry does not say.")
    ] = None,
    confidence: ConfidenceFile = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Scores on stdout as JSON.")] = False,
) -> None:
    """Judge a run's texts: by natives, every null, planted categories, contexts, what a reconstructor reads in them.

    A run needs native texts (explain --native), known categories (tiny-sae), contexts (explain by aligned tokens, with
    an encoder), --ar, or a confidence.

    Writes scores.json, which dragoman report then shows.
    """
    from dragoman.models.device import check_device
    from dragoman.score import score_run
    from dragoman.store import RunFolder

    folder = RunFolder.open(run)
    check_device(device)
    with talking() as talk:
        scores = score_run(
            folder,
            seed=seed,
            device=device,
            ar=ar,
            layout=ar_layout,
            dtype=dtype,
            confidence=confidence,
            say=talk.say,
        )
    if as_json:
        put_json(scores.to_json())
    else:
        show_scores(scores.to_json(), folder.manifest)


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", parser=out_file, metavar="FILE", help="Page to write; default: page.html in the run."
        ),
    ] = None,
) -> None:
    """Write the run's page: static HTML, nothing loaded from anywhere."""
    from dragoman.report import write_page
    from dragoman.store import RunFolder

    folder = RunFolder.open(run)
    put(f"page: {write_page(folder, out or folder.page)}")


app.command()(checkpoints)
app.command()(doctor)
app.command()(export)

if __name__ == "__main__":
    main()
