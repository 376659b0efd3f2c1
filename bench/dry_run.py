"""How near a dry run comes, on the embedded pair: ``python bench/dry_run.py``; writes ``bench/results/dry_run.json``.

Each case is forecast, then done in a process of its own with an empty cache but for the converted models, whose memory
at the peak the system tells (``ru_maxrss``). Tokens read are those the run counted, tokens said those of its rows.
Which features fire often enough to have that reading is told, of texts of one's own, by the table of firings that lies
beside the dictionary; where none does the forecast is of the most, and ``decoded_of_those_that_fire`` is its error for
the features that had it. Constants were taken from a run of the case "default". ``--again``: forecasts anew for what
was measured before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dragoman import tiny
from dragoman.core import Site
from dragoman.dictionaries import Asked, open_dictionary
from dragoman.runs.dry_run import dry_run
from dragoman.runs.forecast import this_machine
from dragoman.runs.options import Options
from dragoman.runs.texts import Texts
from dragoman.store import cache_root, read_json, read_jsonl, write_json, write_text

RESULTS = Path(__file__).parent / "results" / "dry_run.json"
TEXTS = 300  # of the packaged sentences, where not all are read
CASES: dict[str, dict[str, Any]] = {
    "default": {"features": "0-31", "all texts": True},
    "native": {"features": "0-31", "native": "tiny-smollm2-av"},
    "writes alone, bfloat16": {"features": "100-131", "reading": "writes", "dtype": "bfloat16"},
    "three samples": {"features": "0-15", "samples": 3},
}
CHILD = """
import json, resource, sys, time
import dragoman
how = json.loads(sys.argv[1])
begun = time.monotonic()
run = dragoman.explain("tiny-sae", by="tiny-gemma-av", **how)
told = {"seconds": time.monotonic() - begun, "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
told["decoded_tokens"] = sum(row["tokens"] for row in run.folder.rows())
told["conditions"] = {}
for row in run.folder.rows():
    told["conditions"][row["condition"]] = told["conditions"].get(row["condition"], 0) + (row["sample"] == 0)
print(json.dumps(told))
"""


def measured(case: dict[str, Any], folder: Path, texts: Path) -> dict[str, Any]:
    """What doing it took, and what was forecast."""
    found = done_once(case, folder, texts)
    return compared(case, found, folder, texts)


def compared(case: dict[str, Any], found: dict[str, Any], folder: Path, texts: Path) -> dict[str, Any]:
    """What was measured beside the forecast."""
    how = {name: one for name, one in case.items() if name != "all texts"}
    dtype, native = how.get("dtype", "float32"), how.get("native")
    read = Texts() if case.get("all texts") else Texts.read(texts)
    forecast = dry_run(
        open_dictionary("tiny-sae"),
        by="tiny-gemma-av",
        native=native,
        features=Asked.parse(how["features"]),
        options=Options(**{name: how[name] for name in ("reading", "samples") if name in how}),
        texts=read,
        dtype=dtype,
        out=folder / "run",
    )
    return {"forecast": forecast.to_json(), "measured": found, "error": errors(forecast.to_json(), found)}


def done_once(case: dict[str, Any], folder: Path, texts: Path) -> dict[str, Any]:
    """What doing it took."""
    how = {name: one for name, one in case.items() if name != "all texts"}
    cache = folder / "cache"
    cache.mkdir(parents=True)
    (cache / "model").symlink_to(cache_root() / "model")
    asked = {**how, "out": str(folder / "run")} | ({} if case.get("all texts") else {"texts": str(texts)})
    child = [sys.executable, "-c", CHILD, json.dumps(asked)]
    before = os.getloadavg()[0]
    done = subprocess.run(child, env=os.environ | {"DRAGOMAN_CACHE": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    (index,) = cache.glob("aligned/*/*.json")
    tokens = read_json(index)["report"]["tokens"]
    found["read_tokens"] = {Site.parse(site).model: tokens[side]["all"] for side, site in sites().items()}
    found["load"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    return found


def sites() -> dict[str, str]:
    """By side."""
    return {"source": str(tiny.SOURCE), "target": str(tiny.TARGET)}


def errors(forecast: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """Relative, of memory, tokens read and tokens said."""
    read = {name: forecast["read_tokens"][name] / n - 1 for name, n in found["read_tokens"].items()}
    told = {
        "host_bytes": forecast["host_bytes"] / found["host_bytes"] - 1,
        "read_tokens": max(read.values(), key=abs),
        "decoded_tokens": forecast["decoded_tokens"] / found["decoded_tokens"] - 1,
    }
    if forecast["decoded_by"] == "measured mean if all fire":
        had = sum(found["conditions"].values()) / sum(forecast["conditions"].values())
        told["decoded_of_those_that_fire"] = forecast["decoded_tokens"] * had / found["decoded_tokens"] - 1
    return told


def main() -> None:
    """Every case, or those that are named."""
    told: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {"cases": {}}
    again = "--again" in sys.argv
    names = list(told["cases"]) if again else sys.argv[1:] or list(CASES)
    told["machine"] = this_machine("cpu", "float32")[1]
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.jsonl"
        rows = [row for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "map"][:TEXTS]
        write_text(texts, "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
        for number, name in enumerate(names):
            begun = time.strftime("%H:%M")
            where = Path(scratch) / str(number)
            before = told["cases"].get(name, {}).get("measured")
            made = compared(CASES[name], before, where, texts) if again else measured(CASES[name], where, texts)
            told["cases"][name] = made
            print(begun, name, json.dumps(told["cases"][name]["error"]), json.dumps(told["cases"][name]["measured"]))
            worst = [abs(one) for case in told["cases"].values() for one in case["error"].values()]
            told["dry_run_error"] = {"value": max(worst), "machine": told["machine"]}
            write_json(RESULTS, told)


if __name__ == "__main__":
    main()
