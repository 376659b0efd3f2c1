"""The viewer's server: a run's pages on 127.0.0.1, read only, for the browser of this machine alone.

In: ``Viewed`` runs, a port. Out: an ASGI application; `serve` runs it until it is interrupted. Refuses requests under
another name than this machine's own (a foreign page may make its name lead here), from pages of another origin, and
every method but GET and HEAD; a port that is taken. No path is ever looked up on the disk: files have fixed names.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from dragoman.core import Refusal
from dragoman.exports.neuronpedia import Asked
from dragoman.exports.tables import as_csv, as_jsonl, as_parquet
from dragoman.view import pages, tables
from dragoman.view.across import elsewhere
from dragoman.view.find import Found, Selection, chosen, found
from dragoman.view.here import HOST, OnlyHere, bound
from dragoman.view.meaning import MOST, best, by_meaning
from dragoman.view.opened import Viewed
from dragoman.view.packed import packed
from dragoman.view.pages import Served

_STATIC = {
    "page.css": (pages.HERE.parent / "report" / "templates" / "style.css", "text/css; charset=utf-8"),
    "view.css": (pages.HERE / "static" / "view.css", "text/css; charset=utf-8"),
    "view.js": (pages.HERE / "static" / "view.js", "text/javascript; charset=utf-8"),
    "htmx.min.js": (pages.HERE / "static" / "htmx.min.js", "text/javascript; charset=utf-8"),
    "htmx.LICENSE": (pages.HERE / "static" / "htmx.LICENSE", "text/plain; charset=utf-8"),
}


class _Pages:
    """What each address answers."""

    def __init__(self, views: Sequence[Viewed]) -> None:
        self.views = {view.name: view for view in views}
        self.several = len(self.views) > 1

    def view(self, request: Request) -> Viewed:
        """The run that is asked for."""
        name = request.path_params["run"]
        if name not in self.views:
            raise Refusal(f"run '{name[:60]}'", f"served are {', '.join(self.views)}", "follow a link")
        return self.views[name]

    def home(self, _request: Request) -> Response:
        """The run, or all of them."""
        if not self.several:
            return RedirectResponse(Served(next(iter(self.views))).overview())
        return HTMLResponse(pages.home([(view, Served(name)) for name, view in self.views.items()]))

    def overview(self, request: Request) -> Response:
        """A run."""
        view = self.view(request)
        return HTMLResponse(pages.overview(view, Served(view.name), several=self.several, changed=view.changed))

    def features(self, request: Request) -> Response:
        """A run's list; only its results where htmx asks for them."""
        view = self.view(request)
        selection, links = Selection.of(request.query_params, view.index), Served(view.name)
        only_results = "hx-request" in request.headers and "hx-history-restore-request" not in request.headers
        with view.index.reading() as database:
            some = _found(view, database, selection)
        page = pages.features(
            view, links, selection, some, only_results=only_results, several=self.several, changed=view.changed
        )
        address = links.features(selection.query())
        return HTMLResponse(page, headers={"HX-Push-Url": address, "Vary": "HX-Request"} if only_results else None)

    def feature(self, request: Request) -> Response:
        """A feature."""
        view = self.view(request)
        selection = Selection.of({k: v for k, v in request.query_params.items() if k != "id"}, view.index)
        query = selection.query()
        with view.index.reading() as database:
            page = view.feature(database, view.number(database, request.query_params.get("id", "")))
            if query:
                page = view.beside(database, page, _every(view, database, selection))
        return HTMLResponse(
            pages.feature(
                view,
                Served(view.name),
                page,
                query=query,
                elsewhere=elsewhere(
                    view, page, [(one, Served(name).feature) for name, one in self.views.items() if one is not view]
                ),
                several=self.several,
                changed=view.changed,
            )
        )

    def table(self, request: Request) -> Response:
        """A selection as a file."""
        view, kind = self.view(request), request.path_params["kind"]
        selection = Selection.of(request.query_params, view.index)
        with view.index.reading() as database:
            numbers = _every(view, database, selection)
        headers = _attached(view, kind)
        if kind == "parquet":
            with view.index.reading() as database:
                content = as_parquet(tables.entries(view, database, numbers, selection.condition), "a Parquet file")
            return Response(content, media_type=tables.KINDS[kind], headers=headers)
        as_kind = as_csv if kind == "csv" else as_jsonl

        def told() -> Iterator[bytes]:
            with view.index.reading() as database:
                yield from as_kind(tables.entries(view, database, numbers, selection.condition))

        return StreamingResponse(told(), media_type=tables.KINDS[kind], headers=headers)

    def neuronpedia(self, request: Request) -> Response:
        """A selection in Neuronpedia's layout."""
        view, told = self.view(request), request.query_params
        try:
            selection = Selection.of(told, view.index)
            asked = Asked(
                model_id=told.get("model_id", "").strip(),
                source_id=told.get("source_id", "").strip(),
                author_id=told.get("author_id", "").strip(),
                condition=selection.condition or None,
                resid_pre=told.get("resid_pre") == "yes",
            )
            with view.index.reading() as database:
                content = packed(view, database, _every(view, database, selection), asked)
        except Refusal as refusal:
            return HTMLResponse(pages.refused(str(refusal), title="Nothing was written"), 422)
        return Response(content, media_type="application/zip", headers=_attached(view, "neuronpedia.zip"))


