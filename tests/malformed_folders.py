"""Malformed folders for the corpus: dictionaries, links, reconstructors, bundles, run folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

import dictionary_folders as folders
from malformed import case
from whole_files import (
    AR_SIDECAR,
    EASY_META,
    MANIFEST,
    easy_reader,
    full_reader,
    peft_reader,
    run_folder,
    safetensors_vectors,
    universal,
    written,
)

# Dictionaries

NESTED = "[" * 100_000


def config(
    said: str, *, name: str, make: Callable[..., Path] = folders.saelens, file: str = "", **changes: Any
) -> None:
    """A dictionary whose configuration has other values, or is other text where ``file`` is given."""

    def write(folder: Path) -> Path:
        path = make(folder / "sae", **changes)
        if file:
            written(path / "cfg.json", file)
        return path

    case("dictionary", said, name=name)(write)


config("cfg.json: it is not a JSON object", name="cfg.json a list", file="[1]")
config("cfg.json: it is not JSON", name="cfg.json cut short", file='{"d_sae": 2')
config("cfg.json: it is not JSON", name="cfg.json nested deep", file=NESTED)
config("cfg.json: it is not JSON", name="cfg.json not text", file="\udcff".encode("utf-8", "surrogateescape"))  # type: ignore[arg-type]
config("cfg.json: it is not JSON", name="cfg.json of five thousand digits", file='{"d_sae": ' + "9" * 5000 + "}")
config("d_sae is '24.5', not a natural", name="d_sae a fraction", d_sae=24.5)
config("d_sae is '24', not a natural", name="d_sae text", d_sae="24")
config("d_sae is '-24', not a natural", name="d_sae negative", d_sae=-24)
config("d_sae is 'True', not a natural", name="d_sae a truth", d_sae=True)
config(r"d_sae is '\[24\]', not a natural", name="d_sae a list", d_sae=[24])
config("d_sae is 'nan', not a natural", name="d_sae NaN", d_sae=float("nan"))
config("d_sae is '1000.*', not a natural", name="d_sae of four hundred digits", d_sae=10**400)
config("says d_sae 25 and d_in 8", name="d_sae of another dictionary", d_sae=25)
config("its hook .* is not the output of a block", name="hook of five thousand digits",
       hook_name=f"blocks.{'9' * 4999}.hook_resid_post")  # fmt: skip
config("its hook .* is not the output of a block", name="hook a list", hook_name=["blocks.20.hook_resid_post"])
config("its hook_layer is", name="hook_layer text", hook_layer="20")
config("its model_name is .*, not a name", name="model a list", model_name=["m"])
config("architecture .* is not known", name="architecture a dict", architecture={"name": "relu"})
config("normalize_activations is", name="normalisation a list", normalize_activations=["layer_norm"])
config("the factor is not stored", name="factor of four hundred digits",
       normalize_activations="expected_average_only_in", norm_scaling_factor=10**400)  # fmt: skip
config("the factor is not stored", name="factor text", normalize_activations=True, norm_scaling_factor="2")
config("normalisation factor is -1", name="factor negative", normalize_activations=True, norm_scaling_factor=-1)


def scope(said: str, *, name: str, arrays: dict[str, Any] | None = None, **changes: Any) -> None:
    """A Llama Scope folder, otherwise."""

    def make(folder: Path) -> Path:
        path = folders.llama_scope(folder, **changes)
        weights = path / "checkpoints/final.safetensors"
        if arrays:
            save_file({**load_file(weights), **arrays}, weights)
        return path

    case("dictionary", said, name=name)(make)


scope("has no jump_relu_threshold", name="llama scope threshold text", jump_relu_threshold="0.7")
scope("has no jump_relu_threshold", name="llama scope threshold NaN", jump_relu_threshold=float("nan"))
scope("has no jump_relu_threshold", name="llama scope threshold beyond float32", jump_relu_threshold=10**400)
scope("average norm, which is not stored", name="llama scope norm beyond float32",
      dataset_average_activation_norm={"in": 10**400})  # fmt: skip
scope("average norm, which is not stored", name="llama scope norms a list", dataset_average_activation_norm=[2.5])
scope("5 thresholds do not fit 24 features", name="llama scope five thresholds",
      arrays={"log_jumprelu_threshold": np.zeros(5, np.float32)})  # fmt: skip
scope("no 2-D encoder.weight|shape", name="llama scope encoder in one row",
      arrays={"encoder.weight": np.zeros(192, np.float32)})  # fmt: skip


def odd_labels(said: str, content: str, *, name: str) -> None:
    def make(folder: Path) -> Path:
        path = safetensors_vectors(folder)
        written(folder / "labels.json", content)
        return path

    case("vectors", said, name=name)(make)


odd_labels("labels are a JSON object", "[]", name="labels a list")
odd_labels("labels.json: it is not JSON", '{"0": ', name="labels cut short")
odd_labels("the label of '0' is not text", '{"0": {"text": "rivers"}}', name="labels of dicts")
odd_labels("the label of '0' is not text", '{"0": ' + "[" * 900 + "]" * 900 + "}", name="labels nested deep")


@case("vectors", "too many for settings", bomb=True)
def labels_of_a_gigabyte(folder: Path) -> Path:
    path = safetensors_vectors(folder)
    written(folder / "labels.json", "{}")
    os.truncate(folder / "labels.json", 1 << 30)  # a hole, which takes no disk
    return path


# Links, and folders for files


def linked(name: str, outside: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A dictionary of which one file is a link that leads out."""

    def make(folder: Path) -> Path:
        path = folders.saelens(folder / "sae")
        (path / name).rename(folder / "outside")
        outside(folder / "outside")
        (path / name).symlink_to(folder / "outside")
        return path

    return make


