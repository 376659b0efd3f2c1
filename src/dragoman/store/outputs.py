"""Whether a result can be written where somebody wants it, before anything dear is done for it; new folders.

In: the path of a file, of a folder of files, or of a run. Out: nothing, and nothing is left behind; or a folder that is
there whole or not at all. Refuses what writing would be refused at the end: a parent that is a file, a folder or file
system that takes no new files, a name that is too long, a folder where a file is meant and the other way round, links,
pipes and devices; a run's own files, its page aside, a folder of runs' and a crossing's; and a folder that is no run
and holds other files.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store.files import TEMPORARY, refuse_target, refusing, sync_folder
from dragoman.store.manifests import check_whole
from dragoman.store.runs import FILES, RUNS, RunFolder

_OF_CROSSING = ("crossing.json", ".safetensors", "texts.jsonl.gz")


def check_file(path: Path, *, of_run: bool = False) -> Path:
    """The path, if a file can be written there, in place of another or not.

    ``of_run``: whether it is a file of a run that is written, which nothing else may replace.
    """
    with refusing("writing", path):
        is_folder = not path.name or path.is_dir()
    if is_folder:
        raise Refusal(f"path '{path}'", "it is a folder, and a file is written", "name a file")
    refuse_target(path)
    if not of_run:
        _refuse_own(path)
    _probe(path.parent, path.name)
    return path


def _refuse_own(path: Path) -> None:
    """Refuse a run's rows, manifest and so on, and others of ours; file systems may know a name by capitals too."""
    name = path.name.lower()
    with refusing("reading", path):
        of = None
        if name in FILES and (path.parent / "manifest.json").exists():
            of = "the run"
        elif name == RUNS and path.exists():
            of = "the folder of runs"
        elif name.endswith(_OF_CROSSING) and path.exists() and (path.parent / "crossing.json").exists():
            of = "the crossing"
    if of is not None:
        raise Refusal(f"writing {path}", f"it is a file of {of} there, which would be lost", "name another file")


def check_folder(path: Path) -> Path:
    """The path, if a folder is there that takes files, or can be made."""
    _probe(path)
    return path


def check_run(path: Path) -> Path:
    """The path, if a run can be written there, or one is there to go on with.

    Raises:
        Refusal: as the module says, or the run there cannot be read.
    """
    check_folder(path)
    if RunFolder.written(path):
        check_whole(path / "manifest.json", RunFolder.open(path).manifest)
        refuse_target(path / "rows.jsonl")
    return path


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    with refusing("writing", folder):
        for place in (folder, *folder.parents):
            try:
                kind = place.stat().st_mode
            except FileNotFoundError:
                if place.is_symlink():
                    raise
                continue
            if not stat.S_ISDIR(kind):
                raise Refusal(f"writing {folder}", f"{place} is no folder", "name another place")
            return place
    return Path()


def _probe(folder: Path, file: str = "") -> None:
    """Refuse a folder, there or to be made, that takes no new files, and names that are too long for it."""
    there = _nearest(folder)
    names = {name: len(os.fsencode(name)) for name in folder.parts[len(there.parts) :]}
    if file:
        names[file] = len(os.fsencode(file)) + TEMPORARY
    with refusing("writing", folder / file):
        longest = os.pathconf(there, "PC_NAME_MAX")
        long = next((name for name, size in names.items() if size > longest), None)
        if long is not None:
            why = (
                f"a name of {len(os.fsencode(long))} bytes leaves no room for the file that is written beside it first"
            )
            if len(os.fsencode(long)) > longest:
                why = f"no name there has {len(os.fsencode(long))} bytes"
            raise Refusal(f"writing {folder / file}", why, "write a shorter name")
        with tempfile.TemporaryFile(dir=there):
            pass  # the system is asked itself: modes tell nothing of read-only disks, quotas and rights of other kinds


def refuse_there(folder: Path) -> None:
    """Refuse a folder that is there already, and one that cannot be made, as far as can be told before."""
    with refusing("writing", folder):
        there = folder.exists() or folder.is_symlink()
    if there:
        raise Refusal(f"{folder}", "it is there already", "name a new folder")
    _probe(folder.parent, folder.name)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends well, and is not there when it does not.

    Raises:
        Refusal: it is there already, or the disk refuses.
    """
    refuse_there(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with refusing("writing", folder):
        try:
            partial.mkdir(parents=True)
            yield partial
            refuse_there(folder)  # another process may have been faster
            partial.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
