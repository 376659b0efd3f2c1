"""What the amounts of text say: where each route starts to work, and where more stops helping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.figure import legend_above, panels, points
from studies.judged import Heard, accuracy, both, paired
from studies.results import NAMES, Answer, Table, number, percent

LINES = (
    ("aligned map", "map, aligned tokens"),
    ("pooled map (relative)", "map, pooled texts, relative penalty"),
    ("pooled map (post)", "map, pooled texts, penalty 100"),
    ("direct", "direct route"),
)
ENOUGH = 0.95  # of the best: from there on more hardly helps


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Accuracy and identity against pairs read, one line a way of reading."""
    data = {ground: _lines(one) for ground, one in heard.items()}
    tables = [
        Table(
            title=NAMES[ground],
            columns=(
                "route",
                "pairs",
                "texts",
                "names the category, of all asked",
                "own row nearest",
                "FVE",
                "top-1 of rows",
            ),
            rows=[
                (
                    label,
                    f"{row['pairs']:,}",
                    f"{row['texts']:,}",
                    percent(row["all"]),
                    number(row["identity"].get("top1")),
                    number(row.get("fve_raw")),
                    number(row.get("top1")),
                )
                for key, label in LINES
                for row in lines.get(key, [])
            ],
            note="A feature that never fires in what was read has no direct row and "
            "counts as not named. Own row nearest: share of images nearest their own "
            f"row of a direct table of other documents, among {_among(lines)} rows.",
        )
        for ground, lines in data.items()
    ]
    return Answer(
        findings=[_finding(ground, lines) for ground, lines in data.items()],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Share of all features asked for whose washed explanation names the "
        "planted category (above) and whose image lies nearest its own row of other "
        "documents (below), against pairs of tokens read; 95 % intervals over categories.",
    )


def _lines(heard: Heard) -> dict[str, list[dict[str, Any]]]:
    measured, asked = heard.run.manifest["measured"], heard.run.manifest["features"]
    found: dict[str, list[dict[str, Any]]] = {}
    last = {key: [s for s in heard.said.values() if s.name.startswith(key + ",")] for key, _ in LINES}
    for key, steps in last.items():
        for said in steps:
            row = {**measured[said.name], **accuracy(heard, said, of=len(asked))}
            share = len(said.features) / len(asked)
            row["all"] = {k: row["accuracy"][k] * share for k in ("value", "low", "high")} | {"n": len(asked)}
            left, right, categories = both(heard, said, steps[-1])
            if said is not steps[-1] and len(set(categories)) > 1:
                row["last_minus_this"] = paired(left, right, categories)
            found.setdefault(key, []).append(row)
    return found


def _finding(ground: str, lines: Mapping[str, list[dict[str, Any]]]) -> str:
    parts = []
    for key, label in LINES:
        rows = lines.get(key, [])
        if not rows:
            continue
        best = max(row["all"]["value"] for row in rows)
        enough = next(row for row in rows if row["all"]["value"] >= ENOUGH * best)
        parts.append(
            f"{label}: best {100 * best:.0f} %, {100 * ENOUGH:.0f} % of that from {enough['pairs']:,} pairs "
            f"({enough['texts']:,} texts) on"
        )
    return f"**{NAMES[ground]}.** " + "; ".join(parts) + "."


def _among(lines: Mapping[str, list[dict[str, Any]]]) -> int | None:
    return next((row["identity"].get("among") for rows in lines.values() for row in rows), None)


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    with panels(path, len(data), rows=2, width=5.2, height=3.3) as axes:
        grid = axes if hasattr(axes[0], "__len__") else [axes]
        for column, (ground, lines) in enumerate(data.items()):
            above, below = grid[0][column], grid[1][column]
            for k, (key, label) in enumerate(LINES):
                rows = lines.get(key, [])
                points(above, [row["pairs"] for row in rows], [row["all"] for row in rows], label, k)
                flat = [
                    {"value": v, "low": v, "high": v} for row in rows if (v := row["identity"].get("top1")) is not None
                ]
                known = [row["pairs"] for row in rows if row["identity"].get("top1") is not None]
                points(below, known, flat, label, k)
            for axis, what in ((above, "names the planted category"), (below, "own row is nearest")):
                axis.set_xscale("log")
                axis.set_ylim(bottom=0)
                axis.set_ylabel(what)
            below.set_xlabel("pairs of tokens read")
            above.set_title(NAMES[ground])
        legend_above(grid[0][0])
