"""A run's index: which features there are, what is said of each in a line, where its rows stand, its words.

In: a run folder. Out: ``Index``, a SQLite file that is read only and its words by FTS5; it lies in the run's folder, or
in the cache where that takes no files. An index is of one state of the run's files (their sizes and times) and is made
again when any has changed. Refuses nothing of its own.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from dragoman.store import RunFolder, cache_root, digest, refusing
from dragoman.store.labels import LABELS
from dragoman.store.runs import TOKENS

FORMAT = 5
NAME = "index.sqlite"
HEAD = -1  # in place of a condition's number: the text that speaks for a feature
READ = (
    "manifest.json",
    "rows.jsonl",
    "scores.json",
    "contexts.json",
    "lens.json",
    "vectors.safetensors",
    TOKENS,
    LABELS,
)

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE features (n INTEGER PRIMARY KEY, id TEXT, name TEXT, label TEXT, category TEXT);
CREATE TABLE rows (
  n INTEGER PRIMARY KEY, feature INTEGER, condition INTEGER, sample INTEGER, start INTEGER, size INTEGER
);
CREATE TABLE tokens (feature INTEGER PRIMARY KEY, start INTEGER, size INTEGER);
CREATE TABLE parts (feature INTEGER, part TEXT, condition TEXT, told TEXT);
CREATE TABLE texts (
  condition INTEGER, feature INTEGER, spoken INTEGER, control INTEGER, flagged INTEGER, routes INTEGER,
  verbalizers INTEGER, status TEXT, category TEXT, answered INTEGER, confidence REAL, lift REAL, coverage REAL,
  agreement REAL, n_eff REAL, likely REAL, gist TEXT, PRIMARY KEY (condition, feature)
) WITHOUT ROWID;
"""


def words_table(conditions: int) -> str:
    """The table of words: names and labels, then a column for the texts of each condition. It holds no text itself."""
    columns = ", ".join(["names", *(f"c{k}" for k in range(conditions))])
    return f"CREATE VIRTUAL TABLE words USING fts5({columns}, content='', tokenize=\"unicode61 remove_diacritics 2\");"


def state_of(run: RunFolder) -> str:
    """A digest of what the run's files are now: their sizes and times, and the plan they belong to."""
    parts = [f"{FORMAT} {run.plan}"]
    for name in READ:
        path = run.path / name
        with refusing("reading", path):
            found = path.stat() if path.exists() else None
        parts.append(f"{name} {found.st_size} {found.st_mtime_ns}" if found else name)
    return digest(*parts)


def folder_for(run: RunFolder) -> Path:
    """Where files beside the run go: its own folder, or one of the cache where that takes none."""
    if os.access(run.path, os.W_OK):
        return run.path
    with refusing("reading", run.path):
        real = os.fsencode(run.path.resolve())
    return cache_root() / "view" / digest(real)[:32]


def connect(path: Path) -> sqlite3.Connection:
    """An index, opened to be read, by whichever thread."""
    found = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    # The file came with a run that somebody else may have made.
    found.execute("PRAGMA trusted_schema=OFF")
    found.execute("PRAGMA cell_size_check=ON")
    found.execute("PRAGMA mmap_size=1073741824")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that is made: ``path`` of its file, ``state`` of the run it is of, ``about``: what it tells of the run.

    ``about`` holds ``conditions``, ``routes`` and ``verbalizers`` (names by their numbers), ``features`` and
    ``controls`` (counts), ``numbers`` (all of features are below it), ``tallies`` (counts of statuses, problems,
    categories, answers, reasons, claims), ``missing`` (sentences on what could not be read), ``unfinished`` (what
    the run lacks, "" for nothing) and ``scores`` (without what is said of single features).
    """

    path: Path
    state: str
    about: Mapping[str, Any]
    idle: SimpleQueue[sqlite3.Connection] = field(default_factory=SimpleQueue, repr=False)

    @classmethod
    def there(cls, path: Path, state: str) -> Index | None:
        """The index at a path, if it is one of this state of the run."""
        if not path.is_file():
            return None
        try:
            with closing(connect(path)) as database:
                kept = dict(database.execute("SELECT key, value FROM meta WHERE key IN ('state', 'about')"))
        except sqlite3.Error:
            return None
        if kept.get("state") != state or not isinstance(kept.get("about"), str):
            return None
        return cls(path=path, state=state, about=json.loads(kept["about"]))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for a while; those that are given back are used again."""
        try:
            database = self.idle.get_nowait()
        except Empty:
            database = connect(self.path)
        try:
            yield database
        except BaseException:
            database.close()
            raise
        self.idle.put(database)

    def close(self) -> None:
        """Close the connections that were given back."""
        with suppress(Empty):
            while True:
                self.idle.get_nowait().close()

    @property
    def conditions(self) -> list[str]:
        """Their names by their numbers."""
        return list(self.about["conditions"])
