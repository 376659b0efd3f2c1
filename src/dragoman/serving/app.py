"""The service's addresses: POST /explain, GET /health, GET /metrics, GET /openapi.json, on 127.0.0.1.

In: what is open, a socket, bounds. Out: an ASGI application; `serve` runs it until it is ended. Refuses, as JSON with
one sentence: requests under another name or from another origin (421, 403), bodies above the bound (413), what no
schema allows or no verbalizer can say (422), features that are not there (404), more than may wait, and everything
while it ends (503), work that is late (504).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.core import Refusal
from dragoman.runs.opened import NotThere, Opened
from dragoman.serving.answers import answer, health, kinds_of
from dragoman.serving.asked import Answer, Bounds, Health, Refused, refusal_of, request_model
from dragoman.serving.worker import Ending, Full, Job, Late, Unheard, Worker
from dragoman.view.here import OnlyHere

_BUSY = Refusal("the service", "as many requests wait as may", "ask again in a while")
_ENDING = Refusal("the service", "it ends", "start it again, and ask again")
_LATE = "ask for less at a time, or start the service with more --seconds"
_GRACE = 3  # seconds that answers have to be sent when the service ends
_LOOK = 1.0  # seconds between two looks whether somebody still waits
# FastAPI's own words for these are its own model; the service has one for all.
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refused, "description": "The body cannot be read."},
    404: {"model": Refused, "description": "There is no such feature."},
    413: {"model": Refused, "description": "The body is above the bound."},
    422: {"model": Refused, "description": "Something asked for is not as it must be."},
    500: {"model": Refused, "description": "A fault of dragoman."},
    503: {"model": Refused, "description": "As many requests wait as may, or the service ends."},
    504: {"model": Refused, "description": "It took too long."},
}


class _Metrics:
    """What is counted, each service its own."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        count, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        self.requests = count("dragoman_requests", "Requests by address and status", ["path", "status"])
        self.texts = count("dragoman_explanations", "Texts that were said, by what was asked for", ["kind"])
        buckets, took = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000), "Seconds of work on a request"
        self.seconds = Histogram("dragoman_explain_seconds", took, buckets=buckets, registry=self.registry)
        gauge("dragoman_waiting", "Requests that wait").set_function(lambda: worker.waiting)
        gauge("dragoman_busy", "Whether a request is worked on").set_function(lambda: worker.busy)


def app_of(opened: Opened, worker: Worker, port: int, bounds: Bounds | None = None) -> ASGIApp:
    """The application of what is open, at a port."""
    api = api_of(opened, worker, bounds or Bounds())
    return OnlyHere(_Bounded(api, (bounds or Bounds()).body), port, methods=None, refused=_elsewhere)


