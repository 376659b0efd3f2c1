"""Which latents are judged: drawn by how often they fire and by nothing else, those of one word, those without a topic.

In: a ground, judging tokens, what latents fire on there. Out: ids. Refuses more than there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dragoman.core import Refusal
from dragoman.measures.firing import WORD, FiringWords, WordTally, one_word
from studies.ground import FAINT, SHARP, Ground
from studies.tokens import Tokens

THIRDS = 3
LEAST_FIRING = 10  # judging tokens: fewer give no AUROC


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Ids of latents.

    ``drawn``: by frequency alone. ``one_word``: those of which one word has most of the activation in the judging
    texts, with that word. ``topicless``: without a category; ``topical``: with one that has most of their firing.
    ``notes``: how many there were to choose from.
    """

    drawn: tuple[str, ...]
    one_word: Mapping[str, str]
    topicless: tuple[str, ...] = ()
    topical: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def every(self) -> tuple[str, ...]:
        """All, once."""
        return tuple(sorted({*self.drawn, *self.one_word, *self.topicless, *self.topical}, key=int))


def choose(
    ground: Ground,
    judge: Tokens,
    words: FiringWords,
    *,
    drawn: int,
    one_words: int,
    topicless: int = 0,
    topical: int = 0,
    seed: int = 0,
) -> Chosen:
    """Latents that fire in at least ten judging tokens; at most as many of each kind as are asked for."""
    counts = firing_counts(judge)
    able = [i for i, n in counts.items() if n >= LEAST_FIRING and i in ground.latents]
    shares = dict(zip(words.ids, words.words, strict=True))
    ones = {i: one_word(shares[i]) for i in able}
    single = {i: word for i, word in ones.items() if word is not None and WORD.fullmatch(word)}  # a mark is a form
    kept = at_most(single, one_words, seed=seed)
    return Chosen(
        drawn=by_frequency(able, counts, min(drawn, len(able)), seed=seed) if drawn else (),
        one_word={i: single[i] for i in kept},
        topicless=at_most(without_topic(ground, able), topicless, seed=seed),
        topical=at_most(with_topic(ground, able), topical, seed=seed),
        notes={"able": len(able), "one_word": len(single), "of": len(counts), "judging tokens": len(judge)},
    )


def firing_counts(tokens: Tokens) -> dict[str, float]:
    """At how many tokens each latent of the dictionary fires."""
    counts = np.asarray((tokens.fired > 0).sum(axis=0)).ravel()
    return {str(i): float(n) for i, n in enumerate(counts.tolist())}


def words_of(tokens: Tokens, fired: Any = None, ids: tuple[str, ...] | None = None) -> FiringWords:
    """Which words latents fire on, over some tokens."""
    fired = tokens.fired if fired is None else fired
    tally = WordTally(ids or [str(i) for i in range(fired.shape[1])])
    step = 8192
    for start in range(0, len(tokens), step):
        rows = slice(start, start + step)
        texts = [tokens.texts[int(d)] for d in tokens.documents[rows]]
        tally.add(fired[rows], texts, tokens.ends[rows])
    return tally.finish()


def by_frequency(ids: Iterable[str], often: Mapping[str, float], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """``n`` of the ids, as many from each third of how often they fire; nothing else is asked of them.

    Raises:
        Refusal: more than there are.
    """
    every = sorted(ids, key=lambda name: (often[name], int(name)))
    if not 1 <= n <= len(every):
        raise Refusal(f"{n} features", f"there are {len(every)} to choose from", "ask for fewer, and at least one")
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for k, part in enumerate(np.array_split(np.arange(len(every)), THIRDS)):
        want = n // THIRDS + (k < n % THIRDS)
        chosen += [every[i] for i in rng.permutation(part)[:want]]
    return tuple(sorted(chosen, key=int))


def without_topic(ground: Ground, ids: Iterable[str]) -> tuple[str, ...]:
    """Latents whose most frequent category has no more than a share that chance comes near."""
    return tuple(i for i in ids if i in ground.latents and ground.latents[i].selectivity < FAINT)


def with_topic(ground: Ground, ids: Iterable[str]) -> tuple[str, ...]:
    """Latents of which one category has a good part of the firing."""
    return tuple(i for i in ids if i in ground.latents and ground.latents[i].selectivity >= SHARP)


def at_most(ids: Iterable[str], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """At most ``n`` of the ids, drawn at random."""
    every = sorted(ids, key=int)
    drawn = np.random.default_rng(seed).permutation(len(every))[:n]
    return tuple(every[i] for i in sorted(drawn))
