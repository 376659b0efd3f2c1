"""The figures of the embedded pair, from the shipped weights: ``python bench/first_light.py``, on GPU or CPU.

225 reported features (nothing was tuned on them), real activations of documents no verbalizer was trained on, and
topics no verbalizer has seen. Writes ``bench/results/first_light.json`` and prints the table. Resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import tiny
from dragoman.commands.show import show_reconstruction, show_scores
from dragoman.core import Directions, Site, Talk
from dragoman.demo import demo_options, experiment, listed
from dragoman.dictionaries.beside import read_truth
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.paired import activations_at
from dragoman.models.reconstruct import Reconstructor
from dragoman.runs.plan import Condition, Plan, execute
from dragoman.scoring import JudgedRun, reconstruction_scores, score_run, sought_directions
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.planted import names_category
from dragoman.store import RunFolder, digest, read_arrays, read_json, read_jsonl, write_json

HERE = Path(__file__).parent
SIDES = {"source": (tiny.SOURCE, "tiny-smollm2-av"), "target": (tiny.TARGET, "tiny-gemma-av")}


def say(text: str) -> None:
    """One line of talk."""
    sys.stderr.write(text + "\n")


def real_activations(args: argparse.Namespace, side: str, talk: Talk) -> dict[str, dict[str, float]]:
    """Share of held-out activations whose explanation names the category, beside the linear probe on the same ones."""
    site, av = SIDES[side]
    rows = [r for r in read_jsonl(tiny.data("tiny-documents")) if r["split"] in ("test", "heldout")]
    rows = thinned(rows, args.per_category, args.per_topic)
    reader = Reader.open(site, dtype=args.dtype, device=args.device)
    x, which = activations_at(reader, [r["text"] for r in rows], [r["end"] for r in rows])
    rows = [rows[i] for i in which]
    del reader
    verbalizer = Verbalizer(av, dtype=args.dtype, device=args.device)
    directions = Directions.of(Site(site.model, site.block), x, [f"{i}" for i in range(len(rows))], kind="custom")
    plan = Plan(conditions=(Condition.of(side, directions, "by"),), batch_size=args.batch_size, max_new_tokens=120)
    verbalizers = {"by": verbalizer}
    manifest = {"conditions": [{"name": side}], "plan_digest": plan.digest(verbalizers)}
    run = RunFolder.create(args.work / f"real-{side}-{digest(json.dumps(manifest))[:8]}", manifest)
    execute(plan, run, verbalizers, talk.bar)
    said = [row["text"] for row in run.rows()]
    return compared(rows, x, said, side)


def thinned(rows: list[dict[str, Any]], per_category: int, per_topic: int) -> list[dict[str, Any]]:
    """The first few documents of each category (test) and topic (heldout)."""
    seen: dict[tuple[str, str], int] = {}
    out = []
    for row in rows:
        key = (row["split"], row["category"] if row["split"] == "test" else row["topic"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= (per_category if row["split"] == "test" else per_topic):
            out.append(row)
    return out


def compared(rows: list[dict[str, Any]], x: np.ndarray, said: list[str], side: str) -> dict[str, dict[str, float]]:
    """AV and probe on the same rows, by split."""
    probes, meta = read_arrays(tiny.data("tiny-probes"))
    classes = json.loads(meta["classes"]) if isinstance(meta["classes"], str) else meta["classes"]
    guess = (x @ probes[f"{side}_weight"].astype(np.float32).T + probes[f"{side}_bias"]).argmax(1)
    words = read_truth(tiny.data("tiny-truth")).category_words
    out = {}
    for split in ("test", "heldout"):
        mine = [i for i, r in enumerate(rows) if r["split"] == split]
        named = [names_category(said[i], words[rows[i]["category"]]) for i in mine]
        theme = [names_category(said[i].split("\n\n")[0], words[rows[i]["category"]]) for i in mine]
        wrong = [
            names_category(said[i], words[rows[mine[(k + 1) * 7 % len(mine)]]["category"]]) for k, i in enumerate(mine)
        ]
        probe = [classes[guess[i]] == rows[i]["category"] for i in mine]
        topic = [rows[i]["topic"].lower() in said[i].lower() for i in mine]
        low, high = wilson_interval(sum(named), len(named))
        out[split] = {
            "value": float(np.mean(named)), "low": low, "high": high, "probe": float(np.mean(probe)), "n": len(mine),
            "theme_only": float(np.mean(theme)), "topic": float(np.mean(topic)), "shuffled": float(np.mean(wrong)),
        }  # fmt: skip
    return out


def main() -> None:
    """Make the rows, score them, or both."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--batch-size", type=int, default=128)
    parse.add_argument("--per-category", type=int, default=30)
    parse.add_argument("--per-topic", type=int, default=5)
    parse.add_argument("--work", type=Path, default=Path("runs/first-light"))
    parse.add_argument("--out", type=Path, default=HERE / "results" / "first_light.json")
    parse.add_argument("--rows-only", action="store_true", help="make the rows (on a GPU machine, say), score nothing")
    parse.add_argument("--finished", action="store_true", help="score the rows that lie in --work, make none")
    args = parse.parse_args()
    if not args.finished:
        make(args)
    if not args.rows_only:
        score(args)


