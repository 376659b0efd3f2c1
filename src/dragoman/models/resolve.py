"""From what a person writes (packaged name, local folder, hub id) to a folder on disk, and how it is opened.

In: a reference such as ``tiny-gemma``, ``./my-model``, ``org/name@revision``, ``org/name@revision/sub/folder``. Out: a
folder; the arguments of `decode.Verbalizer`, the layout of a reconstructor. Refuses what is in none of the three
places, and says which files are missing and how to get them; words that contradict the registry, checkpoints of which
neither knows enough, and repositories that hold the checkpoint in a folder further down; and what the disk has no room
for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dragoman import tiny
from dragoman.core import Refusal, public_address
from dragoman.models.folder import ADAPTER, CONFIG, NEVER_READ, check_folder, need_tokenizer, read_config, weight_files
from dragoman.models.packaged import converted
from dragoman.neuronpedia.ids import HUB_MODELS
from dragoman.store import hub, refusing
from dragoman.store.boundary import opening
from dragoman.store.hub import PART, REPOSITORY, REVISION
from dragoman.store.spans import listed, meant
from dragoman.tiny import model_parts
from dragoman.verbalizers import registry
from dragoman.verbalizers.protocol import HowFed
from dragoman.verbalizers.sidecar import NAME

_HUB = re.compile(rf"(?P<repo>{REPOSITORY})(?:@(?P<revision>{REVISION}))?(?:/(?P<inside>{PART}(?:/{PART})*))?/?")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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

    Refuses what is neither a packaged name, nor a folder here, nor a hub repository that is cached or can be reached.
    """
    text = str(ref)
    if text in tiny.MODELS:
        return converted(tiny.MODELS[text])
    if text in tiny.DATA:
        return tiny.data(text)
    return _here(text) or _fetched(_elsewhere(text), text)


def _here(text: str) -> Path | None:
    """A folder of this machine; None where there is none of that name."""
    with opening(f"'{text}'", "it names no folder", "give a path or a hub id"):
        path = Path(text).expanduser()
    with refusing("reading", path):
        there = path.exists()
    if not there:
        return None
    if not path.is_dir():
        raise Refusal(f"{path}", "it is a file, not a folder", "name the folder that it lies in")
    if not os.access(path, os.R_OK | os.X_OK):
        raise Refusal(f"folder {path}", "it cannot be read", "grant read permission or copy it")
    return path


def _elsewhere(text: str) -> HubPlace:
    """The hub's place of what is no folder here; refuse what is no hub id with the name that was likely meant."""
    place = hub_place(text)
    if place is None:
        raise _nowhere(text)
    return place


def _nowhere(text: str) -> Refusal:
    """Of what is no folder, no hub id and no packaged name: the name that was likely meant, or what can be given."""
    what, why = f"'{public_address(text)}'", "there is no such folder here"
    if text.startswith((".", "/", "~")):
        return Refusal(what, why, "check the path")
    packaged = [*tiny.MODELS, *(name for name in tiny.DATA if name.endswith(("-av", "-ar")))]
    forms = f"give a path, org/name, org/name/folder, or one of {', '.join(packaged)}"
    found = _by_bare_name().get(text.casefold())
    likely = meant(text, packaged, forms) if found is None else f"did you mean '{found}'"
    return Refusal(what, f"{why}, and it is no hub id", likely)


@cache
def _by_bare_name() -> dict[str, str]:
    """Repositories of models that are known, by what people call them who leave the organisation out."""
    bases = {
        name.rpartition("/")[2].casefold(): name for one in registry.checkpoints() if "*" not in (name := one.base)
    }
    named = {name.rpartition("/")[2].casefold(): name for name in HUB_MODELS.values()}
    return bases | named | HUB_MODELS


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

    _refuse_unfit(place, ref)
    try:
        root = Path(
            snapshot_download(
                place.repo, revision=place.revision, allow_patterns=place.patterns, ignore_patterns=list(NEVER_READ)
            )
        )
    # The hub's library passes on what the one below it raises, and an answer that makes no sense as a ValueError.
    except Exception as error:
        raise no_of(place, ref, error)[1] from error
    if not (root / place.inside).is_dir():
        why = f"the repository has no folder '{place.inside}' (or its cache lacks it, and the hub cannot be reached)"
        raise Refusal(f"'{ref}'", why, f"check the folder's name, or run: {place.command}")
    return root / place.inside


