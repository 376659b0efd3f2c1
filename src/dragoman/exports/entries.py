"""A run's explanations as flat entries, whatever they are written as.

In: a run as it is shown, names of conditions. Out: one ``Entry`` an explanation, in the run's order. Refuses conditions
that the run does not have, and those of controls, which explain nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.core import Refusal
from dragoman.exports.names import without_folders
from dragoman.neuronpedia import short_label
from dragoman.records import Card, TokenWindow
from dragoman.report.claims import claims_by_row, confidences_by_row
from dragoman.report.opened import ShownRun
from dragoman.store.spans import meant, shown

SHORT = 120  # characters of a label


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One explanation and what is known of it.

    ``short``: a label made of the sentences that the evidence supports, "" where none is or nothing was checked;
    ``checked``: whether anything was. ``confidence``: the probability that it is right, and ``answered`` whether that
    is enough, None where none is calibrated. ``status``, ``why`` and ``route``: of its crossing, ``card``: all of it.
    ``tokens``: how many it has. ``lift``: of a first sample. ``prompt``, ``token`` and ``position``: of an activation.
    ``context_label``: of the feature, no verbalizer's, by the model ``context_label_by``.
    """

    feature: str
    label: str
    kind: str
    condition: str
    reading: str | None
    sample: int
    text: str
    short: str
    checked: bool
    confidence: float | None
    answered: bool | None
    status: str | None
    why: str | None
    route: str | None
    problems: tuple[str, ...]
    tokens: int
    log_probability: float | None
    lift: float | None
    card: Card | None
    prompt: str | None
    token: str | None
    position: int | None
    context_label: str | None
    context_label_by: str | None

    @property
    def brief(self) -> str:
        """A label for a list: the supported one, else the text's beginning; marked where dragoman abstains."""
        said = self.short or short_label(self.text, SHORT)
        return f"unsure: {said}" if said and self.answered is False else said


def entries_of_run(
    run: ShownRun, conditions: Sequence[str] = (), *, samples: bool = True, controls: bool = False
) -> list[Entry]:
    """A run's explanations.

    Args:
        run: the run.
        conditions: which; all but the controls when empty.
        samples: every sample, or the first alone.
        controls: also conditions that are there only to be compared with.

    Raises:
        Refusal: a condition that the run does not have, or a control.
    """
    there = [one.name for one in run.conditions if controls or one.name not in run.controls]
    for name in conditions:
        if name not in there:
            why = f"the run has {', '.join(there) or 'none'}"
            raise Refusal(f"condition '{shown(name)}'", why, meant(name, there, "name one of these"))
    chosen, known = list(conditions) or there, {one.name: one for one in run.conditions}
    lifts = {(c, one.feature): one.lift for c, some in run.scores.per_feature.items() for one in some}
    confidences, claims, entries = confidences_by_row(run.scores), claims_by_row(run.scores), list[Entry]()
    for row in run.rows:
        if row.condition not in chosen or (row.sample and not samples):
            continue
        at, entry = (row.condition, row.feature), known[row.condition]
        confidence, checked = (confidences.get(at), claims.get(at)) if row.sample == 0 else (None, None)
        card, token = row.card, row.token
        own = run.labels.get(row.feature)
        entries.append(
            Entry(
                feature=row.feature,
                label=row.label,
                kind=row.kind,
                condition=row.condition,
                reading=entry.reading,
                sample=row.sample,
                text=row.text,
                short=checked.label if checked else "",
                checked=checked is not None,
                confidence=confidence.probability if confidence else None,
                answered=confidence.answered if confidence else None,
                status=card.status if card else None,
                why=card.why if card else None,
                route=(card.route if card else None) or entry.route or None,
                problems=row.problems,
                tokens=row.tokens,
                log_probability=row.log_probability,
                lift=lifts.get(at) if row.sample == 0 else None,
                card=card,
                prompt=token.prompt if token else None,
                token=token.token if token else None,
                position=token.position if token else None,
                context_label=own.label if own else None,
                context_label_by=without_folders(run.labelled_by) if own else None,
            )
        )
    return entries


def numbered(entries: Sequence[Entry], reader: str) -> dict[int, Entry]:
    """Feature number to its first explanation.

    Raises:
        Refusal: a feature that is no number of a dictionary, or two conditions of one feature.
    """
    found: dict[int, Entry] = {}
    for one in entries:
        if one.sample:
            continue
        if one.kind != "feature" or not one.feature.isdecimal() or len(one.feature) > 12:
            why = f"{reader} knows features by their number in a dictionary"
            raise Refusal(f"{one.kind} '{shown(one.feature)}'", why, "export it as csv, parquet or hub")
        if int(one.feature) in found:
            why = f"it has an explanation of {found[int(one.feature)].condition} and one of {one.condition}"
            raise Refusal(f"feature {one.feature}", why, "name one condition with --condition")
        found[int(one.feature)] = one
    if not found:
        raise Refusal("explanations", "there are none to write", "choose a condition that has some")
    return dict(sorted(found.items()))


def windows_in_tokens(
    feature: str, contexts: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, Sequence[TokenWindow]]
) -> list[list[tuple[str, float | None]]]:
    """The windows of a feature in tokens with their activations; none where the run keeps none of it.

    Raises:
        Refusal: the tokens are not those of the windows.
    """
    texts, windows = contexts.get(feature, {}).get("firing", ()), tokens.get(feature, ())
    if not windows:
        return []
    pairs = list(zip(texts, windows, strict=False))
    if len(pairs) < len(texts) or not all(window.fits(text) for text, window in pairs):
        why = "its tokens are not those of its windows"
        raise Refusal(f"activations of feature {shown(feature)}", why, "make the run again")
    return [window.tokens(text) for text, window in pairs]
