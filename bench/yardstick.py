"""What every measure of features sees of every route and control, both directions: ``python bench/yardstick.py``.

Reads both models, carries latents by every route, has the rows verbalized, steers the target by them, has the source
model write from the texts and weigh windows by them; then judges. Some ten minutes a direction on one GPU beside 16
cores (``--device cuda``); ``--limit 400 --small`` rehearses. Resumes where it stopped; ``--judge`` alone judges what
lies in ``--work``. Writes ``bench/results/yardstick.json`` and prints the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "research"))  # the pair's grounds, readings and controls

from dragoman.core import Talk  # noqa: E402
from dragoman.models.embedder import SentenceEmbedder  # noqa: E402
from dragoman.store import write_json  # noqa: E402
from studies.ground import GROUNDS  # noqa: E402
from studies.themes import themes_of  # noqa: E402
from studies.verdicts import judged, table_of  # noqa: E402
from studies.yardstick_run import SMALL, Sizes, make  # noqa: E402


def say(text: str) -> None:
    """One line of talk."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Make what is missing, judge, write, print."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--direction", choices=[*GROUNDS, "both"], default="both")
    parse.add_argument("--work", type=Path, default=Path("runs/yardstick"))
    parse.add_argument("--out", type=Path, default=HERE / "results" / "yardstick.json")
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--batch-size", type=int, default=128)
    parse.add_argument("--limit", type=int, help="read only so many texts of each kind (rehearsals)")
    parse.add_argument("--small", action="store_true", help="few latents (rehearsals)")
    parse.add_argument("--judge", action="store_true", help="only judge what lies in --work")
    parse.add_argument("--seed", type=int, default=0)
    args = parse.parse_args()
    names = list(GROUNDS) if args.direction == "both" else [args.direction]
    talk = Talk(say=say)
    if not args.judge:
        how = {"device": args.device, "dtype": args.dtype, "batch_size": args.batch_size, "seed": args.seed}
        make(names, args.work, talk, limit=args.limit, sizes=SMALL if args.small else Sizes(), **how)
    there = [name for name in names if (args.work / name / "facts.json").exists()]
    found = {name: judged(args.work / name, seed=args.seed) for name in there}
    embedder = SentenceEmbedder(device=args.device)
    for name in there:
        found[name]["themes"] = themes_of(args.work / name, embedder)
    write_json(args.out, found)
    for line in table_of(found):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
