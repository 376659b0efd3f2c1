"""What the flags say of drift: planted at known angles, and natural; each flag's ROC, and their combination's.

The combination is a logistic regression on all flags, fitted on the other direction of the pair (rows as they are
against rows turned by 45 degrees), so that nothing it is judged on was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.fit import fit_step
from dragoman.confidence.model import Step
from dragoman.stats.intervals import wilson_interval
from dragoman.stats.planted import names_category
from dragoman.stats.roc import Outcomes, auroc, auroc_estimate
from studies.drift import DEGREES, FLAGS
from studies.figure import panels, points
from studies.judged import Heard, accuracy, plain, rate
from studies.results import NAMES, Answer, Table, number, percent

PLANTED, ALARMS = 45, 0.05
JUDGING = ("home_margin", "margin")  # what the combination is made of: the two comparisons with rival features
WORDS = {
    "home_margin": "margin at home (the row against where its feature fires, in the source)",
    "margin": "margin after crossing (the image against where its feature fires, in the target)",
    "home_agreement": "agreement at home",
    "agreement": "agreement after crossing",
    "purity": "purity",
    "cycle": "cycle",
    "coverage": "coverage",
    "kappa": "kappa",
    "rel": "rel",
    "combined": "both margins, combined on the other direction",
}
LEGEND = (
    "A row *drifts* when, carried into the other model, it stands for another feature than its own. Rows were "
    "turned on purpose, by a known angle, towards the row of the most similar feature; and rows as they are were "
    "watched for drift of their own (*natural drift*). A *flag* is a figure that is known before a verbalizer says "
    "anything. *At 5 % false alarms*: its threshold is set so that it also flags 5 % of the rows that were not "
    "turned. *AUROC*: how well it tells drifted rows from others; 0.5 is chance, 1 perfect. *Margin*: by how much a "
    "row is nearer to where its own feature fires than to where any other does. The other flags are figures of a "
    "row's card ([Concepts, section 9](../concepts.md#9-words)). In square brackets: 95 % intervals; n counts rows."
)


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Detection at 5 % false alarms by flag and angle; what the words do; natural drift."""
    measured = {ground: one.run.manifest["measured"] for ground, one in heard.items()}
    data = {}
    for ground, one in heard.items():
        others = [name for name in measured if name != ground]
        combined = _combined(measured[others[0]]) if others else None
        data[ground] = _judged(one, measured[ground], combined, seed)
    return Answer(
        findings=[LEGEND, *(_finding(ground, found) for ground, found in data.items())],
        tables=[t for ground, found in data.items() for t in (_planted(ground, found), _natural(ground, found))],
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Left of each pair: share of turned rows that are flagged, the threshold "
        "set where 5 % of the unturned are. Right: what the explanation of a turned row "
        "names, its own category or its neighbour's; 95 % intervals over categories.",
    )


def _rows(measured: Mapping[str, Any], degrees: int, flags: tuple[str, ...] = FLAGS) -> list[dict[str, float | None]]:
    columns = measured["planted"][str(degrees)]
    return [{flag: columns[flag][k] for flag in flags} for k in range(len(columns["margin"]))]


def _combined(measured: Mapping[str, Any]) -> Step:
    """Tells rows as they are from rows turned by 45 degrees, where both margins could be had."""
    rows, turned = _rows(measured, 0, JUDGING), _rows(measured, PLANTED, JUDGING)
    whole = [k for k, row in enumerate(rows) if None not in (*row.values(), *turned[k].values())]
    both = [rows[k] for k in whole] + [turned[k] for k in whole]
    return fit_step(both, [1] * len(whole) + [0] * len(whole), groups=[*whole, *whole])


def _scores(measured: Mapping[str, Any], degrees: int, combined: Step | None) -> dict[str, NDArray[np.float64]]:
    """Every flag of every row, higher for sounder; NaN where it could not be had."""
    rows = _rows(measured, degrees)
    found = {f: np.array([np.nan if r[f] is None else r[f] for r in rows], dtype=np.float64) for f in FLAGS}
    if combined is not None:
        whole = ~np.isnan([found[f] for f in JUDGING]).any(axis=0)
        odds = combined.log_odds([{f: r[f] for f in JUDGING} for r in rows])
        found["combined"] = np.where(whole, odds, np.nan)
    return found


def _judged(heard: Heard, measured: Mapping[str, Any], combined: Step | None, seed: int) -> dict[str, Any]:
    straight = _scores(measured, 0, combined)
    turned = {degrees: _scores(measured, degrees, combined) for degrees in DEGREES if degrees}
    flags: dict[str, Any] = {}
    for flag, sound in straight.items():
        there = ~np.isnan(sound)
        flags[flag] = {"judged": int(there.sum()), "of": len(there), "angles": {}}
        for degrees, scores in turned.items():
            bent = scores[flag]
            known = there & ~np.isnan(bent)
            if known.sum() < 20:
                continue
            edge = np.quantile(sound[known], ALARMS)
            hits, n = int((bent[known] < edge).sum()), int(known.sum())
            low, high = wilson_interval(hits, n)
            flags[flag]["angles"][str(degrees)] = {
                "detection": {"value": hits / n, "low": low, "high": high, "n": n},
                "auroc": auroc(sound[known], bent[known]),
                "of_all": hits / len(known),
            }
    return {
        "flags": flags,
        "named": {str(d): float(np.nanmean(measured["planted"][str(d)]["named"])) for d in DEGREES},
        "natural": _drifted(measured, straight, seed),
        "words": _words(heard, measured),
    }


