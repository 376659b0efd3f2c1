"""Are the demo's rows what they were? ``python bench/same_rows.py`` compares the run of ``make demo`` with digests.

The digests (``bench/results/same_rows.json``) are of the rows that commit 4546f3a made, before the code was drawn
together, on CPU in bfloat16. Counted is every field but what changed its name since: a row's own ``digest`` is left
out, and a card's ``verdict`` is its ``status``. ``--write`` makes the digests anew from a run, of which ``--commit``
says what made it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragoman.store import read_json, write_json

DIGESTS = Path(__file__).parent / "results" / "same_rows.json"


def rows_of(run: Path) -> Iterator[dict[str, Any]]:
    """Rows as both versions of the format would have them."""
    for line in (run / "rows.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        row.pop("digest", None)
        if row["card"] and "verdict" in row["card"]:
            row["card"] = {("status" if key == "verdict" else key): value for key, value in row["card"].items()}
        yield row


def digests_of(run: Path) -> dict[str, dict[str, str]]:
    """Condition -> feature -> 16 hexadecimal digits of its row's JSON, its fields in order."""
    found: dict[str, dict[str, str]] = {}
    for row in rows_of(run):
        text = json.dumps(row, ensure_ascii=True)
        found.setdefault(row["condition"], {})[row["feature"]] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def main() -> int:
    """Compare, or write."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"), help="of dragoman demo")
    asked.add_argument("--write", action="store_true")
    asked.add_argument("--commit", default="")
    args = asked.parse_args()
    if not (args.run / "rows.jsonl").is_file():
        asked.error(f"{args.run} holds no rows; make demo first")
    rows = digests_of(args.run)
    if args.write:
        write_json(DIGESTS, {"commit": args.commit, "rows": rows})
        return 0
    known = read_json(DIGESTS)
    wanted = known["rows"]
    keys = {(c, f) for table in (rows, wanted) for c, by in table.items() for f in by}
    other = sorted(k for k in keys if rows.get(k[0], {}).get(k[1]) != wanted.get(k[0], {}).get(k[1]))
    order = list(rows) == list(wanted) and all(list(rows[c]) == list(wanted[c]) for c in rows)
    sys.stdout.write(f"{len(keys) - len(other)} of {len(keys)} rows are those of commit {known['commit']}")
    sys.stdout.write(f", in {'the same' if order else 'another'} order\n")
    for condition, feature in other[:20]:
        sys.stdout.write(f"another row: {condition}, feature {feature}\n")
    return int(bool(other) or not order)


if __name__ == "__main__":
    raise SystemExit(main())
