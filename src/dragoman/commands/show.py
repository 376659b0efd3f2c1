"""What the commands print: rows, the map, the table of conditions, nulls, what a reconstructor reads back, confidences.

In: rows, reports and scores, as JSON or as records. Out: tables on stdout. Refuses JSON that is no such record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dragoman.commands.printing import console, styled
from dragoman.commands.tables import show_table

if TYPE_CHECKING:
    from dragoman.core import Estimate
    from dragoman.records import Record, Row
    from dragoman.report.opened import HeldOut, Manifest
    from dragoman.scores import (
        AgainstNull,
        Ceiling,
        ConfidenceScores,
        DetectionRate,
        LabelScores,
        Reconstruction,
        Scores,
    )
    from dragoman.store import RunFolder
    from dragoman.store.labels import ContextLabels

    Json = Mapping[str, object]
    R = TypeVar("R", bound=Record)


_AROUND = 100  # characters of a prompt shown before and after its token
_MORE = ("reading", "confidence", "short", "claims", "context_label")  # what `with_scores` adds to a row


def with_scores(
    rows: Sequence[Json],
    scores: Scores | Json | None,
    manifest: Json | None = None,
    labels: ContextLabels | None = None,
) -> list[dict[str, object]]:
    """The rows as JSON with the ``reading`` of their condition, where it is one.

    First samples have their ``confidence``, and their ``short`` label and ``claims``, where the run was scored so, and
    the feature's ``context_label`` and whose it is.
    """
    from dragoman.report.claims import claims_by_row
    from dragoman.report.opened import entries_of
    from dragoman.scores import FORMAT, Scores

    judged = _typed(Scores, scores) if scores else Scores(format=FORMAT)
    sure = judged.confidence.per_feature if judged.confidence else {}
    confidence = {(c, one.feature): one.to_json() for c, some in sure.items() for one in some}
    claims, reading = (
        claims_by_row(judged),
        {entry.name: entry.reading for entry in entries_of(manifest or {}, "the manifest")},
    )
    made: list[dict[str, object]] = []
    for row in rows:
        more, at = dict[str, object](), (str(row["condition"]), str(row["feature"]))
        if reading.get(at[0]) is not None:
            more["reading"] = reading[at[0]]
        if row["sample"] == 0 and at in confidence:
            more["confidence"] = {key: value for key, value in confidence[at].items() if key != "feature"}
        if row["sample"] == 0 and at in claims:
            told = claims[at].to_json()
            more |= {"short": told["label"], "claims": told["claims"]}
        if row["sample"] == 0 and labels is not None and at[1] in labels.by_feature:
            more["context_label"] = {"label": labels.by_feature[at[1]].label, "model": labels.head.model}
        made.append({**row, **more})
    return made


def rows_of(run: RunFolder) -> list[dict[str, object]]:
    """A run's rows, with all that its folder tells of them."""
    from dragoman.store.labels import read_labels
    from dragoman.store.scored import scores_of

    return with_scores(run.rows(), scores_of(run), run.manifest, read_labels(run))


def show_rows(rows: Sequence[Json], manifest: Json | None = None) -> None:
    """Every explanation, feature by feature, its readings one after the other.

    Besides: the route where each feature has its own, the confidence, and which sentences the evidence supports: these
    first, and those it does not support with a mark. ``manifest``: tells which features have no reading "fires", and
    whether the map is unusable, which comes before all of them.
    """
    from dragoman.records import Row
    from dragoman.report.opened import Manifest

    typed: dict[str, list[tuple[Row, Json]]] = {}
    for number, fields in enumerate(rows, 1):
        more = {key: value for key, value in fields.items() if key in _MORE}
        row = Row.of({key: value for key, value in fields.items() if key not in more}, f"row {number}")
        typed.setdefault(row.feature, []).append((row, more))
    run = Manifest.of(manifest, "the manifest") if manifest else Manifest()
    absences = run.absences
    _show_distrust(run)
    for feature, some in typed.items():
        if (token := some[0][0].token) is not None:
            before, written, after = token.around(_AROUND)
            where = styled(f"prompt {token.number}, position {token.position}:", "dim")
            console().print(
                where, styled(before) + styled(written or repr(token.token), "bold reverse") + styled(after)
            )
        for row, more in some:
            _show_row(row, more)
        own = some[0][1].get("context_label")
        if isinstance(own, Mapping):
            head = styled(f"label from contexts by {own['model']}, not the verbalizer's:", "dim")
            console().print(head, styled(f"{own['label'] or 'nothing'}\n"))
        _show_absent(f"{feature} {some[0][0].label}", absences.get(feature, {}))
    for feature, whys in absences.items():
        if feature not in typed:
            _show_absent(feature, whys)


