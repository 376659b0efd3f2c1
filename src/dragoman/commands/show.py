"""What the commands print: rows, the map, the table of conditions, nulls, what a reconstructor found, confidences.

In: rows, reports and scores as they are kept. Out: tables on stdout. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dragoman.commands.printing import console, styled


def with_confidence(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows, first samples with their ``confidence`` where the run was scored with one."""
    per_feature = ((scores or {}).get("confidence") or {}).get("per_feature") or {}
    told = {(c, one["feature"]): one for c, found in per_feature.items() for one in found}
    return [
        {**row, "confidence": {k: v for k, v in told[at].items() if k != "feature"}}
        if (at := (row["condition"], row["feature"])) in told and row["sample"] == 0
        else dict(row)
        for row in rows
    ]


def sure(told: Mapping[str, Any]) -> str:
    """``confidence 0.87``, or ``abstains (0.21)`` below the threshold."""
    return f"confidence {told['probability']:.2f}" if told["answered"] else f"abstains ({told['probability']:.2f})"


def show_rows(rows: list[dict[str, Any]]) -> None:
    """Every explanation, feature by feature; the route where each feature has its own, and the confidence."""
    out = console()
    for row in rows:
        route = (row.get("card") or {}).get("route") if row["condition"] == "auto" else None
        told = f"{row['condition']}: {route}" if route else row["condition"]
        told = f"[{told}, sample {row['sample'] + 1}]" if row["sample"] else f"[{told}]"
        head = [styled(f"{row['feature']} {row['label']}".strip(), "bold"), styled(told, "dim")]
        if row.get("confidence"):
            style = "green" if row["confidence"]["answered"] else "yellow"
            head.append(styled(sure(row["confidence"]), style))
        out.print(*head)
        out.print(styled(f"{row['text']}\n"))


def show_map(report: dict[str, Any]) -> None:
    """Held-out quality beside what a constant predictor reaches."""
    from rich.table import Table

    table = Table(title="the map on texts it was not fitted on", title_justify="left")
    for name in ("map", "texts", "FVE", "centred cos", "top-1", "raw cos", "constant's raw cos"):
        table.add_column(name, justify="left" if name == "map" else "right")
    for method, held in report.items():
        numbers = [held[k] for k in ("fve_unit", "centred_cosine", "top1", "raw_cosine", "constant_cosine")]
        table.add_row(method, str(held["n"]), *(f"{v:.3f}" for v in numbers))
    console().print(table)


def show_scores(scores: dict[str, Any], manifest: dict[str, Any]) -> None:
    """The table of conditions, nulls, embedders, detection, paired differences, confidences, then the map."""
    out = console()
    parts = {
        "table": lambda rows: show_conditions(
            rows, scores, f"{manifest['source']} in the words of {manifest['target']}"
        ),
        "nulls": show_nulls,
        "embedders": show_agreement,
        "adjusted": show_adjusted,
        "detection": show_detection,
        "reconstruction": show_reconstruction,
        "paired": show_pairs,
        "power": show_power,
        "ceiling": show_ceiling,
        "confidence": show_confidence,
    }
    for name, show in parts.items():
        if scores.get(name):
            show(scores[name])
    if manifest.get("map_report"):
        show_map(manifest["map_report"])
    if manifest.get("background"):
        b = manifest["background"]
        out.print(
            f"background at {manifest['target']}: spread {b['spread']:.3f}, "
            f"on-shell angle {b['on_shell_degrees']:.1f} degrees"
        )


def show_conditions(rows: list[dict[str, Any]], scores: dict[str, Any], title: str) -> None:
    """Lift and planted category of each condition, with what the numbers mean."""
    from rich.table import Table

    out = console()
    table = Table(title=title, title_justify="left")
    for name in ("condition", "lift", "95 % interval", "p", "category", "random"):
        table.add_column(name, justify="left" if name == "condition" else "right", no_wrap=True)
    for row in rows:
        lift, category = row.get("lift"), row.get("category")
        cells = [f"{lift['value']:+.3f}", ends(lift), f"{lift['p']:.2g}"] if lift else ["", "", ""]
        rate = (
            [f"{category['value']:.0%}", "" if category["random"] is None else f"{category['random']:.0%}"]
            if category
            else ["", ""]
        )
        table.add_row(row["condition"], *cells, *rate)
    out.print(table)
    if scores.get("rule"):
        out.print(f"category: {scores['rule']} random: the same of random directions.", style="dim")
    first = next((r["lift"] for r in rows if r.get("lift")), None)
    if first:
        out.print(
            f"lift: {first['statistic']}; null: {first['null']}; {first['n']} {first['unit']}; {first['method']}",
            style="dim",
        )


