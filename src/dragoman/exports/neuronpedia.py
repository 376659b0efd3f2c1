"""A run's explanations in the layout that Neuronpedia's importer reads, with activations where the run keeps them.

In: a run as it is shown, what source, model and author are called there, token windows by feature. Out: what
``dragoman.neuronpedia`` writes, each text with where it comes from. Refuses conditions the run does not have or that
are of no features, an author that is none, and a source that is not the run's own place in the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dragoman.core import Refusal, Site
from dragoman.exports.entries import windows_in_tokens
from dragoman.exports.names import without_folders
from dragoman.neuronpedia import Explained, NeuronpediaRef, refuse_elsewhere, short_label, write_explanations
from dragoman.neuronpedia.activations import Window
from dragoman.records import ConditionEntry, Row, TokenWindow
from dragoman.report.claims import claims_by_row
from dragoman.report.opened import ShownRun
from dragoman.store.spans import meant

PREFERRED = "washed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is written and how it is called there.

    ``model_id``, ``source_id``, ``author_id``: ids of the receiving database. ``condition``: the readings, or washed,
    when None. ``type_name``: of the method. ``explanation_model``: the verbalizer when None. ``batch_size``: rows a
    file. ``resid_pre``: the source counts the block it enters.
    """

    model_id: str | None
    source_id: str | None
    author_id: str
    condition: str | None = None
    type_name: str | None = None
    explanation_model: str | None = None
    batch_size: int = 1024
    resid_pre: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: ``paths`` of its batches, how many explanations, and how many were ``empty``."""

    source: NeuronpediaRef
    conditions: Sequence[str]
    explanations: int
    empty: int
    paths: Sequence[Path]


def write_neuronpedia(
    shown: ShownRun, out: Path, run: str, asked: Asked, tokens: Mapping[str, Sequence[TokenWindow]]
) -> Written:
    """Write a run's explanations under ``out``, and activations of the features that have ``tokens``.

    ``run``: how refusals call it.

    Raises:
        Refusal: as the module says, or a model or source is not named.
    """
    if asked.model_id is None or asked.source_id is None:
        missing = "--model-id" if asked.model_id is None else "--source-id"
        raise Refusal("an export for Neuronpedia", "it files explanations by model and source", f"pass {missing} ID")
    source = NeuronpediaRef(model=asked.model_id, source=asked.source_id)
    instead = "name the source of the run's own dictionary (--resid-pre for one that counts the block it enters)"
    own = Site.parse(shown.manifest.source)
    refuse_elsewhere(source, own, resid_pre=asked.resid_pre, whose="the run's", instead=instead)
    names = [asked.condition] if asked.condition else default_conditions(shown, run)
    entries = [next((one for one in shown.conditions if one.name == name), None) for name in names]
    explained, empty = list[Explained](), 0
    for name, one in zip(names, entries, strict=True):
        some, without = chosen(shown, run, name, one)
        method = f"{asked.type_name or method_of(one)}{f'_{name}' if is_reading(one) else ''}"
        explained += [replace(each, type_name=method) for each in some]
        empty += without
    entry = entries[0]
    verbalizer = entry.verbalizer if entry else ""
    windows = (
        Window(index=feature, tokens=one)
        for feature in dict.fromkeys(one.index for one in explained)
        for one in windows_in_tokens(feature, shown.contexts, tokens)
    )
    paths = write_explanations(
        out,
        source,
        explained,
        type_name=asked.type_name or method_of(entry),
        model_name=asked.explanation_model or without_folders(verbalizer or shown.manifest.target),
        author=asked.author_id,
        batch_size=asked.batch_size,
        windows=windows,
        distrust=shown.manifest.distrust,
    )
    return Written(source=source, conditions=names, explanations=len(explained), empty=empty, paths=paths)


def method_of(entry: ConditionEntry | None) -> str:
    """What a condition's texts are made by, for those who read them elsewhere."""
    return f"dragoman_{'native' if entry and entry.route == 'identity' else 'foreign'}-av"


