"""Servers of this machine alone: the socket, and what is refused before anything else looks at a request.

In: an ASGI application, a port. Out: the same behind a check of names and origins; a socket. Refuses requests under
another name than this machine's own (a foreign page may make its name lead here), from pages of another origin, and
methods that are not served; a port that is taken.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dragoman.core import Refusal

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def _plainly(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence, status)


class OnlyHere:
    """Lets through what is asked of this server from this machine, and says how its answers may be used."""

    def __init__(
        self,
        app: ASGIApp,
        port: int,
        *,
        methods: Sequence[str] | None = ("GET", "HEAD"),
        refused: Callable[[int, str], Response] = _plainly,
    ) -> None:
        """Before an application at a port; ``methods``: let through, None for all; ``refused``: as what it refuses."""
        self._app, self._methods, self._refused = app, methods, refused
        names = (HOST, "localhost")
        self._hosts = {f"{name}:{port}".encode() for name in names} | (
            {n.encode() for n in names} if port == 80 else set()
        )
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in _HEADERS if one[0] not in own)]
            await send(message)

        why = self._why_not(scope)
        if why is None:
            await self._app(scope, receive, answer)
        else:
            status, sentence = why
            await self._refused(status, sentence)(scope, receive, answer)

    def _why_not(self, scope: Scope) -> tuple[int, str] | None:
        hosts = [value.lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 421, "This server answers under 127.0.0.1 and localhost alone."
        origins = [value.lower() for name, value in scope["headers"] if name == b"origin"]
        if any(origin not in self._origins for origin in origins):
            return 403, "Pages of another origin may not read from here."
        sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
        modes = [value for name, value in scope["headers"] if name == b"sec-fetch-mode"]
        # A link from elsewhere may lead here; another site's script, image or frame may not read here.
        if any(site in (b"cross-site", b"same-site") for site in sites) and modes != [b"navigate"]:
            return 403, "Pages of another site may not read from here."
        if self._methods is not None and scope["method"] not in self._methods:
            return 405, "Nothing can be written here."
        return None


def bound(port: int) -> socket.socket:
    """A socket on this machine alone; port 0 takes any that is free.

    Raises:
        Refusal: the port is taken, or may not be used.
    """
    # asyncio switches delayed sending off on sockets that say they are TCP alone; else answers wait 40 ms for nothing.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()  # whoever is told the address may ask at once
    except OSError as error:
        made.close()
        why = "another program uses it" if error.errno == errno.EADDRINUSE else f"{error.strerror}"
        raise Refusal(f"port {port}", why, "name another with --port, or 0 for any that is free") from error
    return made