def _attached(view: Viewed, ending: str) -> dict[str, str]:
    """What makes a browser keep an answer as a file."""
    return {"Content-Disposition": f'attachment; filename="{tables.file_name(view, ending)}"'}


def _nearest(view: Viewed, selection: Selection) -> tuple[Any, Any] | None:
    """Cosines with what was asked and the features that filters leave; None where meaning cannot be had (yet)."""
    if selection.by != "meaning" or not selection.q:
        return None
    cosines = view.meaning.near_text(selection.q)
    if cosines is None:
        return None
    columns = view.columns(selection)
    return cosines, columns.feature[columns.chosen(selection, view.index)]


def _found(view: Viewed, database: Any, selection: Selection) -> Found:
    near = _nearest(view, selection)
    if near is not None:
        return by_meaning(database, selection, view.index, *near)
    some = found(database, selection, view.index, view.columns(selection))
    wanted = selection.by == "meaning" and selection.q
    return replace(some, note=view.meaning.told or some.note) if wanted else some


def _every(view: Viewed, database: Any, selection: Selection) -> list[int]:
    near = _nearest(view, selection)
    if near is not None:
        return [n for n, _ in best(*near, MOST)]
    return chosen(database, selection, view.index, view.columns(selection))[0].tolist()


def _static(request: Request) -> Response:
    known = _STATIC.get(request.path_params["name"])
    if known is None:
        return PlainTextResponse("There is no such file.", 404)
    return FileResponse(known[0], media_type=known[1], headers={"Cache-Control": "max-age=300"})


def _refused(request: Request, error: Exception) -> Response:
    sentence = str(error) if isinstance(error, Refusal) else "There is nothing at this address."
    return HTMLResponse(pages.refused(sentence), 404)


def app_of(views: Sequence[Viewed], port: int) -> ASGIApp:
    """The application of these runs at this port."""
    room = _Pages(views)
    kinds = "|".join(tables.KINDS)
    routes = [
        Route("/", room.home),
        Route("/static/{name}", _static),
        Route("/{run}/", room.overview),
        Route("/{run}/features", room.features),
        Route("/{run}/feature", room.feature),
        Route("/{run}/neuronpedia.zip", room.neuronpedia),
        *(Route(f"/{{run}}/table.{kind}", _of_kind(room.table, kind)) for kind in kinds.split("|")),
    ]
    handlers: Any = {Refusal: _refused, 404: _refused}
    return OnlyHere(Starlette(routes=routes, exception_handlers=handlers), port)


def _of_kind(table: Callable[[Request], Response], kind: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        request.path_params["kind"] = kind
        return table(request)

    return answer


def serve(views: Sequence[Viewed], listening: socket.socket) -> None:
    """Answer until interrupted."""
    port = int(listening.getsockname()[1])
    settings = uvicorn.Config(
        app_of(views, port), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(settings).run(sockets=[listening])


__all__ = ["HOST", "app_of", "bound", "serve"]
