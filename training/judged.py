"""What a verbalizer said, held against the rule for the same position: shares, each beside what chance would reach.

In: texts that were said, the documents and positions they are about, the rule's themes and words. Out: figures by name.
Nothing here trains: the texts are read by ``dragoman.measures.claims``, as the product reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corpus import Document
from dragoman.measures.claims import claims_of, token_of
from dragoman.measures.firing import variants
from dragoman.stats.planted import names_category
from targets import NONE, NULL, Teller, Theme, final


@dataclass(frozen=True, slots=True)
class Told:
    """A text by its sentences; ``theme`` is "" where it declines to name one."""

    theme: str
    words: tuple[str, ...]
    token: tuple[str, ...]
    nothing: bool

    @classmethod
    def of(cls, text: str) -> Told:
        """Read a text with or without its tags."""
        text = text.replace("<explanation>", "").replace("</explanation>", "").strip()
        claims = claims_of(text)
        themes = [c.text for c in claims if c.kind == "theme" and NONE not in c.text and NULL not in c.text]
        words = next((c.quoted for c in claims if c.kind == "words"), ())
        token = next((token_of(c.text) for c in claims if c.kind == "token"), ())
        return cls(themes[0] if themes else "", words, token, NULL in text)


@dataclass(frozen=True, slots=True)
class Truth:
    """What the rule says of a position."""

    theme: Theme
    words: tuple[str, ...]
    last: str

    @classmethod
    def of(cls, teller: Teller, document: Document, end: int) -> Truth:
        """By the same rule as the targets'."""
        prefix = document.text[:end]
        last = final(prefix, document.text[end:])[0]
        return cls(teller.theme(document, prefix), tuple(teller.salient(prefix)), last)

    def named_by(self, told: Told) -> bool:
        """Whether the theme is named: the category or topic, or the subject's word."""
        some = [one for one in (self.theme.category, self.theme.topic, self.theme.subject) if one]
        return bool(told.theme) and bool(some) and names_category(told.theme, some)


def figures(said: Sequence[str], truths: Sequence[Truth]) -> dict[str, float]:
    """Shares over positions; "dealt" ones hold each text against the next position's rule.

    ``theme``: named, of positions with one; ``declined``: "no particular topic" or nothing, of the same;
    ``false_theme``: a theme asserted, of positions without; ``words``: mean F1 of the salient words; ``token``: the
    final token named.
    """
    told = [Told.of(text) for text in said]
    other = [truths[(i + 1) % len(truths)] for i in range(len(truths))]
    with_theme = [i for i, t in enumerate(truths) if t.theme != Theme()]
    without = [i for i, t in enumerate(truths) if t.theme == Theme()]
    out = {
        "n": float(len(said)),
        "with_theme": float(len(with_theme)),
        "theme": _mean([truths[i].named_by(told[i]) for i in with_theme]),
        "theme_dealt": _mean([other[i].named_by(told[i]) for i in with_theme]),
        "declined": _mean([not told[i].theme for i in with_theme]),
        "false_theme": _mean([bool(told[i].theme) for i in without]),
        "nothing": _mean([t.nothing for t in told]),
    }
    for name, rule in (("", truths), ("_dealt", other)):
        out[f"words{name}"] = _mean([f1(t.words, r.words) for t, r in zip(told, rule, strict=True)])
        out[f"token{name}"] = _mean([_same_token(t.token, r.last) for t, r in zip(told, rule, strict=True)])
    return {k: round(v, 4) for k, v in out.items()}


def f1(said: Sequence[str], true: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, plural and singular being one."""
    if not said or not true:
        return 0.0
    right = sum(any(w.lower() in variants(t) for t in true) for w in said)
    found = sum(any(w.lower() in variants(t) for w in said) for t in true)
    precision, recall = right / len(said), found / len(true)
    return 2 * precision * recall / (precision + recall) if right and found else 0.0


def _same_token(said: tuple[str, ...], last: str) -> bool:
    true = token_of(f'Final token "{last}"')
    return bool(said) and bool(true) and said[0].lower() == true[0].lower()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