def _show_distrust(run: Manifest) -> None:
    """What comes before everything else of a run whose map is unusable."""
    if run.distrust:
        console().print(styled(f"{run.distrust}\n", "bold red"))


def _show_absent(name: str, whys: Mapping[str, str]) -> None:
    """Why a feature has no text of some conditions."""
    from dragoman.report.words import title

    for condition, why in whys.items():
        head = styled(f"[{title(condition)}]", "dim")
        console().print(styled(name.strip(), "bold"), head, styled(f"{why}\n", "yellow"))


def _show_row(row: Row, more: Json) -> None:
    """One explanation under its head; ``more``: what `with_scores` knows of it."""
    from dragoman.report.claims import by_support
    from dragoman.report.tables import confidence_words
    from dragoman.report.words import title
    from dragoman.scores import ClaimStatus, FeatureConfidence

    out, confidence, claims = console(), more.get("confidence"), more.get("claims")
    route = row.card.route if row.card and row.condition == "auto" else None
    words = f"{row.condition}: {route}" if route else title(row.condition) if more.get("reading") else row.condition
    head = [
        styled(f"{row.feature} {row.label}".strip(), "bold"),
        styled(f"[{words}, sample {row.sample + 1}]" if row.sample else f"[{words}]", "dim"),
    ]
    if isinstance(confidence, Mapping):
        one = FeatureConfidence.of({**confidence, "feature": row.feature}, "a confidence")
        head.append(styled(confidence_words(one), "green" if one.answered else "yellow"))
    out.print(*head)
    if row.problems:
        out.print(styled(f"flagged: {', '.join(row.problems)}", "yellow"))
    if not isinstance(claims, Sequence) or isinstance(claims, str):
        out.print(styled(f"{row.text}\n"))
        return
    if short := more.get("short"):
        out.print(styled(short, "green"))
    for piece in by_support(row.text, [ClaimStatus.of(one, "a claim") for one in claims]):
        chance = (
            [styled(piece.chance, "green" if piece.claim and piece.claim.answered else "yellow")]
            if piece.chance
            else []
        )
        if piece.status == "unsupported":
            out.print(styled("(unsupported)", "yellow"), *chance, styled(piece.text, "dim"))
        else:
            out.print(*chance, styled(piece.text))
    out.print()


def show_scores(scores: Scores | Json, manifest: Json) -> None:
    """What is wrong with the map; conditions, nulls, embedders, detection, differences, confidences; then the map."""
    from dragoman.report.headline import compared_words
    from dragoman.report.opened import Manifest
    from dragoman.scores import Scores

    judged, run = _typed(Scores, scores), Manifest.of(manifest, "the manifest")
    _show_distrust(run)
    if any(row.lift or row.category for row in judged.table):
        show_conditions(judged, f"{run.source} in the words of {run.target}")
    if judged.nulls:
        show_nulls(judged.nulls)
    _show_embedders(judged)
    _show_measures(judged.measures)
    if judged.window_lift:
        _show_window_lift(judged.window_lift)
    _show_windows(judged)
    if judged.reconstruction:
        show_reconstruction(judged.reconstruction)
    _show_differences(judged)
    if judged.ceiling:
        show_ceiling(judged.ceiling)
    if judged.confidence:
        _show_confidence(judged.confidence)
    show_calibration(judged)
    if told := compared_words(judged):
        console().print(told, style="dim", soft_wrap=True)
    if run.map_report:
        _show_map(run.map_report)
    around = run.background
    if around and around.spread is not None and around.on_shell_degrees is not None:
        console().print(
            f"background at {run.target}: spread {around.spread:.3f}, "
            f"on-shell angle {around.on_shell_degrees:.1f} degrees"
        )


