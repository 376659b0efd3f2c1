"""Malformed YAML, JSON, texts and Neuronpedia exports, for the corpus."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from malformed import CANARY, case
from whole_files import EXPORTED, REGISTRY, SIDECAR, SOURCE, checkpoint, export_folder, jsonl, oddly_fed, written

# YAML

NESTED = "[" * 100_000
CALL = f"!!python/object/apply:os.system ['touch {CANARY}']"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" for k in range(1, 9))
_PLAIN = "it cannot be read as plain YAML"


def zipped(content: bytes) -> bytes:
    """Gzip without the second it was made in: what is tested must not depend on when."""
    return gzip.compress(content, mtime=0)


def yaml_text(said: str, content: str | bytes, *, name: str, bomb: bool = False) -> None:
    case("sidecar", said, name=name, bomb=bomb)(lambda folder: written(folder / "nla_meta.yaml", content).parent)


yaml_text(_PLAIN, CALL, name="yaml that calls")
yaml_text(_PLAIN, "kind: !!python/name:os.system", name="yaml that names a function")
yaml_text(_PLAIN, "!!python/object/new:os.system ['touch canary']", name="yaml that makes an object")
yaml_text(_PLAIN, "kind: nla_model\nd_model: !secret x", name="yaml of an unknown tag")
yaml_text(_PLAIN, b"kind: \xff\xfe", name="yaml not UTF-8")
yaml_text(_PLAIN, "kind: [unclosed", name="yaml cut short")
yaml_text(_PLAIN, NESTED[:50_000], name="yaml nested deep")
yaml_text(_PLAIN, "- " * 20_000, name="yaml lists nested deep")
yaml_text(_PLAIN, "d_model: " + "9" * 5000, name="yaml number of five thousand digits")
yaml_text(_PLAIN, "created: 2001-99-99", name="yaml date that is none")
yaml_text(_PLAIN, "d_model: !!int x", name="yaml number that is none")
yaml_text(_PLAIN, 'd_model: !!int ""', name="yaml number of nothing")
yaml_text(_PLAIN, "d_model: !!timestamp x", name="yaml time that is none")
yaml_text(_PLAIN, "d_model: !!bool perhaps", name="yaml truth that is none")
yaml_text(_PLAIN, "kind: a\x00b", name="yaml of nothing characters")
yaml_text(_PLAIN, "a: 1\n---\nb: 2", name="yaml of two documents")
yaml_text("a value holds itself", "kind: &a [*a]", name="yaml that holds itself")
yaml_text("with its aliases written out", LAUGHS, name="yaml of a billion laughs", bomb=True)
yaml_text("with its aliases written out", MERGES, name="yaml of a billion merges", bomb=True)
yaml_text("it is not a mapping", "- kind\n- d_model", name="yaml a list")
yaml_text("it is not a mapping", "nla_model", name="yaml a word")
yaml_text("it is not a mapping", "", name="yaml empty")


@case("sidecar", "it takes more than 64 kB", bomb=True)
def yaml_of_four_gigabytes(folder: Path) -> Path:
    os.truncate(written(folder / "nla_meta.yaml", "kind: "), 4 << 30)  # a hole, which takes no disk
    return folder


@case("sidecar", "holds no nla_meta.yaml")
def sidecar_a_folder(folder: Path) -> Path:
    (folder / "nla_meta.yaml").mkdir()
    return folder


def sidecar(said: str, *, name: str, kind: str = "sidecar", **changes: Any) -> None:
    """A sidecar whose fields lie."""

    def make(folder: Path) -> Path:
        path = oddly_fed(folder) if kind == "norm-matched" else checkpoint(folder)
        told = yaml.safe_load((path / "nla_meta.yaml").read_text())
        for key, value in changes.items():
            told[key] = told[key] | value if isinstance(value, dict) and isinstance(told.get(key), dict) else value
        written(path / "nla_meta.yaml", yaml.safe_dump(told, allow_unicode=True))
        return path

    case(kind, said, name=name)(make)


sidecar("field d_model is wrong", name="sidecar width negative", d_model=-5)
sidecar("field d_model is wrong", name="sidecar width a truth", d_model=True)
sidecar("field d_model is wrong", name="sidecar width a list", d_model=[24])
sidecar("field d_model is wrong", name="sidecar width a fraction", d_model=24.5)
sidecar("field d_model is wrong", name="sidecar width of thirty digits", d_model=10**30)
sidecar("field extraction_layer_index is wrong", name="sidecar block negative", extraction_layer_index=-1)
sidecar("its fields disagree about the block", name="sidecar of two blocks", critic={"num_hidden_layers": 7})
sidecar("injection_scale is nan", name="sidecar scale NaN", extraction={"injection_scale": float("nan")})
sidecar("injection_scale is inf", name="sidecar scale infinite", extraction={"injection_scale": float("inf")})
sidecar("injection_scale is 1e\\+300", name="sidecar scale beyond float32", extraction={"injection_scale": 1e300})
sidecar("injection_scale is -1", name="sidecar scale negative", extraction={"injection_scale": -1})
sidecar("field extraction.injection_scale is wrong", name="sidecar scale a truth", extraction={"injection_scale": True})
sidecar("field extraction.injection_scale.* is wrong", name="sidecar scale a list", extraction={"injection_scale": [1]})
sidecar("a number or a word is due, not 9000 characters", name="sidecar scale a long word",
        extraction={"injection_scale": "x" * 9000})  # fmt: skip
sidecar("field tokens.injection_token_id is wrong", name="sidecar marker negative", tokens={"injection_token_id": -1})
sidecar("field prompt_templates is wrong", name="sidecar templates a word", prompt_templates="Say it.")
sidecar("gives a form for slot '{injection_char}'", name="sidecar template wide",
        prompt_templates={"av": "{injection_char:>9999999999}"})  # fmt: skip
sidecar("gives a form for slot '{injection_char}'", name="sidecar template converting",
        prompt_templates={"av": "{injection_char!x}"})  # fmt: skip
sidecar("has a slot '{injection_char.__class__}'", name="sidecar template reaching in",
        prompt_templates={"av": "{injection_char} {injection_char.__class__}"})  # fmt: skip
sidecar("has a slot '{x x .*\\.\\.\\.}' that is no name", name="sidecar template slot of nine thousand letters",
        prompt_templates={"av": "{" + "x " * 4500 + "}"})  # fmt: skip
sidecar("its role is 'ar.*', not a verbalizer's", name="sidecar role of nine thousand lines", role="ar\n" * 9000)
sidecar("its sidecar states training.injection_mode", kind="norm-matched", name="sidecar mode a tree",
        training={"injection_mode": [["x" * 500] * 5] * 5})  # fmt: skip
sidecar("contract 'xxx.*' for|contract 'xxx", kind="contract", name="sidecar contract a long word", contract="x" * 9000)


def beside(said: str, content: str, *, name: str) -> None:
    """A sidecar without a width beside a configuration that is odd."""

    def make(folder: Path) -> Path:
        told = {key: value for key, value in SIDECAR.items() if key != "d_model"}
        written(folder / "nla_meta.yaml", yaml.safe_dump(told))
        return written(folder / "config.json", content).parent

    case("sidecar", said, name=name)(make)


beside("it is not JSON", NESTED, name="model config nested deep")
beside("it states no d_model", '{"text_config": "x"}', name="model config text part a word")
beside("it states no d_model", '{"hidden_size": true}', name="model config width a truth")
beside("it states no d_model", '{"hidden_size": -8}', name="model config width negative")


def registry(said: str, content: Any, *, name: str) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    case("registry", said, name=name)(lambda folder: written(folder / "checkpoints.yaml", text))


registry("it is damaged", NESTED, name="registry nested deep")
registry("it is damaged", "checkpoints: " + CALL, name="registry that calls")
registry("it lists no checkpoints", "checkpoints: 7", name="registry of a number")
registry("it lists no checkpoints", "7", name="registry a number")
registry("it is damaged", {"checkpoints": [*REGISTRY["checkpoints"], 7]}, name="registry entry a number")
registry("lists org/av twice", {"checkpoints": [REGISTRY["checkpoints"][0]] * 2}, name="registry entry twice")

# JSON and texts


def text(reader: str, said: str, file: str, content: bytes | str, *, name: str) -> None:
    case(reader, said, name=name)(lambda folder: written(folder / file, content))


text("json", "it is not JSON", "a.json", NESTED, name="json nested deep")
text("json", "it is not JSON", "a.json", b"\xff\xfe", name="json not text")
text("json", "it is not JSON", "a.json", '{"a": ' + "9" * 5000 + "}", name="json of five thousand digits")
text("json", "it is not JSON", "a.json", "", name="json empty")
text("jsonl", "line 2: it is not JSON", "a.jsonl", '{"a": 1}\n{"a": \n', name="jsonl line torn")
text("jsonl", "line 1: it is not JSON", "a.jsonl", NESTED, name="jsonl line nested deep")
text("jsonl", "line 1: it is not a JSON object", "a.jsonl", "[1]\n", name="jsonl line a list")
text("jsonl", "it is not UTF-8 text", "a.jsonl", b'{"a": "\xff"}\n', name="jsonl not UTF-8")
text("texts", 'row 2: it has no string "text"', "a.jsonl", jsonl([{"text": "a"}, {"text": 7}]), name="texts a number")
text("texts", "there is no text in it", "a.txt", b"\xef\xbb\xbf\n \n", name="texts empty")
text("texts", "texts are not read from '.pdf'", "a.pdf", "a,b", name="texts of another kind")
text("jsonl", "the gzip file is torn", "a.jsonl.gz", zipped(b'{"a": 1}\n' * 99)[:-9], name="gzip cut short")
text("jsonl", "Not a gzipped file|gzip", "a.jsonl.gz", b'{"a": 1}\n', name="gzip that is none")
text("jsonl", "gzip file is torn|CRC", "a.jsonl.gz", zipped(b'{"a": 1}\n')[:-8] + bytes(8), name="gzip wrong sum")


def gzip_of(piece: bytes, times: int) -> bytes:
    """Gzip of a piece over and over, packed once: behind a full flush nothing refers to what stands before."""
    packer, crc = zlib.compressobj(9, wbits=-15), 0
    block, end = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH), packer.flush()
    for _ in range(times):
        crc = zlib.crc32(piece, crc)
    return zipped(b"")[:10] + block * times + end + struct.pack("<II", crc, len(piece) * times)


@case("jsonl", r"it unpacks to more than \d+ MB, far too many", bomb=True)
def gzip_of_200_MB_of_rows(folder: Path) -> Path:
    return written(folder / "a.jsonl.gz", gzip_of((b'{"text": "' + b"x" * 1000 + b'"}\n') * 1000, 200))


@case("texts", "line 1: it is longer than", bomb=True)
def texts_of_one_endless_line(folder: Path) -> Path:
    written(folder / "a.txt", "x")
    os.truncate(folder / "a.txt", 2 << 30)  # a hole, which takes no disk
    return folder / "a.txt"


# Neuronpedia


def rows(kind: str, said: str, rows: Iterable[Any], *, name: str) -> None:
    """An export of which one kind of rows is odd."""

    def make(folder: Path) -> Path:
        path = export_folder(folder)
        written(path / kind / "batch-0.jsonl.gz", gzip.compress(jsonl(list(rows)).encode("utf-8", "surrogatepass")))
        return path

    case("export", said, name=name)(make)


def said_of(**changes: Any) -> dict[str, Any]:
    return {**EXPORTED, "index": "0", "description": "rivers", **changes}


rows("explanations", "line 2: it is not JSON", [said_of(), "{"], name="export row torn")
rows("explanations", "line 1: it is not JSON", [NESTED], name="export row nested deep")
rows("explanations", "line 1: it is not JSON", ['{"a": NaN}'], name="export row of NaN")
rows("explanations", "line 1: it is not a JSON object", ["[]"], name="export row a list")
rows("explanations", "field description is wrong", [said_of(description=["a"])], name="export description a list")
rows("explanations", "field index is wrong", [said_of(index={"a": 1})], name="export index a dict")
rows("explanations", "it is of gemma.*/other.*, not of gemma", [said_of(), said_of(layer="other\n" * 900)],
     name="export rows of two sources")  # fmt: skip


def record(said: str, *, name: str, **changes: Any) -> None:
    """An export whose source's record is odd."""

    def make(folder: Path) -> Path:
        path = export_folder(folder)
        written(path / "source.jsonl", jsonl([SOURCE | changes]))
        return path

    case("export", said, name=name)(make)


