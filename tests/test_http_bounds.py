"""Every HTTP answer is bounded in time and memory, whatever a server does; each fault is one sentence."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dragoman.core import Refusal
from dragoman.dictionaries import DictionaryRef
from dragoman.dictionaries.hub import commit_of
from dragoman.neuronpedia import Export, parse
from dragoman.neuronpedia.files import Limits
from dragoman.store import hub as hub_questions
from dragoman.store.http import Bounds, Http, NoAnswer
from dragoman.store.remote import RemoteFile
from odd_server import head, odd_server
from reading import read_directions

SOON = Bounds(silent=2.0, grace=0.15, pace=1 << 20)
REF = parse("np:gemma-2-2b/20-gemmascope-res-16k")
SHA = "a" * 40
PART = head("206 Partial Content", Content_Range="bytes 0-999/1000", Content_Length="1000")
PACKED = head(Content_Length="1000")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    yield
    hub_questions._COMMITS.clear()


def slowly(send: Callable[[bytes], None], content: bytes, over: threading.Event) -> None:
    """A byte every 50 ms, over and over: the silence never lasts."""
    while not over.wait(0.05):
        send(content[:1])
        content = content[1:] + content[:1]


def dripped_body(send: Any, request: str, over: threading.Event) -> None:
    send(PART if "Range:" in request or "range:" in request else PACKED)
    slowly(send, b"x", over)


def dripped_to_the_end(send: Any, request: str, over: threading.Event) -> None:
    """No length is told, so the end of the connection is the end of the file."""
    send(head("206 Partial Content", Content_Range="bytes 0-999/1000") if "ange:" in request else head())
    slowly(send, b"{", over)


def dripped_chunk(send: Any, request: str, over: threading.Event) -> None:
    """The length of a chunk that is never told to its end."""
    part = {"status": "206 Partial Content", "Content_Range": "bytes 0-999/1000"} if "ange:" in request else {}
    send(head(**part, Transfer_Encoding="chunked"))
    slowly(send, b"1;" + b"a" * 50, over)


def dripped_head(send: Any, request: str, over: threading.Event) -> None:
    send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    slowly(send, b"a", over)


def hundreds(send: Any, request: str, over: threading.Event) -> None:
    while not over.is_set():
        send(b"HTTP/1.1 100 Continue\r\n\r\n")


def silent(send: Any, request: str, over: threading.Event) -> None:
    over.wait()


SLOW = [dripped_body, dripped_to_the_end, dripped_chunk, dripped_head, hundreds]


@pytest.mark.parametrize("talk", SLOW)
def test_a_range_that_never_ends_is_refused(talk: Any) -> None:
    begun = time.monotonic()
    late = r"it cannot be fetched \(it sent \d+ bytes in \d+ s, too slow"
    with odd_server(talk) as odd, pytest.raises(Refusal, match=late) as error:
        assert RemoteFile(f"{odd.url}/f?k=SIG", bounds=SOON).size
    assert time.monotonic() - begun < 60 and "SIG" not in str(error.value)
    assert len(odd.asked) <= 1  # who is too slow is not asked again; a busy server may not have heard yet


@pytest.mark.parametrize("talk", SLOW)
def test_an_export_that_never_ends_is_refused(talk: Any) -> None:
    begun = time.monotonic()
    with odd_server(talk) as odd, pytest.raises(Refusal, match=r"it cannot be read \(it sent \d+ bytes in \d+ s"):
        Export.open(odd.url, REF, limits=Limits(bounds=SOON)).labels()
    assert time.monotonic() - begun < 60


def test_silence_is_refused() -> None:
    bounds = Bounds(silent=0.3, grace=20)
    with odd_server(silent) as odd, pytest.raises(Refusal, match="it cannot be fetched"):
        assert RemoteFile(odd.url, bounds=bounds, retries=1, wait=lambda s: None).size
    assert len(odd.asked) == 2


def test_a_slow_answer_whose_bytes_explain_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, heard = list[float](), threading.Event()

    def clock() -> float:
        """Stands until bytes have come, since a busy machine may begin seconds late."""
        return time.monotonic() - begun[0] if begun else 0.0

    def talk(send: Any, request: str, over: threading.Event) -> None:
        send(head(Content_Length=str(40 * 4096)) + b"x" * 30 * 4096)
        heard.wait(60)
        for _ in range(10):
            time.sleep(0.06)
            send(b"x" * 4096)

    monkeypatch.setattr("dragoman.store.http.time", SimpleNamespace(monotonic=clock))
    http = Http(Bounds(grace=0.3, pace=10 << 10))
    with odd_server(talk) as odd, http.get(odd.url) as answer:
        pieces = answer.pieces(30 * 4096)
        got = len(next(pieces))
        begun.append(time.monotonic())
        heard.set()
        assert got + sum(map(len, pieces)) == 40 * 4096  # more than twice its grace, of which its bytes explain 12 s
        assert clock() >= 2 * 0.3
    http.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/f", "it redirects more than 5 times"),
        ("http://[::1", "Invalid URL|it is no address"),
        ("file:///etc/shadow", "unsupported protocol"),
        ("http://127.0.0.1:1/", "refused"),
        ("//", "it redirects more than 5 times"),
    ],
)
def test_redirects_are_followed_by_count_and_to_addresses_only(where: str, said: str) -> None:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        send(head("302 Found", Location=where, Content_Length="0"))

    with odd_server(talk) as odd:
        for read in (
            lambda: RemoteFile(f"{odd.url}/f", wait=lambda s: None).size,
            lambda: Export.open(odd.url, REF).labels(),
        ):
            odd.asked.clear()
            with pytest.raises(Refusal, match=said):
                read()
            assert len(odd.asked) <= 6


def test_the_body_of_a_redirect_is_not_read() -> None:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        if request.startswith("GET /there"):
            send(head(Content_Length="2") + b"ok")
            return
        send(head("302 Found", Location="/there"))
        while not over.is_set():
            send(b"x" * 65536)

    tracemalloc.start()
    http = Http()
    try:
        with odd_server(talk) as odd, http.get(odd.url) as answer:
            assert answer.body(10) == b"ok"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        http.close()


def test_a_token_does_not_follow_to_another_server() -> None:
    def there(send: Any, request: str, over: threading.Event) -> None:
        send(head(Content_Length="2") + b"ok")

    with odd_server(there) as other:

        def talk(send: Any, request: str, over: threading.Event) -> None:
            send(head("302 Found", Location=other.url.replace("127.0.0.1", "localhost"), Content_Length="0"))

        http = Http()
        with odd_server(talk) as odd, http.get(odd.url, {"Authorization": "Bearer T"}) as answer:
            assert answer.body(10) == b"ok"
        http.close()
    assert "Bearer T" in odd.asked[0] and "Bearer T" not in other.asked[0]


@pytest.mark.parametrize(
    "url", ["http://", "http://host:port/", "http://a b/", "http://\0/", "nothing", "http://h:S@x:y/"]
)
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    http = Http()
    with pytest.raises(NoAnswer) as error, http.get(url):
        pass
    assert "S@" not in error.value.why


def test_a_body_larger_than_due_is_refused_before_it_is_held() -> None:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        send(head())
        while not over.is_set():
            send(b"x" * 65536)

    http = Http()
    with odd_server(talk) as odd, pytest.raises(NoAnswer, match="more than 1024 kB"), http.get(odd.url) as answer:
        answer.body(1 << 20)
    http.close()


# Exports whose batches do not stop


def batches(make: Callable[[int], bytes]) -> Any:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        number = int(request.split("batch-")[1].split(".")[0])
        body = make(number)
        send(head(Content_Length=str(len(body)), Connection="close") + body)

    return talk


def row(number: int, text: str = "a", **more: Any) -> bytes:
    told = {"modelId": "gemma-2-2b", "layer": REF.source, "index": str(number), "description": text, **more}
    return gzip.compress(json.dumps(told).encode() + b"\n", mtime=0)


@pytest.mark.parametrize(
    ("make", "limits", "said"),
    [
        (lambda n: row(0), {}, "the server sends the same bytes as for the batch before it; it answers whatever"),
        (lambda n: b"", {}, "the server sends the same bytes as for the batch before it"),
        (lambda n: b"<html>it works</html>", {}, "line 1: it is not JSON"),
        (row, {"batches": 20}, "explanations of .*: it has more than 20 batches"),
        (lambda n: row(n, "b" * 9000), {"whole": 1 << 16}, "its batches unpack to more than 0 MB"),
        (lambda n: row(n, "b" * 9000), {"kept": 1 << 16}, "they take more than 0 MB in memory"),
        (lambda n: time.sleep(0.05) or row(n), {"seconds": 0.3}, "its batches did not end within 0 s"),
    ],
)
def test_an_export_that_has_every_batch_is_refused(make: Any, limits: dict[str, Any], said: str) -> None:
    with odd_server(batches(make)) as odd, pytest.raises(Refusal, match=said):
        Export.open(odd.url, REF, limits=Limits(**limits)).labels()
    assert len(odd.asked) <= 25


def test_a_folder_of_too_many_batches_is_refused_alike(tmp_path: Path) -> None:
    (tmp_path / "explanations").mkdir()
    for number in range(5):
        (tmp_path / f"explanations/batch-{number}.jsonl.gz").write_bytes(row(number))
    assert len(Export.open(tmp_path, limits=Limits(batches=5)).labels()) == 5
    with pytest.raises(Refusal, match="it has more than 4 batches"):
        Export.open(tmp_path, limits=Limits(batches=4)).labels()


# The hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def listed(talk: Any) -> str:
        """What is said of a dictionary on a hub that lists files as ``talk`` does."""

        def answer(send: Any, request: str, over: threading.Event) -> None:
            if "/revision/" in request.split("\r\n")[0]:
                body = json.dumps({"sha": SHA}).encode()
                send(head(Content_Length=str(len(body)), Connection="close") + body)
            else:
                talk(send, request, over)

        with odd_server(answer) as odd:
            monkeypatch.setenv("HF_ENDPOINT", odd.url)
            with pytest.raises(Refusal) as error:
                read_directions("hf:org/repo/a")
            listed.odd = odd  # type: ignore[attr-defined]
        assert "\n" not in str(error.value)
        return str(error.value)

    return listed


def page(send: Any, paths: list[Any], **more: str) -> None:
    body = json.dumps([{"type": "file", "path": path, "size": 1} for path in paths]).encode()
    send(head(Content_Length=str(len(body)), Connection="close", **more) + body)


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "a/../../etc/shadow", "../a/x", "b/cfg.json", "a", "", "a/..\\x", "a/\0", 7, None]
)
def test_a_listing_that_names_what_is_elsewhere_is_refused(asked: Any, path: Any) -> None:
    said = asked(lambda send, request, over: page(send, ["a/cfg.json", path]))
    assert said.startswith("hf:org/repo/a: the hub's answer cannot be used (it ") and "\0" not in said


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"null", b"nothing", b"[" * 100_000, b'{"a": "b"}', b"\xff"])
def test_a_listing_that_is_none_is_refused(asked: Any, body: bytes) -> None:
    said = asked(lambda send, request, over: send(head(Content_Length=str(len(body)), Connection="close") + body))
    assert "the hub's answer cannot be used (it is n" in said


def test_a_listing_without_end_is_refused(asked: Any) -> None:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        number = len(asked.odd_count)
        asked.odd_count.append(number)
        page(send, [f"a/{number}"], Link=f'</api/models/org/repo/tree/x?cursor={number}>; rel="next"')

    asked.odd_count = []
    assert "the hub's answer cannot be used (its list of files has no end)" in asked(talk)
    assert len(asked.odd_count) == 100


def test_a_listing_of_large_pages_is_refused(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_questions, "_LISTING", 10_000)
    link = '</api/models/org/repo/tree/x>; rel="next"'
    assert "it sends more than" in asked(lambda send, request, over: page(send, ["a/" + "x" * 4000], Link=link))


def test_the_next_page_on_another_server_gets_no_token(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "S" * 34)
    with odd_server(lambda send, request, over: page(send, ["/etc/shadow"])) as other:
        link = f'<{other.url}/next>; rel="next"'
        assert "etc/shadow" in asked(lambda send, request, over: page(send, ["a/x"], Link=link))
    assert "hf_SSSS" in asked.odd.asked[-1] and "hf_SSSS" not in other.asked[0]


def test_a_hub_that_redirects_to_itself_or_drips_is_refused(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = head("302 Found", Location="/api/models/org/repo/tree/x", Content_Length="0", Connection="close")
    assert "it redirects more than 5 times" in asked(lambda send, request, over: send(loop))
    monkeypatch.setattr(hub_questions, "Http", lambda: Http(SOON))
    for talk in (dripped_body, hundreds):
        assert "too slow to go on" in asked(talk)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        ("404 Not Found", "EntryNotFound", "the repository has no such folder"),
        ("404 Not Found", "RevisionNotFound", "but not the revision"),
        ("403 Forbidden", "GatedRepo", r"whom its owners let in \(it is gated\); ask for access"),
        ("401 Unauthorized", "", "no such repository, or it is gated"),
        ("503 Busy", "", r"the hub cannot be reached and nothing of it is cached \(it answers 503\)"),
        ("418 Teapot", "", r"the hub's answer cannot be used \(it answers 418\)"),
    ],
)
def test_the_hubs_ways_of_saying_no_are_told_apart(asked: Any, status: str, code: str, said: str) -> None:
    answer = head(status, Content_Length="0", X_Error_Code=code, Connection="close")
    assert re.search(said, asked(lambda send, request, over: send(answer)))


@pytest.mark.parametrize("body", [b"{}", b'{"sha": 7}', b'{"sha": "../../x"}', b"[]", b"no"])
def test_a_hub_that_tells_no_commit_is_refused(body: bytes, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    def talk(send: Any, request: str, over: threading.Event) -> None:
        send(head(Content_Length=str(len(body)), Connection="close") + body)

    with odd_server(talk) as odd:
        monkeypatch.setenv("HF_ENDPOINT", odd.url)
        with pytest.raises(Refusal, match="the hub's answer cannot be used"):
            commit_of(DictionaryRef.parse("hf:org/repo@v2/a"))
