"""Which latents a calibration is of: drawn at random from those that fire often enough, whatever they fire on.

In: how often each fires, its largest share of activation on one word. Out: ids in nine strata alike; one-word and rule
latents with their truth. Refuses fewer latents than a calibration can be fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dragoman.core import Refusal
from dragoman.maps.words import FORMS, WORD, FiringWords
from dragoman.measures.firing import one_word, variants

FEWEST = 20
ONE_WORD, RULE = 0.7, 0.8  # of the activation
COMMON = 0.3  # share of all tokens above which a form tells nothing
PLACES = ("sentence start", "line start")  # forms of where a word stands: no quoted word can be told to have them


@dataclass(frozen=True, slots=True)
class Truth:
    """What a latent or a made direction is known to stand for: one ``word``, or a ``form`` of words."""

    word: str | None = None
    form: str | None = None

    def named_by(self, text: str, quoted: Sequence[str]) -> bool:
        """Whether a sentence, or what it quotes, names it."""
        if self.word is not None:
            wanted = variants(self.word)
            said = {w for one in (*quoted, text) for w in WORD.findall(one.lower())}
            return bool(wanted & said) or self.word in quoted
        rule = FORMS[self.form or ""]
        return any(rule(one, len(one)) for one in quoted if one and not one.isspace())


def drawn(often: Mapping[str, float], share: Mapping[str, float], n: int, *, seed: int) -> tuple[str, ...]:
    """``n`` ids, or all there are, as many from each of nine strata: thirds of how often x thirds of one-word share.

    Raises:
        Refusal: fewer than 20 fire often enough.
    """
    ids = sorted(often, key=lambda i: (len(i), i))
    if len(ids) < FEWEST:
        why = f"{len(ids)} of its latents fire in enough documents, and {FEWEST} are the fewest"
        raise Refusal("calibrating", why, "read more texts")
    rng = np.random.default_rng([seed, 1])
    by_often = [ids[k] for k in np.argsort([often[i] for i in ids], kind="stable")]
    cells: list[list[str]] = []
    for third in np.array_split(np.arange(len(ids)), 3):
        mine = [by_often[k] for k in third]
        by_share = [mine[k] for k in np.argsort([share.get(i, 0.0) for i in mine], kind="stable")]
        for part in np.array_split(np.arange(len(by_share)), 3):
            cell = [by_share[k] for k in part]
            cells.append([cell[k] for k in rng.permutation(len(cell))])
    taken: list[str] = []
    while len(taken) < min(n, len(ids)):
        for cell in cells:
            if cell and len(taken) < n:
                taken.append(cell.pop())
    return tuple(sorted(taken, key=lambda i: (len(i), i)))


def truths(words: FiringWords, ids: Sequence[str]) -> dict[str, Truth]:
    """Of the ids those with a known answer: one word that is no mark, else a form of words that is not common."""
    at = {name: k for k, name in enumerate(words.ids)}
    found: dict[str, Truth] = {}
    for name in ids:
        if name not in at:
            continue
        own, forms = words.words[at[name]], words.forms[at[name]]
        word = one_word(own, ONE_WORD)
        if word is not None and WORD.fullmatch(word):
            found[name] = Truth(word=word)
            continue
        able = [f for f, s in forms.items() if s >= RULE and f not in PLACES and words.base_forms.get(f, 1.0) <= COMMON]
        if able:
            found[name] = Truth(form=min(able, key=lambda f: words.base_forms[f]))
    return found
