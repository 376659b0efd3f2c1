"""Which words a feature fires on: its activation, summed by the word and by the form of the word at each token.

In: batches of sparse activations with the text and the character end of each row. Out: ``FiringWords``: per feature the
words and forms that take the largest shares of its activation, in memory or in a file. Refuses rows, texts and ends
that do not pair, ends outside of their text, negative or undefined activations, features that were not counted, and
files that hold another thing.

A token counts for the whole word that its last character lies in: readers of text know words, and tokenizers cut them
differently. Batches and the order of documents move sums by rounding only, as long as nothing is pruned. Pruning keeps
the 64 words of most activation of each feature, and happens when more than four million sums (or twice 64 a feature)
are held; a word pruned then had at most a 65th of its feature's activation so far, which its share may later lack.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.store import Contents, write_arrays

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
KEPT = 64  # words of most activation that pruning leaves to a feature
SHOWN = 16  # of these, those that are told in the end
_ROOM = 1 << 22  # sums held before any is pruned: 16 bytes each
_BATCH = 1 << 9  # sums held before those of the same feature and word become one
_ITEM = re.compile(rf"{WORD.pattern}|[\s\S]")
_QUOTES = "\"“”„«»‘’'`"
_OPENERS = _QUOTES + "([{*_#>- \t"
_ENDS = ".!?…。！？"
_NEAR = 16  # characters before a word in which the end of a sentence is looked for
_FILE = Contents(
    called="firing words",
    holds="firing words",
    arrays={"starts": "r", "word": "e", "share": "e", "form_share": "mf", "base_forms": "f", "base_words": "v"},
    words={"ids": list, "words": list, "forms": list},
)


def _short(numbers: NDArray[Any]) -> NDArray[np.int32]:
    return numbers.astype(np.int32)


@lru_cache(maxsize=2)  # rows of a document come one after another
def _items(text: str) -> tuple[list[int], list[int]]:
    """Where the words of a text and its other characters, one by one, start and stop."""
    spans = [m.span() for m in _ITEM.finditer(text)]
    return [a for a, _ in spans], [b for _, b in spans]


def word_span(text: str, end: int) -> tuple[int, int]:
    """Start and stop of the word, or of the single mark, that holds character ``end - 1``.

    Raises:
        Refusal: the text has no such character.
    """
    if not 0 < end <= len(text):
        raise Refusal(
            f"a token that ends at character {end}", f"its text has {len(text)}", "pass ends within their texts"
        )
    starts, stops = _items(text)
    at = bisect_right(starts, end - 1) - 1
    return starts[at], stops[at]


def word_at(text: str, end: int) -> str:
    """The lower-cased word, or the single mark or space, that holds character ``end - 1``.

    Raises:
        Refusal: the text has no such character.
    """
    start, stop = word_span(text, end)
    return text[start:stop].lower()


def _after_an_end(text: str, start: int) -> bool:
    """Whether nothing but openers stands between ``start`` and the end of a sentence, a line or nothing before it."""
    before = text[max(start - _NEAR, 0) : start].rstrip(_OPENERS)
    return before.endswith(("\n", "\r", *_ENDS)) if before else start <= _NEAR


def _first_of_line(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \t")
    return not before or before[-1] in "\n\r"


def _is_plural(item: str) -> bool:
    low = item.lower()
    return len(low) > 3 and low.endswith("s") and not low.endswith(("ss", "us", "is", "'s", "’s")) and low.isalpha()


# Rules of the word as it stands, and rules of where it stands. English ones go by spelling alone: "news" is a plural.
_BY_WORD: dict[str, Callable[[str], bool]] = {
    "digit": lambda w: any(c.isdigit() for c in w),
    "capital": lambda w: w[:1].isupper() and not (len(w) > 1 and w.isupper()),
    "capitals only": lambda w: len(w) > 1 and w.isupper(),
    "plural": _is_plural,
    "possessive": lambda w: w.lower().endswith(("'s", "’s")),
    "past tense": lambda w: len(w) > 3 and w.lower().endswith("ed") and not w.lower().endswith("eed"),
    "-ing form": lambda w: len(w) > 4 and w.lower().endswith("ing"),
    "hyphenated": lambda w: len(w) > 1 and "-" in w,
    "quote": lambda w: w in _QUOTES,
    "comma": lambda w: w in ",،、，",
    "full stop": lambda w: w in ".。",
    "question or exclamation mark": lambda w: w in "?!？！",
    "colon or semicolon": lambda w: w in ":;：；",
    "bracket": lambda w: w in "()[]{}<>",
    "line break": lambda w: w in "\n\r",
}
_BY_PLACE: dict[str, Callable[[str, int], bool]] = {
    "sentence start": lambda text, start: text[start].isalnum() and _after_an_end(text, start),
    "line start": lambda text, start: text[start].isalnum() and _first_of_line(text, start),
}


def _of_word(rule: Callable[[str], bool]) -> Callable[[str, int], bool]:
    def judged(text: str, end: int) -> bool:
        start, stop = word_span(text, end)
        return rule(text[start:stop])

    return judged


def _of_place(rule: Callable[[str, int], bool]) -> Callable[[str, int], bool]:
    def judged(text: str, end: int) -> bool:
        return rule(text, word_span(text, end)[0])

    return judged


FORMS: Mapping[str, Callable[[str, int], bool]] = {
    **{name: _of_word(rule) for name, rule in _BY_WORD.items()},
    **{name: _of_place(rule) for name, rule in _BY_PLACE.items()},
}
"""Classes of tokens by name, each decided by a rule on (text, end); a token may be of several, or of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringWords:
    """On which words M features fire, among the tokens that were kept while reading.

    ``ids``: M feature ids. ``words``: per feature word -> share of the feature's activation, most first, at most 16;
    shares are of all of it, so they sum to 1 at most. ``forms``: per feature form -> share; forms overlap. Both are
    empty for a feature that never fired. ``base_forms``: form -> share of all tokens; ``base_words``: word -> share of
    all tokens, for every word that some feature names.
    """

    ids: tuple[str, ...]
    words: tuple[dict[str, float], ...]
    forms: tuple[dict[str, float], ...]
    base_forms: dict[str, float]
    base_words: dict[str, float]

    def of(self, feature: str | int) -> tuple[dict[str, float], dict[str, float]]:
        """A feature's words and forms.

        Raises:
            Refusal: it was not counted.
        """
        if str(feature) not in self.ids:
            raise Refusal(f"feature {feature}", f"it was not among the {len(self.ids)} watched", "harvest with it")
        at = self.ids.index(str(feature))
        return self.words[at], self.forms[at]

    def save(self, path: Path) -> None:
        """Write to one file."""
        known = {word: k for k, word in enumerate(self.base_words)}
        forms = np.zeros((len(self.ids), len(self.base_forms)))
        for row, shares in zip(forms, self.forms, strict=True):
            if shares:
                row[:] = [shares[name] for name in self.base_forms]
        arrays = {
            "starts": np.cumsum([0, *map(len, self.words)]),
            "word": np.array([known[word] for words in self.words for word in words], np.int64),
            "share": np.array([share for words in self.words for share in words.values()], np.float64),
            "form_share": forms,
            "base_forms": np.array(list(self.base_forms.values()), np.float64),
            "base_words": np.array(list(self.base_words.values()), np.float64),
        }
        words = {"ids": list(self.ids), "words": list(self.base_words), "forms": list(self.base_forms)}
        write_arrays(path, arrays, {"holds": "firing words", **words})

    @classmethod
    def load(cls, path: Path) -> FiringWords:
        """Read what ``save`` wrote.

        Raises:
            Refusal: the file holds another thing, or its parts do not fit together.
        """
        arrays, told = _FILE.read(path)
        ids, known, forms = tuple(told["ids"]), told["words"], told["forms"]
        starts, word, share = arrays["starts"], arrays["word"], arrays["share"]
        sizes = (len(starts) - 1, len(arrays["base_words"]), len(arrays["base_forms"]), len(arrays["form_share"]))
        fit = sizes == (len(ids), len(known), len(forms), len(ids))
        ordered = fit and starts[0] == 0 and starts[-1] == len(word) and bool((np.diff(starts) >= 0).all())
        if not ordered or (len(word) and not (word.min() >= 0 and word.max() < len(known))):
            raise Refusal(f"{path}", "its words and features do not fit together", "make it again")
        pairs = list(zip((known[k] for k in word), share.tolist(), strict=True))
        words = tuple(dict(pairs[a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True))
        rows = arrays["form_share"].tolist()
        return cls(
            ids=ids,
            words=words,
            forms=tuple(
                dict(zip(forms, row, strict=True)) if own else {} for own, row in zip(words, rows, strict=True)
            ),
            base_forms=dict(zip(forms, arrays["base_forms"].tolist(), strict=True)),
            base_words=dict(zip(known, arrays["base_words"].tolist(), strict=True)),
        )


class WordTally:
    """Running sums of activation by feature and word, and by feature and form; float64.

    Held besides the vocabulary of the texts: at most 16 bytes a sum, 8 M times the number of forms.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Nothing seen yet of features ``ids``."""
        m = len(ids)
        self._ids = tuple(ids)
        self._room = max(_ROOM, 2 * KEPT * m)
        self._index: dict[str, int] = {}
        self._surface: dict[str, tuple[int, int]] = {}  # of a word as it is written: its number, and its pattern's
        self._patterns: dict[tuple[bool, ...], int] = {}
        self._seen = np.zeros(0)
        self._tokens = 0
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]] = []
        self._entries, self._due = 0, _BATCH
        self._total = np.zeros(m)
        self._form_mass, self._form_seen = np.zeros((m, len(FORMS))), np.zeros(len(FORMS))

    def add(self, f: Any, texts: Sequence[str], ends: NDArray[Any]) -> None:
        """Add rows.

        Args:
            f: (n, M) activations >= 0, dense or scipy sparse.
            texts: n, the text of each row's document.
            ends: (n,) the character at which each row's token ends.

        Raises:
            Refusal: shapes that do not fit, negative or undefined activations, or ends outside of their text.
        """
        f, ends = csr_array(f, dtype=np.float64), np.asarray(ends)
        self._refuse_misfit(f, texts, ends)
        if not len(texts):
            return
        word, forms = self._words(texts, ends)
        names, local = np.unique(word, return_inverse=True)
        member = csr_array((np.ones(len(word)), (local, np.arange(len(word)))), shape=(len(names), len(word)))
        mass = csr_array(member @ f).tocoo()
        sums = np.asarray(mass.data, np.float64)
        some = sums > 0
        self._parts.append((_short(mass.coords[1][some]), _short(names[mass.coords[0][some]]), sums[some]))
        self._entries += int(some.sum())
        self._total += np.asarray(f.sum(axis=0))
        self._form_mass += f.T @ forms
        self._form_seen += forms.sum(axis=0)
        self._seen = np.pad(self._seen, (0, len(self._index) - len(self._seen)))
        self._seen += np.bincount(word, minlength=len(self._index))
        self._tokens += len(word)
        if self._entries > self._due:
            self._merge()

    def _refuse_misfit(self, f: csr_array, texts: Sequence[str], ends: NDArray[Any]) -> None:
        if f.shape != (len(texts), len(self._ids)) or ends.shape != (len(texts),):
            raise Refusal(
                f"activations {f.shape}, {len(texts)} texts and ends {ends.shape}",
                f"{len(self._ids)} features are counted",
                "pass f (n, M), texts n and ends (n,) of the same rows",
            )
        if not np.isfinite(f.data).all() or (f.data < 0).any():
            raise Refusal("activations", "some are NaN, infinite or negative", "check the encoder")

    def _words(self, texts: Sequence[str], ends: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Number of each row's word (n,), and its forms (n, F)."""
        word, pattern, placed = list[int](), list[int](), list[tuple[bool, ...]]()
        for text, end in zip(texts, ends.tolist(), strict=True):
            start, stop = word_span(text, end)
            item = text[start:stop]
            known = self._surface.get(item)
            if known is None:
                number = self._index.setdefault(item.lower(), len(self._index))
                judged = tuple(rule(item) for rule in _BY_WORD.values())
                # The same few patterns for all words: each is kept once.
                known = self._surface[item] = number, self._patterns.setdefault(judged, len(self._patterns))
            word.append(known[0])
            pattern.append(known[1])
            placed.append(tuple(rule(text, start) for rule in _BY_PLACE.values()))
        by_word = np.array(list(self._patterns), dtype=np.float64).reshape(-1, len(_BY_WORD))[pattern]
        by_place = np.array(placed, dtype=np.float64).reshape(-1, len(_BY_PLACE))
        return np.array(word, np.int64), np.concatenate([by_word, by_place], axis=1)

    def _merge(self, most: int = KEPT) -> csr_array:
        """One sum a feature and word; pruned to ``most`` a feature if they would not leave half of the room."""
        m, v = len(self._ids), max(len(self._index), 1)
        feature, word, mass = (np.concatenate([part[k] for part in self._parts] or [[]]) for k in range(3))
        merged = csr_array((mass, (feature.astype(np.int64), word.astype(np.int64))), shape=(m, v))
        merged.sum_duplicates()
        if merged.nnz > self._room // 2:
            merged = self._strongest(merged, most)
        rows, columns = merged.tocoo().coords
        sums = np.asarray(merged.data, np.float64)
        self._parts, self._entries = [(_short(rows), _short(columns), sums)], merged.nnz
        self._due = min(_BATCH + 2 * merged.nnz, self._room)
        return merged

    def _strongest(self, mass: csr_array, most: int) -> csr_array:
        """Of each feature the ``most`` words of most activation; of equals those first in the alphabet."""
        place = np.empty(max(len(self._index), 1), np.int64)
        place[[self._index[word] for word in sorted(self._index)]] = np.arange(len(self._index))
        rows, columns = mass.tocoo().coords
        order = np.lexsort((place[columns], -np.asarray(mass.data, np.float64), rows))
        rank = np.arange(len(order)) - mass.indptr[rows[order]]
        kept = order[rank < most]
        return csr_array((mass.data[kept], (rows[kept], columns[kept])), shape=mass.shape)

    def finish(self) -> FiringWords:
        """The shares of what was counted."""
        most = self._strongest(self._merge(), SHOWN)
        names = sorted(self._index, key=self._index.__getitem__)
        words = []
        for k, total in enumerate(self._total):
            own = slice(most.indptr[k], most.indptr[k + 1])
            found = [(names[c], float(x / total)) for c, x in zip(most.indices[own], most.data[own], strict=True)]
            words.append(dict(sorted(found, key=lambda pair: (-pair[1], pair[0]))))
        share = self._form_mass / np.where(self._total > 0, self._total, 1)[:, None]
        forms = tuple(
            dict(zip(FORMS, row, strict=True)) if own else {} for own, row in zip(words, share.tolist(), strict=True)
        )
        tokens = max(self._tokens, 1)
        told = sorted({word for own in words for word in own})
        return FiringWords(
            ids=self._ids,
            words=tuple(words),
            forms=forms,
            base_forms=dict(zip(FORMS, (self._form_seen / tokens).tolist(), strict=True)),
            base_words={word: float(self._seen[self._index[word]] / tokens) for word in told},
        )