def no_of(place: HubPlace, ref: str, error: Exception) -> tuple[hub.No, Refusal]:
    """In which way an error of the hub's library is a no, and what is said of it."""
    no, said = hub.way_of(error)
    if no == "away":
        said = "config.json, tokenizer files and *.safetensors are missing"
    by_hand = f"on a machine with access run: {place.command}, and pass FOLDER"
    fetch = by_hand + (f"/{place.inside}" if place.inside else "")
    here = "there is no such folder here, and "
    refusal = hub.refusal(f"'{ref}'", no, revision=place.revision, fetch=fetch, said=said, here=here)
    return no, _with_meant(refusal, place, ref)


def _with_meant(refusal: Refusal, place: HubPlace, ref: str) -> Refusal:
    """The same, with the repository that was likely meant: of the checkpoints and models that are known."""
    if isinstance(refusal, hub.Withheld):
        return refusal
    known = dict.fromkeys(name for c in registry.checkpoints() for name in (c.id, c.base) if "*" not in name)
    known |= dict.fromkeys(HUB_MODELS.values())
    likely = "" if registry.find(ref) or place.repo in known else meant(place.repo, list(known), "")
    if not likely:
        return refusal
    return Refusal(refusal.what, refusal.why, f"{likely}, a known one? If not, {refusal.instead}")


def config_of(ref: str) -> Mapping[str, object]:
    """What config.json says of a model that will be opened; nothing is fetched or converted, and that file not kept.

    Empty for embedded models, whose packages are here.

    Raises:
        Refusal: as of `folder_of`; it is an adapter, or lacks config.json, weights or tokenizer, as far as can be told.
    """
    from huggingface_hub import is_offline_mode

    if ref in tiny.MODELS:
        model_parts(tiny.MODELS[ref])
        return {}
    folder, found = _here(ref), cached(ref)
    if folder is None and found is not None and (found / CONFIG).is_file():
        folder = found
    if folder is None:
        place = _elsewhere(ref)
        try:
            inside = f"{place.inside}/{CONFIG}" if place.inside else CONFIG
            told = hub.settings(place.repo, place.revision, inside, f"'{ref}'")
        except Refusal as refusal:
            raise _with_meant(refusal, place, ref) from refusal
        _refuse_pickles(place, ref)
        return told
    check_folder(folder, ref)
    if (folder / ADAPTER).is_file():
        raise Refusal(ref, f"{folder} holds an adapter, not a whole model", "merge it into its base first")
    config = read_config(folder)
    if folder != found or is_offline_mode():  # what the cache lacks is fetched when it is opened
        weight_files(folder, ref)
        need_tokenizer(folder, ref)
    return config


def check_named(ref: str) -> None:
    """Refuse what is no packaged name, no folder here, and no repository that is cached or that the hub has in full."""
    if ref in tiny.DATA or _here(ref) or cached(ref) is not None:
        return
    place = _elsewhere(ref)
    try:
        hub.commit(place.repo, place.revision, f"'{ref}'")
    except Refusal as refusal:
        raise _with_meant(refusal, place, ref) from refusal
    _refuse_pickles(place, ref)


def _refuse_pickles(place: HubPlace, ref: str) -> None:
    """Refuse what the hub's listing shows to hold pickled weights alone."""
    what = f"'{ref}'"
    try:
        names = hub.sizes(place.repo, hub.commit(place.repo, place.revision, what), what)
    except Refusal:  # what a hub does not list is looked at when it is fetched
        return
    above = f"{place.inside}/" if place.inside else ""
    refusal = _of_pickles([name.removeprefix(above) for name in names if name.startswith(above)], what)
    if refusal is not None:
        raise refusal


