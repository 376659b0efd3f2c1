"""How fast a verbalizer speaks: ``python bench/decode.py --shape qwen --shape gemma --device cuda``.

In one run on one machine: the plain loop, the captured step (without and with torch.compile), vLLM where it can be
imported (else ``vllm_skipped`` says why, and no figure stands there), and what arithmetic allows. Shapes: ``qwen`` and
``gemma`` are Qwen2.5-7B and Gemma-3-27B (the text model) with random weights made on the device, in bfloat16; ``tiny``
rehearses all of it on a CPU; ``pair`` is the embedded verbalizer, loop and captured engine side by side. Prompts are
110 positions, 104 of them shared; rows end at a length, all at the same or each at 30 to 100 % of it. Log-probability,
text and the checks on it are included, as for users.

Prints each figure as it comes, and writes it at once into ``bench/results/decode.json`` (``--out``): a shape that was
measured before keeps what is not measured again. Needs no network. ``--engines`` picks some: about a minute each for
``qwen``, two for ``gemma``; ``vllm`` also writes the checkpoint into ``--scratch`` (15 and 54 GB), so give it memory.
Whether engines say the same is weighed by ``decode_words.py``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast, Qwen2Config

from dragoman.models.captured import Captured
from dragoman.models.choose import Ending
from dragoman.models.contracts.base import Feed, at_norm, replaced
from dragoman.models.decode import Verbalizer
from dragoman.models.engines import slots_for
from dragoman.store import read_arrays, read_json, write_arrays, write_json
from dragoman.verbalizers.protocol import CLOSE

HERE = Path(__file__).parent
SHARED, PROMPT = 104, 110
ENGINES = ("loop", "captured", "compiled", "vllm")
LOOP_STEPS = 16  # of the loop: its steps cost the same whatever stands before them
CLOSERS = 300  # tokens of a vocabulary with a ">" in them, as many as published ones have


@dataclass(frozen=True)
class Shape:
    """A model's shape, and how much is said in it: ``new`` tokens a row, in ``slots`` at once where there is room."""

    config: Callable[[], Any]
    new: int
    slots: int
    dtype: str = "bfloat16"


