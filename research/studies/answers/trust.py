"""May a confidence be believed? Fitted on one direction of the pair, judged on the other, and on nulls.

Beside the page lies ``kits.json``: every kit fitted on both directions together, as it ships; it was judged by nobody,
its halves were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import Evidence, ReadBack, gather_evidence
from dragoman.confidence.model import Confidence, ConfidenceSet
from dragoman.core import Directions, Refusal, Site
from dragoman.models.embedder import SentenceEmbedder
from dragoman.records import Row
from dragoman.stats.reconstruct import mean_output
from dragoman.stats.roc import Outcomes
from studies.evaluation import ConfidenceReport, confidence_report
from studies.figure import COLOURS, panels, points
from studies.judged import Heard, accuracy, level_of, plain, unread
from studies.kits import KITS
from studies.reading import read_contexts
from studies.results import NAMES, Answer, Table, number, percent
from studies.two_steps import fit_two_steps

NULLS = ("random", "shuffled", "unused")
BARE = "vectors, samples, reconstructor"  # nothing more is known of a random direction: it is no dictionary's feature
FULL = next(iter(KITS))
ALONE = ("log_probability", "sample_agreement", "margin", "detection_centred", "reconstruction")
DRAWS = 1000
LEGEND = (
    "A *confidence* is the probability, given beside an explanation, that it is right; right means here that the "
    "text names the category of the documents in which the feature fires. It was fitted on one direction of the "
    "pair and judged on the other. *AUROC*: how well it tells right explanations from wrong ones; 0.5 is chance, 1 "
    "perfect. *ECE*: how far, on average, a confidence lies from the share that is right; in the tables, in "
    "parentheses, what a perfect confidence would show on so many explanations. *Nulls*: vectors that ought not to "
    "get a confident text, carried by a map that was fitted on shuffled pairs, rows of unused features under "
    "another feature's name, and random directions. In square brackets: 95 % intervals."
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One direction's explanations: ``rows`` with what was ``right`` and the ``topics``; ``nulls`` by name."""

    ground: str
    rows: list[Evidence]
    right: NDArray[np.bool_]
    topics: list[str]
    levels: list[str]
    nulls: Mapping[str, list[Evidence]]
    tables: Mapping[str, Any]


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Every kit fitted on each direction and judged on the other."""
    if len(heard) < 2:
        raise Refusal(
            f"a confidence from {', '.join(heard)} alone",
            "it is fitted on one direction of the pair and judged on the other",
            "run python research/study.py trust with --direction both",
        )
    checked = {ground: _checked(one) for ground, one in heard.items()}
    judged: dict[str, dict[str, Any]] = {}
    reports: dict[str, ConfidenceReport] = {}
    for fitted in checked:
        for tested in checked:
            if fitted != tested:
                judged[tested], reports[tested] = _judged(checked[fitted], checked[tested], seed)
    data = {ground: {"accuracy": found.tables, "kits": judged.get(ground, {})} for ground, found in checked.items()}
    return Answer(
        findings=[LEGEND, *(_finding(ground, data[ground], reports[ground]) for ground in reports)],
        tables=[t for ground in reports for t in (_kits(ground, data[ground]), _alone(ground, data[ground]))],
        data={"grounds": data, "promised": promised(data)},
        draw=lambda path: _draw(path, reports),
        caption="Confidence fitted on the other direction: calibration (share right against confidence, ten bins, 95 % "
        "intervals; dotted: perfect), and share right among the surest part of the explanations.",
        files={"kits.json": _packaged(checked, seed)},
    )


def _checked(heard: Heard) -> Checked:
    """Evidence of every condition; outcomes of the default's."""
    embedder = SentenceEmbedder()
    contexts = read_contexts(heard.run, embedder)
    reading = heard.reading
    if reading is None:
        raise unread(heard.run)
    vectors = heard.run.vectors()[0]
    rows = [Row.of(row, f"{heard.run.path}, row {k}") for k, row in enumerate(heard.run.rows(), 1)]
    numbers: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        numbers.setdefault(row.condition, []).append(k)
    first = [k for k, row in enumerate(rows) if row.sample == 0]
    outputs = reading.rebuilt["target"]
    mean = mean_output(outputs[first])
    usual = reading.texts[first].mean(axis=0)

    def of(name: str) -> list[Evidence]:
        mine = numbers[name]
        said = heard.said[name]
        sought = Directions.of(Site.parse(heard.run.manifest["target"]), vectors[f"bare/{name}"], said.features)
        back = {"reconstruction": ReadBack(outputs=outputs[mine], mean=mean, sought=sought)}
        found = gather_evidence(
            [rows[k] for k in mine], reading.texts[mine], read_back=back, contexts=contexts, usual=usual
        )
        return list(found.values())

    auto = heard.said["auto"]
    return Checked(
        ground=heard.run.manifest["ground"],
        rows=of("auto"),
        right=heard.right(auto),
        topics=heard.categories(auto),
        levels=[str(level_of(heard.latents[f])) for f in auto.features],
        nulls={name: of(name) for name in NULLS},
        tables={name: accuracy(heard, heard.said[name], of=_asked(heard)) for name in ("auto", "map", "post")},
    )