def show_conditions(scores: Scores, title: str, *, notes: bool = True) -> None:
    """Lift and planted category of each condition; ``notes``: with what the numbers mean."""
    rows = []
    for row in scores.table:
        category = row.category
        random = "" if category is None or category.random is None else f"{category.random:.0%}"
        lift = _cells(row.lift) if row.lift else ["", "", ""]
        counted = row.lift or category  # of the same features, where a condition has both
        n = f"{counted.n}" if counted else ""
        rows.append([row.condition, n, *lift, f"{category.value:.0%}" if category else "", random])
    show_table(title, ("condition", "n", "lift", "95 % interval", "p", "category", "random"), rows)
    out = console()
    if not notes:
        return
    if scores.rule:
        out.print(f"category: {scores.rule} random: the same of random directions.", style="dim")
    for first in list(scores.native_lift.values())[:1]:
        out.print(f"lift: {first.statistic}; null: {first.null}; {first.n} {first.unit}; {first.method}", style="dim")


def show_nulls(nulls: Mapping[str, Mapping[str, AgainstNull]]) -> None:
    """Each condition against each null: lift, and how often its text is the nearest."""
    rows = [
        ["" if place else name, null, *_cells(one.lift), f"{one.top1.value:.0%}", f"{one.top1.extra['chance']:.0%}"]
        for name, by in nulls.items()
        for place, (null, one) in enumerate(by.items())
    ]
    heads = ("condition", "null", "lift", "95 % interval", "p", "nearest", "chance")
    counts = sorted({one.lift.n for by in nulls.values() for one in by.values()})  # a column more leaves 80 columns
    n = " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
    show_table(f"against each null (n {n})", heads, rows, words=2)


def _show_embedders(scores: Scores) -> None:
    """Whether the embedders agree in sign, and which lifts hold when all tests are counted."""
    if scores.embedders and scores.embedders.summary:
        console().print(f"{scores.embedders.summary}.")
    if scores.adjusted:
        tests = scores.adjusted.tests
        failed = [f"{one.condition} by {one.embedder} ({one.adjusted:.2g})" for one in tests if not one.holds]
        holding = f"{len(tests) - len(failed)} of {len(tests)} lifts (conditions by embedders) hold"
        console().print(f"{holding} after Holm's adjustment" + (f"; not {', '.join(failed)}" if failed else ""))


def _show_measures(measures: Mapping[str, Mapping[str, Estimate]]) -> None:
    """What texts and rows of each condition tell of features, beside the same dealt to other features."""
    from dragoman.report.words import MEASURES

    if not measures:
        return
    rows = [
        [name, MEASURES[measure][0], str(one.n), f"{one.value:.2f}", _cells(one)[1], f"{one.extra['dealt']:.2f}"]
        for name, by in measures.items()
        for measure, one in by.items()
    ]
    show_table("what texts and rows tell of features", ("condition", "measure", "n", "value", "95 %", "dealt"), rows)
    for measure in dict.fromkeys(measure for by in measures.values() for measure in by):
        console().print(f"{MEASURES[measure][0]}: {MEASURES[measure][1]}.", style="dim")


def _show_window_lift(lifts: Mapping[str, Estimate]) -> None:
    """Each condition's lift where no native speaks: over windows of text in which other features fire."""
    rows = [[name, str(lift.n), *_cells(lift), f"{lift.extra['dealt']:+.3f}"] for name, lift in lifts.items()]
    heads = ("condition", "features", "lift", "95 % interval", "p", "texts dealt")
    show_table("lift over windows of other features", heads, rows)
    for first in list(lifts.values())[:1]:
        console().print(f"lift: {first.statistic}; null: {first.null}; {first.method}", style="dim")


def _show_windows(scores: Scores) -> None:
    """What texts, and labels from contexts, tell of windows of text."""
    if scores.detection:
        _show_detection("telling windows where the feature fires from others", scores.detection.table)
    if scores.context_labels:
        show_label_scores(scores.context_labels)


def _show_detection(title: str, table: Sequence[DetectionRate]) -> None:
    """How well each condition's texts tell where their features fire, beside other features' texts."""
    rows = []
    for row in table:
        interval, others = f"[{row.low:.3f}, {row.high:.3f}]", f"{row.extra['others']:.3f}"
        rows.append([row.condition, str(row.features), f"{row.value:.3f}", interval, others, f"{row.p:.2g}"])
    heads = ("condition", "features", "AUROC", "95 % interval", "others' texts", "p")
    show_table(title, heads, rows)


def show_label_scores(scores: LabelScores) -> None:
    """What labels from contexts are worth, and whether the run's texts are worth more."""
    from dragoman.report.words import beside_labels

    _show_detection(f"on windows that {scores.model} was not shown, labels it made from others and texts", scores.table)
    for one in scores.over:
        console().print(f"{one.what}: {one}, p {one.p:.2g}, n {one.n}: {beside_labels(one)}")


