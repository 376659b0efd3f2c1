"""Small SAEs at blocks that nothing was developed on: ``python training/other_blocks.py --out FOLDER``, on two cores.

In: the packaged documents that neither maps nor direct tables are made from (5,400 openings, 1,890 whole ones), read at
block 17 of SmolLM2 and block 9 of Gemma. Out: ``smollm2-17`` and ``gemma-9`` below the folder, each an SAE in SAELens'
layout with 2,048 latents, top 32 of which fire; ``other_blocks.json`` has the variance that each leaves. The blocks
were written down before anything of them was seen; ``bench/calibrate.py --others FOLDER`` and ``bench/learnt.py
--dictionary FOLDER/smollm2-17 ...`` are what they are for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import sae
import settings as s
from dragoman import tiny
from dragoman.core import Site
from dragoman.models.harvest import Reader, token_rows
from dragoman.store import read_jsonl
from make import write_sae

PLACES = {"smollm2-17": Site("tiny-smollm2", 17), "gemma-9": Site("tiny-gemma", 9)}
SPLITS = ("judge", "test", "heldout")
D_SAE, STEPS, BATCH = 2048, 2000, 4096


def documents(limit: int | None) -> list[str]:
    """The texts, every one or the first of them."""
    return [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] in SPLITS][:limit]


def main() -> None:
    """Read each place once, train its SAEs, write them."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--limit", type=int, default=None, help="documents, to rehearse")
    parse.add_argument("--steps", type=int, default=STEPS)
    parse.add_argument("--device", default="cpu")
    args = parse.parse_args()
    texts, told = documents(args.limit), {}
    for name, site in PLACES.items():
        began = time.monotonic()
        reader = Reader.open(site, dtype="bfloat16", device=args.device)
        x = torch.cat([rows.x.bfloat16() for rows in token_rows(reader, texts, stay=True)])
        read = time.monotonic()
        tensors, figures = sae.train(x, D_SAE, s.SEED, args.steps, BATCH)
        write_sae(args.out / name, tensors, (site.model, site.block))
        seconds = {"read": round(read - began), "trained": round(time.monotonic() - read)}
        told[name] = figures | {"block": site.block, "d_sae": D_SAE, "steps": args.steps, "seconds": seconds}
        print(name, told[name], flush=True)
    (args.out / "other_blocks.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