def ends(estimate: Mapping[str, Any]) -> str:
    """An interval of signed numbers."""
    return f"[{estimate['low']:+.3f}, {estimate['high']:+.3f}]"


def show_pairs(pairs: list[dict[str, Any]]) -> None:
    """Paired differences of lift."""
    for pair in pairs:
        console().print(f"{pair['what']}: {pair['value']:+.3f} {ends(pair)}, p {pair['p']:.2g}, n {pair['n']}")


def show_power(needs: list[dict[str, Any]]) -> None:
    """How many features it takes to find each paired difference again."""
    for need in needs:
        console().print(
            f"to find {need['what']} again at {need['lift']:+.3f} ({need['power']:.0%} power, level {need['level']:g}) "
            f"takes {need['n']} features; these {need['observed']} find {need['detectable']:.3f}"
        )


def show_ceiling(found: dict[str, Any]) -> None:
    """What another native sample reaches, and each condition's part of it."""
    top = found["ceiling"]
    shares = [f"{name} {one['value']:.0%} {ends(one)}" for name, one in found["share"].items()]
    told = f"; of it: {', '.join(shares)}" if shares else ""
    console().print(f"ceiling (one native sample against another, n {top['n']}): {top['value']:+.3f} {ends(top)}{told}")


def show_reconstruction(found: dict[str, Any]) -> None:
    """How well a reconstructor finds each condition's directions in its texts, beside chance."""
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
    console().print(table)


def show_nulls(nulls: dict[str, dict[str, Any]]) -> None:
    """Each condition against each null: lift, and how often its text is the nearest."""
    from rich.table import Table

    table = Table(title="against each null", title_justify="left")
    for name in ("condition", "null"):
        table.add_column(name, overflow="fold")
    for name, width in (("lift", 6), ("95 % interval", 16), ("p", 6), ("nearest", 7), ("chance", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)  # words give way, numbers do not
    for condition, by in nulls.items():
        for place, (null, one) in enumerate(by.items()):
            lift, top1 = one["lift"], one["top1"]
            table.add_row(
                "" if place else condition,
                null,
                f"{lift['value']:+.3f}",
                ends(lift),
                f"{lift['p']:.2g}",
                f"{top1['value']:.0%}",
                f"{top1['extra']['chance']:.0%}",
            )
    console().print(table)


def show_agreement(found: dict[str, Any]) -> None:
    """Whether the embedders agree in sign."""
    if found["summary"]:
        console().print(f"{found['summary']}.")


def show_adjusted(found: dict[str, Any]) -> None:
    """Which lifts hold when all tests are counted."""
    tests = found["tests"]
    failed = [f"{t['condition']} by {t['embedder']} ({t['adjusted']:.2g})" for t in tests if not t["holds"]]
    told = f"{len(tests) - len(failed)} of {len(tests)} lifts (conditions by embedders) hold after Holm's adjustment"
    console().print(told + (f"; not {', '.join(failed)}" if failed else ""))


def show_detection(found: dict[str, Any]) -> None:
    """How well each condition's texts tell where their features fire, beside other features' texts."""
    from rich.table import Table

    table = Table(title="telling windows where the feature fires from others", title_justify="left")
    for name in ("condition", "features", "AUROC", "95 % interval", "others' texts", "p"):
        table.add_column(name, justify="left" if name == "condition" else "right", no_wrap=True)
    for row in found["table"]:
        span, others = f"[{row['low']:.3f}, {row['high']:.3f}]", f"{row['extra']['others']:.3f}"
        table.add_row(row["condition"], str(row["features"]), f"{row['value']:.3f}", span, others, f"{row['p']:.2g}")
    console().print(table)


def show_confidence(found: dict[str, Any]) -> None:
    """How many explanations are answered for, and on what the confidence was fitted."""
    out = console()
    for condition, rows in found["per_feature"].items():
        answered = sum(row["answered"] for row in rows)
        out.print(f"confidence: {condition}, answers for {answered} of {len(rows)}, abstains on {len(rows) - answered}")
    fitted = dict.fromkeys(str(one["fitted_on"]) for one in found["members"].values() if one.get("fitted_on"))
    if fitted:
        told = f"fitted on {', '.join(fitted)}; on another pair of models it is a guess until you check some"
        out.print(told, style="dim")
