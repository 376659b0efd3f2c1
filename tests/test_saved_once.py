"""What tests hold of a model's folder outlives the folder's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from saved_once import opened_once
from small_world import World


def test_a_model_that_is_held_is_not_its_file(world: World, tmp_path: Path) -> None:
    base, twin = (Path(shutil.copytree(world.source.model, tmp_path / name)) for name in ("base", "twin"))
    config = (base / "config.json").read_text()
    for folder in (base, twin):  # so that no other test has had it opened
        (folder / "config.json").write_text(config + " ")
    before = {name: weight.clone() for name, weight in opened_once(base).state_dict().items()}
    for path in base.glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    after = opened_once(twin).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