def qwen() -> Any:
    """Qwen2.5-7B."""
    return Qwen2Config(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
        vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def gemma() -> Any:
    """The text model of Gemma-3-27B."""
    return Gemma3TextConfig(
        hidden_size=5376, num_hidden_layers=62, num_attention_heads=32, num_key_value_heads=16, head_dim=128,
        intermediate_size=21504, vocab_size=262208, sliding_window=1024, query_pre_attn_scalar=168,
        tie_word_embeddings=True,
    )  # fmt: skip


def tiny() -> Any:
    """A rehearsal; its heads are of a width that vLLM has kernels for on a CPU."""
    return Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=128,
        vocab_size=2000, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


SHAPES = {"qwen": Shape(qwen, 200, 512), "gemma": Shape(gemma, 100, 512), "tiny": Shape(tiny, 12, 8, "float32")}


class Endless(Ending):
    """No token ends a row surely; those with a ">" are looked at, as ever."""

    def __init__(self, tokenizer: Any) -> None:
        """Of this tokenizer."""
        self._tokenizer = tokenizer
        self.stops, self.closing = set(), (CLOSE,)
        self.closers = {i for word, i in tokenizer.get_vocab().items() if ">" in word}


class Bare(Verbalizer):
    """A verbalizer of a model that lies in no folder."""

    def __init__(self, net: Any, tokenizer: Any, rows: torch.Tensor) -> None:
        """``rows``: (T, d_model) embeddings of its prompt."""
        self.model, self.tokenizer, self._rows = net, tokenizer, rows
        self.name, self._what, self.width = "bench", "bench", rows.shape[1]
        self.ending = Endless(tokenizer)
        self.prompt: Any = SimpleNamespace(opened=False)
        self.contract: Any = SimpleNamespace(tagged=True, answer=lambda said: (said, ()))
        self._engine = None

    @torch.inference_mode()
    def feed(self, vectors: Any) -> Feed:
        """Each vector at four times the norm of the prompt's rows, behind what is shared."""
        norm = 4 * float(self._rows.float().norm(dim=1).mean())
        at = at_norm(torch.tensor(np.asarray(vectors)), norm, "bench")
        return Feed(embeddings=replaced(self._rows, SHARED, at), shared=SHARED)

    def said(self, engine: Captured, vectors: Any, limits: list[int]) -> int:
        """Say vectors, each up to its own length; how many tokens, when all is text."""
        found = engine.run(lambda part: self.feed(vectors[part.start : part.stop]), limits)
        return sum(self._explanation(ids, sum(sure) / len(sure)).tokens for ids, sure in found)


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of so many words, without merges: it is only decoded."""
    words = {("\u0120w>" if i < CLOSERS else "\u0120w") + str(i): i for i in range(size)}
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def waited(device: str) -> float:
    """The time, when the device has done all."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device: str, work: Callable[[], int]) -> tuple[float, float]:
    """Tokens a second, and seconds."""
    start = waited(device)
    tokens = work()
    seconds = waited(device) - start
    return tokens / seconds, seconds


def ceiling(net: Any, device: str) -> tuple[float, float]:
    """Tokens a second if each weight were multiplied once a token at the rate of a large product; and that rate."""
    size = 8192 if device.startswith("cuda") else 512
    a = torch.randn(size, size, device=device, dtype=net.dtype)
    for _ in range(3):
        torch.matmul(a, a)
    repeats, start = 10, waited(device)
    for _ in range(repeats):
        torch.matmul(a, a)
    rate = repeats * 2 * size**3 / (waited(device) - start)
    table = net.get_input_embeddings().weight.numel()  # looked up, and multiplied as the output layer where it is that
    head = net.get_output_embeddings().weight.numel()
    blocks = sum(p.numel() for p in net.parameters())
    once = blocks - table if net.get_output_embeddings().weight is not net.get_input_embeddings().weight else blocks
    return rate / (2 * max(once, head)), rate


class Record:
    """The figures of a shape, on disk as soon as they are there."""

    def __init__(self, out: Path, shape: str, machine: str) -> None:
        """Go on from what is there, where it is of the same machine."""
        self._out, self._shape = out, shape
        whole = read_json(out) if out.is_file() else {}
        before = whole.get(shape, {})
        self.of = before if before.get("machine") == machine else {"machine": machine, "vllm_tokens_per_s": None}

    def put(self, line: str, **figures: Any) -> None:
        """Keep figures and print a line."""
        self.of |= figures
        best = [self.of.get(f"{kind}_full_tokens_per_s") for kind in ("captured", "compiled")]
        mixed = [self.of.get(f"{kind}_mixed_tokens_per_s") for kind in ("captured", "compiled")]
        for name, found in (("tokens_per_s", best), ("mixed_tokens_per_s", mixed)):
            if any(found):
                self.of[name] = max(f for f in found if f)
        for name in ("loop", "vllm", "ceiling"):
            other = self.of.get(f"{name}_tokens_per_s")
            if other and self.of.get("tokens_per_s"):
                self.of[f"over_{name}"] = self.of["tokens_per_s"] / other
        if self.of.get("mixed_tokens_per_s") and self.of.get("vllm_mixed_tokens_per_s"):
            self.of["mixed_over_vllm"] = self.of["mixed_tokens_per_s"] / self.of["vllm_mixed_tokens_per_s"]
        whole = read_json(self._out) if self._out.is_file() else {}
        write_json(self._out, whole | {self._shape: self.of})
        print(f"{self._shape:6} {line}", flush=True)

    def tried(self, what: str, work: Callable[[], None]) -> None:
        """Do a part; what it raises is kept, and the other parts go on."""
        start = time.perf_counter()
        try:
            work()
            (self.of.get("failed") or {}).pop(what, None)
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            self.put(f"{what} FAILED after {time.perf_counter() - start:.0f} s: {told}", failed={what: told})
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def measure(name: str, args: argparse.Namespace, machine: str) -> None:
    """One shape, by every engine that is asked for; its memory is free afterwards."""
    measured(name, args, machine)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def made(shape: Shape, device: str) -> Bare:
    """A verbalizer of a model of random weights, always the same."""
    torch.manual_seed(0)
    with torch.device(device):
        net = AutoModelForCausalLM.from_config(shape.config(), dtype=getattr(torch, shape.dtype)).eval()
    net.requires_grad_(False)
    vocabulary = net.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (PROMPT,), generator=generator).to(device)
    with torch.inference_mode():
        rows = net.get_input_embeddings()(ids)
    return Bare(net, tokenizer_of(vocabulary), rows)


