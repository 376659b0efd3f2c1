"""Where a run's texts lie by their meaning: made once, in the background, when somebody first asks.

In: an index, a maker of an embedder. Out: cosines of all features' first texts with a sentence or with another
feature's. Refuses nothing: while it is not there, or cannot be, ``state`` says so, and words are found all the same.

Beside the index lie one row of float32 for each feature and a note of how many are done, so that what was made before
an interruption is kept.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.embed import Embedder
from dragoman.store import read_json, write_json
from dragoman.view.find import PAGE, Found, Selection, condition_of, lines_of
from dragoman.view.index import HEAD, Index

MOST = 1000  # features that a search by meaning lists
_BATCH = 128  # texts embedded at a time
_log = logging.getLogger(__name__)
State = Literal["not asked for", "being made", "there", "not to be had"]


class Meaning:
    """The embeddings of one run. ``opened``: makes the embedder, which takes seconds and may be refused."""

    def __init__(self, index: Index, opened: Callable[[], Embedder]) -> None:
        """Nothing is read yet."""
        self._index, self._opened = index, opened
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._rows: NDArray[np.float32] | None = None
        self._embedder: Embedder | None = None
        self.state: State = "not asked for"
        self.why = ""
        self.done, self.total = 0, int(index.about["numbers"])

    @property
    def told(self) -> str:
        """How it stands, in a sentence; "" when it is there."""
        if self.state == "being made":
            far = f" ({self.done} of {self.total} read)" if self.done else ""
            return f"texts are being read for their meaning{far}; until then, words are found"
        if self.state == "not to be had":
            return f"no search by meaning: {self.why}"
        return ""

    def ask(self) -> bool:
        """Whether it is there; if not, it is being made from now on."""
        with self._lock:
            if self.state == "not asked for":
                self.state = "being made"
                self._worker = threading.Thread(target=self._work, name="meaning", daemon=True)
                self._worker.start()
        return self.state == "there"

    def wait(self, seconds: float) -> bool:
        """Ask, and wait for it for a while."""
        self.ask()
        if self._worker is not None:
            self._worker.join(seconds)
        return self.state == "there"

    def made(self, bar: Callable[[str, int, int], None]) -> bool:
        """Wait for it however long it takes; ``bar`` is told how far it is."""
        while not self.wait(0.5) and self.state == "being made":
            bar("reading texts for their meaning", self.done, self.total)
        return self.state == "there"

    def close(self) -> None:
        """Stop what is being made, and wait for the batch at hand; what was made is kept."""
        self._stop.set()
        if self._worker is not None:
            self._worker.join()

    def near_text(self, text: str) -> NDArray[np.float32] | None:
        """Cosines of every feature's text with a sentence; None while they are not to be had, or it says nothing."""
        if not self.ask() or self._embedder is None or self._rows is None or not text.strip():
            return None
        with self._lock:
            found = self._embedder.encode([text])[0]
        return self._rows @ found

    def near_feature(self, n: int) -> NDArray[np.float32] | None:
        """Cosines of every feature's text with one feature's; nothing is begun for this."""
        if self.state != "there" or self._rows is None or not self._rows[n].any():
            return None
        return self._rows @ self._rows[n]

    def row(self, n: int) -> NDArray[np.float32] | None:
        """One feature's, where it is there."""
        return self._rows[n] if self.state == "there" and self._rows is not None and self._rows[n].any() else None

    def near(self, row: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Cosines with a row of another run by the same embedder."""
        if self.state != "there" or self._rows is None or self._rows.shape[1] != len(row):
            return None
        return self._rows @ row

    def _work(self) -> None:
        try:
            self._make()
        except Refusal as refusal:
            self.state, self.why = "not to be had", f"{refusal.why}; {refusal.instead}"
        except Exception as error:  # a thread has nobody to tell: the page does, and words are found all the same
            _log.warning("search by meaning failed", exc_info=error)
            self.state, self.why = "not to be had", f"the embedder failed ({type(error).__name__})"

    def _make(self) -> None:
        self._embedder = embedder = self._opened()
        width = embedder.encode(["width"]).shape[1]
        path, note = self._paths()
        told = {"state": self._index.state, "embedder": embedder.name, "width": width}
        kept = self._kept(note)
        same = path.exists() and {name: kept.get(name) for name in told} == told
        same = same and path.stat().st_size == 4 * self.total * width
        self.done = int(str(kept.get("done", 0))) if same else 0
        rows = np.memmap(path, np.float32, "r+" if same else "w+", shape=(self.total, width))
        with self._index.reading() as database:
            while self.done < self.total and not self._stop.is_set():
                numbers, texts = self._texts(database, self.done)
                if texts:
                    rows[numbers] = embedder.encode(texts)
                self.done = min(self.done + _BATCH, self.total)
                if not self.done % (8 * _BATCH) or self.done == self.total:
                    rows.flush()
                    write_json(note, {**told, "done": self.done})
        if self.done == self.total:
            self._rows = np.memmap(path, np.float32, "r", shape=(self.total, width))
            self.state = "there"

    def _paths(self) -> tuple[Path, Path]:
        return self._index.path.with_name("meaning.f32"), self._index.path.with_name("meaning.json")

    @staticmethod
    def _kept(note: Path) -> dict[str, object]:
        with suppress(Refusal):
            kept = read_json(note) if note.exists() else {}
            return kept if isinstance(kept, dict) else {}
        return {}

    def _texts(self, database: sqlite3.Connection, first: int) -> tuple[list[int], list[str]]:
        """Numbers and lines of the next features that say something."""
        sql = "SELECT feature, gist FROM texts WHERE condition = ? AND feature >= ? AND feature < ?"
        told = database.execute(sql, (HEAD, first, first + _BATCH)).fetchall()
        said = [(n, text) for n, text in told if text.strip()]
        return [n for n, _ in said], [text for _, text in said]


def best(cosines: NDArray[np.float32], among: Sequence[int] | NDArray[np.int64], most: int) -> list[tuple[int, float]]:
    """The features with the largest cosines of those ``among`` which is chosen, largest first; of equal ones the first.

    All are looked at once, and only as many as are wanted, and what equals the last of these, are put in order.
    """
    chosen = np.asarray(among, np.int64)
    if not len(chosen):
        return []
    values = cosines[chosen]
    if most < len(values):
        kept = np.flatnonzero(values >= np.partition(values, -most)[-most])
        chosen, values = chosen[kept], values[kept]
    order = np.argsort(-values, kind="stable")[:most]
    return [(int(chosen[k]), float(values[k])) for k in order]


def by_meaning(
    database: sqlite3.Connection,
    selection: Selection,
    index: Index,
    cosines: NDArray[np.float32],
    among: NDArray[np.int64],
) -> Found:
    """A page of what lies nearest to a sentence, of the features that the filters leave."""
    near = best(cosines, among, MOST)
    first = PAGE * (selection.page - 1)
    some = near[first : first + PAGE]
    lines = lines_of(database, [n for n, _ in some], condition_of(selection, index), [one for _, one in some])
    note = f"the {MOST} nearest of {len(among)}" if len(among) > MOST else ""
    return Found(lines=lines, count=len(near), note=note)
