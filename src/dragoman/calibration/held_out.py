"""Where latents fire in documents that no evidence is made of: windows, and the words that take their activation.

In: batches of sparse activations with the document and character end of each row; the texts. Out: by latent, as a run
keeps it of a feature: ``firing`` windows around the strongest token of a document, from documents of all strengths
alike; ``silent`` windows of documents in which it never fires; ``words``: word -> share of its activation. Refuses
what ``WordTally`` refuses.

What is held is bounded: of each latent some dozens of documents of either kind, those of smallest pseudo-random number,
whatever order documents came in.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.calibration.sizes import Sizes
from dragoman.maps.aligned import priority
from dragoman.maps.windows import AFTER, BEFORE, around, somewhere
from dragoman.maps.words import WORD, WordTally

KEPT = 48  # documents of a latent in which it fires, and in which it is silent


class Known(TypedDict):
    """Of a latent, its firing and silent windows, and shares of words."""

    firing: list[str]
    silent: list[str]
    words: dict[str, float]


HeldOut = dict[str, Known]  # by latent


class _Document(NamedTuple):
    """``end``: the character at which the strongest token ends; where the latent is silent, the last one read."""

    number: int
    strength: float
    name: int
    end: int


class HeldOutTally:
    """Where latents fire, as it is read."""

    def __init__(self, ids: Sequence[str], *, seed: int = 0) -> None:
        """Nothing read yet.

        Args:
            ids: of the columns of activations.
            seed: of every draw.
        """
        self._ids, self._seed, self._words = tuple(ids), seed, WordTally(ids)
        self._firing: list[list[_Document]] = [[] for _ in ids]
        self._silent: list[list[_Document]] = [[] for _ in ids]

    def add(self, fired: Any, documents: NDArray[Any], ends: NDArray[Any], texts: Mapping[int, str]) -> None:
        """Take activations (n, M) >= 0 of whole documents; ``texts``: by the documents' names."""
        fired = csr_array(fired)
        self._words.add(fired, [texts[int(name)] for name in documents], ends)
        names = np.unique(documents)
        for name, number in zip(names.tolist(), priority(names, self._seed).tolist(), strict=True):
            rows = np.flatnonzero(documents == name)
            self._document(fired[rows].tocsc(), name, number, ends[rows])

    def _document(self, fired: Any, name: int, number: int, ends: NDArray[Any]) -> None:
        pointers, rows, data, last = fired.indptr, fired.indices, fired.data, int(ends.max())
        for k in range(len(self._ids)):
            own = slice(pointers[k], pointers[k + 1])
            strength = float(data[own].max(initial=0.0))
            if strength > 0:
                end = int(ends[rows[own][data[own] == strength]].min())
                _keep(self._firing[k], _Document(number, strength, name, end))
            else:
                _keep(self._silent[k], _Document(number, 0.0, name, last))

    def finish(self, texts: Mapping[int, str], sizes: Sizes) -> HeldOut:
        """What is known of every latent."""
        counted = self._words.finish()
        found: HeldOut = {}
        for k, latent in enumerate(self._ids):
            rng = np.random.default_rng([self._seed, zlib.crc32(latent.encode())])
            chosen = _of_all_strengths(_trimmed(self._firing[k]), sizes.firing)
            firing = [around(texts[one.name], one.end, before=BEFORE, after=AFTER) for one in chosen]
            quiet = [texts[one.name][: one.end] for one in _trimmed(self._silent[k])[: sizes.silent]]
            words = {word: round(share, 4) for word, share in counted.words[k].items()}
            found[latent] = _entry(firing, _alike(quiet, firing, rng), words)
        return found


def of_words(texts: Sequence[str], words: Sequence[str], sizes: Sizes, *, seed: int) -> HeldOut:
    """The same of words, as if something fired on each of them alone."""
    found: HeldOut = {}
    places = [{m.group().lower(): m.end() for m in reversed(list(WORD.finditer(text)))} for text in texts]
    for word in words:
        rng = np.random.default_rng([seed, zlib.crc32(word.encode())])
        order: list[int] = rng.permutation(len(texts)).tolist()
        holding = [k for k in order if word in places[k]][: sizes.firing]
        quiet = [texts[k] for k in order if word not in places[k]][: sizes.silent]
        firing = [around(texts[k], places[k][word], before=BEFORE, after=AFTER) for k in holding]
        found[word] = _entry(firing, _alike(quiet, firing, rng), {word: 1.0})
    return found


def _keep(some: list[_Document], one: _Document) -> None:
    some.append(one)
    if len(some) > 2 * KEPT:
        some[:] = _trimmed(some)


def _trimmed(some: Sequence[_Document]) -> list[_Document]:
    return sorted(some)[:KEPT]


def _of_all_strengths(some: Sequence[_Document], many: int) -> list[_Document]:
    """As many as are asked for, evenly from the strongest to the weakest."""
    strongest = sorted(some, key=lambda one: (-one.strength, one.number))
    count = min(many, len(strongest))
    return [strongest[k] for k in np.linspace(0, len(strongest) - 1, count).round().astype(int)] if count else []


def _alike(texts: Sequence[str], windows: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A window of each text, as long as those given."""
    lengths = [len(window) for window in windows] or [BEFORE + AFTER]
    return [somewhere(text, lengths[k % len(lengths)], rng) for k, text in enumerate(texts)]


def _entry(firing: Sequence[str], silent: Sequence[str], words: Mapping[str, float]) -> Known:
    kept, quiet = ([w for w in dict.fromkeys(some) if WORD.search(w)] for some in (firing, silent))
    return {"firing": kept, "silent": quiet, "words": {word: share for word, share in words.items() if share > 0}}
