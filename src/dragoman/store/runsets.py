"""A folder of runs, one for each dictionary of a command: ``runs.json`` names them, in order.

In: entries. Out: a file beside the runs' folders; the folders. Refuses another form, names that lead out of the folder,
a folder that holds a single run or other files, and runs that are not there yet where all are needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dragoman.core import Refusal
from dragoman.records import Record
from dragoman.store.files import held, read_bounded, refusing, write_json
from dragoman.store.runs import RUNS, RunFolder
from dragoman.store.spans import shown

_MOST_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


class SetEntry(Record):
    """A run: its folder's ``name``; which ``dictionary`` it is of, the ``source`` that lives at.

    ``done``: digest of what was asked for when it was finished, None before.
    """

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    dictionary: str
    source: str
    done: str | None = None


class RunSet(Record):
    """What a folder of runs holds."""

    format: Literal[1] = 1
    kind: Literal["dragoman runs"] = "dragoman runs"
    runs: Annotated[tuple[SetEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [one.name.casefold() for one in self.runs]
        if len(set(names)) < len(names):
            raise ValueError("a name is there twice")
        return self

    @classmethod
    def at(cls, folder: Path) -> RunSet | None:
        """What lies in a folder; None where it holds no runs.

        Raises:
            Refusal: the file holds something else.
        """
        path = folder / RUNS
        with refusing("reading", path):
            if not path.exists():
                return None
        return cls.read(read_bounded(path, _MOST_BYTES, "an index of runs"), f"{path}")

    def write(self, folder: Path) -> None:
        """Keep it, in place of an earlier one."""
        write_json(folder / RUNS, self.to_json())


def check_set(folder: Path) -> RunSet | None:
    """The runs that lie in a folder already, where several are to be written; None of a new or empty folder.

    Raises:
        Refusal: it holds a run of its own, or other files.
    """
    there = RunSet.at(folder)
    with refusing("reading", folder):
        inside = [one.name for one in folder.iterdir()] if folder.exists() else []
    if "manifest.json" in inside:
        why = "it holds a run, and several dictionaries take a folder of runs"
        raise Refusal(f"output folder {folder}", why, "name a new folder")
    others = [name for name in inside if not name.startswith(".")]
    if there is None and others:
        raise Refusal(f"output folder {folder}", f"it holds other files ({shown(min(others))})", "name a new folder")
    return there


def locked(folder: Path) -> AbstractContextManager[None]:
    """Be the only writer of a folder of runs for a while. Refused while another process is."""
    return held(folder / ".lock", busy="another process is writing these runs")


def runs_of(path: Path, *, begun: bool = False) -> list[Path]:
    """The run folders of a path: its own where it is one, else those that its ``runs.json`` names.

    ``begun``: leave out those in which nothing was said yet.

    Raises:
        Refusal: it is neither, or a run is not there yet.
    """
    found = None if (path / "manifest.json").exists() else RunSet.at(path)
    if found is None:
        return [path]
    lost = [one.name for one in found.runs if not _said(path / one.name)]
    if lost and (not begun or len(lost) == len(found.runs)):
        why = f"{len(lost)} of its {len(found.runs)} runs hold no explanation yet ({shown(lost[0])})"
        raise Refusal(f"{path}", why, "run the same explain command again, which goes on")
    return [path / one.name for one in found.runs if one.name not in lost]


def one_run(path: Path, what: str) -> Path:
    """The path of a single run, where several cannot be taken; ``what``: does so."""
    found = None if (path / "manifest.json").exists() else RunSet.at(path)
    if found is None:
        return path
    why = f"it is a folder of {len(found.runs)} runs, and {what} takes one"
    raise Refusal(f"{path}", why, f"name one, such as {path / found.runs[0].name}")


def _said(folder: Path) -> bool:
    with refusing("reading", folder):
        rows = folder / "rows.jsonl"
        return RunFolder.written(folder) and rows.exists() and rows.stat().st_size > 0


def entries_in_order(path: Path, now: Sequence[SetEntry]) -> RunSet:
    """Runs that were begun in the folder before and are not asked for now stay, first; what was done stays told."""
    before = RunSet.at(path)
    there = {one.name: one for one in before.runs} if before else {}
    kept = {name: one for name, one in there.items() if RunFolder.written(path / name)}
    for one in now:
        old = there.get(one.name)
        kept[one.name] = one.model_copy(update={"done": old.done}) if old and old.dictionary == one.dictionary else one
    return RunSet(runs=tuple(kept.values()))
