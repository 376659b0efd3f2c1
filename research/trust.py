"""The figures a map must earn before it is trusted: ``python research/trust.py``.

Reads what ``python research/study.py trust`` and ``drift`` left in ``docs/results`` (with ``--judge`` it judges their
rows anew first, where they lie in ``runs/studies``), prints each figure beside what it must reach, and writes
``bench/results/trust.json``. Fitted on SmolLM2 -> Gemma, judged on Gemma -> SmolLM2, unless it says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dragoman.store import read_json, write_json

HERE = Path(__file__).parent
DRIFT = ("combined", "home_margin", "margin")
MUST = {
    "accuracy_ratio": ("at least", 1.3),
    "false_label_rate.random": ("at most", 0.02),
    "false_label_rate.shuffled": ("at most", 0.02),
    "false_label_rate.unused": ("at most", 0.02),
    "ece": ("at most", 0.05),
    "auroc": ("at least", 0.85),
    "gain_at_80": ("at least", 0.08),
    "drift_45_detection": ("at least", 0.9),
}


def main() -> None:
    """Gather, print, write."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--judge", action="store_true", help="judge the rows in --work anew first")
    parse.add_argument("--work", type=Path, default=Path("runs/studies"))
    parse.add_argument("--results", type=Path, default=HERE.parent / "docs" / "results")
    args = parse.parse_args()
    if args.judge:
        from studies.results import written

        for name in ("drift", "trust"):
            written(name, args.work, args.results)
    found = gathered(
        read_json(args.results / "trust.json")["promised"], read_json(args.results / "drift.json")["grounds"]
    )
    write_json(HERE.parent / "bench" / "results" / "trust.json", found)
    for line in told(found):
        sys.stdout.write(line + "\n")


def gathered(trust: dict[str, Any], drift: dict[str, Any]) -> dict[str, Any]:
    """The promised keys, each with its n; drift is detected worst in the direction that is named."""
    by = {}
    for ground, found in drift.items():
        flags = {flag: found["flags"][flag]["angles"]["45"]["detection"] for flag in DRIFT if flag in found["flags"]}
        judged = found["flags"]["combined"]
        by[ground] = {**flags["combined"], "judged": judged["judged"], "of": judged["of"], "flags": flags}
    worst = min(by, key=lambda ground: by[ground]["value"])
    return {
        **trust,
        "gain_at_80": {"value": trust["accuracy_at_80"]["gain"], "n": trust["accuracy_at_80"]["n"]},
        "drift_45_detection": {
            **{k: by[worst][k] for k in ("value", "low", "high", "n")},
            "worst": worst,
            "by_direction": by,
        },
    }


def told(found: dict[str, Any]) -> list[str]:
    """One line a figure: value, interval, n, what it must reach, and whether it does."""
    lines = [f"fitted on {found['fitted_on']}, judged on {found['tested_on']}"]
    for key in ("accuracy_default", "accuracy_post_recipe", "accuracy_at_80", "accuracy_at_100"):
        lines.append(f"{key:28} {_number(found[key])}")
    for key, (how, limit) in MUST.items():
        one = found
        for part in key.split("."):
            one = one[part]
        reached = one["value"] >= limit if how == "at least" else one["value"] <= limit
        lines.append(f"{key:28} {_number(one)}   {how} {limit:g}: {'reached' if reached else 'MISSED'}")
    return lines


def _number(one: dict[str, Any]) -> str:
    interval = f" [{one['low']:.3f}, {one['high']:.3f}]" if "low" in one else ""
    n = f", n {one['n']}" if "n" in one else ""
    return f"{one['value']:.3f}{interval}{n}"


if __name__ == "__main__":
    main()
