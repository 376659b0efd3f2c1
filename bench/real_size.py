"""Real size on one card: ``python bench/real_size.py --shape real --device cuda --scratch /dev/shm``.

Random checkpoints of the real shapes (``checkpoints.py``) are made once and kept in ``--scratch`` for the next call, an
option that may be given several times: each model goes to the first folder with room for it.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from checkpoints import SHAPES, Made, made
from dragoman.core import Refusal, Site, Talk
from dragoman.store import read_json
from measured import GIB, Peak, Record, machine_of

HERE = Path(__file__).parent
ASKED_AT_ONCE = 32  # vectors of a call above which it is none of the doctor's
FORECAST = ("decoded_tokens", "seconds", "host_bytes", "gpu_bytes", "order", "machine", "unknown")


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
        own = f"own memory {peak.lately():.1f} GiB at most before that, "
        print(f"{time.perf_counter() - start:6.1f} s, {now}{own}{text}", flush=True)

    peak, spoken = Peak(device), list[tuple[float, float]]()
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
