"""Planted truth: does an explanation name the category its feature was planted in?

In: texts and words fixed beforehand. Out: yes or no, and a rate with Wilson's interval beside the rate on random
directions. Refuses categories without words and rates without controls.

The naming rule: whole words, in any case; the last word of a phrase may be singular or plural.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import wilson_interval

_HISSES = ("s", "x", "z", "ch", "sh", "o")  # these may take -es
_ONE_ALREADY = frozenset({"gas", "lens", "news", "physics", "series", "species"})  # an s, but no plural


def names_category(text: str, words: Sequence[str]) -> bool:
    """Whether ``text`` names any of ``words`` (words or phrases): "Arts" names "art", "start" does not."""
    return _pattern(tuple(words)).search(text) is not None


def accuracy_estimate(named: Sequence[bool], random_named: Sequence[bool]) -> Estimate:
    """Share of features whose explanation names their category, against the share on random directions.

    Args:
        named: per feature, whether its explanation named its own category.
        random_named: per random direction, whether the explanation named the category it was paired with.

    Returns:
        Wilson's interval; p by Fisher's exact test, two-sided; ``extra`` has ``hits`` and the random directions'
        ``random_rate``, ``random_low``, ``random_high`` and ``random_n``.
    """
    from scipy import stats

    if not len(named) or not len(random_named):
        raise Refusal(
            f"a rate over {len(named)} features and {len(random_named)} random directions",
            "without controls a rate has nothing to be compared with",
            "explain at least one of each",
        )
    n, hits, m, strays = len(named), int(sum(named)), len(random_named), int(sum(random_named))
    low, high = wilson_interval(hits, n)
    _, p = np.asarray(stats.fisher_exact([[hits, n - hits], [strays, m - strays]]))
    random_low, random_high = wilson_interval(strays, m)
    return Estimate(
        value=hits / n,
        low=low,
        high=high,
        p=float(p),
        n=n,
        statistic="share of explanations naming the planted category",
        null="the rate on random directions",
        unit="features",
        method="Wilson interval; Fisher's exact test, two-sided",
        extra={
            "hits": hits,
            "random_rate": strays / m,
            "random_low": random_low,
            "random_high": random_high,
            "random_n": m,
        },
    )


@lru_cache(maxsize=1024)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all the words of a category; longer wordings are tried first."""
    phrases = {form for word in words if word.strip() for form in _forms(word.lower().split())}
    if not phrases:
        raise Refusal("a category without words", "nothing could name it", "give it at least one word")
    wordings = "|".join(sorted(phrases, key=lambda form: (-len(form), form)))
    return re.compile(rf"(?<!\w)(?:{wordings})(?!\w)", re.IGNORECASE)


def _forms(phrase: list[str]) -> list[str]:
    """The phrase with its last word singular and plural, as patterns; words may be joined by spaces or hyphens."""
    *head, last = phrase
    forms = {last, last + "s"}
    if last.endswith(_HISSES):
        forms.add(last + "es")
    if last.endswith("y"):
        forms.add(last[:-1] + "ies")
    if last.endswith("ies"):
        forms.add(last[:-3] + "y")
    if last.endswith("s") and not last.endswith("ss") and last not in _ONE_ALREADY:
        forms.add(last[:-1])
    if last.endswith("es") and last[:-2].endswith(_HISSES) and last not in _ONE_ALREADY:
        forms.add(last[:-2])
    return [r"[\s-]+".join(re.escape(part) for part in (*head, form)) for form in forms]