def is_reading(entry: ConditionEntry | None) -> bool:
    """Whether a condition is one of a feature's two readings."""
    return entry is not None and entry.reading == entry.name


def default_conditions(shown: ShownRun, run: str) -> list[str]:
    """A feature's readings, washed if the run has it, else its only condition (a native one does not count)."""
    names = _conditions_of_features(shown.rows)
    if readings := [one.name for one in shown.conditions if is_reading(one) and one.name in names]:
        return readings
    if PREFERRED in names:
        return [PREFERRED]
    foreign = [name for name in names if not name.startswith("native")] or names
    if len(foreign) != 1:
        raise Refusal(
            f"{run}", f"it has the conditions {', '.join(names) or 'none'}", "name one of features with --condition"
        )
    return foreign[:1]


def _conditions_of_features(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.condition for row in rows if row.kind in ("feature", "activation")))


def chosen(run: ShownRun, path: str, name: str, entry: ConditionEntry | None) -> tuple[list[Explained], int]:
    """The explanations of a condition, first samples with the others in their notes; and how many were empty.

    Raises:
        Refusal: the run has no such condition, or it is one of random directions.
    """
    rows = [row for row in run.rows if row.condition == name]
    if not rows or any(row.kind != "feature" for row in rows):
        there = ", ".join(_conditions_of_features(run.rows)) or "none"
        kinds = "activations at prompts" if rows and rows[0].token is not None else "random directions"
        why = f"it is of {kinds}, which nobody has an index for" if rows else "the run has no such condition"
        instead = f"its conditions of features are: {there}"
        if not rows:
            instead = meant(name, _conditions_of_features(run.rows), instead)
        raise Refusal(f"condition '{name}' of {path}", why, instead)
    by_feature: dict[str, list[Row]] = {}
    for row in rows:
        by_feature.setdefault(row.feature, []).append(row)
    common = _named(_provenance(run, name, entry))
    confidences = run.scores.confidence.per_feature.get(name, ()) if run.scores.confidence else ()
    by_id, by_row = {one.feature: one for one in confidences}, claims_by_row(run.scores)
    explained = []
    for feature, samples in by_feature.items():
        first, *others = sorted(samples, key=lambda row: row.sample)
        if short_label(first.text):
            card = first.card.model_dump(mode="json", exclude_unset=True) if first.card else None
            own = {"problems": list(first.problems), "card": card, "samples": [row.text for row in others]}
            notes = common | {key: value for key, value in own.items() if value}
            confidence = by_id.get(feature)
            if confidence is not None:
                notes["answered"] = confidence.answered
            if (claims := by_row.get((name, feature))) is not None:
                notes |= {"short": claims.label, "claims": [claim.to_json() for claim in claims.claims]}
            probability = confidence.probability if confidence else None
            explained.append(Explained(index=feature, text=first.text, confidence=probability, notes=notes))
    return explained, len(by_feature) - len(explained)


def _provenance(run: ShownRun, name: str, entry: ConditionEntry | None) -> dict[str, object]:
    """What every explanation's notes tell of the run and the condition."""
    manifest = run.manifest
    kept = ("reading", "route", "washout", "verbalizer")
    how: dict[str, object] = {} if entry is None else {key: getattr(entry, key) for key in kept}
    return {
        "dragoman": manifest.dragoman or None,
        "run": manifest.plan_digest[:16],
        "source": manifest.source,
        "target": manifest.target or None,
        "dictionary": manifest.dictionary,
        "condition": name,
        **{key: value for key, value in how.items() if value},
    }


def _named(entries: Mapping[str, object]) -> dict[str, object]:
    """A manifest's entries, their references without folders."""
    named = {key: _named(one) if isinstance(one, Mapping) else one for key, one in entries.items()}
    return {key: without_folders(one) if isinstance(one, str) else one for key, one in named.items()}