def _of_pickles(names: Sequence[str], what: str) -> Refusal | None:
    """Of files none of which holds weights that are read, though some hold pickled ones; None of all others."""
    pickled = [name for name in names if name.endswith(_PICKLED) and "training_args" not in name]
    if not pickled or any(name.endswith(".safetensors") for name in names):
        return None
    why = f"it holds no *.safetensors, and pickled weights ({listed(pickled, 2)}) are never loaded"
    return Refusal(what, why, "convert them to safetensors, or name a revision that holds them so (ORG/NAME@REVISION)")


def _refuse_unfit(place: HubPlace, ref: str) -> None:
    """Refuse pickles, and files that the disk has no room for, by the hub's own listing, before a file is fetched."""
    from huggingface_hub import constants, snapshot_download

    try:
        listing = snapshot_download(place.repo, revision=place.revision, allow_patterns=place.patterns, dry_run=True)
        planned = [
            file
            for file in listing
            if file.will_download and not any(fnmatch(file.filename, one) for one in NEVER_READ)
        ]
        need = sum(file.file_size or 0 for file in planned)
    # Whatever keeps the hub from answering, the download meets it next and says it; what is cached needs no answer.
    except Exception:
        return
    if (refusal := _of_pickles([file.filename for file in listing], f"'{ref}'")) is not None:
        raise refusal
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


def how_fed(ref: str, contract: str | None, settings: Mapping[str, Any], base: str | None) -> HowFed:
    """``contract``, ``settings`` and ``base`` of a verbalizer: what is said, and else what the registry knows.

    Raises:
        Refusal: the registry is sure and is contradicted; or not sure, and nobody says; or knows that the verbalizer
            lies in a sub-folder of its repository.
    """
    known = registry.find(ref)
    if known is None:
        return {"contract": contract, "settings": settings or None, "base": base}
    _refuse_top(f"verbalizer {ref}", ref, known.folder, known.ref)
    if known.usable:
        stated = {"contract": known.contract, **known.settings}
        given = {**({"contract": contract} if contract else {}), **settings}
        odd = next((name for name in given if name in stated and given[name] != stated[name]), None)
        if odd:
            raise Refusal(
                f"{odd} {given[odd]!r} for {ref}",
                f"it was trained with {odd} {stated[odd]!r}, as dragoman's registry knows",
                "leave it out, or, where the registry is wrong, pass a copy of the checkpoint in a folder of your own",
            )
    return {
        "contract": contract or registry.contract_of(ref),
        "settings": {**known.settings, **settings} or None,
        "base": base or known.switches.stacked_on,
    }


def layout_of(ref: str, layout: str | None) -> str:
    """The layout of a reconstructor: what is said, and else what the registry knows.

    Raises:
        Refusal: nobody knows it, the registry knows another one, or the reconstructor's folder in the repository.
    """
    known = registry.find(ref)
    if known is not None:
        _refuse_top(f"reconstructor {ref}", ref, known.ar_folder, known.reader_ref)
    sure = known.reader_layout if known else None
    if layout and sure and layout != sure:
        why = f"it is laid out as {sure}, as dragoman's registry knows"
        raise Refusal(f"layout '{layout}' for {ref}", why, "leave it out")
    named = layout or sure
    if named is None:
        why = "its layout is not known, and its files do not say"
        raise Refusal(f"reconstructor {ref}", why, "pass --ar-layout kitft or --ar-layout easynla, as its authors say")
    return named


def _refuse_top(what: str, ref: str, folder: str | None, whole: str | None) -> None:
    """Refuse a repository by its bare name where the checkpoint lies in a folder of it."""
    place = hub_place(ref)
    if folder and place and not place.inside and not Path(ref).exists():
        raise Refusal(what, f"it lies in a folder of that repository, {folder}", f"use {whole}")