def _asked(heard: Heard) -> int:
    return len(heard.said["map"].features)


def _nulls_of(kit: str, found: Checked) -> dict[str, list[Evidence]]:
    """The nulls a kit can meet.

    Random directions are no dictionary's, and have no firings to be checked against. A row under another feature's name
    cannot be told without a dictionary, and the text may well say what that vector is; counting it as a null all the
    same makes kits without one abstain more.
    """
    return {name: rows for name, rows in found.nulls.items() if "dictionary" not in kit or name != "random"}


def _fitted(kit: str, found: Checked, seed: int) -> Confidence:
    nulls = [row for rows in zip(*_nulls_of(kit, found).values(), strict=True) for row in rows]
    return fit_two_steps(
        found.rows, found.right, nulls, groups=found.topics, asks=KITS[kit], seed=seed, fitted_on=found.ground
    )


def _judged(fit: Checked, test: Checked, seed: int) -> tuple[dict[str, Any], ConfidenceReport]:
    """Every kit on the other direction; the full one's whole report."""
    out: dict[str, Any] = {}
    whole: ConfidenceReport | None = None
    for kit in KITS:
        trust = _fitted(kit, fit, seed)
        outcomes = Outcomes.of(trust.predict(test.rows), test.right, clusters=test.topics)
        nulls = {name: trust.predict(rows) for name, rows in _nulls_of(kit, test).items()}
        alone = {name: [row.get(name) for row in test.rows] for name in ALONE} if kit == FULL else None
        found = confidence_report(
            outcomes, trust.threshold, alone=alone, nulls=nulls, rng=np.random.default_rng(seed), draws=DRAWS
        )
        whole = found if kit == FULL else whole
        out[kit] = {
            **{
                key: plain(getattr(found, key))
                for key in ("ece", "brier", "auroc", "accuracy_at_80", "accuracy_at_100")
            },
            "false_labels": {name: plain(one) for name, one in found.false_labels.items()},
            "answered": found.answered,
            "threshold": trust.threshold,
            "alone": {name: {key: plain(value) for key, value in one.items()} for name, one in found.alone.items()},
            "risk": {"area": found.risk.area, "least": found.risk.least, "chance": found.risk.chance},
            "weights": trust.to_json(),
        }
    if whole is None:
        raise RuntimeError("the first kit is judged like the others")
    return out, whole


def _packaged(checked: Mapping[str, Checked], seed: int) -> dict[str, Any]:
    """Every kit fitted on both directions together: what ships, never judged itself."""
    both = Checked(
        ground="the embedded pair, both directions",
        rows=[row for one in checked.values() for row in one.rows],
        right=np.concatenate([one.right for one in checked.values()]),
        topics=[topic for one in checked.values() for topic in one.topics],
        levels=[],
        nulls={name: [row for one in checked.values() for row in one.nulls[name]] for name in NULLS},
        tables={},
    )
    made = {kit: ((*asks["right"], *asks["arrived"]), _fitted(kit, both, seed)) for kit, asks in KITS.items()}
    return ConfidenceSet.holding(made).to_json()