_OUT = "it is a link that leads out of its folder"
case("dictionary", _OUT, name="weights a link that leads out")(linked("sae_weights.safetensors", lambda _: None))
case("dictionary", _OUT, name="cfg.json a link that leads out")(linked("cfg.json", lambda _: None))
case("dictionary", "cfg.json: there is no such file", name="cfg.json a link to nothing")(
    linked("cfg.json", Path.unlink)
)


@case("dictionary", _OUT)
def a_folder_inside_that_is_a_link_that_leads_out(folder: Path) -> Path:
    path = folders.llama_scope(folder)
    (path / "checkpoints").rename(folder / "outside")
    (path / "checkpoints").symlink_to(folder / "outside")
    return path


@case("dictionary", "unknown dictionary layout")
def cfg_json_a_folder(folder: Path) -> Path:
    path = folders.saelens(folder / "sae")
    (path / "cfg.json").unlink()
    (path / "cfg.json").mkdir()
    return path


@case("dictionary", "unknown dictionary layout")
def a_folder_of_long_names(folder: Path) -> Path:
    for k in range(9):
        written(folder / "sae" / f"{k}{'x' * 200}\n", "")
    return folder / "sae"


@case("arrays", "Is a directory|no header|not a whole safetensors file")
def safetensors_a_folder(folder: Path) -> Path:
    (folder / "a.safetensors").mkdir()
    return folder / "a.safetensors"


@case("vectors", "there is no such file or folder")
def vectors_that_are_not_there(folder: Path) -> Path:
    return folder / "v.npy"


# Reconstructors and bundles


def reader(said: str, make: Callable[[Path], Path], change: Callable[[Path], object], *, name: str) -> None:
    """A reconstructor or bundle with one file otherwise."""
    kind = "contract" if make is universal else "reconstructor"

    def write(folder: Path) -> Path:
        path = make(folder)
        change(path)
        return path

    case(kind, said, name=name)(write)


def meta(**changes: Any) -> Callable[[Path], object]:
    return lambda f: written(f / "ar_meta.json", json.dumps(EASY_META | changes))


def stated(**changes: Any) -> Callable[[Path], object]:
    return lambda f: written(f / "nla_meta.yaml", yaml.safe_dump(AR_SIDECAR | changes))


