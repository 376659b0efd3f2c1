"""A file that a server keeps, read in ranges: only what is asked for crosses the network.

In: an address and, where needed, headers. Out: bytes at any place (`RemoteFile` is a `spans.Bytes`), or a stream for
who reads files (`RemoteStream`). Refuses servers
that ignore ranges (rather than fetch the whole file), answers of another size or place than asked, files that change
between two answers, and what needs permission. Asks through `http`, so every answer is bounded in time.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dragoman.core import Refusal, public_address
from dragoman.store.http import BOUNDS, Answer, Bounds, Http, NoAnswer
from dragoman.store.spans import Span, coalesced, shown

_FIRST = 64 << 10  # bytes fetched to learn the size: a safetensors header of a dictionary is far smaller
_GAP = 32 << 10  # two spans nearer than this are one request: waiting costs more than these bytes
_PIECE = 16 << 20  # bytes of one request at most, so that a retry does not start over
_AT_ONCE = 8  # requests
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LOG_IN = "log in with a token that may read it"
_REFUSED = {
    200: ("the server ignores byte ranges and would send the whole file", "download it once and name the local copy"),
    401: ("the server wants permission (401)", _LOG_IN),
    403: ("the server wants permission (403)", _LOG_IN),
    404: ("there is no such file", "check the name"),
    410: ("there is no such file", "check the name"),
    416: ("the server has no such bytes of it", "check that the file is whole"),
}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})$")


class RemoteFile:
    """A file at an ``http(s)`` address.

    ``fetched``: bytes received so far, ``requests``: answers received so far. Spans that lie close together are one
    request; the others are sent some at a time. Close it, or use it in a with statement, to close its
    connections.
    """

    far = True

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        retries: int = 3,
        wait: Callable[[float], None] = time.sleep,
        bounds: Bounds = BOUNDS,
    ) -> None:
        """Remember the address; the size is learnt with the first request."""
        self.name = name or public_address(url)
        self.fetched = self.requests = 0
        self._url, self._headers = url, dict(headers or {})
        self._retries, self._wait = retries, wait
        self._http = Http(bounds)
        self._lock = threading.RLock()
        self._size: int | None = None
        self._version: str | None = None
        self._opening = b""

    def __enter__(self) -> RemoteFile:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; reading again opens new ones."""
        self._http.close()

    @property
    def size(self) -> int:
        """How long the file is, bytes."""
        with self._lock:
            if self._size is None:
                self._opening = self._range(0, _FIRST)
        return self._size or 0

    def read(self, start: int, length: int) -> bytes:
        """The bytes from ``start``, exactly ``length`` of them."""
        out = bytearray(length)
        self.fill([(start, memoryview(out))])
        return bytes(out)

    def fill(self, spans: Sequence[Span]) -> None:
        """Write the bytes from each start into its buffer.

        Raises:
            Refusal: as the module says, and when a span lies outside the file.
        """
        size = self.size
        beyond = [start for start, buffer in spans if start < 0 or start + len(buffer) > size]
        if beyond:
            raise Refusal(self.name, f"it ends at byte {size}, before what is read at {beyond[0]}", "check the file")
        far = [(start, buffer) for start, buffer in spans if len(buffer) and not self._known(start, buffer)]
        pieces = [
            (at, min(at + _PIECE, end))
            for start, end in coalesced([(s, s + len(b)) for s, b in far], _GAP)
            for at in range(start, end, _PIECE)
        ]

        def place(piece: tuple[int, int]) -> None:
            got = self._range(*piece)
            for start, buffer in far:
                first, last = max(start, piece[0]), min(start + len(buffer), piece[1])
                if first < last:
                    buffer[first - start : last - start] = got[first - piece[0] : last - piece[0]]

        if len(pieces) == 1:
            place(pieces[0])
        elif pieces:
            with ThreadPoolExecutor(min(_AT_ONCE, len(pieces))) as pool:
                list(pool.map(place, pieces))

    def _known(self, start: int, buffer: memoryview) -> bool:
        """Fill from what came with the first request, where that holds it."""
        inside = start + len(buffer) <= len(self._opening)
        if inside:
            buffer[:] = self._opening[start : start + len(buffer)]
        return inside

    def _range(self, start: int, end: int) -> bytes:
        """One request, repeated when the network or the server stumbles."""
        why = "it was not tried"
        for attempt in range(self._retries + 1):
            try:
                got = self._once(start, end)
            except NoAnswer as error:
                why = error.why
                if not error.again:
                    break
            else:
                if isinstance(got, bytes):
                    return got
                why = f"the server answers {got}"
            if attempt < self._retries:
                self._wait(0.2 * 2**attempt)
        raise Refusal(self.name, f"it cannot be fetched ({why})", "check the connection and try again")

    def _once(self, start: int, end: int) -> bytes | int:
        """The bytes of a range, or the status of an answer that may be better next time."""
        ask = {"Range": f"bytes={start}-{end - 1}"}
        with self._http.get(self._url, {**self._headers, **ask}) as answer:
            if answer.status in _AGAIN:
                return answer.status
            self._check(answer, start, end)
            length = min(end, self._size or 0) - start
            out = bytearray()
            for part in answer.pieces():
                out += part
                if len(out) > length:
                    break
        with self._lock:
            self.fetched += len(out)
            self.requests += 1
        if len(out) != length:
            why = f"the server sent {len(out)} bytes where {length} were asked for"
            raise Refusal(self.name, why, "try again later")
        return bytes(out)

    def _check(self, answer: Answer, start: int, end: int) -> None:
        """The answer is the asked range of the same file; its body has not been read yet."""
        if answer.status != 206:
            other = (f"the server answers {answer.status}", "try again later")
            raise Refusal(self.name, *_REFUSED.get(answer.status, other))
        self._same_file(answer, start, end)

    def _same_file(self, answer: Answer, start: int, end: int) -> None:
        """Place, size and version of a partial answer are those that are due."""
        stated = answer.headers.get("content-range", "")
        found = _CONTENT_RANGE.match(stated)
        if answer.headers.get("content-encoding", "identity") != "identity" or not found:
            why = f"the server does not say which bytes it sends (Content-Range '{shown(stated)}')"
            raise Refusal(self.name, why, "download the file once and name the local copy")
        first, last, total = (int(part) for part in found.groups())
        version = answer.headers.get("etag")
        with self._lock:
            if self._size is None:
                self._size, self._version = total, version
            if total != self._size or (version and self._version and version != self._version):
                why = f"it changed while it was read ({self._size} bytes, now {total})"
                raise Refusal(self.name, why, "read it again")
        if (first, last) != (start, min(end, total) - 1):
            why = f"bytes {start} to {min(end, total) - 1} were asked for and the server sends {first} to {last}"
            raise Refusal(self.name, why, "download the file once and name the local copy")


class RemoteStream(io.RawIOBase):
    """A `RemoteFile` as a file that is read here and there; every read is a request, so have it buffered."""

    def __init__(self, file: RemoteFile) -> None:
        """At its beginning; closing the stream closes the file's connections."""
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """To a place from the beginning, from here or from the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence)
        self._at = max(0, (self._file.size if start is None else start) + offset)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as the file goes."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._file.size - self._at))
        self._file.fill([(self._at, view[:count])])
        self._at += count
        return count

    def close(self) -> None:
        """Close the connections."""
        if not self.closed:
            self._file.close()
        super().close()
