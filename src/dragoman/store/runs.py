"""Run folders: what was asked, every row as it was made, the scores.

In: a manifest, rows, scores. Out: a folder that a killed process leaves whole up to its last finished append. Every row
ends in a digest of its run's plan, its line number and itself; scores, vectors, windows and words name the plan.
Refuses another run's folder, rows, scores, vectors, windows or words, rows that were changed or moved, folders that
hold something else, and a second process writing the same run. The digests tell mistakes; somebody who means to can
make them anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, is_format
from dragoman.store.arrays import read_arrays, write_arrays
from dragoman.store.files import (
    held,
    opened,
    plain,
    read_json,
    refuse_target,
    refusing,
    sync_folder,
    write_bytes,
    write_json,
)
from dragoman.store.forms import is_lens, is_windows, public
from dragoman.store.manifests import check_manifest
from dragoman.store.spans import shown
from dragoman.store.streams import read_members

if TYPE_CHECKING:
    from dragoman.scores import Scores

FORMAT = 2  # 1: rows without digests
PLAN, SCORES, LENS, TOKENS = "plan_digest", "scores.json", "lens.json", "tokens.jsonl"
LABELS = "context_labels.jsonl"  # of a language model, see `labels`
RUNS = "runs.json"  # of a folder of runs, see `runsets`
NULLS = "nulls"  # a folder in a run's: a run of directions that mean nothing, by the same verbalizers
LOG = "log.txt"  # what was said while the run was made; it decides nothing
ROWS_PLAN = "rows_plan"  # of a run that has grown: the plan of its first rows, which the digests of all rows count
# Its own, which nothing else is written over; the page can be made again.
_ARRAYS = "vectors.safetensors"
FILES = ("manifest.json", "rows.jsonl", _ARRAYS, SCORES, "contexts.json", LENS, TOKENS, LABELS, LOG, ".lock")
_CHUNK = 1 << 20
WHOLE = 1 << 26  # bytes of scores, windows or lens words that are read in one go
_ROWS_LIMIT = 1 << 30  # bytes; a row takes two or three thousand
_DIGEST = 12  # bytes
_TAIL = len(b'"digest": ""}') + 2 * _DIGEST
_AFRESH = "start the run afresh in another folder"


class Rows:
    """An append-only file of JSON lines with one writer.

    Opening cuts off a last line that a killed process left unfinished. Hold the run's lock while one is open
    (`RunFolder.writing` does). ``plan``: digest of the plan that makes the rows, which theirs count.
    """

    def __init__(self, path: Path | str, plan: str = "") -> None:
        """Open for appending; make the file if it is missing.

        Raises:
            Refusal: a link, pipe or device stands there, or the disk refuses.
        """
        self.path, self._plan = Path(path), plan
        self._open()

    def _open(self) -> None:
        refuse_target(self.path)
        with refusing("writing", self.path):
            new = not self.path.exists()
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            if new:
                sync_folder(self.path.parent)
            self._size = os.fstat(self._handle).st_size
            whole = _whole_bytes(self._handle, self._size)
            if whole < self._size:
                self._cut(whole)
            self._count = _lines(self._handle, self._size)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows in one go and wait until the disk has them.

        Raises:
            Refusal: on a full disk; the file is then as it was before.
        """
        blob = b"".join(_line(row, self._plan, number) for number, row in enumerate(rows, self._count + 1))
        with refusing("writing", self.path):
            try:
                left = memoryview(blob)
                while left:
                    left = left[os.write(self._handle, left) :]
                os.fsync(self._handle)
            except BaseException:
                with suppress(OSError):
                    self._cut(self._size)
                raise
        self._size += len(blob)
        self._count += len(rows)

    def read(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return list(self.each())

    def each(self) -> Iterator[dict[str, Any]]:
        """The same, one after another."""
        return each_whole_row(self.path, self._plan)

    def keep(self, count: int) -> None:
        """Keep the first ``count`` rows and cut off the others."""
        with refusing("writing", self.path):
            end = 0
            with opened(self.path) as file:
                for _ in range(count):
                    end += len(file.readline())
            if end < self._size:
                self._cut(end)
            self._count = min(self._count, count)

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write these in place of all rows, in one go: killed meanwhile, it holds those or these.

        Raises:
            Refusal: on a full disk; the file is then as it was before.
        """
        blob = b"".join(_line(row, self._plan, number) for number, row in enumerate(rows, 1))
        write_bytes(self.path, blob)
        self.close()
        self._open()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._handle, size)
        self._size = size
        os.fsync(self._handle)


def read_whole_rows(path: Path, plan: str = "") -> list[dict[str, Any]]:
    """All of `each_whole_row`."""
    return list(each_whole_row(path, plan))


def each_whole_row(path: Path, plan: str = "") -> Iterator[dict[str, Any]]:
    """Rows of a file that may be growing or torn: a last line without its newline is not yet a row.

    Raises:
        Refusal: naming the line, one that is no row, or not the row that the run of this plan wrote there.
    """
    with refusing("reading", path):
        if not path.exists():
            return
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _ROWS_LIMIT:
            raise Refusal(f"{path}", f"it takes {size} bytes, too many for rows", "name the right run folder")
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield checked_row(line[:-1], plan, f"{path}, line {number}", number)


def checked_row(line: bytes, plan: str, what: str, number: int) -> dict[str, Any]:
    """One line's row, without its digest, which is checked."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refusal(what, "it is not JSON", _AFRESH) from error
    if not isinstance(row, dict):
        raise Refusal(what, "it is not a JSON object", _AFRESH)
    body = line[:-_TAIL].removesuffix(b", ") + b"}"
    if row.pop("digest", None) != _digest(body, plan, number):
        raise Refusal(what, "it was changed, moved, or is of another run: its digest is not this row's", _AFRESH)
    return row


def not_own(path: Path) -> Refusal:
    """Of windows or words that do not say that they are this run's."""
    why = "it is of another run, or does not say of which"
    return Refusal(f"{path}", why, "remove it, or make the run again")


def _whole_bytes(handle: int, size: int) -> int:
    """How many bytes up to and with the last newline, found from the end."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _lines(handle: int, size: int) -> int:
    """How many lines there are."""
    return sum(os.pread(handle, _CHUNK, start).count(b"\n") for start in range(0, size, _CHUNK))


def _line(row: Mapping[str, Any], plan: str, number: int) -> bytes:
    """One row as one line, its digest last; text that is not valid Unicode is escaped rather than refused."""
    ready = plain(row)
    try:
        body = json.dumps(ready, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        body = json.dumps(ready, allow_nan=False).encode()
    between = b", " if ready else b""
    return body[:-1] + between + b'"digest": "' + _digest(body, plan, number).encode() + b'"}\n'


def _digest(body: bytes, plan: str, number: int) -> str:
    """Digest of a row's JSON, of the line it stands in, and of the plan that makes it."""
    return hashlib.blake2b(f"{plan}\n{number}\n".encode() + body, digest_size=_DIGEST).hexdigest()


class RunFolder:
    """One run on disk: ``manifest.json``, ``rows.jsonl``, ``vectors.safetensors``, ``scores.json``, ``page.html``.

    Where it is known where features fire also ``contexts.json``, and ``tokens.jsonl`` (see `firing`), where words of
    rows were read ``lens.json``. Made by `create` or `open`. ``path``: the folder. ``manifest``: what was asked, as
    read back from the disk.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.manifest = manifest
        self._rows: Rows | None = None

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, Any]) -> RunFolder:
        """A new run's folder, or the same run's to go on with.

        Two runs are the same when their ``manifest["plan_digest"]`` are equal; the manifest on disk then stays.

        Raises:
            Refusal: when the folder holds another run or other files, or another process is writing to it.
        """
        path = Path(path)
        if not manifest.get(PLAN):
            raise Refusal("a manifest without plan_digest", "it decides which run a folder belongs to", "give it one")
        written = cls.written(path)
        with cls._locked(path):
            if written:
                return cls._same(path, manifest)
            write_json(path / "manifest.json", {"format": FORMAT} | public(manifest) | {"format": FORMAT})
        return cls.open(path)

    @staticmethod
    def written(path: Path) -> bool:
        """Whether a run is there already; refuse a folder that is no run and holds other files."""
        with refusing("reading", path):
            inside = [p.name for p in path.iterdir()] if path.exists() else []
            written = (path / "manifest.json").exists()
        # Dot files are ours: a lock, or what a process killed before its first rename left behind.
        others = [name for name in inside if not name.startswith(".")]
        if RUNS in others:
            raise Refusal(f"output folder {path}", "it is a folder of several runs", "name one in it, or a new folder")
        if others and not written:
            raise Refusal(f"output folder {path}", f"it holds other files ({min(others)})", "name a new folder")
        return written

    @classmethod
    def _same(cls, path: Path, manifest: Mapping[str, Any]) -> RunFolder:
        """The run on disk, if it is the one asked for."""
        found = cls.open(path)
        have, want = (str(found.manifest.get(PLAN)), str(manifest[PLAN]))
        if have != want:
            why = f"it holds another run (plan {shown(have[:8])}, this one is {want[:8]})"
            raise Refusal(f"output folder {path}", why, "name a new folder, or ask for the same run to go on with it")
        return found

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """A run that is there, to read or to score."""
        path = Path(path)
        with refusing("reading", path):
            written, several = ((path / name).exists() for name in ("manifest.json", RUNS))
        if several and not written:
            raise Refusal(f"{path}", "it is a folder of several runs", "name one in it")
        if not written:
            why = "it is not a run folder (no manifest.json)" if path.exists() else "there is no such folder"
            raise Refusal(f"{path}", why, "name a folder that dragoman wrote")
        manifest = read_json(path / "manifest.json")
        if not isinstance(manifest, dict) or not is_format(manifest.get("format"), FORMAT):
            found = manifest.get("format") if isinstance(manifest, dict) else None
            why = f"its format is {shown(found)}, this dragoman reads {FORMAT}"
            raise Refusal(f"{path}", why, "make the run again in another folder, or use the version that wrote it")
        check_manifest(path / "manifest.json", manifest)
        return cls(path, public(manifest))

    def locked(self) -> AbstractContextManager[None]:
        """Be the run's only writer for a while. Refused while another process is."""
        return self._locked(self.path)

    @staticmethod
    def _locked(path: Path) -> AbstractContextManager[None]:
        return held(path / ".lock", busy="another process is writing this run")

    @property
    def plan(self) -> str:
        """Digest of the plan that makes its rows."""
        return str(self.manifest.get(PLAN))

    @property
    def rows_plan(self) -> str:
        """Digest of the plan of its first rows, which the digests of all its rows count."""
        return str(self.manifest.get(ROWS_PLAN) or self.plan)

    @property
    def page(self) -> Path:
        """Where the page goes."""
        return self.path / "page.html"

    @contextmanager
    def writing(self) -> Iterator[Rows]:
        """Be the run's only writer for a while; a torn last line is cut off first.

        Raises:
            Refusal: when another process is writing this run.
        """
        with self._locked(self.path):
            rows = Rows(self.path / "rows.jsonl", self.rows_plan)
            self._rows = rows
            try:
                yield rows
            finally:
                self._rows = None
                rows.close()

    def rows(self) -> list[dict[str, Any]]:
        """All rows written so far (see the run folder's format), in order; a torn last line is left out.

        Raises:
            Refusal: naming the line, a row that is not the one this run wrote there.
        """
        return list(self.each_row())

    def each_row(self) -> Iterator[dict[str, Any]]:
        """The same, one after another: many rows are larger parsed than as text. Refused as of `rows`."""
        return each_whole_row(self.path / "rows.jsonl", self.rows_plan)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows durably, taking the lock when `writing` does not hold it already."""
        if self._rows is not None:
            self._rows.append(rows)
        else:
            with self.writing() as file:
                file.append(rows)

    @property
    def scores(self) -> dict[str, Any] | None:
        """What was scored, or None."""
        path, scores = self.path / SCORES, self._json(SCORES)
        if scores is not None and not isinstance(scores, dict):
            raise Refusal(f"{path}", "it is not a JSON object", "score the run again")
        if scores is not None and scores.pop(PLAN, None) != self.plan:
            raise Refusal(f"{path}", "it does not hold this run's scores", "score the run again")
        return scores

    def write_scores(self, scores: Scores | Mapping[str, Any]) -> None:
        """Keep the scores, in place of earlier ones."""
        told = scores if isinstance(scores, Mapping) else scores.set_fields()
        write_json(self.path / SCORES, {PLAN: self.plan, **told})

    def _json(self, name: str, depth: int = 0) -> Any:
        """A JSON file of the folder, None where it is not there; ``depth``: levels of objects that may be many."""
        path = self.path / name
        with refusing("reading", path):
            size = path.stat().st_size if path.exists() else -1
        if size > WHOLE and depth:
            return read_members(path, depth)
        return read_json(path) if size >= 0 else None

    def _own(self, name: str, depth: int) -> Any:
        """As ``_json``, of an object that names the plan of the run's first rows; without that name."""
        told = self._json(name, depth)
        if isinstance(told, dict) and told.pop(PLAN, None) != self.rows_plan:
            raise not_own(self.path / name)
        return told

    @property
    def contexts(self) -> dict[str, dict[str, Any]] | None:
        """Windows of text by feature, lists ``firing`` and ``silent``, or None where nobody kept any.

        Where they were counted also ``words`` and ``forms``: word or form -> share of the feature's activation.

        Raises:
            Refusal: the file holds something else, or another run's.
        """
        path, windows = self.path / "contexts.json", self._own("contexts.json", 1)
        if windows is not None and not (isinstance(windows, dict) and all(map(is_windows, windows.values()))):
            raise Refusal(f"{path}", "it does not hold windows of text by feature", "remove it, or make the run again")
        return windows

    def write_contexts(self, contexts: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the windows in which features fire and are silent, and on which words, in place of earlier ones."""
        write_json(self.path / "contexts.json", {PLAN: self.rows_plan, **contexts})

    @property
    def lens(self) -> dict[str, dict[str, dict[str, list[str]]]] | None:
        """Words by condition and feature, those of the ``source`` row and of what was ``carried``; None where none are.

        Raises:
            Refusal: the file holds something else, or another run's.
        """
        words = self._own(LENS, 2)
        if words is not None and not is_lens(words):
            why = "it does not hold words by condition and feature"
            raise Refusal(f"{self.path / LENS}", why, "remove it, or make it again")
        return words

    def write_lens(self, words: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]) -> None:
        """Keep the words that rows write most, in place of earlier ones."""
        write_json(self.path / LENS, {PLAN: self.rows_plan, **words})

    def write_vectors(self, arrays: Mapping[str, NDArray[np.floating]], meta: Mapping[str, Any] | None = None) -> None:
        """Keep the injected vectors, one array ``(n, d)`` per condition."""
        write_arrays(self.path / _ARRAYS, arrays, {**(meta or {}), PLAN: self.plan})

    @property
    def has_vectors(self) -> bool:
        """Whether its vectors are kept; a run that was stopped before its first batch may lack them."""
        return (self.path / _ARRAYS).is_file()

    def vectors(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """The injected vectors and their description. Refused: they are of another run."""
        path = self.path / _ARRAYS
        arrays, meta = read_arrays(path)
        if meta.pop(PLAN, None) != self.plan:
            raise Refusal(f"{path}", "it does not hold this run's vectors", "make the run again in another folder")
        return arrays, meta