def _drifted(measured: Mapping[str, Any], flags: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Any]:
    """How well each flag of an unturned row foretells that its image has lost its identity on other documents."""
    kept = np.array([np.nan if v is None else v for v in measured["natural"]["kept"]], dtype=np.float64)
    found: dict[str, Any] = {"summary": measured["natural"]["summary"], "flags": {}}
    for flag, scores in flags.items():
        known = ~np.isnan(kept) & ~np.isnan(scores)
        if known.sum() >= 30 and (kept[known] == 0).sum() >= 5:
            outcomes = Outcomes.of(scores[known], kept[known] > 0)
            found["flags"][flag] = plain(auroc_estimate(outcomes, rng=np.random.default_rng(seed), draws=500))
    return found


def _words(heard: Heard, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Share of texts that name the feature's category, and its neighbour's, where the two differ."""
    near = dict(zip(measured["rows"], measured["neighbour_categories"], strict=True))
    found: dict[str, Any] = {}
    for said in heard.said.values():
        own = accuracy(heard, said)["accuracy"]
        others = [
            (t, near[f])
            for t, f in zip(said.texts, said.features, strict=True)
            if near[f] not in (None, heard.latents[f].category)
        ]
        named = [names_category(text, heard.words[category]) for text, category in others]
        found[str(said.told["degrees"])] = {"own": own, "neighbour": rate(np.array(named), [c for _, c in others])}
    return found


def _planted(ground: str, found: Mapping[str, Any]) -> Table:
    angles = [str(d) for d in DEGREES if d]
    order = ["combined", *FLAGS]
    rows = [
        (
            WORDS[flag],
            *(percent(one["angles"][a]["detection"]) if a in one["angles"] else "–" for a in angles),
            number(one["angles"].get(str(PLANTED), {}).get("auroc")),
            f"{one['judged']} of {one['of']}",
        )
        for flag in order
        if (one := found["flags"].get(flag))
    ]
    return Table(
        title=f"{NAMES[ground]}: rows turned towards their nearest neighbour, detection at 5 % false alarms",
        columns=("flag", *(f"{a}°" for a in angles), "AUROC at 45°", "could be judged"),
        rows=rows,
        note="False alarms are counted on the same rows, unturned; Wilson intervals over rows. A flag that says "
        f"nothing detects 5 %. The card names the neighbour of {100 * found['named'][str(PLANTED)]:.0f} % at 45° and "
        f"{100 * found['named']['90']:.0f} % at 90°.",
    )


def _natural(ground: str, found: Mapping[str, Any]) -> Table:
    summary = found["natural"]["summary"]
    return Table(
        title=f"{NAMES[ground]}: natural drift",
        columns=("flag", "AUROC for identity lost in crossing"),
        rows=[
            (WORDS[flag], f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
            for flag, one in sorted(found["natural"]["flags"].items(), key=lambda item: -item[1]["value"])
        ],
        note=f"{100 * (1 - summary['top1']):.0f} % of {summary['n']} unturned rows "
        "lose their identity: by a direct table of other documents their image lies "
        f"nearer another feature's row, of {summary['among']}. 0.5 says nothing.",
    )


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    by = {flag: one["angles"].get(str(PLANTED), {}).get("detection") for flag, one in found["flags"].items()}
    best = max((f for f in by if by[f]), key=lambda f: by[f]["value"])
    natural = max(found["natural"]["flags"].items(), key=lambda item: item[1]["value"])
    words = found["words"]
    return (
        f"**{NAMES[ground]}.** Of rows turned by 45° the best flag, {WORDS[best]}, finds "
        f"{percent(by[best])} at 5 % false alarms (n {by[best]['n']}); the margin after crossing alone "
        f"{percent(by['margin'])}, coverage {percent(by['coverage'])}. The words follow the turn: the own "
        f"category is named by {percent(words['0']['own'])} at 0°, {percent(words['45']['own'])} at 45°, "
        f"{percent(words['90']['own'])} at 90°, the neighbour's by {percent(words['0']['neighbour'])}, "
        f"{percent(words['45']['neighbour'])} and {percent(words['90']['neighbour'])}. Natural drift is "
        f"foretold best by {WORDS[natural[0]]}: AUROC {natural[1]['value']:.3f}."
    )


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    angles = [d for d in DEGREES if d]
    with panels(path, 2 * len(data), width=4.2, height=3.6) as axes:
        for k, (ground, found) in enumerate(data.items()):
            left, right = axes[2 * k], axes[2 * k + 1]
            for number_, flag in enumerate(("combined", "home_margin", "margin", "agreement", "cycle")):
                one = found["flags"].get(flag)
                if one is not None:
                    known = [a for a in angles if str(a) in one["angles"]]
                    points(
                        left,
                        known,
                        [one["angles"][str(a)]["detection"] for a in known],
                        flag.replace("_", " "),
                        number_,
                    )
            left.axhline(ALARMS, color="#999", lw=0.9, ls=":")
            left.set_ylabel("flagged, at 5 % false alarms")
            left.set_title(NAMES[ground])
            left.legend(loc="center right")
            for number_, who in enumerate(("own", "neighbour")):
                points(right, DEGREES, [found["words"][str(d)][who] for d in DEGREES], f"{who} category", number_)
            right.set_ylabel("named by the explanation")
            right.legend(loc="upper right")
            for axis in (left, right):
                axis.set_xlabel("degrees turned towards the nearest row")
                axis.set_ylim(0, 1.02 if axis is left else None)
