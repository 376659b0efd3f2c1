"""Windows of documents that no evidence is made of: where each latent fires, where it is silent, where its sibling is.

In: batches of sparse activations with the document and character end of each row; the texts. Out: windows that end at
the token, by latent: ``firing`` from all strengths alike, ``silent`` in the same documents, ``hard`` where the latent
with the nearest row fires and it does not. A latent with too few firing or silent ones has none. Refuses nothing.

What is held is bounded: of each latent some dozens of documents, those of smallest pseudo-random number, whatever
order documents came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.calibration.sizes import BEFORE, Sizes
from dragoman.maps.windows import ending_at
from dragoman.maps.words import word_span

KEPT = 48  # documents of a latent
FEWEST = 3
OutcomeWindows = dict[str, dict[str, list[str]]]  # latent -> kind -> windows
_MIX = 0x9E3779B97F4A7C15


class _Kept(NamedTuple):
    priority: int
    strength: float
    document: int
    stop: int
    silent: int  # where the last word of a silent window ends; -1 where there is none


class OutcomeTally:
    """Where latents fire, as it is read."""

    def __init__(self, ids: Sequence[str], siblings: Mapping[str, str], *, seed: int = 0) -> None:
        """Nothing read yet.

        Args:
            ids: of the columns of activations.
            siblings: latent -> the one whose firings are its hard negatives; only these latents are kept.
            seed: of every draw.
        """
        at = {name: k for k, name in enumerate(ids)}
        self._own = [(name, at[name], at[sibling]) for name, sibling in siblings.items()]
        self._seed = seed
        self._fires: dict[str, list[_Kept]] = {name: [] for name in siblings}
        self._hard: dict[str, list[_Kept]] = {name: [] for name in siblings}

    def add(self, fired: Any, documents: NDArray[Any], ends: NDArray[Any], texts: Mapping[int, str]) -> None:
        """Take activations (n, M) >= 0 of whole documents; ``texts``: by the documents' names."""
        fired = csr_array(fired)
        for name in np.unique(documents).tolist():
            rows = np.flatnonzero(documents == name)
            self._document(fired[rows].tocsc(), int(name), ends[rows], texts[int(name)])

    def _document(self, fired: Any, name: int, ends: NDArray[Any], text: str) -> None:
        stops = np.array([word_span(text, int(end))[1] for end in ends])
        spoken = np.array([text[stop - 1].isalnum() for stop in stops])
        priority = (((name & (2**63 - 1)) ^ (self._seed + 1)) * _MIX % 2**64) >> 1
        pointers, rows, data = fired.indptr, fired.indices, fired.data
        for own, column, sibling in self._own:
            mine = slice(pointers[column], pointers[column + 1])
            if pointers[column + 1] > pointers[column]:
                best = int(rows[mine][np.argmax(data[mine])])
                taken = set(stops[rows[mine]].tolist())
                quiet = sorted({int(s) for s, ok in zip(stops, spoken, strict=True) if ok} - taken)
                silent = quiet[(priority >> 7) % len(quiet)] if quiet else -1
                _keep(self._fires[own], _Kept(priority, float(data[mine].max()), name, int(stops[best]), silent))
            elif pointers[sibling + 1] > pointers[sibling]:
                theirs = slice(pointers[sibling], pointers[sibling + 1])
                best = int(rows[theirs][np.argmax(data[theirs])])
                _keep(self._hard[own], _Kept(priority, float(data[theirs].max()), name, int(stops[best]), -1))

    def finish(self, texts: Mapping[int, str], sizes: Sizes) -> OutcomeWindows:
        """Windows of every latent that has enough."""
        found: OutcomeWindows = {}
        for name, fires in self._fires.items():
            kept = _trimmed(fires)
            strongest = sorted(kept, key=lambda one: (-one.strength, one.priority))
            count = min(sizes.firing, len(strongest))
            picked = (
                [strongest[k] for k in np.linspace(0, len(strongest) - 1, count).round().astype(int)] if count else []
            )
            firing = _windows(texts, [(one.document, one.stop) for one in picked])
            chosen = {one.document for one in picked}
            order = [*picked, *(one for one in kept if one.document not in chosen)]
            silent = _windows(texts, [(one.document, one.silent) for one in order if one.silent > 0], set(firing))
            hard = _windows(texts, [(one.document, one.stop) for one in _trimmed(self._hard[name])], set(firing))
            if min(len(firing), len(silent)) >= FEWEST:
                found[name] = {"firing": firing, "silent": silent[: sizes.silent], "hard": hard[: sizes.hard]}
        return found


def _keep(some: list[_Kept], one: _Kept) -> None:
    some.append(one)
    if len(some) > 2 * KEPT:
        some[:] = _trimmed(some)


def _trimmed(some: list[_Kept]) -> list[_Kept]:
    return sorted(some)[:KEPT]


def _windows(texts: Mapping[int, str], ends: Sequence[tuple[int, int]], without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    made = (ending_at(texts[document], stop, before=BEFORE) for document, stop in ends)
    return list(dict.fromkeys(window for window in made if window.strip() and window not in without))


def of_words(texts: Sequence[str], words: Sequence[str], sizes: Sizes, *, seed: int) -> OutcomeWindows:
    """The same of words: windows that end at each word, and at other words of the same documents."""
    found: OutcomeWindows = {}
    for word in words:
        rng = np.random.default_rng([seed, len(word), *map(ord, word[:8])])
        firing: list[str] = []
        silent: list[str] = []
        for k in rng.permutation(len(texts)).tolist():
            text = texts[k]
            places = _places(text)
            own = [stop for spoken, stop in places if spoken == word]
            others = [stop for spoken, stop in places if spoken != word]
            if own and others:
                firing.append(ending_at(text, own[0], before=BEFORE))
                silent.append(ending_at(text, others[int(rng.integers(len(others)))], before=BEFORE))
            if len(firing) >= max(sizes.firing, sizes.silent):
                break
        firing, silent = list(dict.fromkeys(firing)), list(dict.fromkeys(silent))
        if min(len(firing), len(silent)) >= FEWEST:
            found[word] = {"firing": firing[: sizes.firing], "silent": silent[: sizes.silent], "hard": []}
    return found


def _places(text: str) -> list[tuple[str, int]]:
    from dragoman.maps.words import WORD

    return [(m.group().lower(), m.end()) for m in WORD.finditer(text) if m.start() >= BEFORE]
