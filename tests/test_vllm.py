"""VLLM itself, on a CPU in float32: what it says is what the plain loop says. Run by ``make check-vllm``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import killed_vllm
from dragoman.core import Explanation, Refusal
from dragoman.models.decode import Verbalizer
from dragoman.models.vllm import engine
from dragoman.models.vllm.client import Client
from dragoman.models.vllm.engine import VllmEngine
from dragoman.models.vllm.rows import HowSaid
from dragoman.models.vllm.server import ServerEngine
from tiny_checkpoints import model_of, save_checkpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make check-vllm"),
    pytest.mark.filterwarnings("default"),  # of the libraries it brings
]
TOKENS = 80  # the pair's verbalizers end most texts before
ROWS = 32
AVS = ("tiny-smollm2-av", "tiny-gemma-av")


def vectors_of(verbalizer: Verbalizer, count: int = ROWS, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, verbalizer.width)).astype(np.float32)


def engine_of(verbalizer: Verbalizer) -> VllmEngine:
    assert isinstance(verbalizer._engine, VllmEngine)
    return verbalizer._engine


def saved(folder: Path, family: str) -> Path:
    """A random model with heads as wide as vLLM's attention on a CPU takes them."""
    return save_checkpoint(folder / "av", family, model=model_of(family, head_dim=32))


def both(verbalizer: Verbalizer, rows: Any, **how: Any) -> tuple[list[Explanation], list[Explanation]]:
    """What vLLM says and what the loop says; vLLM goes on running."""
    ours = verbalizer.verbalize(rows, **how)
    kept, verbalizer._engine = verbalizer._engine, None
    try:
        return ours, verbalizer.verbalize(rows, **how)
    finally:
        verbalizer._engine = kept


def same(ours: list[Explanation], loop: list[Explanation]) -> None:
    assert sum(a.raw == b.raw for a, b in zip(ours, loop, strict=True)) == len(ours)
    assert [(e.tokens, e.text, e.problems) for e in ours] == [(e.tokens, e.text, e.problems) for e in loop]
    assert [e.log_probability for e in ours] == pytest.approx([e.log_probability for e in loop], abs=1e-4)


@pytest.fixture(scope="module", params=AVS)
def av(request: pytest.FixtureRequest) -> Any:
    verbalizer = Verbalizer.open(request.param, engine="vllm")
    yield verbalizer
    engine_of(verbalizer).close()


def test_thirty_two_of_thirty_two_texts_of_mixed_lengths_are_the_loops(av: Verbalizer) -> None:
    ours, loop = both(av, vectors_of(av), max_new_tokens=TOKENS)
    same(ours, loop)
    assert len({e.raw for e in ours}) > ROWS // 2
    found = engine_of(av).compared
    assert found is not None and found.tokens == 64 and found.reported_most < 1e-3
    assert len({e.tokens for e in ours}) > 4 and any(e.raw.endswith("</explanation>") for e in ours)


def test_what_it_drew_is_drawn_again_whatever_stands_beside_it(av: Verbalizer) -> None:
    rows = vectors_of(av, 6)
    how: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.0}
    first = [e.raw for e in av.verbalize(rows, seed=3, **how)]
    assert first == [e.raw for e in av.verbalize(rows[::-1].copy(), seed=3, **how)][::-1]
    assert first[2:3] == [e.raw for e in av.verbalize(rows[2:3], seed=3, **how)]
    assert first != [e.raw for e in av.verbalize(rows, seed=4, **how)] and len(set(first)) > 1


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "mistral"])
def test_random_models_of_every_family_say_the_same(tmp_path: Path, family: str) -> None:
    verbalizer = Verbalizer(saved(tmp_path, family), contract="kitft", engine="vllm")
    ours, loop = both(verbalizer, vectors_of(verbalizer, 8), max_new_tokens=24)
    same(ours, loop)
    assert len({e.raw for e in ours}) > 1
    engine_of(verbalizer).close()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_embeddings_scaled_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    verbalizer = Verbalizer(saved(tmp_path, family), contract="kitft", engine="vllm")
    made = engine._made

    def scaling(*how: Any) -> Any:
        llm = made(*how)
        plain = llm.generate

        def generate(prompts: Any, *more: Any, **rest: Any) -> Any:
            return plain([{"prompt_embeds": p["prompt_embeds"] * p["prompt_embeds"].shape[1] ** 0.5} for p in prompts],
                         *more, **rest)  # fmt: skip

        llm.generate = generate
        return llm

    monkeypatch.setattr(engine, "_made", scaling)
    with pytest.raises(Refusal, match=r"^vllm [\d.]+.*: it does not say what the plain loop says"):
        verbalizer.verbalize(vectors_of(verbalizer, 4), max_new_tokens=12)
    assert engine_of(verbalizer)._llm is None
    monkeypatch.undo()
    same(*both(verbalizer, vectors_of(verbalizer, 4), max_new_tokens=12))
    engine_of(verbalizer).close()


