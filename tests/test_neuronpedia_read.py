"""Neuronpedia's exports: read from folders and over HTTP; torn, foreign and endless files are refused."""

from __future__ import annotations

import functools
import gzip
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dragoman.core import Refusal, Site
from dragoman.neuronpedia import Export, SourceRecord, parse
from dragoman.neuronpedia.files import Limits

REF = parse("np:gemma-2-2b/20-gemmascope-res-16k")
OWN = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k"}


def zipped(content: bytes) -> bytes:
    """Gzip without the second it was made in: what is tested must not depend on when."""
    return gzip.compress(content, mtime=0)


def said(index: str, text: str, model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    row = {"id": f"c{index}", **OWN, "index": index, "authorId": "x", "description": text, "embedding": None}
    return {**row, "typeName": "oai_token-act-pair", "explanationModelName": model, "umap_x": 0.1, **more}


def put(path: Path, rows: list[Any], *, packed: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(zipped(text) if packed else text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = tmp_path / "v1" / REF.path
    put(source / "explanations/batch-0.jsonl.gz", [said("0", "names of rivers"), said("10", "a"), said("0", "b", "o3")])
    put(source / "explanations/batch-1.jsonl.gz", [said("2", "  "), said("3", " commas ")])
    put(source / "explanations/batch-10.jsonl.gz", [said("4", "last")])
    (source / "explanations/config.json").write_text("{}")
    put(
        source / "source.jsonl",
        [{"id": OWN["layer"], "modelId": OWN["modelId"], "setName": "gemmascope-res-16k", "hasDashboards": True,
          "saelensRelease": "gemma-scope-2b-pt-res-canonical", "saelensSaeId": "layer_20/width_16k/canonical",
          "hfRepoId": "google/gemma-scope-2b-pt-res", "hfFolderId": "layer_20/width_16k/average_l0_71",
          "saelensConfig": {"hook_name": "blocks.20.hook_resid_post", "model_name": "gemma-2-2b"}}],
        packed=False,
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    handler = functools.partial(Quiet, directory=str(root))
    with serving(handler) as address:
        yield address


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class serving:  # noqa: N801
    def __init__(self, handler: Any) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def check(export: Export, last: bool) -> None:
    labels = export.labels()
    expected = {"0": "names of rivers", "10": "a", "3": "commas"} | ({"4": "last"} if last else {})
    assert labels == expected  # the first of two
    record = export.source()
    assert record is not None
    assert record.dictionaries == (
        "hf:google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
        "sae:gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical",
    )
    assert record.dictionary == record.dictionaries[0]
    assert record.site == Site("google/gemma-2-2b", 20)


@pytest.mark.parametrize("below", ["", "v1", f"v1/{REF.path}"])
def test_a_folder_is_read_from_the_source_or_from_above(root: Path, below: str) -> None:
    check(Export.open(root / below, REF), last=True)
    check(Export.open(str(root / below), f"{REF}/7"), last=True)


def test_a_source_folder_needs_no_reference(root: Path) -> None:
    check(Export.open(root / "v1" / REF.path), last=True)


def test_an_address_is_read_batch_by_batch_until_there_is_none(server: str) -> None:
    # Batch 10 comes after a gap and there is no listing: the numbers stop at the first that is missing.
    check(Export.open(f"{server}/v1", REF), last=False)
    check(Export.open(f"{server}/v1/{REF.path}/"), last=False)


def test_an_export_without_a_record_has_no_source(root: Path) -> None:
    (root / "v1" / REF.path / "source.jsonl").unlink()
    assert Export.open(root, REF).source() is None


def test_the_models_record_may_name_the_hub_model(root: Path) -> None:
    put(root / "v1" / REF.path / "model.jsonl", [{"id": "gemma-2-2b", "hfRepoId": "me/gemma"}], packed=False)
    record = Export.open(root, REF).source()
    assert record is not None and record.site == Site("me/gemma", 20)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("s3://neuronpedia-datasets/v1", "read over http and https"),
        ("file:///etc", "read over http and https"),
        ("https://www.neuronpedia.org/gemma-2-2b", "that is the site"),
        ("http://", "read over http and https"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_other_places_are_refused(base: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        Export.open(base)


def test_a_folder_of_sources_asks_which(root: Path) -> None:
    with pytest.raises(Refusal, match="or name the dictionary as np:MODEL/SOURCE"):
        Export.open(root)
    with pytest.raises(Refusal, match="neither itself nor under gemma-2-2b/21-other"):
        Export.open(root, "np:gemma-2-2b/21-other")


BROKEN: dict[str, tuple[list[Any] | bytes, str]] = {
    "not json": ([said("0", "a"), "{"], "line 2: it is not JSON"),
    "not an object": ([said("0", "a"), "[]"], "line 2: it is not a JSON object"),
    "no index": ([{**OWN, "description": "a"}], "line 1: its field index is wrong"),
    "no description": ([{**OWN, "index": "1"}], "line 1: its field description is wrong"),
    "another source": ([said("0", "a"), said("0", "b", layer="21-x")], "line 2: it is of gemma-2-2b/21-x"),
    "deep": (["[" * 100_000], "line 1: it is not JSON"),
    "nan": (['{"a": NaN}'], "NaN is no JSON number"),
    "torn gzip": (zipped(json.dumps(said("0", "a")).encode() + b"\n")[:-9], "the gzip file is torn"),
    "no gzip behind its first bytes": (b"\x1f\x8b\x08\x00" + b"\xff" * 60, "not whole gzip"),
    "garbage after gzip": (zipped(json.dumps(said("0", "a")).encode() + b"\n") + b"xyz", "not whole gzip"),
    "not utf-8": (zipped(b'{"a": "\xff"}\n'), "line 1: it is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_batch_is_refused_with_file_and_line(root: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = root / "v1" / REF.path / "explanations/batch-0.jsonl.gz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        put(path, content)
    with pytest.raises(Refusal, match=f"batch-0.jsonl.gz.*{message}"):
        Export.open(root, REF).labels()


def test_an_export_without_explanations_is_refused(root: Path) -> None:
    for path in (root / "v1" / REF.path / "explanations").iterdir():
        path.unlink()
    with pytest.raises(Refusal, match="there is no explanations/batch-0.jsonl.gz"):
        Export.open(root, REF).labels()


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(root: Path) -> None:
    row = json.dumps(said("1", "x" * 900)).encode() + b"\n"
    path = root / "v1" / REF.path / "explanations/batch-0.jsonl.gz"
    path.write_bytes(gzip.compress(row * 60_000))  # 60 MB of rows in well under one
    assert path.stat().st_size < 1 << 20
    export = Export.open(root, REF, limits=Limits(unpacked=8 << 20))
    with pytest.raises(Refusal, match="unpacks to more than (8|12) MB"):
        sum(1 for _, lines in export.place.batches("explanations") for _ in lines)
    path.write_bytes(gzip.compress(b"x" * (200 << 20)))  # one line without end
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="line 1: it is longer than 2 MB"):
            Export.open(root, REF, limits=Limits(line=2 << 20)).labels()
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_large_file_is_refused_by_its_size(root: Path) -> None:
    with pytest.raises(Refusal, match="larger than 0 MB"):
        Export.open(root, REF, limits=Limits(packed=50)).labels()


def test_several_gzip_members_and_plain_files_are_read(root: Path) -> None:
    folder = root / "v1" / REF.path / "explanations"
    members = [gzip.compress(json.dumps(said(str(n), "x" * 70_000)).encode() + b"\n") for n in range(3)]
    (folder / "batch-0.jsonl.gz").write_bytes(b"".join(members))
    (folder / "batch-10.jsonl.gz").unlink()
    (folder / "batch-1.jsonl.gz").unlink()
    put(folder / "batch-2.jsonl", [said("9", "plain")], packed=False)
    assert set(Export.open(root, REF).labels()) == {"0", "1", "2", "9"}


def test_a_link_out_of_the_export_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = put(tmp_path_factory.mktemp("outside") / "secret.jsonl.gz", [said("0", "secret")])
    path = root / "v1" / REF.path / "explanations/batch-0.jsonl.gz"
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(Refusal, match="link that leads out of the export"):
        Export.open(root, REF).labels()


class Faulty(BaseHTTPRequestHandler):
    """Answers every way a server should not."""

    def do_GET(self) -> None:
        if "broken" in self.path:
            self.send_response(500)
            self.end_headers()
        elif "hidden" in self.path:
            self.send_response(403)
            self.end_headers()
        elif "cut" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(gzip.compress(b"{}")[:5])
        elif "stated" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
        elif "away" in self.path:
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        else:  # no length given, and no end
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(4096):
                    self.wfile.write(b" " * 65536)
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("broken", "the server answers 500"),
        ("hidden", "there is no explanations/batch-0.jsonl.gz"),
        ("cut", "it cannot be read"),
        ("stated", "larger than 2 MB"),
        ("endless", "larger than 2 MB"),
        ("away", "it cannot be read"),
    ],
)
def test_a_server_that_misbehaves_is_a_refusal(path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with serving(Faulty) as address, pytest.raises(Refusal, match=message):
        Export.open(f"{address}/{path}", limits=Limits(packed=2 << 20, seconds=5)).labels()


def test_nobody_listening_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with serving(Faulty) as address:
        pass
    with pytest.raises(Refusal, match="it cannot be read"):
        Export.open(address, REF).labels()


def record(source: str = "20-gemmascope-res-16k", **more: Any) -> SourceRecord:
    return SourceRecord(ref=parse(f"np:gemma-2-2b/{source}"), **more)


@pytest.mark.parametrize(
    ("source", "config", "block"),
    [
        ("20-res", {}, 20),
        ("20-res", {"hook_name": "blocks.20.hook_resid_post"}, 20),
        ("20-res", {"hook_point": "blocks.20.hook_resid_post"}, 20),
        ("20-res", {"metadata": {"hook_name": "model.layers.20"}}, 20),
        ("11-res-jb", {"hook_name": "blocks.11.hook_resid_pre"}, 10),
    ],
)
def test_the_site_is_the_hooks_and_resid_pre_is_one_block_early(source: str, config: dict, block: int) -> None:
    assert record(source, config=config).site == Site("google/gemma-2-2b", block)


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        ("20-res", {"hook_name": "blocks.19.hook_resid_post"}, "its id says layer 20 and its hook"),
        ("20-mlp", {"hook_name": "blocks.20.hook_mlp_out"}, "not in the residual stream"),
        ("0-res", {"hook_name": "blocks.0.hook_resid_pre"}, "reads the embedding"),
    ],
)
def test_a_hook_that_no_verbalizer_reads_is_refused(source: str, config: dict, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        _ = record(source, config=config).site


def test_a_record_names_its_weights_or_is_refused() -> None:
    assert record(repo="a/b").dictionary == "hf:a/b"
    assert record(release="r", sae_id="s/t").dictionary == "sae:r/s/t"
    assert record(repo="a/b", folder="/c/d/").dictionaries == ("hf:a/b/c/d",)
    with pytest.raises(Refusal, match="names neither a SAELens release nor a hub repository"):
        _ = record().dictionary
