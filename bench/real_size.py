"""Real size on one card: ``python bench/real_size.py --shape real --device cuda --scratch /dev/shm``.

Random checkpoints of the real shapes, made once on the device and kept in ``--scratch`` for the next call (an option
that may be given several times: each model goes to the first folder with room for it; 15 GB Qwen2.5-7B's shape, 54 GB
that of Gemma-3-27B's text model, 2 GB a dictionary of 65,536 features; verbalizers are hard links to their weights).
``--shape tiny`` rehearses all of it on a CPU, where the peak is that of the process.

Parts (``--parts``; each a function of `PARTS`, done in a process of its own, printed as it comes, written at once into
``bench/results/real_size.json`` (``--out``) as ``{"value":, "machine":}``):

explain: ``explain(map="post", native=...)`` of 45 features, at most 100 tokens each, in bfloat16. Models see a card of
``--card-gib`` (80), whatever is there: free memory is told so, and torch may take no more. ``explain_native_peak_gib``
is the largest of what torch allocated, what it had reserved, and what the driver had given out. Wanted: below 72.

speak: ``explain`` of ``--features`` (4,096) by the source's own verbalizer, by default settings, of which
``explain_tokens_per_s`` is told while it speaks. Of both parts what a dry run foretold is kept beside what then was.

What random weights say is nonsense, and what the doctor's quick checks find wrong in it does not end the bench: it is
printed and kept under ``doctor``. The product has no such way round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast, Qwen2Config

from decode import gemma, qwen
from dragoman import tiny
from dragoman.core import Refusal, Site, Talk
from dragoman.store import read_json, read_jsonl, write_json, write_text
from measured import GIB, Peak, Record, machine_of

HERE = Path(__file__).parent
SHARD = 4 * 10**9
ASKED_AT_ONCE = 32  # vectors of a call above which it is none of the doctor's
FORECAST = ("decoded_tokens", "seconds", "host_bytes", "gpu_bytes", "order", "machine", "unknown")
WHOLE = "whole.json"  # written last: what lies beside it is whole
WORDS, SHARED_WORDS = 8000, 40_000  # that are trained; further ones of letters alone, which both vocabularies have
SPARE = 100  # rows without a word, as published tables have them
MARKER = "㈎"
TEMPLATE = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a language "
    "model. Your overall task is to describe the semantic content of that activation vector. We will pass the vector "
    "enclosed in <concept> tags into your context.\n<concept>{injection_char}</concept>\nPlease provide an explanation."
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<|im_end|>", "<|im_start|>"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """``block``: that is read; ``scale``: norm at which its verbalizer is fed."""

    name: str
    config: Callable[[], Any]
    block: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A source, a target, a dictionary of the source's stream."""

    source: Model
    target: Model
    features: int
    dtype: str


def small_source() -> Any:
    """A rehearsal of the source."""
    return Qwen2Config(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        vocab_size=12_000, tie_word_embeddings=False,
    )  # fmt: skip


def small_target() -> Any:
    """A rehearsal of the target."""
    return Gemma3TextConfig(
        hidden_size=48, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=12_500, sliding_window=32, query_pre_attn_scalar=16, tie_word_embeddings=True,
    )  # fmt: skip


SHAPES = {
    "real": Shape(
        source=Model(name="qwen", config=qwen, block=20, scale=150.0),
        target=Model(name="gemma", config=gemma, block=41, scale=700.0),
        features=65_536,
        dtype="bfloat16",
    ),
    "tiny": Shape(
        source=Model(name="small-source", config=small_source, block=2, scale=15.0),
        target=Model(name="small-target", config=small_target, block=3, scale=30.0),
        features=256,
        dtype="float32",
    ),
}


# ---------------------------------------------------------------------------------------------- what is read and said


@dataclass(frozen=True, kw_only=True)
class Made:
    """Folders: of both models, of a verbalizer each, of the dictionary."""

    shape: Shape
    source: Path
    target: Path | None
    by: Path | None
    native: Path
    dictionary: Path


def made(shape: Shape, scratch: list[Path], device: str, *, whole: bool = True) -> Made:
    """What the parts read; what lies whole in a scratch folder is taken as it is. Not ``whole``: without the target."""
    source = model_of(shape.source, shape.dtype, scratch, device)
    target = model_of(shape.target, shape.dtype, scratch, device) if whole else None
    return Made(
        shape=shape,
        source=source,
        target=target,
        by=None if target is None else verbalizer_of(shape.target, target),
        native=verbalizer_of(shape.source, source),
        dictionary=dictionary_of(shape, scratch, device),
    )


