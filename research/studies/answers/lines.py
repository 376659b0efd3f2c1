"""The answer of every study that is judged by measures of features: a table a direction, the differences, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from studies.figure import COLOURS, across, panels
from studies.judged import Heard
from studies.measures import DOCUMENTS, LEVEL, TITLES, judged
from studies.results import NAMES, Answer, Table, number, signed

GREY = COLOURS.index("#8a8a8a")
ABOUT = {"pairs": "pairs", "documents": "texts", "lam_rel": "λ_rel", "rank": "rank", "times": "on-shell angles"}
# What a reader of a page has to know of each column.
MEANS = {
    "pairs": "how many pairs of aligned tokens, one of each model, the rows are made from",
    "documents": "how many texts these are from",
    "lam_rel": "the ridge penalty, relative to the mean variance of the source's dimensions",
    "rank": "how many dimensions the map keeps",
    "times": "the angle between the vector that was read and the target's mean activation, as a multiple of the angle "
    "at which real activations lie to that mean",
    "cofiring": "how well the row tells tokens at which the feature fires from others, in texts that nothing was "
    "fitted on; 0.5 is chance, 1 perfect. Half of the others are tokens at which a feature with a similar row fires",
    "cofiring_silent": "the same, all others being tokens at which the feature is silent",
    "lens": "the feature's own row raises 20 words most, through its model's unembedding; how many of them are among "
    "the 20 that the carried row raises most",
    "word": "the share of texts that quote the one word on which the feature spends at least 70 % of its activation",
    "token": "the share that quote it as the final token of the passage",
}


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Every line by every measure, dealt ones beside."""
    return found({ground: judged(one, seed=seed) for ground, one in heard.items()})


def found(data: Mapping[str, Any]) -> Answer:
    """The answer of what was judged, by direction."""
    tables: list[Table] = []
    for ground, one in data.items():
        tables += [_lines(ground, one), *_differences(ground, one)]
    return Answer(
        findings=[legend(data), *(_finding(ground, one) for ground, one in data.items())],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Every line by every measure; controls below, in grey; crosses: the same rows, words or texts dealt to "
        "other latents. 95 % intervals over latents.",
    )


def legend(data: Mapping[str, Any]) -> str:
    """What a line, a column and the brackets of the tables mean, for the columns there are."""
    lines = [line for found in data.values() for line in found["lines"].values()]
    told = [(ABOUT[key], MEANS[key]) for key in ABOUT if any(key in line for line in lines)]
    told += [(title, MEANS[key]) for key, title in TITLES.items() if any(key in line["measures"] for line in lines)]
    control = "A *control* is a row that does not stand for the feature: it shows what a measure gives to such a row. "
    return (
        "A *condition* is one way to carry features into the other model, or to feed them to its verbalizer. "
        f"{control if any(line['kind'] == 'control' for line in lines) else ''}"
        "Each figure is a mean over features (*latents*). In square brackets: its 95 % interval. In parentheses: the "
        "same after another feature's row, words or text was *dealt* to each, which is what chance reaches. A "
        f"difference of two conditions *holds* when its p stays below {LEVEL:g} after Holm's correction.\n\n"
    ) + "\n".join(f"- *{title}*: {means}." for title, means in told)


def _lines(ground: str, found: Mapping[str, Any]) -> Table:
    lines = found["lines"]
    about = [key for key in ABOUT if any(key in line for line in lines.values())]
    measures = [m for m in (*TITLES, DOCUMENTS) if any(m in line["measures"] for line in lines.values())]
    rows = []
    for name, line in [*_of_kind(found, "route"), *_of_kind(found, "control")]:
        shown = f"{name} (control)" if line["kind"] == "control" else name
        told = [_cell(line["measures"].get(measure), measure) for measure in measures]
        rows.append((shown, *(_plain(line.get(key)) for key in about), *told, _counted(line)))
    return Table(
        title=f"{NAMES[ground]}: every line by every measure",
        columns=(
            "condition",
            *(ABOUT[key] for key in about),
            *(f"{TITLES.get(measure, measure)} (dealt)" for measure in measures),
            "n of rows / texts",
        ),
        rows=rows,
        note="Rows are of latents drawn by how often they fire and by nothing else; texts are of latents that put at "
        "least 70 % of their activation on one word. In parentheses: the same with another latent's row, lens words "
        f"or word. {DOCUMENTS}: the text names the category of the documents in which the latent fires, of those "
        "latents that have one; it sees documents, not features.",
    )


def _of_kind(found: Mapping[str, Any], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, line) for name, line in found["lines"].items() if line["kind"] == kind]