def promised(data: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by the names they were promised under, each with its n.

    The first direction is fitted on, the second judged.
    """
    fitted, tested = list(data)
    full, bare = (data[tested]["kits"][kit] for kit in (FULL, BARE))

    explanations = data[tested]["accuracy"]["auto"]["accuracy"]["n"]

    def brief(found: Mapping[str, Any]) -> dict[str, Any]:
        told = {key: found[key] for key in ("value", "low", "high", "n") if key in found}
        return told if found["unit"] == "directions" else told | {"n": explanations, found["unit"]: found["n"]}

    def share(route: str) -> dict[str, Any]:
        by = {ground: data[ground]["accuracy"][route]["accuracy"] for ground in data}
        n = sum(one["n"] for one in by.values())
        return {"value": sum(one["value"] * one["n"] for one in by.values()) / n, "n": n, "by_direction": by}

    default, post = share("auto"), share("post")
    return {
        "fitted_on": fitted,
        "tested_on": tested,
        "accuracy_default": default,
        "accuracy_post_recipe": post,
        "accuracy_ratio": {
            "value": default["value"] / post["value"],
            "by_direction": {
                ground: default["by_direction"][ground]["value"] / post["by_direction"][ground]["value"]
                for ground in data
            },
        },
        "false_label_rate": {
            "random": brief(bare["false_labels"]["random"]) | {"kit": BARE},
            "shuffled": brief(full["false_labels"]["shuffled"]) | {"kit": FULL},
            "unused": brief(full["false_labels"]["unused"]) | {"kit": FULL},
        },
        "ece": brief(full["ece"]) | {"if_calibrated": full["ece"]["extra"].get("if_calibrated")},
        "auroc": brief(full["auroc"]),
        "accuracy_at_80": brief(full["accuracy_at_80"]) | {"gain": full["accuracy_at_80"]["extra"]["gain"]},
        "accuracy_at_100": brief(full["accuracy_at_100"]),
    }


def _kits(ground: str, found: Mapping[str, Any]) -> Table:
    rows = []
    for kit, one in found["kits"].items():
        false = ", ".join(f"{name} {100 * rate['value']:.1f} %" for name, rate in one["false_labels"].items())
        rows.append(
            (
                kit,
                f"{one['auroc']['value']:.3f} [{one['auroc']['low']:.3f}, {one['auroc']['high']:.3f}]",
                f"{one['ece']['value']:.3f} ({number(one['ece']['extra'].get('if_calibrated'))})",
                number(one["brier"]["value"]),
                f"{one['accuracy_at_80']['value']:.3f} / {one['accuracy_at_100']['value']:.3f}",
                f"{one['threshold']:.2f}",
                f"{number(one['answered']['accuracy'])} of {100 * (one['answered']['coverage'] or 0):.0f} %",
                false,
            )
        )
    return Table(
        title=f"{NAMES[ground]}: judged here, fitted on the other direction",
        columns=(
            "evidence at hand", "AUROC", "ECE (if perfectly calibrated)", "Brier", "accuracy of the surest 80 % / all",
            "line", "right, of those answered", "nulls answered",
        ),
        rows=rows,
        note="Intervals: bootstrap over categories. The line is drawn on the other "
        "direction's nulls, at 2 % with 95 % confidence, and never below 0.5. Random "
        "directions belong to no dictionary, so only kits without one can meet them; an unused row "
        "that bears another feature's name can be told only by a dictionary, and may be described rightly.",
    )  # fmt: skip


def _alone(ground: str, found: Mapping[str, Any]) -> Table:
    full = found["kits"][FULL]
    return Table(
        title=f"{NAMES[ground]}: each piece of evidence alone, and what the confidence adds",
        columns=("evidence", "AUROC alone", "AUROC added", "accuracy added at 80 %"),
        rows=[
            (
                name,
                number(one["auroc"]["value"]),
                f"{one['auroc_gain']['value']:+.3f}",
                f"{one['accuracy_gain']['value']:+.3f}",
            )
            for name, one in full["alone"].items()
        ],
        note=f"Always answering is right {100 * full['accuracy_at_100']['value']:.1f} % of the time.",
    )


def _finding(ground: str, found: Mapping[str, Any], report: ConfidenceReport) -> str:
    del report
    full, bare = found["kits"][FULL], found["kits"][BARE]
    auto, post = (found["accuracy"][route]["accuracy"] for route in ("auto", "post"))
    false = {**{n: full["false_labels"][n] for n in ("shuffled", "unused")}, "random": bare["false_labels"]["random"]}
    told = ", ".join(
        f"{name} {100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
        for name, one in false.items()
    )
    return (
        f"**Judged on {NAMES[ground]}, fitted on the other direction.** {auto['n']} explanations of the default "
        f"pipeline, right {percent(auto)} (the post's recipe: {percent(post)}). AUROC {full['auroc']['value']:.3f} "
        f"[{full['auroc']['low']:.3f}, {full['auroc']['high']:.3f}], ECE {full['ece']['value']:.3f}; the surest 80 % "
        f"are right {100 * full['accuracy_at_80']['value']:.0f} % of the time, all of them "
        f"{100 * full['accuracy_at_100']['value']:.0f} %. Nulls that would be given a confident label: {told}."
    )


def _draw(path: Path, reports: Mapping[str, ConfidenceReport]) -> None:
    with panels(path, 2 * len(reports), width=4.0, height=3.5) as axes:
        for k, (ground, report) in enumerate(reports.items()):
            left, right = axes[2 * k], axes[2 * k + 1]
            bins = [b for b in report.curve if b.n]
            rates = [{"value": b.observed, "low": b.low, "high": b.high} for b in bins]
            points(left, [b.predicted for b in bins], rates, "share right", 0)
            left.plot([0, 1], [0, 1], color="#999", lw=0.9, ls=":")
            left.set_xlabel("confidence")
            left.set_ylabel("share right")
            left.set_title(f"judged on {NAMES[ground]}")
            right.plot(report.risk.coverage, 1 - report.risk.risk, color=COLOURS[0], lw=1.5)
            right.axhline(1 - report.risk.chance, color="#999", lw=0.9, ls=":")
            right.set_xlabel("share answered, surest first")
            right.set_ylabel("right among them")
            for axis in (left, right):
                axis.set_ylim(0, 1.02)
