"""The viewer answers the browser of this machine alone, reads only, and looks no path up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dragoman.core import Refusal
from viewed_run import HERE, PORT, client_of, make_run, serving, viewed

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    view = viewed(make_run(tmp_path_factory.mktemp("served") / "run", 8))
    yield client_of(view)
    view.close()


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "localhost", "", "[::1]"]
)
def test_another_host_is_refused(client: Any, host: str) -> None:
    assert client.get("/run/", headers={"Host": host}).status_code == 421


def test_this_machine_by_its_name_is_answered(client: Any) -> None:
    assert client.get("/run/", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:1"])
def test_another_origin_is_refused(client: Any, origin: str) -> None:
    assert client.get("/run/features", headers={"Origin": origin}).status_code == 403


def test_this_origin_is_answered(client: Any) -> None:
    assert client.get("/run/features", headers={"Origin": HERE}).status_code == 200


@pytest.mark.parametrize(("mode", "status"), [("no-cors", 403), ("cors", 403), ("navigate", 200)])
def test_another_site_may_link_here_and_not_read(client: Any, mode: str, status: int) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
    assert client.get("/run/features", headers=headers).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(client: Any, method: str) -> None:
    assert client.request(method, "/run/features").status_code == 405


def test_every_answer_says_how_it_may_be_used(client: Any) -> None:
    for address in ("/run/", "/static/view.css", "/run/feature?id=none", "/nothing/here"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"], address
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_pages_name_no_outside_address_to_load(client: Any) -> None:
    for address in ("/run/", "/run/features", "/run/feature?id=1"):
        html = client.get(address).text
        assert 'src="http' not in html
        assert '<link rel="stylesheet" href="/static/page.css">' in html


@pytest.mark.parametrize(
    "path",
    ["/static/..%2fapp.py", "/static/app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/run/../../etc/passwd"],
)
def test_no_path_leads_to_a_file(client: Any, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real server, for requests that no client library would send."""
    with serving(viewed(make_run(tmp_path_factory.mktemp("raw") / "run", 8))) as port:
        yield port


def raw(port: int, request: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.recv(65_536).decode("utf-8", "replace")


@pytest.mark.parametrize(
    "path", ["/static/../../../../etc/passwd", "/../etc/passwd", "/run/..%2f..%2fmanifest.json", "/static/..%00/x"]
)
def test_a_raw_request_for_a_path_finds_nothing(served: int, path: str) -> None:
    answer = raw(served, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served}\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] in ("404", "400")
    assert "root:" not in answer
    assert "plan_digest" not in answer


def test_a_raw_request_without_or_with_two_hosts_is_refused(served: int) -> None:
    own = f"Host: 127.0.0.1:{served}\r\n"
    for hosts in ("", f"{own}Host: evil.example\r\n", "Host: evil.example\r\n"):
        answer = raw(served, f"GET /run/ HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")
        assert answer.split()[1] in ("421", "400"), answer[:200]


def test_it_listens_on_this_machine_alone() -> None:
    from dragoman.view.app import bound

    with bound(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(Refusal, match="another program uses it; name another with --port"):
            bound(listening.getsockname()[1])


def test_answers_are_sent_at_once() -> None:
    """Of sockets that do not say they are TCP, asyncio waits for the other side to confirm: 40 ms an answer."""
    from dragoman.view.app import bound

    listening = bound(0)
    assert listening.proto == socket.IPPROTO_TCP
    listening.close()
