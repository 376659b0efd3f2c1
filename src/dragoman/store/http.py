"""The one HTTP client: every answer is bounded in time, redirects are counted, nothing is held that is not asked for.

In: an address and, where needed, headers or a body to send. Out: an `Answer`: status, headers, and a body that comes
piece by piece.
Raises `NoAnswer`, which callers turn into a `Refusal` of their own: no connection, silence, an answer slower than its
bytes explain (one byte a second, 100 Continue for ever), too many redirects, an address that is none. Loads httpx with
the first request.
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dragoman.core import without_secrets

if TYPE_CHECKING:
    import ssl

    import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long an answer may take.

    ``silent``: seconds without a byte. ``grace``: seconds a whole answer may take beyond what its bytes need at
    ``pace`` bytes a second. ``redirects``: how many are followed.
    """

    silent: float = 30.0
    grace: float = 60.0
    pace: int = 16 << 10
    redirects: int = 5


BOUNDS = Bounds()


class NoAnswer(Exception):
    """A server gave no usable answer: ``why``, and whether asking ``again`` may help."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        """Keep the reason, without secrets."""
        self.why, self.again = without_secrets(why), again
        super().__init__(self.why)


class Answer:
    """What a server answered. The body is read by `pieces` or `body`, once."""

    def __init__(self, response: httpx.Response, clock: _Clock) -> None:
        """Take over a response whose body has not been read."""
        self._response, self._clock = response, clock
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def next_page(self) -> str | None:
        """The address of a listing's next page (the Link header), or None."""
        try:
            said = self._response.links.get("next", {}).get("url")
            return None if not said else str(self._response.url.join(said))
        except Exception as error:  # whatever the header makes of its parser: it names no page
            raise NoAnswer("its next page has no address") from error

    def pieces(self, at_least: int = 1) -> Iterator[bytes]:
        """The body as the server sends it, in pieces of ``at_least`` so many bytes but for the last."""
        held = bytearray()
        for piece in self._response.iter_raw():
            self._clock.received += len(piece)
            held += piece
            if len(held) >= at_least:
                yield bytes(held)
                held.clear()
        # A body that ends with the connection looks whole when the connection was cut because of the time.
        self._clock.refuse_late()
        if held:
            yield bytes(held)

    def body(self, most: int) -> bytes:
        """All of a small body.

        Raises:
            NoAnswer: it is larger than ``most`` bytes.
        """
        held = bytearray()
        for piece in self.pieces():
            held += piece
            if len(held) > most:
                raise NoAnswer(f"it sends more than {most >> 10} kB where less was due")
        return bytes(held)


class Http:
    """Connections to servers, shared by threads. Close it when done; asking again opens new ones."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        """Open nothing yet."""
        self.bounds = bounds
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Answer]:
        """The answer to a GET, redirects followed; its connection is let go when the block ends.

        Raises:
            NoAnswer: as the module says, also from reading the body inside the block.
        """
        return self._asked("GET", url, headers or {}, None, self.bounds.redirects)

    def post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Answer]:
        """The answer to a POST, as of ``get``; what it sends goes nowhere else, so a redirect is none."""
        return self._asked("POST", url, headers or {}, body, 0)

    @contextmanager
    def _asked(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, redirects: int
    ) -> Iterator[Answer]:
        import httpx

        clock = _Clock(self)
        try:
            client, headers = self._open(), {"Accept-Encoding": "identity", **headers}
            try:
                trace = {"trace": clock.noted}
                request = client.build_request(method, url, headers=headers, content=body, extensions=trace)
            except (ValueError, TypeError) as error:
                raise NoAnswer("it is no address that can be asked") from error
            response = _followed(client, request, redirects)
            try:
                yield Answer(response, clock)
            finally:
                response.close()
        except httpx.InvalidURL as error:  # its message may quote part of a password
            raise NoAnswer("it is no address that can be asked") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            clock.refuse_late()
            again = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
            raise NoAnswer(str(error) or type(error).__name__, again=again) from error
        finally:
            clock.stop()

    def _open(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # who asks has limits
                # A proxy would look for them on itself.
                here = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
                self._client = httpx.Client(
                    verify=_trusted(), follow_redirects=False, timeout=self.bounds.silent, limits=limits, mounts=here
                )
            return self._client

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection, so that it can be cut."""
        with self._lock:
            self._sockets.add(connection)

    def cut(self) -> None:
        """End all connections from another thread: whoever waits for bytes on one is told that there are no more."""
        with self._lock:
            connections = list(self._sockets)
        for connection in connections:
            _cut(connection)


def _followed(client: httpx.Client, request: httpx.Request, redirects: int) -> httpx.Response:
    """The first answer that is no redirect. The body of a redirect is never read: it may have no end."""
    for _ in range(redirects + 1):
        response = client.send(request, stream=True)
        if response.next_request is None:
            return response
        response.close()
        request = response.next_request
    raise NoAnswer(f"it redirects more than {redirects} times" if redirects else "it redirects elsewhere")


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed: read once a process, since the list is long."""
    import httpx

    return httpx.create_ssl_context()


class _Clock:
    """One answer's time. When it has run out, a thread cuts the connections: no library in between has to notice."""

    def __init__(self, http: Http) -> None:
        self._http, self._bounds = http, http.bounds
        self._begun = time.monotonic()
        self._stopped = threading.Event()
        self.received, self.late = 0, False
        threading.Thread(target=self._watch, name="dragoman-http-clock", daemon=True).start()

    def stop(self) -> None:
        """The answer is over."""
        self._stopped.set()

    def noted(self, event: str, details: Mapping[str, Any]) -> None:
        """Called by the HTTP library at each step: new connections are remembered."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            connection = details["return_value"].get_extra_info("socket")
            if isinstance(connection, socket.socket):
                self._http.opened(connection)
                if self.late:
                    _cut(connection)

    def refuse_late(self) -> None:
        """Say so when the time ran out."""
        if self.late:
            raise NoAnswer(
                f"it sent {self.received} bytes in {time.monotonic() - self._begun:.0f} s, too slow to go on"
            )

    def _left(self) -> float:
        bounds = self._bounds
        return self._begun + bounds.grace + self.received / bounds.pace - time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._left())):
            if self._left() <= 0:
                self.late = True
                self._http.cut()
                return


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        # Not its own methods: those of a TLS connection would take the encryption away under a reader's hands.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
        # What has arrived already could still be read: megabytes of 100 Continue.
        while socket.socket.recv(connection, 1 << 20, socket.MSG_DONTWAIT):
            pass