record("is no source id", name="export source of another form", id="../../x")
record("is no model id", name="export model of nine thousand lines", modelId="m\n" * 9000)
record("it is not JSON", name="export configuration torn", saelensConfig="{")
record(
    "it is not JSON|field saelensConfig is wrong", name="export configuration half a character", saelensConfig="\ud800"
)
record("its hook 'blocks.999.*' is not in", name="export hook of five thousand digits",
       saelensConfig={"hook_name": f"blocks.{'9' * 5000}.hook_resid_post"})  # fmt: skip
record("names neither a SAELens release nor", name="export record of nothing", saelensRelease=None, hfRepoId=None)


def files(said: str, change: Callable[[Path], object], *, name: str, bomb: bool = False) -> None:
    """An export with one file otherwise."""

    def make(folder: Path) -> Path:
        path = export_folder(folder)
        change(path)
        return path

    case("export", said, name=name, bomb=bomb)(make)


def batch(path: Path) -> Path:
    return path / "explanations/batch-0.jsonl.gz"


def led_out(path: Path) -> None:
    """The batches' folder moved outside, and a link to it in its place."""
    outside = path.parent / "outside"
    (path / "explanations").rename(outside)
    (path / "explanations").symlink_to(outside)


def piped(path: Path) -> None:
    """A pipe for a batch, which nobody writes into."""
    batch(path).unlink()
    os.mkfifo(batch(path))


def endless(path: Path) -> None:
    """A batch without a line end, as a hole, which takes no disk."""
    batch(path).unlink()
    os.truncate(written(path / "explanations/batch-0.jsonl", "x"), 200 << 20)


row = jsonl([said_of()]).encode()
files("the gzip file is torn", lambda p: written(batch(p), zipped(row * 99)[:-9]), name="export gzip cut short")
files("it is not whole gzip", lambda p: written(batch(p), b"\x1f\x8b" + bytes(40)), name="export gzip that is none")
files("a link that leads out", led_out, name="export folder a link that leads out")
files("there is no explanations/batch-0", piped, name="export batch a pipe")
files("it unpacks to more than (8|12) MB", lambda p: written(batch(p), gzip_of(row * 4000, 100)), bomb=True,
      name="export of 40 MB of rows")  # fmt: skip
files("it is longer than 16 MB", endless, bomb=True,
      name="export of one endless line")  # fmt: skip
files("Is a directory", lambda p: (batch(p).unlink(), batch(p).mkdir()), name="export batch a folder")
