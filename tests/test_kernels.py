"""The captured engine's kernels: in Triton's interpreter, and captured on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from transformers import AutoModelForCausalLM

from dragoman.models import captured, engines
from dragoman.models.decode import Verbalizer
from dragoman.models.fused import fused_norms
from dragoman.models.slots import FAR, Rows, attended
from tiny_checkpoints import ALL_FAMILIES, WIDTH, dataset_sidecar_of, model_of, save_checkpoint, sidecar_of

HERE = Path(__file__).parent
# An older one's interpreter does not run under NumPy 2.4; `kernels` of pyproject.toml asks for this one too.
TRITON = version("triton") if importlib.util.find_spec("triton") else "0"
triton = pytest.mark.skipif(Version(TRITON) < Version("3.9"), reason="Triton 3.9 is not installed")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
TOKENS = 24


def compared(*where: str, **environment: str) -> dict[str, Any]:
    """What ``interpreted_kernels`` says of one place."""
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    how: Any = {"capture_output": True, "text": True, "env": {**os.environ, **paths, **environment}, "timeout": 900}
    done = subprocess.run([sys.executable, str(HERE / "interpreted_kernels.py"), *where], **how)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@triton
def test_kernels_say_what_plain_torch_says() -> None:
    found = compared(TRITON_INTERPRET="1")
    assert found.pop("attention") < 1e-5 and found.pop("wide") < 1e-5
    assert found.pop("norms") <= 4 and found.pop("firings") < 1e-12
    assert len(found) == 12
    assert all(facts == 0 and difference < 1e-5 for facts, difference in found.values())


@cuda
def test_kernels_say_so_on_the_device_too() -> None:
    found = compared("cuda")
    assert found.pop("attention") < 1e-5 and found.pop("wide") < 1e-5
    assert found.pop("norms") <= 4 and found.pop("firings") < 1e-12
    assert len(found) == 18
    assert all(facts == 0 and difference < 1e-4 for facts, difference in found.values())


@cuda
def test_a_models_norms_are_replaced_while_it_is_read_and_its_own_again_afterwards() -> None:
    for family in ALL_FAMILIES:
        model = model_of(family).to("cuda", torch.bfloat16)
        named = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
        ids = torch.arange(24, device="cuda")[None] % 20
        with torch.inference_mode():
            own = model(input_ids=ids).logits
            with fused_norms("cuda", lambda model=model: [model]) as replaced:
                quick = model(input_ids=ids).logits
            assert replaced == len(named), family
            assert torch.equal(model(input_ids=ids).logits, own)
        assert float((quick - own).abs().max()) < 0.05 * float(own.abs().max()), family


def test_without_a_gpu_no_norm_is_replaced() -> None:
    models = lambda: [model_of("gemma3")]  # noqa: E731
    with fused_norms(None, models) as none, fused_norms("cpu", models) as none_either:
        assert none == none_either == 0


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
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, when it loads its compiler
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # advice on a faster, coarser float32
def test_compiled_blocks_say_the_same(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "gemma3")
    plain = Verbalizer(folder, device="cuda", engine="captured")
    compiled = Verbalizer(folder, device="cuda", engine="captured", compiled=True)
    vectors = np.random.default_rng(2).normal(size=(16, WIDTH["gemma3"])).astype(np.float32)
    want = plain.verbalize(vectors, max_new_tokens=TOKENS)
    assert [e.raw for e in compiled.verbalize(vectors, max_new_tokens=TOKENS)] == [e.raw for e in want]


@cuda
def test_auto_takes_the_captured_engine_on_the_device(tmp_path: Path) -> None:
    ours = Verbalizer(save_checkpoint(tmp_path / "av", "qwen2"), device="cuda")
    assert ours.engine == "engine: captured, on cuda"


@cuda
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_real_widths_say_the_loops_words(tmp_path: Path, family: str) -> None:
    # Heads, groups and widths of Qwen2.5-7B and Gemma-3-27B, two blocks of them in float32.
    wide: dict[str, Any] = {"qwen2": (3584, 28, 4), "gemma3": (5376, 32, 16)}
    d_model, heads, kv_heads = wide[family]
    config = model_of(family).config
    shape = {"hidden_size": d_model, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    for key, value in (shape | {"num_hidden_layers": 2, "initializer_range": 0.02, "head_dim": 128}).items():
        setattr(config, key, value)
    config.layer_types = config.layer_types[:2]
    torch.manual_seed(6)
    net = AutoModelForCausalLM.from_config(config)
    sidecar = sidecar_of(family) | {"d_model": d_model}
    folder = save_checkpoint(tmp_path / "av", family, model=net, sidecar=sidecar)
    ours = Verbalizer(folder, device="cuda", engine="captured")
    vectors = np.random.default_rng(4).normal(size=(24, d_model)).astype(np.float32)
    with ours.looped():
        loop = ours.verbalize(vectors, max_new_tokens=TOKENS)
    for fed in (1, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(captured, "FED", fed)
            assert ours._engine is not None
            ours._engine.close()
            said = ours.verbalize(vectors, max_new_tokens=TOKENS)
        assert [e.raw for e in said] == [e.raw for e in loop]
        assert [e.log_probability for e in said] == pytest.approx([e.log_probability for e in loop], abs=1e-3)


@cuda
def test_one_prompt_read_alone_is_read_into_its_own_slot(tmp_path: Path) -> None:
    # A single prompt's slots once reached the kernel as a view that steps by nothing, and it read past them.
    ours = Verbalizer(save_checkpoint(tmp_path / "av", "llama"), device="cuda", engine="captured")
    vectors = np.random.default_rng(5).normal(size=(1, WIDTH["llama"])).astype(np.float32)
    with ours.looped():
        loop = ours.verbalize(vectors, max_new_tokens=TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "FED", 1)
        assert ours.verbalize(vectors, max_new_tokens=TOKENS)[0].raw == loop[0].raw
