"""The captured engine's kernels: in Triton's interpreter here, and captured on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dragoman.models import captured, engines
from dragoman.models.decode import Verbalizer
from dragoman.models.slots import FAR, Rows, attended
from tiny_checkpoints import ALL_FAMILIES, WIDTH, dataset_sidecar_of, save_checkpoint

HERE = Path(__file__).parent
triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
TOKENS = 24


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the captured engine run where these tests are to prove it."""
    monkeypatch.setattr(engines, "PROVEN_ON", ("cpu", "cuda"))


@triton
def test_kernels_say_what_plain_torch_says() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    how: Any = {"capture_output": True, "text": True, "env": environment, "timeout": 900}
    done = subprocess.run([sys.executable, str(HERE / "interpreted_kernels.py")], **how)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("attention") < 1e-5 and found.pop("wide") < 1e-5
    assert len(found) == 12
    assert all(facts == 0 and difference < 1e-5 for facts, difference in found.values())


def test_plain_attention_is_that_of_a_softmax_row_by_row() -> None:
    # An independent reading: each row alone, its keys laid end to end, in float64.
    generator = torch.Generator().manual_seed(3)
    shared, own, heads, group, d, window = 9, 8, 2, 3, 12, 6
    tables: Any = [torch.randn(heads, shared, d, generator=generator) for _ in range(2)]
    tables += [torch.randn(4, heads, own, d, generator=generator) for _ in range(2)]
    slot, position = torch.tensor([2, 0, 3]), torch.tensor([shared, shared + 3, shared + 7])
    q = torch.randn(3, heads * group, 1, d, generator=generator)
    k, v = (torch.randn(3, heads, 1, d, generator=generator) for _ in range(2))
    for far in (window, FAR):
        got = attended(q, k, v, tuple(tables), Rows(slot, position, "step", own), 0.3, far)
        for row, (s, n) in enumerate(zip(slot.tolist(), position.tolist(), strict=True)):
            for head in range(heads * group):
                at = head // group
                keys = torch.cat([tables[0][at], tables[2][s, at, : n - shared], k[row, at]]).double()
                values = torch.cat([tables[1][at], tables[3][s, at, : n - shared], v[row, at]]).double()
                keys, values = keys[max(0, n + 1 - far) :], values[max(0, n + 1 - far) :]
                weight = (keys @ q[row, head, 0].double() * 0.3).softmax(0)
                torch.testing.assert_close(got[row, 0, head].double(), weight @ values, rtol=1e-5, atol=1e-5)


@cuda
@pytest.mark.parametrize("contract", ["kitft", "karvonen"])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_captured_texts_are_the_loops_on_the_device(
    tmp_path: Path, family: str, contract: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = dataset_sidecar_of(family) if contract == "karvonen" else None
    folder = save_checkpoint(tmp_path / "av", family, sidecar=sidecar)
    ours = Verbalizer(folder, contract=contract, device="cuda", engine="captured")
    vectors = np.random.default_rng(0).normal(size=(40, WIDTH[family])).astype(np.float32)
    with ours.looped():
        loop = ours.verbalize(vectors, max_new_tokens=TOKENS)
    for fed, most in ((1, 512), (64, 512), (1, 16), (64, 16)):
        monkeypatch.setattr(captured, "FED", fed)
        monkeypatch.setattr(engines, "MOST_SLOTS", most)
        assert ours._engine is not None
        ours._engine.close()
        said = ours.verbalize(vectors, max_new_tokens=TOKENS)
        assert [e.raw for e in said] == [e.raw for e in loop], (fed, most)
        assert [e.log_probability for e in said] == pytest.approx([e.log_probability for e in loop], abs=1e-3)
        again = ours.verbalize(vectors, max_new_tokens=TOKENS)  # by graphs that were there
        assert [e.raw for e in again] == [e.raw for e in said]


@cuda
def test_samples_on_the_device_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    ours = Verbalizer(save_checkpoint(tmp_path / "av", "qwen2"), device="cuda", engine="captured")
    vectors = np.random.default_rng(1).normal(size=(24, WIDTH["qwen2"])).astype(np.float32)
    how = {"temperature": 0.8, "seed": 5, "max_new_tokens": 12}
    together = [e.raw for e in ours.verbalize(vectors, **how)]
    turned = [e.raw for e in ours.verbalize(vectors[::-1].copy(), **how)]
    # The same step at another place in the batch: products are summed alike.
    assert turned[::-1] == together
    assert [e.raw for e in ours.verbalize(vectors, **{**how, "seed": 6})] != together


@cuda
def test_compiled_blocks_say_the_same(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "gemma3")
    plain = Verbalizer(folder, device="cuda", engine="captured")
    compiled = Verbalizer(folder, device="cuda", engine="captured", compiled=True)
    vectors = np.random.default_rng(2).normal(size=(16, WIDTH["gemma3"])).astype(np.float32)
    want = plain.verbalize(vectors, max_new_tokens=TOKENS)
    assert [e.raw for e in compiled.verbalize(vectors, max_new_tokens=TOKENS)] == [e.raw for e in want]


@cuda
def test_auto_takes_the_loop_while_the_tests_above_fail(tmp_path: Path) -> None:
    ours = Verbalizer(save_checkpoint(tmp_path / "av", "qwen2"), device="cuda")
    assert ours.engine.startswith("engine: loop"), ours.engine