@contextmanager
def making(name: str, size: int, scratch: list[Path]) -> Iterator[tuple[Path, bool]]:
    """A folder in the first scratch folder that has it whole, or else room for it; and whether it is to be made."""
    for one in scratch:
        if (one / name / WHOLE).is_file():
            yield one / name, False
            return
        shutil.rmtree(one / name, ignore_errors=True)
    roomy = [one for one in scratch if shutil.disk_usage(one).free > size * 1.02]
    if not roomy:
        raise SystemExit(f"no --scratch has {size / 1e9:.0f} GB for {name}")
    folder, start = roomy[0] / name, time.perf_counter()
    folder.mkdir(parents=True)
    yield folder, True
    write_json(folder / WHOLE, {"bytes": size})
    print(f"made {folder}, {size / 1e9:.1f} GB, in {time.perf_counter() - start:.0f} s", flush=True)


def model_of(model: Model, dtype: str, scratch: list[Path], device: str) -> Path:
    """A model of random weights, always the same: config, shards with their index, tokenizer."""
    config, kind = model.config(), getattr(torch, dtype)
    config.dtype = dtype
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config, dtype=kind)
    config.architectures = [type(net).__name__]
    parameters = dict(net.named_parameters())  # a tied output layer is named once
    size = sum(one.numel() for one in parameters.values()) * kind.itemsize
    with making(model.name, size, scratch) as (folder, new):
        if new:
            config.save_pretrained(folder)
            tokenizer_of(model.name, config.vocab_size).save_pretrained(folder)
            write_shards(folder, parameters, kind, device, ones="Gemma" not in type(net).__name__)
    return folder


