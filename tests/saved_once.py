"""Folders of random models that are made once a worker: asked for again, they are written from memory, byte for byte.

To build, draw and save a model of a few thousand numbers takes transformers and PEFT a twentieth of a second, and
hundreds of tests want the same ones, each in a folder of its own to do with as it likes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM

_made: dict[Hashable, dict[str, bytes]] = {}
_opened: dict[bytes, Any] = {}


def saved_once(folder: Path, key: Hashable, save: Callable[[Path], object]) -> Path:
    """What ``save`` writes into a folder, in this one. ``key``: all that decides it, the name of what is made first.

    torch's own random numbers are afterwards where they were, whether it was saved or written again.
    """
    if key not in _made:
        with TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
            save(Path(scratch))
            _made[key] = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _made[key].items():
        (folder / name).write_bytes(content)
    return folder


def opened_once(base: Path) -> Any:
    """A copy of the model in a folder, as transformers opens it; of the same bytes it is opened once a worker.

    What is kept is a copy too: weights that are opened are pages of their file, which a test may write again, and then
    they are gone, or others.
    """
    digest = _digest(base)
    if digest not in _opened:
        _opened[digest] = deepcopy(AutoModelForCausalLM.from_pretrained(base))
    net = deepcopy(_opened[digest])
    net.name_or_path = net.config._name_or_path = str(base)  # the folder it was opened from may be gone
    return net


def _digest(base: Path) -> bytes:
    sha = hashlib.sha256((base / "config.json").read_bytes())
    for path in sorted(base.glob("*.safetensors")):
        sha.update(path.read_bytes())
    return sha.digest()


def adapter_saved_once(folder: Path, key: Hashable, base: Path, save: Callable[[Path], object]) -> Path:
    """An adapter as PEFT saves it, on a base of these bytes, wherever that lies; without a page about it."""
    from peft import PeftModel

    with mock.patch.object(PeftModel, "create_or_update_model_card"):  # its page takes a third of the time
        saved_once(folder, (key, _digest(base)), save)
    settings = folder / "adapter_config.json"
    told = json.loads(settings.read_bytes()) | {"base_model_name_or_path": str(base)}
    settings.write_text(json.dumps(told, indent=2, sort_keys=True))
    return folder