def drawn(count: int, verbalizer: Verbalizer) -> np.ndarray:
    """So many random vectors (count, d_model), always the same."""
    return np.random.default_rng(0).standard_normal((count, verbalizer.width)).astype(np.float32)


def machine_of(device: str) -> str:
    """What figures are measured on."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return f"{where}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}"


def measured(name: str, args: argparse.Namespace, machine: str) -> None:
    """One shape, by every engine that is asked for."""
    shape, record, device = SHAPES[name], Record(args.out, name, machine), args.device
    start = waited(device)
    bare = made(shape, device)
    record.put(f"made in {waited(device) - start:.0f} s", new_tokens=shape.new, prompt=PROMPT, shared=SHARED)
    most, rate = ceiling(bare.model, device)
    record.put(f"ceiling {most:,.0f} tok/s ({rate / 1e12:.1f} TFLOP/s)", ceiling_tokens_per_s=most, flops=rate)
    slots = args.slots or shape.slots
    vectors = drawn(4 * slots, bare)
    if "loop" in args.engines:
        record.tried("loop", lambda: by_loop(bare, vectors, slots, device, record))
    for kind in ("captured", "compiled"):
        if kind == "compiled" and not device.startswith("cuda"):
            record.put("compiled: on a CUDA device alone, not measured")
        elif kind in args.engines:
            how = {"slots": slots, "every": args.every, "compiled": kind == "compiled"}
            record.tried(kind, lambda kind=kind, how=how: by_slots(bare, vectors, shape, device, record, kind, **how))
    if "vllm" in args.engines:
        record.tried("vllm", lambda: by_vllm(bare, vectors[: 2 * slots], shape, args, record))


def by_loop(bare: Bare, vectors: np.ndarray, slots: int, device: str, record: Record) -> None:
    """The plain loop: as many rows as there are slots, and its default."""
    for count, key in ((slots, "loop_tokens_per_s"), (min(64, slots), "loop_at_64_tokens_per_s")):
        work = lambda count=count: sum(e.tokens for e in bare.verbalize(vectors[:count], max_new_tokens=LOOP_STEPS))  # noqa: E731
        bare.verbalize(vectors[:count], max_new_tokens=2)
        found, seconds = timed(device, work)
        record.put(f"loop, {count} rows: {found:,.0f} tok/s ({seconds:.1f} s)", **{key: found, "loop_rows": slots})


def by_slots(
    bare: Bare, vectors: np.ndarray, shape: Shape, device: str, record: Record, kind: str, *, slots: int, every: int,
    compiled: bool,
) -> None:  # fmt: skip
    """The captured step: two rows a slot of full length, four of mixed lengths; captures and compiling apart."""
    room = slots_for(bare.model, shared=SHARED, tail=PROMPT - SHARED, most=shape.new, rows=slots)
    how: dict[str, Any] = {"shared": SHARED, "tail": PROMPT - SHARED, "most": shape.new, "slots": min(slots, room)}
    start = waited(device)
    engine = Captured(bare.model, bare.ending, **how, every=every, compiled=compiled)
    try:
        for size in engine.sizes:  # each is captured when so many rows are first left
            bare.said(engine, vectors[:size], [2] * size)
        record.put(f"{kind}: {engine.slots} slots, ready after {waited(device) - start:.1f} s", **{
            f"{kind}_ready_s": waited(device) - start, "slots": engine.slots,
        })  # fmt: skip
        rng = np.random.default_rng(1)
        plans = {
            "full": [shape.new] * (2 * engine.slots),
            "mixed": rng.integers(int(0.3 * shape.new), shape.new + 1, 4 * engine.slots).tolist(),
        }
        for length, limits in plans.items():
            work = lambda limits=limits: bare.said(engine, vectors[: len(limits)], limits)  # noqa: E731
            found, seconds = timed(device, work)
            told = f"{kind}, {length}: {found:,.0f} tok/s ({len(limits)} rows, {seconds:.1f} s, {engine.steps} steps)"
            record.put(told, **{f"{kind}_{length}_tokens_per_s": found})
        if device.startswith("cuda"):
            record.put(f"{kind}: peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", **{
                f"{kind}_peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            })  # fmt: skip
    finally:
        engine.close()


def by_vllm(bare: Bare, vectors: np.ndarray, shape: Shape, args: argparse.Namespace, record: Record) -> None:
    """VLLM on the same weights and prompts, in a process of its own, when this one has left the device."""
    try:
        import vllm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        why = f"it cannot be imported ({' '.join(str(error).split())[:200]})"
        record.put(f"vllm: not measured, {why}", vllm_tokens_per_s=None, vllm_skipped=why)
        return
    record.of.pop("vllm_skipped", None)
    folder = Path(args.scratch) / "dragoman-bench-checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        start = time.perf_counter()
        bare.model.save_pretrained(folder / "model")
        bare.tokenizer.save_pretrained(folder / "model")
        norm = 4 * float(bare._rows.float().norm(dim=1).mean())
        write_arrays(folder / "prompts.safetensors", {
            "rows": bare._rows.float().cpu().numpy(),
            "vectors": at_norm(torch.tensor(vectors), norm, "bench").numpy(),
        })  # fmt: skip
        print(f"       written in {time.perf_counter() - start:.0f} s", flush=True)
        bare.model.to("meta")  # the weights are on disk now, and their place is needed
        gc.collect()
        torch.cuda.empty_cache()
        quiet = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
        quiet |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        command = [sys.executable, __file__, "--as-vllm", str(folder), "--new", str(shape.new)]
        command += ["--dtype", shape.dtype, "--slots", str(args.slots or shape.slots), "--device", args.device]
        how: dict[str, Any] = {"text": True, "timeout": args.vllm_seconds, "env": os.environ | quiet}
        done = subprocess.run(command, capture_output=True, **how)
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"vllm_')]
        if not lines:
            raise RuntimeError(done.stderr[-600:] or done.stdout[-600:])
        figures = json.loads(lines[-1])
        record.put(f"vllm: {figures}", **figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_vllm(folder: Path, args: argparse.Namespace) -> None:
    """What runs in vLLM's own process; prints one line of JSON.

    Rows have what a user's have: a text, looked through for the closing tag, and a log-probability a token.
    """
    import vllm  # pyright: ignore[reportMissingImports]

    made, _ = read_arrays(folder / "prompts.safetensors")
    new, kind = args.new, getattr(torch, args.dtype)
    embeddings = replaced(torch.tensor(made["rows"]).to(kind), SHARED, torch.tensor(made["vectors"]).to(kind))
    prompts = [{"prompt_embeds": one} for one in embeddings]
    gpu = {"gpu_memory_utilization": 0.9} if args.device.startswith("cuda") else {"enforce_eager": True}
    engine = vllm.LLM(
        model=str(folder / "model"), dtype=args.dtype, enable_prompt_embeds=True, max_model_len=PROMPT + new,
        max_num_seqs=args.slots, enable_prefix_caching=True, generation_config="vllm", **gpu,
    )  # fmt: skip
    limits = np.random.default_rng(1).integers(int(0.3 * new), new + 1, len(prompts)).tolist()
    say: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    text: dict[str, Any] = say | {"logprobs": 0, "stop": [CLOSE], "skip_special_tokens": False}
    plans: dict[str, list[Any]] = {
        "vllm_tokens_per_s": [vllm.SamplingParams(max_tokens=new, **text)] * len(prompts),
        "vllm_mixed_tokens_per_s": [vllm.SamplingParams(max_tokens=n, **text) for n in limits],
        "vllm_ids_alone_tokens_per_s": [vllm.SamplingParams(max_tokens=new, detokenize=False, **say)] * len(prompts),
    }
    engine.generate(prompts[: args.slots], vllm.SamplingParams(max_tokens=4, **text), use_tqdm=False)
    found: dict[str, float] = {}
    for key, params in plans.items():
        start = time.perf_counter()
        said = engine.generate(prompts, params, use_tqdm=False)
        found[key] = sum(len(one.outputs[0].token_ids) for one in said) / (time.perf_counter() - start)
        print(json.dumps({**found, "vllm": vllm.__version__}), flush=True)


def pair(args: argparse.Namespace, machine: str) -> None:
    """The embedded verbalizer of Gemma: the same rows by the loop in its own batches, and by the captured engine."""
    record = Record(args.out, "pair", machine)
    dtype = args.dtype
    verbalizer = Verbalizer.open("tiny-gemma-av", dtype=dtype, device=args.device, engine="captured")
    vectors = drawn(args.rows, verbalizer)
    said: dict[str, list[str]] = {}

    def work(engine: Any) -> int:
        verbalizer._engine = engine
        step = 64 if engine is None else len(vectors)
        parts = [
            verbalizer.verbalize(vectors[at : at + step], max_new_tokens=args.new)
            for at in range(0, len(vectors), step)
        ]
        found = [one for part in parts for one in part]
        said["loop" if engine is None else "captured"] = [one.raw for one in found]
        return sum(one.tokens for one in found)

    slots = verbalizer._engine
    for name, engine in (("loop", None), ("captured", slots)):
        found, seconds = timed(args.device, lambda engine=engine: work(engine))
        key = "loop_tokens_per_s" if engine is None else "captured_full_tokens_per_s"
        record.put(f"{name}: {found:,.0f} tok/s ({seconds:.1f} s, {len(vectors)} rows, {dtype})", **{key: found})
    same = sum(a == b for a, b in zip(said["loop"], said["captured"], strict=True))
    told = {"rows": len(vectors), "same_texts": same, "dtype": dtype, "threads": torch.get_num_threads()}
    record.put(f"same texts: {same} of {len(vectors)}; over the loop {record.of['over_loop']:.2f}", **told)


def main() -> None:
    """Measure what is asked for."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--shape", action="append", choices=[*SHAPES, "pair"], help="several times; default tiny")
    parse.add_argument(
        "--engines", type=lambda text: text.split(","), default=list(ENGINES), help="some of them, by commas"
    )
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--slots", type=int, help="instead of the shape's own")
    parse.add_argument("--every", type=int, default=4, help="steps between two looks")
    parse.add_argument("--out", type=Path, default=HERE / "results" / "decode.json")
    parse.add_argument("--scratch", default="/dev/shm", help="where vLLM's checkpoint is written")
    parse.add_argument("--vllm-seconds", type=float, default=300, help="given up after so many")
    parse.add_argument("--rows", type=int, default=128, help="of the pair")
    parse.add_argument("--new", type=int, default=60, help="tokens of the pair")
    parse.add_argument("--dtype", default="bfloat16", help="of the pair")
    parse.add_argument("--as-vllm", type=Path, help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.as_vllm:
        as_vllm(args.as_vllm, args)
        return
    if odd := set(args.engines) - set(ENGINES):
        parse.error(f"no engines: {', '.join(sorted(odd))}")
    machine = machine_of(args.device)
    print(machine, flush=True)
    for name in args.shape or ["tiny"]:
        if name == "pair":
            pair(args, machine)
        else:
            measure(name, args, machine)


if __name__ == "__main__":
    main()