def adapter(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        told = json.loads((folder / "adapter_config.json").read_text()) | changes
        return written(folder / "adapter_config.json", json.dumps(told))

    return change


def head(**arrays: Any) -> Callable[[Path], object]:
    return lambda f: save_file({k: np.asarray(v) for k, v in arrays.items()}, f / "value_head.safetensors")


SQUARE = np.eye(8)
reader(r"its head is \(8, 9\), and the width is 8", full_reader, head(weight=np.ones((8, 9))), name="head not square")
reader(r"and a bias \(9,\)", full_reader, head(weight=SQUARE, bias=np.ones(9)), name="head's bias too long")
reader("its head holds NaN", full_reader, head(weight=SQUARE * np.nan), name="head NaN")
reader("its head holds NaN", full_reader, head(weight=SQUARE + 1e300), name="head beyond float32")
reader("it holds no weight but other", full_reader, head(other=SQUARE), name="head of another name")
reader("field hidden_size is wrong", full_reader, lambda f: written(f / "config.json", '{"hidden_size": [8]}'),
       name="config.json width a list")  # fmt: skip
reader("config.json: it is not a mapping", full_reader,
       lambda f: written(f / "config.json", '{"text_config": "x"}'), name="config.json text part a word")  # fmt: skip
reader("field num_hidden_layers is wrong", full_reader,
       lambda f: written(f / "config.json", '{"hidden_size": 8, "num_hidden_layers": {}}'),
       name="config.json layers a dict")  # fmt: skip
reader("config.json: it is not JSON", full_reader, lambda f: written(f / "config.json", NESTED),
       name="config.json nested deep")  # fmt: skip
reader("field d_model is wrong", full_reader, stated(d_model=0), name="reader's width nothing")
reader("field d_model is wrong", full_reader, stated(d_model=True), name="reader's width a truth")
reader("field extraction.mse_scale is wrong", full_reader, stated(extraction={"mse_scale": True}),
       name="reader's scale a truth")  # fmt: skip
reader("field extraction.mse_scale is wrong", full_reader, stated(extraction={"mse_scale": "x" * 5000}),
       name="reader's scale a long word")  # fmt: skip
reader("its template gives a form for slot", full_reader, stated(prompt_templates={"ar": "{explanation:>9999999999}"}),
       name="reader's template wide")  # fmt: skip
reader("field lora_r is wrong", easy_reader, meta(lora_r="two"), name="ar_meta rank a word")
reader("field lora_r is wrong", easy_reader, meta(lora_r=-2), name="ar_meta rank negative")
reader("field ar_num_layers is wrong", easy_reader, meta(ar_num_layers=2.5), name="ar_meta layers a fraction")
reader("field lora_alpha is wrong", easy_reader, meta(lora_alpha=float("inf")), name="ar_meta alpha infinite")
reader("field target_modules.* is wrong", easy_reader, meta(target_modules={"a": 1}), name="ar_meta modules a dict")
reader(
    "field final_norm_stripped is wrong", easy_reader, meta(final_norm_stripped="perhaps"), name="ar_meta norm a word"
)
reader("it states rank 1000000000, ar_lora_value_head.safetensors has rank 2", easy_reader, meta(lora_r=10**9),
       name="ar_meta rank a thousand million")  # fmt: skip
reader("is no plain pattern of module names", easy_reader, meta(target_modules="(a+)+$"), name="ar_meta pattern slow")
reader(
    "is no plain pattern of module names", easy_reader, meta(target_modules=".*.*.*.*.*x"), name="ar_meta pattern wild"
)
reader("is no plain pattern of module names", easy_reader, meta(target_modules="("), name="ar_meta pattern torn")
reader("is no plain pattern of module names", easy_reader, meta(target_modules="[[a]"), name="ar_meta pattern of sets")
reader(
    "ar_meta.json: it is not a mapping", easy_reader, lambda f: written(f / "ar_meta.json", "[]"), name="ar_meta a list"
)
reader("it states rank 4096, adapter_model.safetensors has rank 2", peft_reader, adapter(rank_pattern={"q_proj": 4096}),
       name="adapter rank by pattern")  # fmt: skip
reader("field r is wrong", peft_reader, adapter(r=[2]), name="adapter rank a list")
reader(
    "field target_modules.* is wrong", peft_reader, adapter(target_modules={"q_proj": 1}), name="adapter modules a dict"
)
reader(
    "is no plain pattern of module names", peft_reader, adapter(target_modules="(.*)*x"), name="adapter pattern slow"
)
reader("is not plain LoRA", peft_reader, adapter(peft_type=["LORA"]), name="adapter type a list")


def bundle(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        told = yaml.safe_load((folder / "nla_meta.yaml").read_text()) | changes
        return written(folder / "nla_meta.yaml", yaml.safe_dump(told))

    return change


reader("it lacks d_shared", universal, bundle(d_shared=-8), name="bundle's width negative")
reader("it lacks d_shared", universal, bundle(tokens=["@", 5]), name="bundle's tokens a list")
reader("its injection_scale is .*, and only the root", universal, bundle(injection_scale=["x" * 900] * 9),
       name="bundle's scale a long list")  # fmt: skip
reader("its template has unbalanced braces", universal, bundle(prompt_templates={"actor": "{injection_char} {"}),
       name="bundle's template torn")  # fmt: skip
reader("its template gives a form for slot", universal, bundle(prompt_templates={"actor": "{injection_char:>99999}"}),
       name="bundle's template wide")  # fmt: skip
reader("its encoders are of class", universal, lambda f: written(f / "adapters/meta.json", '{"adapter_class": [1]}'),
       name="bundle's class a list")  # fmt: skip
reader("it has no encoder for 'small-1b'", universal,
       lambda f: written(f / "adapters/meta.json", '{"model_dims": {"small-1b": "6"}}'),
       name="bundle's widths words")  # fmt: skip
reader("not a whole safetensors file", universal,
       lambda f: written(f / "adapters/adapters.safetensors", b"\0" * 40),
       name="bundle's encoders cut short")  # fmt: skip
reader("holds NaN or infinite", universal,
       lambda f: save_file({"encoders.small-1b.weight": np.full((8, 6), np.nan)}, f / "adapters/adapters.safetensors"),
       name="bundle's encoder NaN")  # fmt: skip
reader("has shape", universal,
       lambda f: save_file({"encoders.small-1b.weight": np.ones((6, 8))}, f / "adapters/adapters.safetensors"),
       name="bundle's encoder turned")  # fmt: skip

# Run folders


def run(said: str, change: Callable[[Path], object], *, name: str, bomb: bool = False) -> None:
    """A run folder with one file otherwise."""

    def make(folder: Path) -> Path:
        path = run_folder(folder)
        change(path)
        return path

    case("run", said, name=name, bomb=bomb)(make)


def line(number: int, content: bytes) -> Callable[[Path], object]:
    """Another line in the middle of the rows."""

    def change(path: Path) -> object:
        lines = (path / "rows.jsonl").read_bytes().split(b"\n")
        lines[number - 1] = content
        return written(path / "rows.jsonl", b"\n".join(lines))

    return change


run("it is not a run folder", lambda p: (p / "manifest.json").unlink(), name="run without manifest")
run("manifest.json: it is not JSON", lambda p: written(p / "manifest.json", "{"), name="run manifest cut short")
run("manifest.json: it is not JSON", lambda p: written(p / "manifest.json", NESTED), name="run manifest nested deep")
run("its format is None", lambda p: written(p / "manifest.json", "[]"), name="run manifest a list")
run("its format is ", lambda p: written(p / "manifest.json", json.dumps({**MANIFEST, "format": "x\n" * 9000})),
    name="run format of nine thousand lines")  # fmt: skip
run("rows.jsonl, line 2: it is not JSON", line(2, b'{"feature": "1", "te'), name="run row torn in the middle")
run("rows.jsonl, line 2: it is not JSON", line(2, b"\xff\xfe\0"), name="run row not text")
run("rows.jsonl, line 2: it is not JSON", line(2, b"[" * 100_000), name="run row nested deep")
run("rows.jsonl, line 1: it is not a JSON object", line(1, b"7"), name="run row a number")
run("not a whole safetensors file", lambda p: os.truncate(p / "vectors.safetensors", 300), name="run vectors cut short")
run("vectors.safetensors: No such file", lambda p: (p / "vectors.safetensors").unlink(), name="run without vectors")
run("scores.json: it is not a JSON object", lambda p: written(p / "scores.json", "[1]"), name="run scores a list")
run("scores.json: it is not JSON", lambda p: written(p / "scores.json", '{"a": 1'), name="run scores cut short")
run("too many for a JSON file", lambda p: os.truncate(p / "scores.json", 4 << 30), name="run scores of 4 GB", bomb=True)
run("Is a directory", lambda p: ((p / "manifest.json").unlink(), (p / "manifest.json").mkdir()),
    name="run manifest a folder")  # fmt: skip
