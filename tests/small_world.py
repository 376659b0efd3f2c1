"""Two tiny random models of one width, a verbalizer and reconstructors of them, a dictionary, texts: all in folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ar_checkpoints import WIDTH, base_of, save_base, save_easy, save_peft
from asking import Asked
from dragoman import cli
from dragoman.core import Site
from saved_once import saved_once
from tiny_checkpoints import (
    BLOCK,
    CORPUS,
    dataset_sidecar_of,
    save_adapter,
    save_checkpoint,
    sidecar_of,
    write_sidecar,
)

D_SAE = 30
TEXTS = [f"{' '.join(CORPUS)[11 * (i % 40) : 11 * (i % 40) + 90]} number {i}" for i in range(40)]


@dataclass(frozen=True)
class World:
    """``source`` and ``target``: sites of Llama and Gemma 3, ``av``: kitft's, of the target, ``sae``: of the source."""

    root: Path

    @property
    def source(self) -> Site:
        return Site(str(self.root / "llama"), BLOCK)

    @property
    def target(self) -> Site:
        return Site(str(self.root / "gemma"), BLOCK)

    @property
    def av(self) -> str:
        return str(self.root / "av")

    @property
    def sae(self) -> str:
        return str(self.root / "sae")

    @property
    def rows(self) -> np.ndarray:
        """The dictionary's decoder rows (D_SAE, WIDTH), of length 1."""
        return decoder()

    def request(self, **changes: Any) -> Asked:
        asked: dict[str, Any] = {
            "dictionary": self.sae, "features": ("0", "3", "7", "11"), "by": self.av, "source": self.source,
            "texts": str(self.root / "texts.txt"), "max_new_tokens": 6, "batch_size": 8,
        }  # fmt: skip
        return Asked(**(asked | changes))


def decoder() -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((D_SAE, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def build(root: Path) -> World:
    """Write it all below ``root``."""
    world = World(root)
    save_base(root / "llama", "llama")
    save_base(root / "gemma", "gemma3")
    of_target = {"d_model": WIDTH, "base_checkpoint": world.target.model}
    saved_once(root / "av", "small world", lambda to: save_checkpoint(to, "gemma3", model=base_of("gemma3")))
    write_sidecar(root / "av", sidecar_of("gemma3") | of_target)
    save_peft(root / "source-ar", "llama", root / "llama")
    save_easy(root / "target-ar", "gemma3", root / "gemma")
    write_sae(root / "sae")
    (root / "texts.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS))
    return world


def write_sae(folder: Path) -> None:
    """A SAELens folder at the source."""
    folder.mkdir()
    w = decoder()
    arrays = {"W_dec": w, "W_enc": w.T.copy(), "b_enc": np.zeros(D_SAE, np.float32), "b_dec": np.zeros(WIDTH, "f4")}
    save_file(arrays, folder / "sae_weights.safetensors")
    hook = {"hook_name": f"blocks.{BLOCK}.hook_resid_post", "model_name": "m"}
    config = {"architecture": "topk", "k": 8, "d_in": WIDTH, "d_sae": D_SAE, "metadata": hook}
    (folder / "cfg.json").write_text(json.dumps(config))


def easynla_run(root: Path, base: Path, *, base_name: str | None = None) -> Path:
    """A run as EasyNLA leaves it: adapter in ``iter_4``, and the data's sidecar one folder up; the step's folder."""
    sidecar = dataset_sidecar_of("gemma3")
    sidecar["extraction"] |= {"base_model": base_name or str(base), "d_model": WIDTH}
    step = save_adapter(root / "iter_4", "gemma3", base, rslora=True, sidecar=sidecar)
    (step / "nla_meta.yaml").rename(root / "nla_meta.yaml")
    return step


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    """``dragoman`` with these words, in this process."""
    monkeypatch.setattr("sys.argv", ["dragoman", *words])
    capsys.readouterr()
    code: Any = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    return Said(int(code), *capsys.readouterr())
