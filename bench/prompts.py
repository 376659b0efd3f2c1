"""Is a token's own word named once its activation has crossed? ``python bench/prompts.py``; minutes on two cores.

Prompts end with a word, in documents that no map has read. The same verbalizer reads the target's own activation at
that word's end, and the source's carried there (``maps.points``). Counted: the text quotes the word as its final token;
null: the same texts dealt to the other prompts' words. Writes ``bench/results/prompts.json``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

from dragoman import tiny
from dragoman.core import Site
from dragoman.maps.points import carry_points, fit_points
from dragoman.measures.firing import final_token
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.prompts import Activations, Prompt, read_prompts
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.stats.intervals import wilson_interval
from dragoman.store import read_jsonl, write_json

WORD = re.compile(r"(?<= )[a-z]{4,12}(?=[ ,.;])")


def prompts_of(n: int, seed: int) -> tuple[list[str], list[str]]:
    """(prompts, each one's last word) of the judging documents."""
    rows = [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "judge"]
    prompts, words = list[str](), list[str]()
    for at in np.random.default_rng(seed).permutation(len(rows)):
        found = [word for word in WORD.finditer(rows[at][:240]) if word.start() > 60]
        if found and len(prompts) < n:
            prompts.append(rows[at][: found[-1].end()])
            words.append(found[-1].group())
    return prompts, words


def main() -> None:
    """Read, carry, have said, count."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--prompts", type=int, default=60)
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "prompts.json")
    args = parse.parse_args()
    prompts, words = prompts_of(args.prompts, args.seed)
    texts = Texts.of([row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "map"])
    how = {"dtype": args.dtype, "device": args.device}
    made = fit_points(Readings(source=tiny.SOURCE, target=tiny.TARGET, texts=texts, **how).aligned(None)[0])

    def read(site: Site) -> Activations:
        return read_prompts(Reader.open(site, **how), [Prompt(text=text) for text in prompts])

    own, source = read(tiny.TARGET), read(tiny.SOURCE)
    crossed = carry_points(made, source.directions)
    both = np.concatenate([own.directions.unit, crossed.unit])
    said = [e.text for e in Verbalizer.open("tiny-gemma-av", **how).verbalize(both, max_new_tokens=110)]
    found: dict[str, object] = {"prompts": len(words)}
    for name, some in (("own", said[: len(words)]), ("crossed", said[len(words) :])):
        table = np.array([[final_token(text) == word for word in words] for text in some])
        other = np.array([[a != b for b in words] for a in words])
        hits = int(np.diag(table).sum())
        low, high = wilson_interval(hits, len(words))
        found[name] = {"value": hits / len(words), "low": low, "high": high, "dealt": float(table[other].mean())}
    write_json(args.out, found)
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main()