def write_shards(folder: Path, parameters: dict[str, Any], kind: torch.dtype, device: str, *, ones: bool) -> None:
    """Weights drawn on the device and written shard by shard; ``ones``: norms multiply by w, else by 1 + w."""
    generator = torch.Generator(device).manual_seed(0)
    shards: list[list[str]] = [[]]
    held = 0
    for name, one in parameters.items():
        if held and held + one.numel() * kind.itemsize > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += one.numel() * kind.itemsize
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            shape = parameters[name].shape
            # Random blocks that write as much as they read make noise of the last digit, and no two orders of sums
            # agree: what blocks write is a fiftieth of the stream, by what they end with.
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            if len(shape) == 1:
                after = not ones and "post_" in name
                tensors[name] = torch.full(shape, 1.0 if ones and "bias" not in name else -0.98 * after, dtype=kind)
            else:
                scale = 1.0 if "embed_tokens" in name and ones else (0.02 if last else 1.73) / shape[1] ** 0.5
                drawn = torch.randn(shape, generator=generator, device=device, dtype=kind)
                tensors[name] = drawn.mul_(scale).cpu()
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def tokenizer_of(name: str, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the packaged sentences, another for each model, filled up nearly to ``size``."""
    rows = [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "map"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    some = rows if name.endswith(("qwen", "source")) else rows[: len(rows) // 2]
    trainer = trainers.BpeTrainer(
        vocab_size=min(WORDS, size // 2), special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([*some, *[f"concept{MARKER}concept x</x y>\ny " * 8] * 8], trainer)
    bos = inner.token_to_id("<bos>")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    content = json.loads(inner.to_str())
    words = content["model"]["vocab"]
    for number in range(len(words), size - SPARE):
        words[f"\u0120z{letters(number) if number < SHARED_WORDS else number}"] = number
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<bos>", eos_token="<|im_end|>",
        pad_token="<pad>", chat_template=CHAT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def letters(number: int) -> str:
    """A number written in letters."""
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:06}")


def verbalizer_of(model: Model, base: Path) -> Path:
    """A verbalizer of a model as published ones lie: the same weights by hard links, tokenizer, sidecar."""
    folder = base.with_name(f"{base.name}-av")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix == ".safetensors":
            os.link(path, folder / path.name)
        elif path.name != WHOLE:
            shutil.copy2(path, folder / path.name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    message = [{"role": "user", "content": TEMPLATE.format(injection_char=MARKER)}]
    text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    ids = tokenizer.encode(text, add_special_tokens=False)
    (marker,) = tokenizer.encode(MARKER, add_special_tokens=False)
    at = ids.index(marker)
    sidecar = {
        "kind": "nla_model", "schema_version": 2, "role": "av", "stage": "sft", "base_checkpoint": f"{base}",
        "d_model": model.config().hidden_size, "extraction_layer_index": model.block,
        "extraction": {"injection_scale": model.scale, "mse_scale": None},
        "tokens": {
            "injection_char": MARKER, "injection_token_id": marker,
            "injection_left_neighbor_id": ids[at - 1], "injection_right_neighbor_id": ids[at + 1],
        },
        "prompt_templates": {"av": TEMPLATE},
    }  # fmt: skip
    write_text(folder / "nla_meta.yaml", yaml.safe_dump(sidecar, allow_unicode=True))
    return folder


def dictionary_of(shape: Shape, scratch: list[Path], device: str) -> Path:
    """A dictionary of random unit rows in the SAELens layout, float32."""
    width, block = shape.source.config().hidden_size, shape.source.block
    size = 2 * 4 * shape.features * width
    with making(f"sae-{shape.features}-{width}", size, scratch) as (folder, new):
        if new:
            rows = torch.randn((shape.features, width), generator=torch.Generator(device).manual_seed(1), device=device)
            rows = torch.nn.functional.normalize(rows).cpu()
            arrays = {
                "W_dec": rows, "W_enc": rows.T.contiguous(), "b_enc": torch.zeros(shape.features),
                "b_dec": torch.zeros(width),
            }  # fmt: skip
            save_file(arrays, folder / "sae_weights.safetensors")
            told = {
                "architecture": "topk", "k": 50, "d_in": width, "d_sae": shape.features,
                "metadata": {"hook_name": f"blocks.{block}.hook_resid_post", "model_name": shape.source.name},
            }  # fmt: skip
            write_json(folder / "cfg.json", told)
    return folder


# --------------------------------------------------------------------------------------------------------------- parts


def explain_part(what: Made, args: argparse.Namespace, record: Record) -> None:
    """``explain_native_peak_gib``: the whole of ``explain --map post --native``, seen from a process of its own."""
    more = {"by": f"{what.by}", "native": f"{what.native}", "map": "post", "features": 45, "max_new_tokens": 100}
    found = in_a_process(what, args, {**more, "card_gib": args.card_gib, "compare": args.at_once})
    gpu = args.device.startswith("cuda")
    kinds = ("allocated_gib", "reserved_gib", "driver_gib") if gpu else ("host_gib",)
    value = max(found[kind] for kind in kinds)
    name = "explain_at_once" if args.at_once else "explain_native"
    record.put(f"{name}_peak_gib", value, **found)


def speak_part(what: Made, args: argparse.Namespace, record: Record) -> None:
    """``explain_tokens_per_s``: of so many features that the source's own verbalizer says, by its default settings.

    Tokens a second from when it begins to speak until it has spoken: captures, text, checks and rows on the disk.
    """
    more = {"by": f"{what.native}", "features": min(args.features, what.shape.features), "card_gib": args.card_gib}
    found = in_a_process(what, args, more)
    record.put("explain_tokens_per_s", found.pop("tokens_per_s"), **found)


def in_a_process(what: Made, args: argparse.Namespace, more: dict[str, Any]) -> dict[str, Any]:
    """``explained`` in a process of its own, with a cache of its own, and what it told."""
    out = args.scratch[-1] / "real-size-run"
    shutil.rmtree(out, ignore_errors=True)
    cache = args.scratch[-1] / "real-size-cache"
    shutil.rmtree(cache, ignore_errors=True)
    asked = {
        "dictionary": f"{what.dictionary}", "source": f"{what.source}:{what.shape.source.block}", "out": f"{out}",
        "dtype": what.shape.dtype, "device": args.device, "compare": False, "native": None, **more,
    }  # fmt: skip
    start = time.perf_counter()
    command = [sys.executable, __file__, "--as-explain", json.dumps(asked)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"DRAGOMAN_CACHE": str(cache)}
    ) as child:
        lines = []
        for line in child.stdout or ():
            lines.append(line)
            print(f"  {line}", end="", flush=True)
    if child.returncode or not lines:
        raise SystemExit(f"explain ended with {child.returncode}")
    found = json.loads(lines[-1])
    found["wall_seconds"] = time.perf_counter() - start
    return found


def explained(asked: dict[str, Any]) -> None:
    """The main job on what was made, as users call it; prints what it says, and its peak as the last line."""
    import dragoman
    from dragoman.dictionaries import Asked, open_dictionary
    from dragoman.models.decode import Verbalizer
    from dragoman.runs import order, speakers
    from dragoman.runs.dry_run import dry_run
    from dragoman.runs.options import Options

    device, card = asked["device"], asked["card_gib"] * GIB
    real, quick, doctor = order.free_bytes, speakers.quick, list[str]()
    order.free_bytes = lambda device: 2**60 if asked["compare"] else min(real(device) or card, card)
    if device.startswith("cuda") and not asked["compare"]:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, card / whole))
    dictionary = open_dictionary(asked["dictionary"], site=Site.parse(asked["source"]))
    words = {name: asked[name] for name in ("map", "max_new_tokens") if name in asked}
    how: dict[str, Any] = {"by": asked["by"], "native": asked["native"], "dtype": asked["dtype"], "device": device}
    features = f"0-{asked['features'] - 1}"
    forecast = dry_run(
        dictionary, features=Asked.parse(features), options=Options(**words), out=Path(asked["out"]), **how
    )
    start = time.perf_counter()

    def looked(verbalizers: Any) -> Any:
        try:
            return quick(verbalizers)
        except Refusal as refusal:
            doctor.append(f"{refusal}")
            print(f"the doctor, of random weights: {refusal}", flush=True)

    def say(text: str) -> None:
        now = f"{torch.cuda.memory_allocated(device) / GIB:.1f} GiB allocated, " if device.startswith("cuda") else ""
        print(f"{time.perf_counter() - start:6.1f} s, {now}{text}", flush=True)

    spoken: list[tuple[float, float]] = []
    verbalize = Verbalizer.verbalize

    def timed(self: Verbalizer, vectors: Any, **told: Any) -> Any:
        begun = time.perf_counter()
        found = verbalize(self, vectors, **told)
        if len(vectors) >= ASKED_AT_ONCE:  # the doctor asks for fewer
            spoken.append((begun, time.perf_counter()))
            print(f"{begun - start:6.1f} s to {spoken[-1][1] - start:.1f} s, {len(found)} said", flush=True)
        return found

    Verbalizer.verbalize = timed
    speakers.quick = looked
    peak = Peak(device)
    run = dragoman.explain(dictionary, out=asked["out"], features=features, talk=Talk(say=say), **how, **words)
    rows = run.folder.rows()
    told: dict[str, Any] = {"seconds": time.perf_counter() - start, "rows": len(rows)}
    told["tokens"] = sum(row["tokens"] for row in rows)
    if spoken:
        told["saying_seconds"] = spoken[-1][1] - spoken[0][0]
        told["tokens_per_s"] = told["tokens"] / told["saying_seconds"]
    told |= peak.told()
    told["forecast"] = {name: getattr(forecast, name) for name in FORECAST}
    told["forecast_error"] = errors(told)
    print(json.dumps({**told, "doctor": doctor}), flush=True)


def worst(out: Path, record: Record) -> None:
    """``dry_run_error``: what is farthest off of all that dry runs foretold, of the parts whose figures lie there."""
    whole = read_json(out)
    each = {
        (part, name): error for part, found in whole.items() for name, error in found.get("forecast_error", {}).items()
    }
    if each:
        part, name = max(each, key=lambda one: abs(each[one]))
        told = {f"{p} {n}": round(error, 3) for (p, n), error in each.items()}
        record.put("dry_run_error", round(abs(each[part, name]), 3), farthest=f"{part} {name}", each=told)


def errors(found: dict[str, Any]) -> dict[str, float]:
    """Of what a dry run foretold, relative: tokens said, seconds, memory of the card and of the host."""
    forecast, gpu = found["forecast"], "allocated_gib" in found
    pairs = {"decoded_tokens": found["tokens"], "seconds": found["seconds"], "host_bytes": found["own_gib"] * GIB}
    if gpu:
        pairs["gpu_bytes"] = found["reserved_gib"] * GIB
    return {name: forecast[name] / there - 1 for name, there in pairs.items() if forecast[name] is not None}


# Each is given what was made, the words of the call, and where its figures go.
PARTS: dict[str, Callable[[Made, argparse.Namespace, Record], None]] = {"explain": explain_part, "speak": speak_part}


def main() -> None:
    """The parts that are asked for."""
    if sys.argv[1:2] == ["--as-explain"]:
        explained(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "real_size.json")
    parser.add_argument("--card-gib", type=float, default=80.0)
    parser.add_argument("--features", type=int, default=4096, help="of the part speak")
    parser.add_argument("--at-once", action="store_true", help="all models at once, to compare; needs the memory")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for folder in args.scratch:
        folder.mkdir(parents=True, exist_ok=True)
    what = made(SHAPES[args.shape], args.scratch, args.device, whole=args.parts != ["speak"])
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()  # the parts are other processes
    record = Record(args.out, machine_of(args.device, args.shape))
    for name in args.parts:
        PARTS[name](what, args, record)
        worst(args.out, record)


if __name__ == "__main__":
    main()