def _cell(told: Mapping[str, Any] | None, measure: str) -> str:
    if not told or told["value"] is None:
        return "–"
    digits = 2 if measure == "lens" else 3
    span = "" if told["low"] is None else f" [{number(told['low'], digits)}, {number(told['high'], digits)}]"
    dealt = "" if told["dealt"] is None else f" ({number(told['dealt'], digits)})"
    return f"{number(told['value'], digits)}{span}{dealt}"


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _counted(line: Mapping[str, Any]) -> str:
    return " / ".join(str(line["measures"][m]["n"]) if m in line["measures"] else "–" for m in ("cofiring", "word"))


def _differences(ground: str, found: Mapping[str, Any]) -> list[Table]:
    told = found["differences"]
    measures = [m for m in TITLES if any(m in one["measures"] for one in told)]
    if not measures:
        return []
    rows = [(f"{d['first']} less {d['second']}", *(_gap(d["measures"].get(m)) for m in measures)) for d in told]
    return [
        Table(
            title=f"{NAMES[ground]}: differences",
            columns=("difference", *(TITLES[m] for m in measures)),
            rows=rows,
            note="In square brackets: 95 % intervals. Paired over the latents that both have, Welch's against random "
            f"projections. * stays below {LEVEL:g} after Holm's correction over all {len(told)} differences of the "
            "column.",
        )
    ]


def _gap(gap: Mapping[str, Any] | None) -> str:
    return f"{signed(gap)}{' *' if gap['holds'] else ''}" if gap else "–"


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    """Computed sentences: the best line by each measure, how many differences hold, what a choice gains."""
    routes, controls = _of_kind(found, "route"), _of_kind(found, "control")
    told = found["differences"]
    parts = [f"**{NAMES[ground]}**, {len(routes)} conditions and {len(controls)} controls:\n"]
    for measure, title in TITLES.items():
        some = {
            n: line["measures"][measure]
            for n, line in routes
            if measure in line["measures"] and line["measures"][measure]["value"] is not None
        }
        if not some:
            continue
        best = max(some, key=lambda name: some[name]["value"])
        alike = sum(one["value"] == some[best]["value"] for one in some.values()) - 1
        also = f" ({alike} others are as high)" if alike > 1 else " (one other is as high)" if alike else ""
        gaps = [d["measures"][measure] for d in told if measure in d["measures"]]
        hold = sum(gap["holds"] for gap in gaps)
        tested = f"; of {len(gaps)} differences {hold} hold after Holm's correction" if gaps else ""
        parts.append(f"- *{title}* is highest for “{best}”{also}: {_cell(some[best], measure)}{tested}.")
    parts += [f"- {_choice(choice)}." for choice in found["choices"]]
    return "\n".join(parts)


def _choice(choice: Mapping[str, Any]) -> str:
    among, half, best = choice["among"], choice["chosen_on"], choice["best"]
    begun = f"Of {among} conditions the one chosen on one half of the latents ({half}) is “{best}”"
    if best == choice["against"] or choice["gain"] is None:
        return begun
    gap = f"the share of texts that quote the firing word differs from that of “{choice['against']}”"
    return f"{begun}; on the other half {gap} by {signed(choice['gain'])}"


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    measures = [m for m in TITLES if any(m in ln["measures"] for f in data.values() for ln in f["lines"].values())]
    most = max(len(found["lines"]) for found in data.values())
    with panels(path, len(measures), rows=len(data), width=3.6, height=1.2 + 0.19 * most) as axes:
        grid = [axes] if len(data) == 1 else axes
        for line_of_axes, (ground, found) in zip(grid, data.items(), strict=True):
            for k, (axis, measure) in enumerate(zip(line_of_axes, measures, strict=True)):
                _panel(axis, found, measure, names=k == 0)
                title = fill(TITLES[measure], 24)
                axis.set_title(f"{NAMES[ground]}\n{title}" if k == 0 else title)


def _panel(axis: Any, found: Mapping[str, Any], measure: str, *, names: bool) -> None:
    """Lines from above to below, controls after a gap."""
    ticks, labels, place = [], [], 0.0
    for kind, number_ in (("route", 0), ("control", GREY)):
        for name, line in _of_kind(found, kind):
            ticks.append(place)
            labels.append(name)
            told = line["measures"].get(measure)
            if told and told["low"] is not None:
                across(axis, [place], [told], kind, number_)
                if told["dealt"] is not None:
                    axis.plot([told["dealt"]], [place], "x", color="#555", markersize=3.5)
            place -= 1.0
        place -= 1.0
    axis.set_ylim(place + 0.5, 0.8)
    axis.set_yticks(ticks, labels if names else [""] * len(ticks))
