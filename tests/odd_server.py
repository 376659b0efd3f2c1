"""A loopback server that answers with whatever bytes a test sends, as slowly and as long as it likes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Talk = Callable[[Callable[[bytes], None], str, threading.Event], None]


class Odd:
    """Where the server is, and the requests that came (their first lines and headers, as text)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []


@contextmanager
def odd_server(talk: Talk) -> Iterator[Odd]:
    """Answer every request by ``talk(send, request, over)``; the connection is closed when it returns."""
    listening = socket.create_server(("127.0.0.1", 0))
    odd, over = Odd(f"http://127.0.0.1:{listening.getsockname()[1]}"), threading.Event()
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    more = connection.recv(65536)
                    if not more:
                        return
                    request += more
                odd.asked.append(request.decode("latin-1"))
                talk(connection.sendall, odd.asked[-1], over)
            except OSError:
                return

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.settimeout(5)
            threads.append(threading.Thread(target=answer, args=(connection,), daemon=True))
            threads[-1].start()

    waiting = threading.Thread(target=accept, daemon=True)
    waiting.start()
    try:
        yield odd
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        waiting.join(5)
        for thread in threads:
            thread.join(5)


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The beginning of an answer; underscores in a header's name are dashes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()