def api_of(opened: Opened, worker: Worker, bounds: Bounds) -> FastAPI:
    """The same without what is checked before anything looks at a request."""
    api = FastAPI(
        title="dragoman",
        summary="Features of one language model in the words of a verbalizer of another",
        description=f"{opened.source} in the words of {opened.by.name} at {opened.by.site}.",
        version=health(opened, bounds, worker).dragoman,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    metrics, asked = _Metrics(worker), request_model(kinds_of(opened), opened.width, bounds)

    async def explain(request: Request, body: Any) -> Any:
        job = worker.submit(lambda check: answer(opened, body.root, bounds, check), bounds.seconds)
        found = await _waited(job, request, worker)
        kind = next(kind for kind in kinds_of(opened) if hasattr(body.root, kind))
        metrics.texts.labels(kind).inc(len(found.explanations))
        metrics.seconds.observe(found.seconds)
        return found

    explain.__annotations__ = {"request": Request, "body": asked, "return": Answer}
    explain.__defaults__ = (Body(),)
    api.post("/explain", response_model=Answer, responses=_REFUSALS, summary="Explain")(explain)

    @api.get("/health", response_model=Health, summary="What is served, and how busy it is")
    async def told() -> Health:
        return health(opened, bounds, worker)

    @api.get("/metrics", response_class=PlainTextResponse, summary="Counts, as Prometheus reads them")
    async def counted() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    _refusals(api, kinds_of(opened))
    _counting(api, metrics)
    return api


async def _waited(job: Job, request: Request, worker: Worker) -> Any:
    """The result; whoever asked may go, and the time may be over."""
    waited = asyncio.wrap_future(job.done)
    try:
        while not waited.done():
            left = job.ends - time.monotonic()
            if left <= 0:
                raise Late
            await asyncio.wait({waited}, timeout=min(left, _LOOK))
            if not waited.done() and await request.is_disconnected():
                raise Unheard
        return waited.result()
    finally:
        if not waited.done():
            worker.forget(job)
            waited.cancel()  # else what it ends with is logged as an error that nobody looked at


def _refusals(api: FastAPI, kinds: Sequence[str]) -> None:
    """Every refusal as JSON with one sentence."""

    @api.exception_handler(Refusal)
    async def refused(_request: Request, error: Exception) -> Response:
        told = error if isinstance(error, Refusal) else _ENDING
        return _json(404 if isinstance(told, NotThere) else 422, told)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: Exception) -> Response:
        found = error.errors() if isinstance(error, RequestValidationError) else ()
        return _json(422, refusal_of(found[0] if found else {}, kinds))

    @api.exception_handler(HTTPException)
    async def odd(_request: Request, error: Exception) -> Response:
        status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (404, None)
        if status == 400:
            return _json(400, Refusal("the body", "it cannot be read", "see /openapi.json"), headers)
        if status == 405:
            return _json(405, Refusal("this method", "it is not served here", "see /openapi.json"), headers)
        return _json(status, Refusal("this address", "there is nothing here", "see /openapi.json"), headers)

    for kind, status, refusal in (
        (Full, 503, _BUSY),
        (Ending, 503, _ENDING),
        (Unheard, 503, _ENDING),
        (Late, 504, Refusal("the request", "it took too long", _LATE)),
    ):
        api.add_exception_handler(kind, _always(status, refusal))
    api.add_exception_handler(Exception, _fault)


def _always(status: int, refusal: Refusal) -> Callable[[Request, Exception], Response]:
    def told(_request: Request, _error: Exception) -> Response:
        return _json(status, refusal, {"Retry-After": "5"} if status == 503 else None)

    return told


def _fault(_request: Request, error: Exception) -> Response:
    why = f"{type(error).__name__}, which is a fault of dragoman"
    return _json(500, Refusal("the request", why, "please report it, with what was asked"))


def _json(status: int, refusal: Refusal, headers: Any = None) -> Response:
    return JSONResponse(Refused.of(refusal).model_dump(), status, headers)


def _elsewhere(status: int, sentence: str) -> Response:
    what, why = ("the host", "this service answers under 127.0.0.1 and localhost alone")
    if status == 403:
        what, why = "the origin", "pages of another origin or site may not ask here"
    return _json(status, Refusal(what, why, "ask from this machine, and not from a page of another site"))


def _counting(api: FastAPI, metrics: _Metrics) -> None:
    known = {"/explain", "/health", "/metrics", "/openapi.json"}

    @api.middleware("http")
    async def counted(request: Request, call: Any) -> Response:
        path = request.url.path if request.url.path in known else "other"
        try:
            response = await call(request)
        except Exception:
            metrics.requests.labels(path, "500").inc()
            raise
        metrics.requests.labels(path, str(response.status_code)).inc()
        return response


class _Bounded:
    """Refuses a body above a bound, whether its length is told or not, before it is read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        body, more = b"", not (told.isdigit() and int(told) > self._most)
        large = not more
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = bool(message.get("more_body", False))
            if len(body) > self._most:
                large = True
                break
        if large:
            why = f"it takes more than {self._most} bytes"
            await _json(413, Refusal("the body", why, "ask for less at a time"))(scope, receive, send)
            return
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return given.pop() if given else await receive()

        await self._app(scope, again, send)


class _Server(uvicorn.Server):
    """Tells who waits that the service ends, as soon as it is asked to."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal: end."""
        self._worker.end()
        super().handle_exit(sig, frame)


def serve(opened: Opened, listening: socket.socket, bounds: Bounds | None = None) -> None:
    """Answer until ended; raises ``KeyboardInterrupt`` where a signal did it, as the server's library does."""
    bounds = bounds or Bounds()
    worker = Worker(bounds.waiting)
    port = int(listening.getsockname()[1])
    settings = uvicorn.Config(
        app_of(opened, worker, port, bounds),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    try:
        _Server(settings, worker).run(sockets=[listening])
    finally:
        worker.end()
        worker.join(_GRACE)


__all__ = ["api_of", "app_of", "serve"]
