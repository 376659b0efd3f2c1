"""Odd folders: torn, hostile, of unsupported kinds, each one change away from a tiny whole checkpoint.

`ODD` names each, with the change and a pattern of what refuses it; ``opens`` marks changes that do no harm. Built in
code, so that no hostile file lies in the repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

Change = Callable[[Path], object]
CANARY = "canary"  # a file that code in a hostile checkpoint would make
opens = ""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"
EVIL = {"AutoConfig": "configuration_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}
NESTED = "[" * 100_000
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@dataclass(frozen=True, kw_only=True)
class Odd:
    """``change`` of a whole folder; ``said``: pattern of the refusal, empty where it opens; ``kind`` of checkpoint."""

    change: Change
    said: str
    kind: str = "verbalizer"


ODD: dict[str, Odd] = {}


def odd(name: str, said: str, change: Change, kind: str = "verbalizer") -> None:
    """Enter one."""
    if name in ODD:
        raise ValueError(f"two are called '{name}'")
    ODD[name] = Odd(change=change, said=said, kind=kind)


# --- changes -----------------------------------------------------------------------------------------------------


def content(name: str, what: str | bytes) -> Change:
    """A file of other contents."""
    return lambda f: (f / name).write_bytes(what.encode() if isinstance(what, str) else what)


def settings(name: str, **changes: Any) -> Change:
    """A JSON file with other values; ``...`` takes one out."""

    def change(folder: Path) -> None:
        told = json.loads((folder / name).read_text())
        told.update(changes)
        told = {k: v for k, v in told.items() if v is not ...}
        (folder / name).write_text(json.dumps(told))

    return change


def config(**changes: Any) -> Change:
    return settings("config.json", **changes)


def tokenizer(**parts: Any) -> Change:
    return settings("tokenizer.json", **parts)


def named(**changes: Any) -> Change:
    return settings("tokenizer_config.json", **changes)


def template(text: str) -> Change:
    return content("chat_template.jinja", text)


def sidecar(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        told = yaml.safe_load((folder / "nla_meta.yaml").read_text()) | changes
        (folder / "nla_meta.yaml").write_text(yaml.safe_dump(told, allow_unicode=True))

    return change


def tensors(alter: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Weights otherwise."""

    def change(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        alter(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def every(kind: torch.dtype) -> Change:
    """All weights in another dtype."""
    return tensors(lambda held: held.update({name: tensor.to(kind) for name, tensor in held.items()}))


def one(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return tensors(lambda held: held.update({name: make(held[name])}))


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def sharded(folder: Path) -> None:
    """The same weights in two shards and an index."""
    held = load_file(folder / WEIGHTS)
    names = sorted(held)
    where = {name: SHARDS[k >= len(names) // 2] for k, name in enumerate(names)}
    for shard in SHARDS:
        save_file({n: held[n] for n in names if where[n] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / WEIGHTS).unlink()


def replacing(pattern: dict[str, str], text: str, times: int = 1) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": pattern, "content": text}
    return {"type": "Sequence", "normalizers": [one] * times}


def then(*changes: Change) -> Change:
    """One after the other."""
    return lambda folder: [change(folder) for change in changes]


def indexed(alter: Callable[[dict[str, Any]], object]) -> Change:
    """Shards with another index."""

    def change(folder: Path) -> None:
        sharded(folder)
        told = json.loads((folder / INDEX).read_text())
        alter(told)
        (folder / INDEX).write_text(json.dumps(told))

    return change


def first_shard(name: str) -> Callable[[dict[str, Any]], object]:
    """An index whose first shard is called otherwise."""
    return lambda told: told.update(
        weight_map={k: name if v == SHARDS[0] else v for k, v in told["weight_map"].items()}
    )


def cut(name: str, share: float = 0.5) -> Change:
    """A torn download."""
    return lambda f: os.truncate(f / name, int((f / name).stat().st_size * share))


def gone(name: str) -> Change:
    return lambda f: (f / name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Change:
    """Something else under a file's name."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


# --- code in a checkpoint ---


def with_code(folder: Path) -> None:
    """Python beside the checkpoint that leaves a file behind when it is run."""
    line = f"from pathlib import Path\nPath({str(folder.parent / CANARY)!r}).write_text('run')\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "evil.py"):
        (folder / name).write_text(line)


def code(told: Any, name: str = "config.json", **more: Any) -> Change:
    return then(with_code, settings(name, auto_map=told, **more))
