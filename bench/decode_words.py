"""Whether engines say what the model says: ``python bench/decode_words.py --shape qwen --shape pair --device cuda``.

What the plain loop and the captured engine say of the same vectors is weighed by whole forward passes, without a cache
or slots: by the same model at the shapes of ``decode.py``, and of ``pair``, the embedded verbalizer in ``--dtype``, by
the same weights in float32. The words of the row before are weighed too: a control that has to be far less likely.
Prints the figures, and writes them into ``bench/results/decode.json`` (``--out``) beside the speeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decode import HERE, SHAPES, Record, drawn, machine_of, made
from dragoman.models.choose import likeliest
from dragoman.models.contracts.base import Feed
from dragoman.models.decode import Verbalizer
from dragoman.models.engines import SlotEngine


def said_by(verbalizer: Verbalizer, vectors: np.ndarray, new: int) -> dict[str, list[tuple[list[int], float]]]:
    """Ids and mean log-probability of each row, by the loop and by the captured engine."""
    with torch.inference_mode():
        loop = [
            row
            for at in range(0, len(vectors), 64)
            for row in verbalizer._decode(verbalizer.feed(vectors[at : at + 64]), likeliest, new)
        ]
    engine = SlotEngine(verbalizer.model, verbalizer.ending)
    try:
        return {"loop": loop, "captured": verbalizer._by_engine(engine, vectors, 0.0, 0, new)}
    finally:
        engine.close()


@torch.inference_mode()
def weighed(net: Any, feed: Feed, ids: list[int]) -> float:
    """Mean log-probability of a row's ids by one whole forward pass behind its prompt: no cache, no slots."""
    told = torch.tensor(ids, device=feed.embeddings.device)
    whole = torch.cat([feed.embeddings, net.get_input_embeddings()(told)[None]], dim=1)
    logits = net(inputs_embeds=whole, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
    return float(logits.log_softmax(dim=-1)[torch.arange(len(ids)), told].mean())


def words(
    verbalizer: Verbalizer, vectors: np.ndarray, new: int, record: Record, judge: Verbalizer | None = None
) -> None:
    """What both engines say, weighed again by a whole forward pass: of the same model, or of ``judge``.

    An engine that reads a wrong key says words that the model itself finds unlikely, and reports another
    log-probability than the model gives; rounding alone does neither.
    """
    judge = judge or verbalizer
    said = said_by(verbalizer, vectors, new)
    own = {kind: np.array([sure for _, sure in rows]) for kind, rows in said.items()}
    feeds = [judge.feed(vectors[row : row + 1]) for row in range(len(vectors))]
    found = {
        kind: np.array([weighed(judge.model, feed, ids) for feed, (ids, _) in zip(feeds, rows, strict=True)])
        for kind, rows in said.items()
    }
    # A control that must fail: the words of the row before.
    dealt = [
        weighed(judge.model, feed, ids)
        for feed, (ids, _) in zip(feeds, (said["captured"][-1:] + said["captured"])[: len(feeds)], strict=True)
    ]
    same = sum(a == b for (a, _), (b, _) in zip(said["loop"], said["captured"], strict=True))
    apart = found["captured"] - found["loop"]
    half = 1.96 * float(apart.std(ddof=1)) / len(apart) ** 0.5
    figures = {
        "rows": len(vectors), "same_words": same,
        "weighed_loop": float(found["loop"].mean()), "weighed_captured": float(found["captured"].mean()),
        "weighed_dealt": float(np.mean(dealt)),
        "weighed_difference": [float(apart.mean()), float(apart.mean()) - half, float(apart.mean()) + half],
        "misreported_loop": float(np.abs(own["loop"] - found["loop"]).mean()),
        "misreported_captured": float(np.abs(own["captured"] - found["captured"]).mean()),
    }  # fmt: skip
    record.put(
        f"words: same {same} of {len(vectors)}; log-probability by a whole pass: loop {figures['weighed_loop']:.4f},"
        f" captured {figures['weighed_captured']:.4f}, dealt {figures['weighed_dealt']:.4f}; told otherwise by"
        f" {figures['misreported_loop']:.4f} and {figures['misreported_captured']:.4f}",
        words=figures,
    )


def main() -> None:
    """Weigh what is asked for."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--shape", action="append", choices=[*SHAPES, "pair"], help="several times; default tiny")
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--rows", type=int, default=64, help="vectors")
    parse.add_argument("--new", type=int, help="tokens of each; default: the shape's own, 60 of the pair")
    parse.add_argument("--dtype", default="bfloat16", help="of the pair")
    parse.add_argument("--out", type=Path, default=HERE / "results" / "decode.json")
    args = parse.parse_args()
    machine = machine_of(args.device)
    print(machine, flush=True)
    for name in args.shape or ["tiny"]:
        record, judge = Record(args.out, name, machine), None
        if name == "pair":
            how: dict[str, Any] = {"device": args.device}
            verbalizer = Verbalizer.open("tiny-gemma-av", dtype=args.dtype, engine="captured", **how)
            judge = Verbalizer.open("tiny-gemma-av", dtype="float32", engine="loop", **how)
        else:
            verbalizer = made(SHAPES[name], args.device)
        new = args.new or (60 if name == "pair" else SHAPES[name].new)
        vectors = drawn(args.rows, verbalizer)
        record.tried("words", lambda v=verbalizer, x=vectors, n=new, r=record, j=judge: words(v, x, n, r, j))


if __name__ == "__main__":
    main()
