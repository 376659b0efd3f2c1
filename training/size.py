"""What a step of teaching a reader takes here: ``python training/size.py --base FOLDER --av-batch 64 --pieces 4``.

In: a model; random weights will do: ``python bench/two_gpus.py --make real FOLDER cuda`` makes Qwen2.5-7B's shape.
Out: one line of JSON: rows and tokens a second over all processes that ``torchrun`` joins, what this process's device
held at most, and the hours that ``--vectors`` take at that. Vectors are noise and texts one sentence of the usual
length: nothing is learnt, and nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

import av
import settings as s
from corpus import Description

TEXT = (
    "A passage about no particular topic, written as texts of many kinds.\n\n"
    'Words such as "harbour", "anchor" and "deep" stand out.\n\n'
    'Final token "sail" or "ship" or "boat", a plain word, 84% of it, and "of" is likely to follow.'
)
WARM = 3  # steps before the clock


def main() -> None:
    """Time some steps."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--base", required=True)
    parse.add_argument("--block", type=int, default=20)
    parse.add_argument("--av-batch", type=int, default=s.MANY_BATCH, help="rows of a step, over all processes")
    parse.add_argument("--pieces", type=int, default=1)
    parse.add_argument("--steps", type=int, default=20)
    parse.add_argument("--vectors", type=int, default=s.MANY_ROWS, help="of which the hours are told")
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parse.parse_args()
    with av.joined(args.device) as device, tempfile.TemporaryDirectory() as scratch:
        trainer = av.Trainer(Path(scratch), args.base, args.block, 50.0, device)
        told = [Description(TEXT, ((0, len(TEXT), 1.0),))] * (4 * args.av_batch)
        x = torch.randn(len(told), trainer.embedded.shape[1], generator=torch.Generator().manual_seed(s.SEED))
        tokens = sum(map(len, av.answers(trainer.tokenizer, told[:1])[0])) + len(trainer.prompt.ids)
        times = list[float]()

        def clock() -> None:
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        for steps in (WARM, args.steps):
            clock()
            av.train(
                trainer, x.to(device), told, rate=s.AV_RATE, steps=steps, seconds=0.0, batch=args.av_batch,
                seed=s.SEED, say=str, pieces=args.pieces,
            )  # fmt: skip
            clock()
        seconds = (times[3] - times[2]) / args.steps
        world = dist.get_world_size() if dist.is_initialized() else 1
        held = torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else None
        rows = args.av_batch / seconds
        figures = {
            "rows_per_s": round(rows, 2),
            "tokens_per_s": round(rows * tokens, 1),
            "step_s": round(seconds, 4),
            "batch": args.av_batch,
            "processes": world,
            "peak_gb": None if held is None else round(held, 2),
            "vectors": args.vectors,
            "hours": round(args.vectors / rows / 3600, 3),
            "parameters": int(sum(p.numel() for p in trainer.model.parameters())),
            "learnt": int(sum(p.numel() for p in trainer.parameters())),
            "machine": torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine(),
        }
        if av.first():
            sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
