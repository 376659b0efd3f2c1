"""Any verbalizer at the positions that another was checked at: ``python training/compare.py --spoken FILE --by AV``.

In: ``spoken-*.jsonl.gz`` of ``make.py`` (positions and what was said there), the documents, a verbalizer (the shipped
one by its name, or a folder). Out: figures of both by kind, as ``judged.figures`` has them. On a CPU: 300 positions
take some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import corpus
import judged
import targets
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.paired import activations_at
from dragoman.store import read_jsonl


def compared(
    spoken: list[dict[str, Any]], documents: list[corpus.Document], verbalizer: Verbalizer, reader: Reader, limit: int
) -> dict[str, dict[str, dict[str, float]]]:
    """By kind, figures of what was said (``said``) and of ``verbalizer`` (``by``) at the same positions."""
    teller = targets.Teller(documents)
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in spoken:
        if "document" in row and len(kinds[row["kind"]]) < limit:
            kinds[row["kind"]].append(row)
    out = {}
    for kind, rows in kinds.items():
        texts, ends = [documents[r["document"]].text for r in rows], [r["end"] for r in rows]
        x, which = activations_at(reader, texts, ends)
        rows = [rows[i] for i in which]
        said: list[str] = []
        for start in range(0, len(rows), 64):
            said += [e.raw for e in verbalizer.verbalize(np.asarray(x[start : start + 64]), max_new_tokens=120)]
        truths = [judged.Truth.of(teller, documents[r["document"]], r["end"]) for r in rows]
        out[kind] = {"said": judged.figures([r["text"] for r in rows], truths), "by": judged.figures(said, truths)}
    return out


def main() -> None:
    """Compare and write."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--spoken", type=Path, required=True)
    parse.add_argument("--by", required=True, help="a verbalizer: tiny-smollm2-av, tiny-gemma-av, or a folder")
    parse.add_argument("--texts", type=Path, required=True)
    parse.add_argument("--passages", type=Path, required=True)
    parse.add_argument("--limit", type=int, default=300, help="positions of a kind")
    parse.add_argument("--dtype", default="float32")
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--out", type=Path, required=True)
    args = parse.parse_args()
    documents = corpus.read(args.texts) + corpus.read_passages(args.passages)
    verbalizer = Verbalizer.open(args.by, dtype=args.dtype, device=args.device)
    reader = Reader.open(verbalizer.site, dtype=args.dtype, device=args.device)
    found = compared(read_jsonl(args.spoken), documents, verbalizer, reader, args.limit)
    args.out.write_text(json.dumps({"by": args.by, "kinds": found}, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
