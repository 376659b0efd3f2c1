"""What depth says: accuracy against the source's relative depth, and against blocks away from the verbalizer's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.figure import panels, points
from studies.judged import Heard, accuracy, both, paired
from studies.results import NAMES, Answer, Table, number, percent, signed


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Two tables a direction: across the source, and around the verbalizer."""
    data = {ground: _rows(one) for ground, one in heard.items()}
    tables: list[Table] = []
    for ground, found in data.items():
        own = found["own_block"]
        tables.append(
            Table(
                title=f"{NAMES[ground]}: from which block of the source",
                columns=(
                    "block",
                    "relative depth",
                    "names the category",
                    f"minus block {own}",
                    "own row nearest",
                    "FVE",
                ),
                rows=[
                    (
                        f"{row['block']}" + (" (the dictionary's)" if row["block"] == own else ""),
                        number(row["relative_depth"], 2),
                        percent(row["accuracy"]),
                        signed(row["minus_own"]),
                        number(row["identity"].get("top1")),
                        number(row["fve_raw"]),
                    )
                    for row in found["source"]
                ],
                note=f"n {found['source'][0]['accuracy']['n']} features that fire in 20 effective documents or more; "
                f"named when dealt to other features: {100 * found['source'][0]['dealt']:.0f} %.",
            )
        )
        tables.append(
            Table(
                title=f"{NAMES[ground]}: a verbalizer fed from a neighbouring block",
                columns=("blocks away", "read as it is", "carried home by a map"),
                rows=[
                    (f"{away:+d}", percent(pair.get("as it is")), percent(pair.get("carried")))
                    for away, pair in sorted(found["near"].items())
                ],
                note="Direct rows read at that block of the target, washed out with that block's own background.",
            )
        )
    return Answer(
        findings=[_finding(ground, found) for ground, found in data.items()],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Share of explanations that name the planted category: features taken at blocks across the source "
        "(above), and the verbalizer fed from blocks around its own (below); 95 % intervals over categories.",
    )


def _rows(heard: Heard) -> dict[str, Any]:
    measured = heard.run.manifest["measured"]
    own = int(heard.run.manifest["source"].rsplit(":", 1)[1])
    base = heard.said[f"source block {own}"]
    source, near = [], {}
    for said in heard.said.values():
        told = said.told
        if told["side"] == "source":
            left, right, categories = both(heard, base, said)
            row = {**measured[said.name], **accuracy(heard, said)}
            row["minus_own"] = None if said is base else paired(left, right, categories)
            source.append(row)
        else:
            near.setdefault(told["away"], {})[told["route"]] = accuracy(heard, said)["accuracy"]
    return {"own_block": own, "source": source, "near": near}


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    best = max(found["source"], key=lambda row: row["accuracy"]["value"])
    first = found["source"][0]
    near = {away: pair["as it is"] for away, pair in found["near"].items() if "as it is" in pair}
    told = ", ".join(f"{away:+d}: {percent(rate)}" for away, rate in sorted(near.items()))
    return (
        f"**{NAMES[ground]}.** Best from block {best['block']} (relative depth {best['relative_depth']:.2f}): "
        f"{percent(best['accuracy'])}; from block {first['block']} ({first['relative_depth']:.2f}): "
        f"{percent(first['accuracy'])}. Read as they are, rows of blocks around the verbalizer's give {told}."
    )


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    with panels(path, len(data), rows=2, width=5.0, height=3.2) as axes:
        for column, (ground, found) in enumerate(data.items()):
            above, below = axes[0][column], axes[1][column]
            rows = found["source"]
            points(above, [r["relative_depth"] for r in rows], [r["accuracy"] for r in rows], "all", 0)
            above.axvline(
                next(r["relative_depth"] for r in rows if r["block"] == found["own_block"]),
                color="#999",
                lw=0.8,
                ls=":",
            )
            above.set_xlabel("relative depth of the source's block (dotted: the dictionary's)")
            for k, route in enumerate(("as it is", "carried")):
                shown = sorted((away, pair[route]) for away, pair in found["near"].items() if route in pair)
                points(
                    below,
                    [a for a, _ in shown],
                    [r for _, r in shown],
                    {"carried": "carried home by a map"}.get(route, "read as it is"),
                    k + 1,
                )
            below.set_xlabel("blocks away from the verbalizer's")
            below.legend(loc="lower center")
            above.set_title(NAMES[ground])
            for axis in (above, below):
                axis.set_ylim(bottom=0)
                axis.set_ylabel("names the planted category")
