"""From what a person writes (packaged name, local folder, hub id) to a folder on disk: one path for all three.

In: a reference such as ``tiny-gemma``, ``./my-model``, ``org/name@revision``, ``org/name@revision/sub/folder``. Out: a
folder. Refuses what is in none of the three places, and says which files are missing and how to get them; and what the
disk has no room for.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from dragoman import tiny
from dragoman.addresses import public_address
from dragoman.core import Refusal
from dragoman.models.folder import NEVER_READ
from dragoman.store import hub, refusing
from dragoman.store.boundary import opening
from dragoman.store.hub import PART, REPOSITORY, REVISION
from dragoman.verbalizers.sidecar import NAME

_HUB = re.compile(rf"(?P<repo>{REPOSITORY})(?:@(?P<revision>{REVISION}))?(?:/(?P<inside>{PART}(?:/{PART})*))?/?")


class HubPlace(NamedTuple):
    """A hub repository, and perhaps a revision and a folder inside it."""

    repo: str
    revision: str | None
    inside: str

    @property
    def patterns(self) -> list[str] | None:
        """What is fetched of it: the folder, and the sidecar that may lie above it; everything where None."""
        if not self.inside:
            return None
        above = self.inside.rpartition("/")[0]
        return [f"{self.inside}/*", f"{above}/{NAME}" if above else NAME]

    @property
    def command(self) -> str:
        """How to fetch it by hand."""
        revision = f" --revision {self.revision}" if self.revision else ""
        only = "".join(f" --include '{p}'" for p in self.patterns or ())
        return f"hf download {self.repo}{revision}{only} --local-dir FOLDER"


def hub_place(ref: str) -> HubPlace | None:
    """A reference of the hub's form, taken apart; None for any other."""
    found = _HUB.fullmatch(ref)
    if not found or any(not part.strip(".") for part in ref.rstrip("/").split("/")):
        return None
    return HubPlace(found["repo"], found["revision"], found["inside"] or "")


def folder_of(ref: str | Path) -> Path:
    """The folder that holds a model, verbalizer or reconstructor; of a repository, a sub-folder comes alone.

    Raises:
        Refusal: neither a packaged name, nor a folder here, nor a hub repository that is cached or can be reached.
    """
    text = str(ref)
    if text in tiny.MODELS:
        from dragoman.models.convert import converted

        return converted(tiny.MODELS[text])
    if text in tiny.DATA:
        return tiny.data(text)
    with opening(f"'{text}'", "it names no folder", "give a path or a hub id"):
        path = Path(text).expanduser()
    with refusing("reading", path):
        there = path.exists()
    if there:
        if not path.is_dir():
            raise Refusal(f"{path}", "it is a file, not a folder", "name the folder that it lies in")
        if not os.access(path, os.R_OK | os.X_OK):
            raise Refusal(f"folder {path}", "it cannot be read", "grant read permission or copy it")
        return path
    place = hub_place(text)
    if place is None:
        names = ", ".join([*tiny.MODELS, *tiny.DATA])
        raise Refusal(
            f"'{public_address(text)}'",
            "there is no such folder here, and it is no hub id",
            f"give a path, org/name, org/name/folder, or one of {names}",
        )
    return _fetched(place, text)


def cached(ref: str) -> Path | None:
    """The folder of a hub reference, if the hub's cache holds it; asks nobody."""
    from huggingface_hub import snapshot_download

    place = hub_place(ref)
    if place is None:
        return None
    try:
        root = Path(snapshot_download(place.repo, revision=place.revision, local_files_only=True))
    except (OSError, ValueError):  # the hub's own errors of this kind derive from these
        return None
    folder = root / place.inside
    return folder if folder.is_dir() else None


def commit_of(folder: Path) -> str | None:
    """The commit of the hub's repository that a model's folder was fetched at; None for other folders."""
    return hub.commit_at(folder)


def called(ref: str | Path) -> str:
    """What a checkpoint is called: a repository's name with the folder inside, or a folder's name."""
    text = str(ref)
    place = None if Path(text).expanduser().exists() else hub_place(text)
    if place is None:
        return Path(text).name
    name = place.repo.partition("/")[2]
    return f"{name}/{place.inside}" if place.inside else name


def _fetched(place: HubPlace, ref: str) -> Path:
    """What the hub or its cache has of a place."""
    from huggingface_hub import snapshot_download

    how: dict[str, Any] = {"revision": place.revision, "ignore_patterns": list(NEVER_READ)}
    how |= {"allow_patterns": place.patterns} if place.inside else {}
    _refuse_without_room(place, ref, how)
    try:
        root = Path(snapshot_download(place.repo, **how))
    # The hub's library passes on what the one below it raises, and an answer that makes no sense as a ValueError.
    except Exception as error:
        no, said = hub.way_of(error)
        if no == "away":
            said = "config.json, tokenizer files and *.safetensors are missing"
        by_hand = f"on a machine with access run: {place.command}, and pass FOLDER"
        fetch = by_hand + (f"/{place.inside}" if place.inside else "")
        here = "there is no such folder here, and "
        raise hub.refusal(f"'{ref}'", no, revision=place.revision, fetch=fetch, said=said, here=here) from error
    if not (root / place.inside).is_dir():
        raise Refusal(
            f"'{ref}'",
            f"the repository has no folder '{place.inside}' (or its cache lacks it, and the hub cannot be reached)",
            f"check the folder's name, or run: {place.command}",
        )
    return root / place.inside


def _refuse_without_room(place: HubPlace, ref: str, how: dict[str, Any]) -> None:
    """Refuse files that the disk has no room for, by the hub's own listing, before the first of them is fetched."""
    from huggingface_hub import constants, snapshot_download

    try:
        planned = [file for file in snapshot_download(place.repo, dry_run=True, **how) if file.will_download]
        need = sum(file.file_size or 0 for file in planned)
    # Whatever keeps the hub from answering, the download meets it next and says it; what is cached needs no answer.
    except Exception:
        return
    cache = Path(constants.HF_HUB_CACHE)
    begun = (cache / f"models--{place.repo.replace('/', '--')}" / "blobs").glob("*.incomplete")
    need -= sum(path.stat().st_size for path in begun)
    there = next((folder for folder in (cache, *cache.parents) if folder.is_dir()), Path())
    free = shutil.disk_usage(there).free
    if need > free:
        raise Refusal(
            f"'{ref}'",
            f"{len(planned)} of its files are to be fetched, {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in "
            f"{cache}",
            "free some space, set HF_HOME to a folder on a larger disk, or name a smaller model",
        )
