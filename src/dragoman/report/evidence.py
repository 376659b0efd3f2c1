"""What each of a feature's two readings rests on, in words.

In: a run's records. Out: ``Evidence``: lines of what was measured, windows of text. Refuses nothing: what the run does
not hold is left out. Computes no number.

Of "fires on": in how many documents the feature fires, on which words and forms, and where. Of "writes": how much of
the row the map keeps, and which words the row and what was carried of it write most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dragoman.records import Card
from dragoman.report.figures import number, share
from dragoman.report.lit import Lit, lit, lit_tokens
from dragoman.report.opened import ShownRun

WINDOWS = 5  # of text in which a feature fires
_WORDS, _FORMS, _LENS = 6, 3, 8  # of each, as many as are told
_LEAST = 0.02  # of the activation, for a word to be told
_MARKED = 0.3  # of the activation, for a form to be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """``lines``: what was measured, its name and its value. ``windows``: of text, strongest first, in lit stretches."""

    lines: Sequence[tuple[str, str]] = ()
    windows: Sequence[Sequence[Lit]] = ()


def evidence_of(run: ShownRun, feature: str, condition: str, card: Card | None) -> Evidence:
    """What the reading of this name rests on."""
    if condition == "fires":
        return Evidence(lines=_of_firing(run, feature, card), windows=windows_of(run, feature))
    return Evidence(lines=_of_row(run.lens.get(condition, {}).get(feature, {}), card))


def windows_of(run: ShownRun, feature: str) -> list[list[Lit]]:
    """Where a feature fires most, of the texts that were read: lit by tokens where these are known, else by words."""
    found = run.contexts.get(feature, {})
    texts = found.get("firing", [])[:WINDOWS]
    pairs = list(zip(texts, run.tokens.get(feature, ()), strict=False))
    if pairs and len(pairs) == len(texts) and all(window.fits(text) for text, window in pairs):
        return lit_tokens(pairs)
    return [lit(text, found.get("words") or {}) for text in texts]


def _of_firing(run: ShownRun, feature: str, card: Card | None) -> list[tuple[str, str]]:
    found, lines = run.contexts.get(feature, {}), list[tuple[str, str]]()
    if card is not None and card.n_eff is not None:
        lines.append(("fires in", f"{number(round(card.n_eff))} effective documents"))
    words: Mapping[str, float] = found.get("words") or {}
    told = [f"{_written(word)} {share(part)}" for word, part in words.items() if part >= _LEAST][:_WORDS]
    if told:
        lines.append(("words it fires on", ", ".join(told)))
    forms: Mapping[str, float] = found.get("forms") or {}
    most = sorted((-part, form) for form, part in forms.items() if part >= _MARKED)[:_FORMS]
    if most:
        lines.append(("forms", ", ".join(f"{form} {share(-part)}" for part, form in most)))
    return lines


def _of_row(lens: Mapping[str, Sequence[str]], card: Card | None) -> list[tuple[str, str]]:
    lines = list[tuple[str, str]]()
    if card is not None and card.coverage is not None:
        lines.append(("coverage", f"{share(card.coverage)} of the row is kept by the map"))
    for key, called in (("source", "the row itself writes"), ("carried", "what arrived writes")):
        if words := lens.get(key):
            lines.append((called, ", ".join(words[:_LENS])))
    return lines


def _written(word: str) -> str:
    """A word; a mark or white space by its name."""
    return {"\n": "line break", " ": "space", "\t": "tab", ",": "comma", ".": "full stop"}.get(word, word)
