"""What the commands print: rows, the map, the table of conditions, what a reconstructor found.

In: rows, reports and scores as they are kept. Out: tables on stdout. Refuses nothing.
"""

from __future__ import annotations

from typing import Any


def show_rows(rows: list[dict[str, Any]]) -> None:
    """Every explanation, feature by feature; the route where each feature has its own."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        route = (row.get("card") or {}).get("route") if row["condition"] == "auto" else None
        told = f"{row['condition']}: {route}" if route else row["condition"]
        told = f"[{told}, sample {row['sample'] + 1}]" if row["sample"] else f"[{told}]"
        console.print(Text(f"{row['feature']} {row['label']}".strip(), style="bold"), Text(told, style="dim"))
        console.print(Text(row["text"] + "\n"))


def show_map(report: dict[str, Any]) -> None:
    """Held-out quality beside what a constant predictor reaches."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the map on texts it was not fitted on", title_justify="left")
    for name in ("map", "texts", "FVE", "centred cos", "top-1", "raw cos", "constant's raw cos"):
        table.add_column(name, justify="left" if name == "map" else "right")
    for method, held in report.items():
        numbers = [held[k] for k in ("fve_unit", "centred_cosine", "top1", "raw_cosine", "constant_cosine")]
        table.add_row(method, str(held["n"]), *(f"{v:.3f}" for v in numbers))
    Console(highlight=False).print(table)


def show_scores(scores: dict[str, Any], manifest: dict[str, Any]) -> None:
    """The table of conditions, then paired differences, then the map."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{manifest['source']} in the words of {manifest['target']}", title_justify="left")
    for name in ("condition", "lift", "95 % interval", "p", "category", "random"):
        table.add_column(name, justify="left" if name == "condition" else "right", no_wrap=True)
    for row in scores["table"]:
        lift, category = row.get("lift"), row.get("category")
        cells = (
            [f"{lift['value']:+.3f}", f"[{lift['low']:+.3f}, {lift['high']:+.3f}]", f"{lift['p']:.2g}"]
            if lift
            else ["", "", ""]
        )
        rate = (
            [f"{category['value']:.0%}", "" if category["random"] is None else f"{category['random']:.0%}"]
            if category
            else ["", ""]
        )
        table.add_row(row["condition"], *(c.replace("[", "\\[") for c in cells), *rate)
    console.print(table)
    if scores.get("rule"):
        console.print(f"category: {scores['rule']} random: the same of random directions.", style="dim")
    first = next((r["lift"] for r in scores["table"] if r.get("lift")), None)
    if first:
        console.print(
            f"lift: {first['statistic']}; null: {first['null']}; {first['n']} {first['unit']}; {first['method']}",
            style="dim",
        )
    if scores.get("reconstruction"):
        show_reconstruction(scores["reconstruction"])
    for pair in scores.get("paired", []):
        console.print(
            f"{pair['what']}: {pair['value']:+.3f} \\[{pair['low']:+.3f}, {pair['high']:+.3f}], "
            f"p {pair['p']:.2g}, n {pair['n']}"
        )
    if manifest.get("map_report"):
        show_map(manifest["map_report"])
    if manifest.get("background"):
        b = manifest["background"]
        console.print(
            f"background at {manifest['target']}: spread {b['spread']:.3f}, "
            f"on-shell angle {b['on_shell_degrees']:.1f} degrees"
        )


def show_reconstruction(found: dict[str, Any]) -> None:
    """How well a reconstructor finds each condition's directions in its texts, beside chance."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"read back by {found['reconstructor']} at {found['site']}", title_justify="left")
    for name in ("condition", "texts", "centred cosine", "FVE", "shuffled FVE", "top-1", "chance", "MRR"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    for row in found["table"]:
        cosine, fve = row["cosine"], row["fve"]
        table.add_row(
            row["condition"],
            str(row["n"]),
            f"{cosine['value']:+.3f}",
            f"{fve['value']:+.3f}",
            f"{fve['extra']['shuffled']:+.3f}" if "shuffled" in fve.get("extra", {}) else "",
            f"{row['top1']['value']:.0%}",
            f"{1 / row['n']:.1%}",
            f"{row['mrr']['value']:.3f}",
        )
    Console(highlight=False).print(table)