def make(args: argparse.Namespace) -> None:
    """All explanations, resumable, into ``--work``."""
    talk = Talk(say=say, bar=lambda what, done, total: say(f"{what} {done}/{total}"))
    real = {side: real_activations(args, side, talk) for side in SIDES}
    write_json(args.work / "real.json", real)
    options = demo_options(batch_size=args.batch_size)
    experiment(listed(ranks=5), options, args.work / "features", talk, dtype=args.dtype, device=args.device)


def score(args: argparse.Namespace) -> None:
    """Figures of the rows in ``--work``: JSON and table."""
    real, run = read_json(args.work / "real.json"), RunFolder.open(args.work / "features")
    scores = score_run(run, device=args.device, ar="tiny-smollm2-ar", dtype=args.dtype).to_json()
    write_json(args.out, figures(real, scores))
    target = Reconstructor.open("tiny-gemma-ar", device=args.device, dtype=args.dtype)
    judged = JudgedRun.of(run)
    sought = sought_directions(judged, target.site)
    also = reconstruction_scores(judged.rows, sought, target, topics=judged.category).to_json()
    found = {"source": scores["reconstruction"], "target": also}
    read_back = {
        side: {row["condition"]: brief(row) for row in scored_by["table"]} for side, scored_by in found.items()
    }
    write_json(args.out.with_name("read_back.json"), read_back)
    show_reconstruction(also)
    write_json(
        args.out.with_name("first_light_details.json"),
        {
            "real": real,
            "scores": {k: v for k, v in scores.items() if k not in ("per_feature", "reconstruction")},
            "map_report": run.manifest["map_report"],
            "background": run.manifest["background"],
            "versions": run.manifest["versions"],
            "by_verdict": by_verdict(run, scores),
        },
    )
    show_scores(scores, run.manifest)
    for side, by in real.items():
        for split, row in by.items():
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
            beside = f"linear probe {row['probe']:.3f}, ratio {row['value'] / row['probe']:.2f}"
            controls = f"shuffled {row['shuffled']:.3f}, n {row['n']}"
            sys.stdout.write(f"{side}, {split} activations: AV {row['value']:.3f} {interval}, {beside}, {controls}\n")
    sys.stdout.write(args.out.read_text() + "\n")


def by_verdict(run: RunFolder, scores: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Share right by what the card said of the map, for the map's texts and for those of the direct route."""
    right = {c: {f["feature"]: f["names_category"] for f in rows} for c, rows in scores["per_feature"].items()}
    found: dict[str, dict[str, list[bool]]] = {}
    for row in run.rows():
        if row["condition"] in ("washed", "direct") and row["card"] and row["sample"] == 0:
            hit = right[row["condition"]][row["feature"]]
            found.setdefault(row["condition"], {}).setdefault(row["card"].get("status", "none"), []).append(hit)
    return {
        condition: {verdict: {"right": float(np.mean(hits)), "n": len(hits)} for verdict, hits in by.items()}
        for condition, by in found.items()
    }


def brief(row: dict[str, Any]) -> dict[str, Any]:
    """A condition's read-back in a few numbers; chance is 1 / n."""
    out: dict[str, Any] = {"n": row["n"], "shuffled_fve": row["fve"]["extra"].get("shuffled")}
    for name in ("cosine", "fve", "top1", "mrr"):
        out[name] = {k: row[name][k] for k in ("value", "low", "high")}
    return out


def figures(real: dict[str, dict[str, dict[str, float]]], scores: dict[str, Any]) -> dict[str, Any]:
    """The keys that are promised, no more."""
    table = {row["condition"]: row for row in scores["table"]}
    lift = {k: row["lift"] for k, row in table.items() if row.get("lift")}
    paired = {row["what"]: row for row in scores["paired"]}["washed minus plain"]
    return {
        **{f"av_real_{s}": {"value": real[s]["test"]["value"], "probe": real[s]["test"]["probe"]} for s in SIDES},
        "native": table["native"]["category"]["value"],
        "plain_lift": lift["plain"]["value"],
        "washed_lift": lift["washed"]["value"],
        "washed_minus_plain": paired["value"],
        "washed_minus_plain_p": paired["p"],
        "random_plain_lift_ci": [lift["random_plain"]["low"], lift["random_plain"]["high"]],
        "random_washed_lift_ci": [lift["random_washed"]["low"], lift["random_washed"]["high"]],
        "ridge_washed": lift["washed"]["value"],
        "procrustes_washed": lift["procrustes_washed"]["value"],
        "direct_washed": table["direct"]["category"]["value"],
        "heldout_topics": {s: {k: real[s]["heldout"][k] for k in ("value", "probe", "n")} for s in SIDES},
    }


if __name__ == "__main__":
    main()
