"""What one reading of two models' streams leaves behind: sums over aligned tokens, and where each feature fires most.

In: the sums that ``models.aligned`` makes; batches of sparse activations with the document and character end of each
row, all rows of a document in one call; the texts, for windows. Out: ``Aligned``, from which crossings are made without
reading again; ``Firings``, and lists of windows; a folder on disk. Refuses a folder that is there already, files that
hold another thing, features that were not watched, and texts among which a document is missing.

Neither batches nor the order of the documents has a part in which firings are kept: the strongest are kept whatever
came first, equals go by the document's name, and the silent ones by a pseudo-random number of the seed and the name.
Every feature draws from the same numbers, so that features share most of their silent documents. Silent means: at none
of the tokens that were kept. What stands in the first few tokens of a text, and in those left out where a text has
many, nobody looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Floats, Refusal, Site, frozen
from dragoman.maps.direct import DirectTable, FiringSums
from dragoman.maps.firing_tokens import FiringTokens
from dragoman.maps.moments import FoldedMoments, scrambled
from dragoman.maps.windows import AFTER, BEFORE, MANY, around, somewhere
from dragoman.maps.words import FiringWords
from dragoman.store import Contents, document_name, write_arrays, write_json
from dragoman.store.outputs import new_folder

K = 12  # documents kept in which a feature fires
S = 24  # and in which it does not
_NONE = np.iinfo(np.uint64).max
_ARRAYS = {"documents": np.int64, "ends": np.int64, "strength": np.float32, "silent": np.int64, "reach": np.int64}
_FILE = Contents(
    called="firings",
    holds="firings",
    arrays={"documents": "mk", "ends": "mk", "strength": "mk", "silent": "ms", "reach": "ms"},
    words={"ids": list},
)
Names = NDArray[np.int64]
_INDEX = "aligned.json"
_PARTS = ("sums", "fired", "firings", "words", "tokens", "table")
_FOLDER = Contents(
    called="aligned pairs",
    holds="aligned pairs",
    origin="dragoman harvest",
    words={"source": str, "target": str, "n": int, "texts": str, "calibration": int, "parts": list, "report": dict},
)
_BACKGROUNDS = Contents(
    called="backgrounds", holds=None, origin="dragoman harvest", arrays={"source": "p", "target": "q"}
)
_HELD_OUT = Contents(
    called="held-out pairs",
    holds=None,
    origin="dragoman harvest",
    arrays={"x": "np", "y": "nq", "documents": "n"},
    words={"fold": int},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Firings:
    """Where M features fire and where they do not, among the tokens that were kept while reading.

    ``ids``: M feature ids. ``documents`` (M, K) int64: names of the documents in which each fires most, strongest
    first, -1 where there are fewer; ``ends`` (M, K) int64: the character at which the token ends that it fires on most
    there; ``strength`` (M, K) float32: how much. ``silent`` (M, S) int64: names of documents drawn from those in which
    it fires at no token that was kept, -1 where there are fewer; ``reach`` (M, S) int64: the last character read there
    (long documents are cut, and of many tokens a sample is kept).
    """

    ids: tuple[str, ...]
    documents: Names
    ends: Names
    strength: Floats
    silent: Names
    reach: Names

    def at(self, feature: str | int) -> int:
        """A feature's row.

        Raises:
            Refusal: it was not watched.
        """
        if str(feature) not in self.ids:
            raise Refusal(f"feature {feature}", f"it was not among the {len(self.ids)} watched", "harvest with it")
        return self.ids.index(str(feature))

    def save(self, path: Path) -> None:
        """Write to one file."""
        write_arrays(path, {name: getattr(self, name) for name in _ARRAYS}, {"holds": "firings", "ids": list(self.ids)})

    @classmethod
    def load(cls, path: Path) -> Firings:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        ids, rows = tuple(words["ids"]), len(arrays["documents"])
        if len(ids) != rows:
            raise Refusal(f"{path}", f"it holds {len(ids)} ids and firings of {rows} features", "make it again")
        return cls(ids=ids, **{name: frozen(arrays[name], kind) for name, kind in _ARRAYS.items()})


class FiringsTally:
    """What is kept so far; about 0.8 KB a feature, and as much again for a batch of 32 documents."""

    def __init__(self, ids: Sequence[str], *, seed: int = 0) -> None:
        """Nothing seen yet of features ``ids``; ``seed`` decides the draw of silent documents."""
        m = len(ids)
        self._ids, self._seed = tuple(ids), seed
        self._strength = np.zeros((m, K), np.float32)
        self._documents, self._ends = np.full((m, K), -1), np.full((m, K), -1)
        self._priority = np.full((m, S), _NONE)
        self._silent, self._reach = np.full((m, S), -1), np.full((m, S), -1)

    def add(self, f: Any, documents: Names, ends: Names) -> None:
        """Take activations f (n, M) >= 0, scipy sparse, with rows' documents (n,) and character ends (n,)."""
        names, where = np.unique(documents, return_inverse=True)
        strength, end = _strongest(f, where, ends, len(names))
        self._keep_strongest(strength, end, names)
        reach = np.zeros(len(names), np.int64)
        np.maximum.at(reach, where, ends)
        self._keep_silent(strength == 0, names, reach)

    def _keep_strongest(self, strength: Floats, end: Names, names: Names) -> None:
        """Of what is kept and a batch's (D, M), the strongest; only features that gain are sorted again."""
        # As strong as the weakest kept may still come in by its name.
        gains = (strength > 0) & (strength >= self._strength[:, -1])
        rows = np.flatnonzero(gains.any(axis=0))
        if not len(rows):
            return
        gains = gains[:, rows].T
        whose = np.where(gains, names, -1)
        strong = np.hstack([self._strength[rows], np.where(gains, strength[:, rows].T, 0)])
        whose = np.hstack([self._documents[rows], whose])
        where = np.hstack([self._ends[rows], np.where(gains, end[:, rows].T, -1)])
        order = np.lexsort((whose, -strong), axis=-1)[:, :K]
        for kept, found in ((self._strength, strong), (self._documents, whose), (self._ends, where)):
            kept[rows] = np.take_along_axis(found, order, axis=1)

    def _keep_silent(self, silent: NDArray[np.bool_], names: Names, reach: Names) -> None:
        """Of what is kept and a batch's silent documents (D, M), those of least priority number."""
        number = priority(names, self._seed)
        gains = silent & (number[:, None] < self._priority.max(axis=1))
        few = np.flatnonzero(gains.any(axis=1))
        rows = np.flatnonzero(gains.any(axis=0))
        if not len(rows):
            return
        gains = gains[np.ix_(few, rows)].T
        numbers = np.hstack([self._priority[rows], np.where(gains, number[few], _NONE)])
        order = np.argpartition(numbers, S - 1, axis=1)[:, :S]
        self._priority[rows] = np.take_along_axis(numbers, order, axis=1)
        for kept, found in ((self._silent, names[few]), (self._reach, reach[few])):
            both = np.hstack([kept[rows], np.where(gains, found, -1)])
            kept[rows] = np.take_along_axis(both, order, axis=1)

    def strongest_of(self, names: Sequence[int], most: int) -> dict[int, list[tuple[int, int]]]:
        """Of these documents those among the ``most`` strongest of a feature: (feature's row, end of its token)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for row, k in zip(*np.nonzero(np.isin(self._documents[:, :most], names)), strict=True):
            found.setdefault(int(self._documents[row, k]), []).append((int(row), int(self._ends[row, k])))
        return found

    def finish(self) -> Firings:
        """What was kept, in order."""
        order = np.argsort(self._priority, axis=1)
        silent, reach = (np.take_along_axis(a, order, axis=1) for a in (self._silent, self._reach))
        kept = (self._documents, self._ends, self._strength, silent, reach)
        made = {name: frozen(a, kind) for (name, kind), a in zip(_ARRAYS.items(), kept, strict=True)}
        return Firings(ids=self._ids, **made)


def priority(names: Names, seed: int) -> NDArray[np.uint64]:
    """A pseudo-random number (n,) of each name and the seed; other names have other numbers."""
    start = np.random.default_rng(seed).integers(1 << 63, dtype=np.uint64)
    return scrambled(names.astype(np.uint64) + start)


def _strongest(f: Any, where: Names, ends: Names, documents: int) -> tuple[Floats, Names]:
    """Largest activation (D, M) of each feature in each document, and the end of its token: of equals the first."""
    found, m = f.tocoo(), f.shape[1]
    fires = found.data > 0
    row, data = found.coords[0][fires], found.data[fires].astype(np.float32)
    cell = where[row] * m + found.coords[1][fires]
    strength = np.zeros(documents * m, np.float32)
    np.maximum.at(strength, cell, data)
    end = np.full(documents * m, np.iinfo(np.int64).max)
    top = data == strength[cell]
    np.minimum.at(end, cell[top], ends[row[top]])
    return strength.reshape(documents, m), end.reshape(documents, m)


def by_name(texts: Sequence[str]) -> dict[int, str]:
    """Texts by the names that firings know them by; made once, it serves many features."""
    return {document_name(text): text for text in texts}


def contexts(
    firings: Firings,
    texts: Sequence[str] | Mapping[int, str],
    feature: str | int,
    *,
    rng: np.random.Generator,
    before: int = BEFORE,
    after: int = AFTER,
    many: int = MANY,
) -> tuple[list[str], list[str]]:
    """What a feature fires on most, strongest first, and as many windows of documents in which it is silent.

    Args:
        firings: what was kept while reading.
        texts: those that were read, or ``by_name`` of them.
        feature: a watched one.
        rng: chooses the silent documents and the places in them.
        before: characters before the end of the token that it fires on most, which the window is cut around.
        after: characters after it.
        many: windows of either kind at most.

    Returns:
        (firing, silent): windows from word to word, so a little shorter than asked for, and never without the word
        that holds the token. The silent ones are as long as the firing ones, as far as their documents are (before +
        after where it never fires, and there are no others).

    Raises:
        Refusal: an unknown feature, or texts without one of its documents.
    """
    known = texts if isinstance(texts, Mapping) else by_name(texts)
    row = firings.at(feature)
    fires = [(int(n), int(e)) for n, e in zip(firings.documents[row], firings.ends[row], strict=True) if n >= 0]
    quiet = [(int(n), int(r)) for n, r in zip(firings.silent[row], firings.reach[row], strict=True) if n >= 0]
    missing = next((name for name, _ in [*fires, *quiet] if name not in known), None)
    if missing is not None:
        raise Refusal(
            f"document {missing:016x} of feature {feature}",
            f"it is not among these {len(known)} texts",
            "pass the texts that both models read",
        )
    windows = [around(known[name], end, before=before, after=after) for name, end in fires[:many]]
    lengths = [len(window) for window in windows] or [before + after] * many
    read = [known[name][:reach] for name, reach in quiet]
    return windows, [somewhere(_taken(read, n, rng), n, rng) for n in lengths[: len(quiet)]]


def _taken(read: list[str], length: int, rng: np.random.Generator) -> str:
    """One of the texts, at random among those long enough, else the longest; it is taken out."""
    enough = [k for k, text in enumerate(read) if len(text) >= length]
    chosen = int(rng.choice(enough)) if enough else max(range(len(read)), key=lambda k: len(read[k]))
    return read.pop(chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutPairs:
    """A few pairs of one ``fold`` kept whole, to judge a map fitted on the other folds: sums cannot tell its top-1.

    ``x``: (n, p) and ``y``: (n, q) float32; ``documents``: (n,) whose they are.
    """

    fold: int
    x: Floats
    y: Floats
    documents: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """Sums over pairs of tokens of two models that end at the same character.

    ``folded``: for maps. ``sums``: where each watched feature fires, at the target, with which features fire together
    unless too many were watched; ``fired``: at the source, for purity; ``calibration``: at the target by fold, for a
    few frequent features; ``firings``: documents and tokens in which each fires most; ``words``: on which words;
    ``tokens``: how much at every token around the strongest. These six are None where there was no SAE. ``table``: the
    direct route's rows of all features, None where none were asked for besides the watched ones. The backgrounds: mean
    unit activation over the pairs, at either site. ``held_out``: whole pairs to judge a map by. ``report``: what was
    read and left out, with reasons.
    """

    source: Site
    target: Site
    folded: FoldedMoments
    sums: FiringSums | None
    fired: FiringSums | None
    calibration: tuple[FiringSums, ...] | None
    background: Background
    source_background: Background
    held_out: HeldOutPairs
    report: Mapping[str, Any]
    firings: Firings | None = None
    words: FiringWords | None = None
    tokens: FiringTokens | None = None
    table: DirectTable | None = None

    @property
    def direct(self) -> DirectTable | None:
        """The direct route's rows: of all features where they were summed, else of the watched ones."""
        return self.table if self.table is not None else self.sums.table() if self.sums is not None else None

    def save(self, folder: Path) -> None:
        """Write a new folder: whole, or (interrupted, refused) not there.

        Raises:
            Refusal: it is there already, or the disk refuses.
        """
        with new_folder(folder) as made:
            self.folded.save(made / "folds")
            for name in _PARTS:
                if (part := getattr(self, name)) is not None:
                    part.save(made / f"{name}.safetensors")
            calibration = self.calibration or ()
            for k, fold in enumerate(calibration):
                fold.save(made / f"calibration-{k}.safetensors")
            means = {"source": self.source_background.mean, "target": self.background.mean}
            write_arrays(made / "backgrounds.safetensors", means)
            rows = {"x": self.held_out.x, "y": self.held_out.y, "documents": self.held_out.documents}
            write_arrays(made / "held_out.safetensors", rows, {"fold": self.held_out.fold})
            words = {"holds": "aligned pairs", "source": str(self.source), "target": str(self.target)}
            counts = {"n": self.background.n, "texts": self.background.texts, "calibration": len(calibration)}
            there = {"parts": [name for name in _PARTS if getattr(self, name) is not None]}
            write_json(made / _INDEX, words | counts | there | {"report": dict(self.report)})

    @classmethod
    def load(cls, folder: Path) -> Aligned:
        """Read what ``save`` wrote."""
        index = _FOLDER.read_index(folder / _INDEX)
        source, target = Site.parse(index["source"]), Site.parse(index["target"])
        sums, fired = (
            FiringSums.load(folder / f"{name}.safetensors") if name in index["parts"] else None
            for name in ("sums", "fired")
        )
        calibration = [FiringSums.load(folder / f"calibration-{k}.safetensors") for k in range(index["calibration"])]
        means, _ = _BACKGROUNDS.read(folder / "backgrounds.safetensors")
        rows, told = _HELD_OUT.read(folder / "held_out.safetensors")
        return cls(
            source=source,
            target=target,
            folded=FoldedMoments.load(folder / "folds"),
            sums=sums,
            fired=fired,
            calibration=tuple(calibration) or None,
            background=Background(target, frozen(means["target"]), index["n"], index["texts"]),
            source_background=Background(source, frozen(means["source"]), index["n"], index["texts"]),
            held_out=HeldOutPairs(
                fold=told["fold"],
                x=frozen(rows["x"]),
                y=frozen(rows["y"]),
                documents=frozen(rows["documents"], np.int64),
            ),
            report=index["report"],
            firings=Firings.load(folder / "firings.safetensors") if "firings" in index["parts"] else None,
            words=FiringWords.load(folder / "words.safetensors") if "words" in index["parts"] else None,
            tokens=FiringTokens.load(folder / "tokens.safetensors") if "tokens" in index["parts"] else None,
            table=DirectTable.load(folder / "table.safetensors") if "table" in index["parts"] else None,
        )