def show_reconstruction(reconstruction: Reconstruction | Json) -> None:
    """How well a reconstructor finds each condition's directions in its texts, beside chance."""
    from dragoman.scores import Reconstruction

    read, rows = _typed(Reconstruction, reconstruction), []
    for row in read.table:
        shuffled = f"{row.fve.extra['shuffled']:+.3f}" if "shuffled" in row.fve.extra else ""
        near = [f"{row.cosine.value:+.3f}", f"{row.fve.value:+.3f}", shuffled]
        ranks = [f"{row.top1.value:.0%}", f"{1 / row.n:.1%}", f"{row.mrr.value:.3f}"]
        rows.append([row.condition, str(row.n), *near, *ranks])
    heads = ("condition", "texts", "centred cosine", "FVE", "shuffled FVE", "top-1", "chance", "MRR")
    show_table(f"read back by {read.reconstructor} at {read.site}", heads, rows)


def _show_differences(scores: Scores) -> None:
    """Paired differences of lift, and how many features it takes to find each again."""
    for pair in scores.paired:
        console().print(f"{pair.what}: {pair}, p {pair.p:.2g}, n {pair.n}")
    for need in scores.power:
        console().print(
            f"to find {need.what} again at {need.lift:+.3f} ({need.power:.0%} power, level {need.level:g}) "
            f"takes {need.n} features; these {need.observed} find {need.detectable:.3f}"
        )


def show_ceiling(ceiling: Ceiling) -> None:
    """What another native sample reaches, and each condition's part of it."""
    shares = [f"{name} {one.value:.0%} {_cells(one)[1]}" for name, one in ceiling.share.items()]
    of_it = f"; of it: {', '.join(shares)}" if shares else ""
    console().print(f"ceiling (one native sample against another, n {ceiling.ceiling.n}): {ceiling.ceiling}{of_it}")


def _show_confidence(confidence: ConfidenceScores) -> None:
    """How many explanations are answered for, and on what the confidence was fitted."""
    from dragoman.report.tables import GUESS, answer_counts, fitted_on
    from dragoman.report.words import Controls

    for condition, n, answered in answer_counts(confidence, Controls()):
        console().print(f"confidence: {condition}, answers for {answered} of {n}, abstains on {n - answered}")
    console().print(f"{fitted_on(confidence)}; {GUESS}", style="dim")


def show_calibration(scores: Scores | None) -> None:
    """How many sentences are answered for, why others are not, what the calibration says of itself; else nothing."""
    from dragoman.report.claims import NO_ANSWER

    if scores is None or scores.calibration is None:
        return
    every = [claim for some in scores.claims.values() for one in some for claim in one.claims]
    told = [claim for claim in every if claim.probability is not None]
    answered = sum(bool(claim.answered) for claim in told)
    console().print(f"sentences: answers for {answered} of {len(told)} by P(borne out by held-out documents)")
    if whys := Counter(NO_ANSWER[claim.unanswered] for claim in told if claim.unanswered is not None):
        console().print(f"no answer: {', '.join(f'{why} ({n})' for why, n in whys.most_common())}")
    console().print(scores.calibration.told, style="dim")


def _show_map(report: Mapping[str, HeldOut]) -> None:
    """Held-out quality beside what a constant predictor reaches."""
    from dragoman.report.figures import finite

    rows = []
    for method, held in report.items():
        numbers = (held.fve_unit, held.centred_cosine, held.top1, held.raw_cosine, held.constant_cosine)
        rows.append([method, str(held.n), *(f"{number:.3f}" if finite(number) else "" for number in numbers)])
    heads = ("map", "rows", "FVE", "centred cos", "top-1", "raw cos", "constant's raw cos")
    show_table("the map on texts it was not fitted on", heads, rows)


def _cells(estimate: Estimate) -> list[str]:
    """A signed number, its interval, its p."""
    return [f"{estimate.value:+.3f}", f"[{estimate.low:+.3f}, {estimate.high:+.3f}]", f"{estimate.p:.2g}"]


def _typed(kind: type[R], value: R | Json) -> R:
    """A record, which may come as JSON."""
    return value if isinstance(value, kind) else kind.read(json.dumps(value), "the scores")
