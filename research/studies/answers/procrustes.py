"""What the variants of Procrustes say: which switch closes the gap to ridge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.figure import across, legend_above, panels
from studies.judged import Heard, accuracy, both, paired
from studies.results import NAMES, Answer, Table, number, percent, signed

AGAINST = "ridge"
SWITCHES = (
    ("Procrustes, informative rank", "cutting the arbitrary completion"),
    ("Procrustes, whitened", "whitening both sides"),
    ("Procrustes, not centred", "leaving the means in"),
)


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """One table a direction and amount; the gap to ridge paired over features."""
    data: dict[str, Any] = {ground: _table(one) for ground, one in heard.items()}
    tables = [
        Table(
            title=f"{NAMES[ground]}, {amount} ({rows[0]['rows']} rows of width {rows[0]['source_width']})",
            columns=("map", "names the category", "minus ridge", "image nearest its own row", "centred cosine", "FVE"),
            rows=[
                (
                    row["variant"],
                    percent(row["accuracy"]),
                    signed(row["minus_ridge"]),
                    number(row["identity"].get("top1")),
                    "–" if "not centred" in row["variant"] else number(row["centred_cosine"]),
                    "–" if "not centred" in row["variant"] else number(row["fve_raw"]),
                )
                for row in rows
            ],
            note=f"n {rows[0]['accuracy']['n']} features; a category named by chance, the same texts "
            f"dealt to other features: {100 * rows[0]['dealt']:.0f} %. Nearest among "
            f"{rows[0]['identity'].get('among')} rows. Predicting the mean has FVE 0, rows dealt wrongly "
            f"{rows[0]['shuffled_fve']:.2f} under ridge; without centring neither number is comparable.",
        )
        for ground, found in data.items()
        for amount, rows in found["amounts"].items()
    ]
    return Answer(
        findings=[_finding(ground, found) for ground, found in data.items()],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Share of washed explanations that name the planted "
        "category, by map, with 95 % intervals over categories.",
    )


def _table(heard: Heard) -> dict[str, Any]:
    measured = heard.run.manifest["measured"]
    found: dict[str, list[dict[str, Any]]] = {}
    for said in heard.said.values():
        amount, variant = said.told["amount"], said.told["variant"]
        ridge = heard.said[f"{AGAINST}, {amount}"]
        left, right, categories = both(heard, ridge, said)
        row = {"variant": variant, **accuracy(heard, said), **measured[said.name]}
        row["minus_ridge"] = None if variant == AGAINST else paired(left, right, categories)
        row["collapsed"] = said.told["collapsed"]
        found.setdefault(amount, []).append(row)
    return {"amounts": found, "anisotropy": measured["anisotropy"]}


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    """What each switch does to the gap, in one paragraph."""
    parts = []
    for amount, rows in found["amounts"].items():
        by = {row["variant"]: row for row in rows}
        plain = by["Procrustes"]["accuracy"]["value"]
        told = [f"{by[name]['accuracy']['value'] - plain:+.3f} by {what}" for name, what in SWITCHES if name in by]
        ranks = [row for row in rows if row["variant"].startswith("Procrustes, rank")]
        best = max(ranks, key=lambda row: row["accuracy"]["value"])
        parts.append(
            f"On {amount} the textbook's Procrustes names the category of {percent(by['Procrustes']['accuracy'])}, "
            f"ridge of {percent(by['ridge']['accuracy'])} (difference {signed(by['Procrustes']['minus_ridge'])}). "
            f"Switched one at a time, the share changes {', '.join(told)}; the best cut, "
            f"{best['variant'].removeprefix('Procrustes, ')}, gives {percent(best['accuracy'])}."
        )
    flat = found["anisotropy"]["all tokens"]
    parts.append(
        f"The streams' variance is carried by {flat['source']['dimensions']:.1f} of "
        f"{flat['source']['width']} dimensions at the source and {flat['target']['dimensions']:.1f} "
        f"of {flat['target']['width']} at the target (participation ratio, tokens)."
    )
    return f"**{NAMES[ground]}.** " + " ".join(parts)


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    amounts = list(next(iter(data.values()))["amounts"])
    with panels(path, len(data), width=6.2, height=4.2) as axes:
        for axis, (ground, found) in zip(axes, data.items(), strict=True):
            names = [row["variant"] for row in found["amounts"][amounts[-1]]]
            for number_, (amount, rows) in enumerate(found["amounts"].items()):
                by = {row["variant"]: row["accuracy"] for row in rows}
                shown = [k for k, name in enumerate(names) if name in by]
                places = [k + 0.2 * (number_ - 1) for k in shown]
                across(axis, places, [by[names[k]] for k in shown], amount, number_)
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.set_xlabel("names the planted category")
            axis.set_title(NAMES[ground])
            axis.set_xlim(left=0)
        legend_above(axes[-1])
