"""``dragoman view``: runs in a browser, on this machine alone, or as files to share.

In: run folders. Out: a server on 127.0.0.1 until it is interrupted, or a folder of pages. Refuses what is no run, a
port that is taken, a server where the libraries for it are not installed, and JSON of one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import put, put_record, talking, tell
from dragoman.commands.words import folder_path, out_folder
from dragoman.core import Refusal
from dragoman.store.libraries import refuse_absent

if TYPE_CHECKING:
    from dragoman.embed import Embedder
    from dragoman.view.opened import Viewed

_SERVER = ("starlette", "uvicorn")
_PORT = 8765


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", parser=folder_path, help="Run folders that dragoman wrote, or folders of runs."),
    ],
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Port on this machine, {_PORT} when none is named; 0 takes any that is free.",
            min=0,
            max=65535,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            parser=out_folder,
            metavar="FOLDER",
            help="Write the pages as files that open anywhere, search by words, filters, keys, CSV and JSON lines of a "
            "selection included; to 5000 features a run.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --bundle: what was written, on stdout as one JSON object.")
    ] = False,
) -> None:
    """Read runs in a browser: search, filters, a page for each feature. On this machine alone, nothing is written to.

    The first look at a run makes an index beside it (index.sqlite), which takes half a minute for 65,536 features.
    """
    from dragoman.store.outputs import refuse_there

    if bundle is not None:
        if port is not None:
            raise Refusal("--port beside --bundle", "files have no server", "leave one of them out")
        refuse_there(bundle)
    elif as_json:
        raise Refusal("--json without --bundle", "a server has no end to tell of", "write files with --bundle FOLDER")
    else:
        refuse_absent("the viewer's server", *_SERVER, extra="view", more=" (or write files, with --bundle)")
    with ExitStack() as stack:
        views = _opened(runs, stack, _embedder if bundle is None else cache(_embedder))
        if bundle is not None:
            from dragoman.view.bundle import write_bundle

            with talking() as talk:
                made = write_bundle(views, bundle, talk.bar)
                for why in dict.fromkeys(filter(None, (run.no_meaning for run in made.runs))):
                    talk.say(f"features are not compared by what is said of them: {why}")
            if as_json:
                put_record("bundle", made.to_json())
            else:
                put(f"page: {made.page}")
            return
        from dragoman.view.app import HOST, bound, serve

        listening = stack.enter_context(bound(_PORT if port is None else port))
        for each in views:
            each.warm()
        put(f"http://{HOST}:{listening.getsockname()[1]}/")
        tell("read it in a browser on this machine; Ctrl-C ends")
        with suppress(KeyboardInterrupt):
            serve(views, listening)


def _opened(runs: list[Path], stack: ExitStack, embedder: Callable[[], Embedder]) -> list[Viewed]:
    """The runs, each under a name of its own."""
    from dragoman.store import RunFolder
    from dragoman.store.runsets import RunSet, runs_of
    from dragoman.store.spans import listed
    from dragoman.view.opened import Viewed

    views, names = list[Viewed](), {"static"}
    folders = list[RunFolder]()
    for path in runs:
        there = runs_of(path, begun=True)
        folders += map(RunFolder.open, there)
        every = RunSet.at(path) if there != [path] else None
        lost = [one.name for one in every.runs if path / one.name not in there] if every else []
        if lost:
            tell(f"{path}: left out {listed(lost, 5)}, which hold no explanation yet")
    with talking() as talk:
        for folder in folders:
            name = own = folder.path.resolve().name or "run"
            more = 1
            while name in names:
                more += 1
                name = f"{own}-{more}"
            names.add(name)
            views.append(Viewed(folder, name, embedder, talk.bar))
            stack.callback(views[-1].close)
    return views


def _embedder() -> Embedder:
    """The sentence model, opened when somebody first searches by meaning."""
    from dragoman.models.embedder import SentenceEmbedder

    return SentenceEmbedder()
