"""Which features' directions lie near one another, without multiplying all of them on every page.

In: the source's rows that a run keeps with its vectors. Out: a sketch of them in the index (128 numbers a row, by a
projection drawn with seed 0), and from it the nearest features with their true cosines. Refuses nothing: a run without
these rows, or with others than its features, has no such neighbours, and the index says so.

Johnson and Lindenstrauss: cosines survive a random projection up to about 1 / sqrt(128). The sketch only chooses whom
to compare; the cosines shown are of the rows themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.records import SOURCE_ROWS
from dragoman.store import RunFolder
from dragoman.store.arrays import ArraysFile
from dragoman.store.spans import StoredArray

_WIDTH = 128
_BLOCK = 2048  # rows held at a time
_COMPARED = 256  # rows that the sketch finds nearest, whose true cosines are computed
_NAMES = ("sketch", "sketch_of")


def _rows_of(run: RunFolder, count: int) -> StoredArray | None:
    """The source's rows, None where the run keeps none; refuses those of another run or number."""
    path = run.path / "vectors.safetensors"
    if not path.exists():
        return None
    file = ArraysFile(path)
    if SOURCE_ROWS not in file.names:
        return None
    shape = file.shapes[SOURCE_ROWS]
    if file.meta.get("plan_digest") != run.plan or len(shape) != 2 or shape[0] != count:
        raise Refusal(f"{path}", "its rows are not those of the run's features", "make the run again")
    return file.array(SOURCE_ROWS)


def write_sketch(
    run: RunFolder,
    features: Sequence[str],
    numbers: Mapping[str, int],
    database: sqlite3.Connection,
    missing: list[str],
) -> None:
    """Keep a sketch of the run's source rows in its index; ``numbers``: the features' in the index."""
    try:
        rows = _rows_of(run, len(features))
        if rows is None:
            return
        width = rows.shape[1]
        drawn = np.random.default_rng(0).standard_normal((width, min(_WIDTH, width))).astype(np.float32)
        project = np.eye(width, dtype=np.float32) if width <= _WIDTH else drawn
        sketch = np.empty((len(features), project.shape[1]), np.float32)
        for first in range(0, len(features), _BLOCK):
            block = rows.rows(np.arange(first, min(first + _BLOCK, len(features))))
            sketch[first : first + len(block)] = _unit(_unit(block) @ project)
    except Refusal as refusal:
        missing.append(f"vectors.safetensors is left out: {refusal.why}")
        return
    of = np.array([numbers.get(feature, -1) for feature in features], np.int32)
    for name, array in zip(_NAMES, (sketch, of), strict=True):
        database.execute("INSERT INTO meta VALUES (?, ?)", (name, array.tobytes()))


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


class Directions:
    """The sketch of a run's rows, in memory."""

    def __init__(self, run: RunFolder, database: sqlite3.Connection) -> None:
        """Read it from the run's index."""
        kept = dict(database.execute("SELECT key, value FROM meta WHERE key IN (?, ?)", _NAMES))
        self._of = np.frombuffer(kept.get("sketch_of", b""), np.int32)
        self._sketch = np.frombuffer(kept.get("sketch", b""), np.float32).reshape(len(self._of), -1 if kept else 1)
        self._row = {int(n): k for k, n in enumerate(self._of) if n >= 0}
        self._rows = _rows_of(run, len(self._of)) if len(self._of) else None

    def nearest(self, feature: int, most: int) -> list[tuple[int, float]]:
        """The features whose rows have the largest cosines with this one's, and these; none where nothing is known."""
        at = self._row.get(feature)
        if at is None or self._rows is None:
            return []
        likeness = self._sketch @ self._sketch[at]
        likeness[at] = -np.inf
        count = min(_COMPARED, len(likeness) - 1)
        if count < 1:
            return []
        near = np.argpartition(likeness, -count)[-count:]
        near = near[self._of[near] >= 0]
        rows = _unit(self._rows.rows(np.concatenate([[at], near])))
        cosines = rows[1:] @ rows[0]
        best = np.argsort(-cosines, kind="stable")[:most]
        return [(int(self._of[near[k]]), float(cosines[k])) for k in best]