def test_what_vllm_casts_and_what_it_makes_of_nan_is_why_embeddings_are_checked(tmp_path: Path) -> None:
    verbalizer = Verbalizer(saved(tmp_path, "llama"), contract="kitft", engine="vllm")
    running = engine_of(verbalizer)
    with torch.inference_mode():
        (row,) = running._prompts(verbalizer.feed(vectors_of(verbalizer, 1)), 1)
    running._ready(len(row), HowSaid(12))
    how = running._sampling(12, 0.0, None)
    plain, wide = (list(running._generated([one], [how])[0].token_ids) for one in (row, row.double()))
    assert plain == wide  # float64 is cast without a word
    (said,) = running._generated([row * float("nan")], [how])
    with pytest.raises(Refusal, match="logits are not finite"):
        running._told(said)
    running.close()


def test_a_run_that_was_killed_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    """Kill -9 amid the rows, the same command again; beside a run that nobody killed."""
    words = [sys.executable, killed_vllm.__file__, str(saved(tmp_path, "llama"))]
    rows = tmp_path / "killed" / "rows.jsonl"
    with (tmp_path / "log").open("w") as log:
        one = subprocess.Popen([*words, str(rows.parent)], stdout=log, stderr=log)
        while one.poll() is None and (not rows.exists() or rows.stat().st_size == 0):
            time.sleep(0.005)
        os.kill(one.pid, signal.SIGKILL)
        assert one.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    count = killed_vllm.ROWS * killed_vllm.SAMPLES
    kept = rows.read_text().count("\n") // killed_vllm.BATCH * killed_vllm.BATCH  # a batch that was cut is said again
    assert 0 <= kept < count
    told = [subprocess.run([*words, str(tmp_path / name)], capture_output=True, text=True, check=True).stdout
            for name in ("killed", "whole")]  # fmt: skip
    done = [one.splitlines()[-1] for one in told]
    assert done == [f"Done(reused={kept}, made={count - kept})", f"Done(reused=0, made={count})"]
    assert rows.read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "killed" / "manifest.json").read_text())
    assert manifest["verbalizers"]["by"]["engine"].startswith("vllm ")


@contextmanager
def serving(folder: Path, log: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``vllm serve FOLDER``, which the re-build for CPUs starts as a module alone; the engine, and the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", port]
    words += ["--host", "127.0.0.1", "--dtype", "float32", "--generation-config", "vllm", "--enforce-eager"]
    env = os.environ | engine._SETTINGS | {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    words += ["--block-size", "32", "--max-model-len", "300", *more]
    client = Client(f"http://127.0.0.1:{port}")
    with log.open("w") as told:
        process = subprocess.Popen(words, stdout=told, stderr=told, env=env, start_new_session=True)
        try:
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    client.about()
                    break
                except Refusal:
                    time.sleep(0.5)
            yield f"vllm:{client._base}", process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_servers_words_are_the_loops_until_it_is_killed(tmp_path: Path) -> None:
    folder = Verbalizer.open("tiny-smollm2-av")._vllm_folder()
    with serving(folder, tmp_path / "log", "--enable-prompt-embeds") as (word, process):
        verbalizer = Verbalizer.open("tiny-smollm2-av", engine=word)
        running = verbalizer._engine
        assert isinstance(running, ServerEngine) and running.compared is not None
        assert running.compared.tokens == 64 and running.compared.reported_most < 1e-3
        rows = vectors_of(verbalizer)
        ours, loop = both(verbalizer, rows, max_new_tokens=TOKENS)
        same(ours, loop)
        assert len({e.raw for e in ours}) > ROWS // 2 and any(e.raw.endswith("</explanation>") for e in ours)
        how: dict[str, Any] = {"max_new_tokens": 16, "temperature": 0.7, "seed": 3}
        first = [e.raw for e in verbalizer.verbalize(rows[:6], **how)]
        assert first == [e.raw for e in verbalizer.verbalize(rows[5::-1].copy(), **how)][::-1] and len(set(first)) > 1
        with pytest.raises(
            Refusal, match=r"its rows have 300 tokens at most, and \d+ of the prompt and 290 are needed"
        ):
            verbalizer.verbalize(rows, max_new_tokens=290)
        with pytest.raises(Refusal, match=r"it answers 400: .*; have it serve this very model \(vllm serve /"):
            Verbalizer(saved(tmp_path, "llama"), contract="kitft", engine=word)  # of another width
        killer = threading.Timer(2.0, os.killpg, (process.pid, signal.SIGKILL))  # most likely amid the rows
        killer.start()
        with pytest.raises(Refusal, match="it gave no answer that can be used"):
            while True:
                verbalizer.verbalize(rows, max_new_tokens=TOKENS)


def test_a_server_without_embeddings_is_told_what_it_lacks(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    with (
        serving(folder, tmp_path / "log") as (word, _),
        pytest.raises(Refusal, match="start it with that: vllm serve /"),
    ):
        Verbalizer(folder, contract="kitft", engine=word)
