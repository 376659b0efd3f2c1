"""What the strengths say: is the best washout where real activations lie, at both sites?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.figure import legend_above, panels, points
from studies.judged import Heard, accuracy, both, paired
from studies.results import NAMES, Answer, Table, number, percent, signed

ON_SHELL = "on-shell x 1"


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Accuracy against the angle to the background in on-shell angles."""
    data = {ground: _rows(one) for ground, one in heard.items()}
    tables = [
        Table(
            title=f"{NAMES[ground]}, {route} (spread {found['site']['spread']:.2f}, on shell at "
            f"{found['site']['on_shell_degrees']:.0f}°)",
            columns=(
                "washout",
                "degrees from the background",
                "in on-shell angles",
                "names the category",
                "minus on-shell",
            ),
            rows=[
                (
                    row["washout"],
                    number(row["degrees"], 0),
                    number(row["times"], 2),
                    percent(row["accuracy"]),
                    signed(row["minus"]),
                )
                for row in rows
            ],
        )
        for ground, found in data.items()
        for route, rows in found["routes"].items()
    ]
    return Answer(
        findings=[_finding(ground, found) for ground, found in data.items()],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Share of explanations that name the planted category against the angle between what is injected and "
        "the background, in on-shell angles; the last points are the bare direction. 95 % intervals over categories.",
    )


def _rows(heard: Heard) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {}
    for said in heard.said.values():
        told = said.told
        left, right, categories = both(heard, heard.said[f"{told['route']}, {ON_SHELL}"], said)
        row = {k: told[k] for k in ("washout", "degrees", "times")} | accuracy(heard, said)
        row["minus"] = None if told["washout"] == ON_SHELL else paired(left, right, categories)
        found.setdefault(told["route"], []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["degrees"])
    return {"site": heard.run.manifest["measured"]["site"], "routes": found}


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    parts = []
    for route, rows in found["routes"].items():
        best = max(rows, key=lambda row: row["accuracy"]["value"])
        shell = next(row for row in rows if row["washout"] == ON_SHELL)
        bare = next(row for row in rows if row["washout"] == "none")
        parts.append(
            f"{route}: best at {best['times']:.2f} on-shell angles ({best['washout']}, {percent(best['accuracy'])}); "
            f"on shell {percent(shell['accuracy'])}; bare {percent(bare['accuracy'])}"
        )
    return f"**{NAMES[ground]}**, spread {found['site']['spread']:.2f}. " + ". ".join(parts) + "."


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    with panels(path, len(data), width=5.2, height=3.6) as axes:
        for axis, (ground, found) in zip(axes, data.items(), strict=True):
            for k, (route, rows) in enumerate(found["routes"].items()):
                points(axis, [r["times"] for r in rows], [r["accuracy"] for r in rows], route, k)
            axis.axvline(1.0, color="#999", lw=0.8, ls=":")
            axis.set_xlabel("angle to the background, in on-shell angles")
            axis.set_ylabel("names the planted category")
            axis.set_title(f"{NAMES[ground]} (spread {found['site']['spread']:.2f})")
            axis.set_ylim(bottom=0)
        legend_above(axes[0])
