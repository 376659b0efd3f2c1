"""Truth from where a feature fires: its topic, topics nobody was trained on, and the tokens it fires on most.

In: texts, topics, tokens. Out: tables and rates. Refuses topics or tokens that could not be named.

Every rate is read off a table (text i, feature j) so that the same texts dealt to other features are its null: a text
that lists many topics names many features' topics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import rate_interval
from dragoman.stats.lift import permutation_p, square
from dragoman.stats.planted import names_category

Doubles = NDArray[np.float64]
_WORD = re.compile(r"[^\W\d_]{3,}")  # letters only, three at least: pieces of words and marks name nothing
_MARKS = str.maketrans("\u0120\u010a\u2581", "   ")  # how vocabularies write a space or a line's end before a word


def naming_table(texts: Sequence[str], words: Sequence[Sequence[str]]) -> Doubles:
    """(n, N) of 0 and 1: whether text i names feature j by the naming rule; ``words``: what names feature j's topic."""
    distinct = {tuple(one) for one in words}
    told = {one: np.array([names_category(text, one) for text in texts], dtype=np.float64) for one in distinct}
    return np.stack([told[tuple(one)] for one in words], axis=1)


def token_table(texts: Sequence[str], tokens: Sequence[Sequence[str]]) -> Doubles:
    """(n, N): share of feature j's top tokens that text i uses as whole words, weighted by how few features have them.

    A token's weight is log(N / features that have it): one that all have ("the") counts nothing, and no list of stop
    words is needed. Tokens are lower-cased and stripped of their word-boundary marks; fewer than three letters are no
    word.

    Raises:
        Refusal: a feature none of whose tokens is a word with weight.
    """
    words, weight = _weighed(tokens)
    out = np.zeros((len(texts), len(words)))
    used = [{w.lower() for w in _WORD.findall(text)} for text in texts]
    for j, one in enumerate(words):
        whole = sum(weight[word] for word in sorted(one))
        if whole <= 0:
            raise Refusal(
                f"top tokens of feature {j}: {', '.join(map(repr, tokens[j])) or 'none'}",
                "none is a word that other features lack",
                "leave that feature out of this score (see nameable)",
            )
        out[:, j] = [sum(weight[word] for word in sorted(one & text)) / whole for text in used]
    return out


def nameable(tokens: Sequence[Sequence[str]]) -> list[int]:
    """Features, by number, whose tokens hold a word that others lack: those ``token_table`` can score."""
    words, weight = _weighed(tokens)
    return [j for j, one in enumerate(words) if any(weight[word] > 0 for word in one)]


def _weighed(tokens: Sequence[Sequence[str]]) -> tuple[list[set[str]], dict[str, float]]:
    """Words of each feature's tokens, and the weight of each word."""
    words = [{w.lower() for token in one for w in _WORD.findall(token.translate(_MARKS))} for one in tokens]
    held = Counter(word for one in words for word in one)
    return words, {word: float(np.log(len(words) / count)) for word, count in held.items()}


def named_estimate(
    table: NDArray[Any],
    *,
    what: str,
    topics: Sequence[Any] | NDArray[Any] | None = None,
    rng: np.random.Generator,
    permutations: int = 9999,
) -> Estimate:
    """Mean of the diagonal of a naming or token table (N, N), against the same texts dealt to other features.

    ``topics``, where several features share one, make the interval one over topics. ``extra``: ``others``, the mean off
    the diagonal, taken over features of other topics where topics are given.
    """
    table = square(table)
    own, n = np.diag(table), len(table)
    labels = np.arange(n) if topics is None else np.unique(np.asarray(topics), return_inverse=True)[1]
    low, high = rate_interval(own, topics)
    other = labels[:, None] != labels[None, :]
    return Estimate(
        value=float(own.mean()),
        low=low,
        high=high,
        p=permutation_p(table, rng, permutations),
        n=len(np.unique(labels)),
        statistic=what,
        null="explanations dealt to features at random",
        unit="features" if topics is None else "topics",
        method=f"Wilson interval at the effective number; two-sided permutation p, at most {permutations} draws",
        extra={"others": float(table[other].mean())},
    )


def topic_estimates(
    texts: Sequence[str],
    topics: Sequence[str],
    words: Mapping[str, Sequence[str]],
    *,
    held_out: Sequence[bool] | None = None,
    rng: np.random.Generator,
    permutations: int = 9999,
) -> dict[str, Estimate]:
    """Share of texts that name the topic of their feature's firing contexts: ``all``, and by whether it was held out.

    Args:
        texts: one per feature.
        topics: the topic each feature fires in.
        words: topic -> words that name it.
        held_out: per feature, whether its topic was kept from every verbalizer's training. A topic learnt as a class
            and one understood look alike among the ``seen``; only those ``held out`` tell them apart.
        rng: of the permutations.
        permutations: at most.

    Raises:
        Refusal: unequal lengths, or a topic without words; fewer than three features of two topics in a part leave
            that part out.
    """
    if len(texts) != len(topics) or (held_out is not None and len(held_out) != len(texts)):
        raise Refusal(
            f"{len(texts)} texts with {len(topics)} topics",
            "each text needs its feature's topic, and whether it was held out",
            "pass lists of equal length",
        )
    unknown = sorted(set(topics) - set(words))
    if unknown:
        raise Refusal(f"topic '{unknown[0]}'", "no words name it", "add it to the table of words")
    parts = {"all": np.ones(len(texts), dtype=bool)}
    if held_out is not None:
        away = np.asarray(held_out, dtype=bool)
        parts |= {"seen": ~away, "held out": away}
    found: dict[str, Estimate] = {}
    for name, rows in parts.items():
        at: list[int] = np.flatnonzero(rows).tolist()
        mine = [topics[i] for i in at]
        if len(at) < 3 or len(set(mine)) < 2:
            continue
        table = naming_table([texts[i] for i in at], [words[topic] for topic in mine])
        shared = mine if len(set(mine)) < len(mine) else None
        what = f"share of explanations naming the topic of the firing contexts ({name})"
        found[name] = named_estimate(table, what=what, topics=shared, rng=rng, permutations=permutations)
    return found
