"""A loopback server of files that understands ranges, counts what it sends, and can misbehave on purpose."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit


class Served:
    """What the server holds and what became of it.

    ``commits``: (repository, revision) -> sha, where a test moves a branch; files are put under their revision.
    ``fault`` is given (path, how many requests came before) and returns a word that `Handler` knows, or None.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes | Path] = {}
        self.commits: dict[tuple[str, str], str] = {}
        self.sent = self.requests = 0
        self.ranges: list[tuple[int, int]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Any = lambda path, seen: None
        self.url = ""
        self.lock = threading.Lock()

    def size(self, path: str) -> int:
        held = self.files[path]
        return held.stat().st_size if isinstance(held, Path) else len(held)

    def commit(self, repo: str, revision: str) -> str:
        """The sha of a revision: its own name, if it is one already."""
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision
        return self.commits.setdefault((repo, revision), hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest())

    def under_revision(self, path: str) -> str:
        """A path that names a commit, with the revision instead that files were put under."""
        for (repo, revision), sha in self.commits.items():
            path = path.replace(f"/{repo}/resolve/{sha}/", f"/{repo}/resolve/{revision}/")
            path = re.sub(rf"^(/api/\w+/{re.escape(repo)}/tree)/{sha}(?=/|$)", rf"\1/{quote(revision, safe='')}", path)
        return path

    def part(self, path: str, start: int, end: int) -> bytes:
        held = self.files[path]
        if isinstance(held, Path):
            with held.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        return held[start:end]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as real servers do; otherwise every answer waits 40 ms for an acknowledgement
    served: Served

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        served, path = self.served, unquote(urlsplit(self.path).path)
        with served.lock:
            seen, served.requests = served.requests, served.requests + 1
            served.headers.append({key.lower(): value for key, value in self.headers.items()})
        fault = served.fault(path, seen)
        if isinstance(fault, int):
            return self._answer(fault, b"")
        path = served.under_revision(path)
        if path not in served.files and (self._told(path) or self._listed(path)):
            return None
        if path not in served.files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._ranged(path, fault)

    def _ranged(self, path: str, fault: str | None) -> None:
        served, size = self.served, self.served.size(path)
        asked = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        if fault == "whole" or asked is None:
            return self._answer(200, served.part(path, 0, size))
        start, end = int(asked[1]), min(int(asked[2]) + 1, size)
        if start >= size:
            return self._answer(416, b"")
        with served.lock:
            served.ranges.append((start, end))
        if fault == "elsewhere":
            start, end = start + 1, min(end + 1, size)
        body = served.part(path, start, end)
        told = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "ETag": '"one"'}
        if fault == "silent":
            told.pop("Content-Range")
        if fault == "grown":
            told["Content-Range"] = f"bytes {start}-{end - 1}/{size + 7}"
        if fault == "other":
            told["ETag"] = '"two"'
        if fault == "more":
            body += b"x" * 100
        return self._answer(206, body, told, cut=fault == "cut")

    def _told(self, path: str) -> bool:
        """The hub's commit of a revision: /api/models/ORG/REPO/revision/REVISION; of data sets likewise."""
        found = re.match(r"/api/(models|datasets)/([^/]+/[^/]+)/revision/(.+)$", path)
        if not found:
            return False
        kind, repo, revision = found.groups()
        base = f"/{repo}/" if kind == "models" else f"/datasets/{repo}/"
        if any(name.startswith(f"{base}resolve/{revision}/") for name in self.served.files):
            self._answer(200, json.dumps({"sha": self.served.commit(repo, revision)}).encode())
        else:
            known = any(name.startswith(base) for name in self.served.files)
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return True

    def _listed(self, path: str) -> bool:
        """The hub's listing of a folder: /api/models/ORG/REPO/tree/REVISION/PATH; of data sets likewise."""
        found = re.match(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?(.*)$", path)
        if not found:
            return False
        repo, revision, inside = found[2], unquote(found[3]), found[4]
        base = "/datasets" if found[1] == "datasets" else ""
        base += f"/{repo}/resolve/{revision}/" + (f"{inside}/" if inside else "")
        deep = "recursive=true" in urlsplit(self.path).query
        below = [name[len(base) :] for name in self.served.files if name.startswith(base)]
        if not below:
            return False
        rows: list[dict[str, Any]] = []
        for name in below:
            head = name if deep else name.split("/")[0]
            where = f"{inside}/{head}" if inside else head
            folder = "/" in name and not deep
            row: dict[str, Any] = {"type": "directory" if folder else "file", "path": where, "oid": "0" * 40}
            row["size"] = 0 if folder else self.served.size(base + name)
            if row not in rows:
                rows.append(row)
        self._answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        return True

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Counted before it leaves: whoever has read it all may look at the count at once.
        with self.served.lock:
            self.served.sent += len(body)
        try:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if cut:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what some tests are about."""


@contextmanager
def serving() -> Iterator[Served]:
    """A server on a free loopback port, stopped at the end."""
    served = Served()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"served": served}))
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
