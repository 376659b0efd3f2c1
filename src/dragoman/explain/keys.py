"""Names of what is kept in the cache: digests of everything that decides it.

In: a ``Request``, sites, texts, a dictionary. Out: a digest. Refuses what the readers of files refuse, and a dictionary
on the hub whose commit cannot be learned.

Counted: what is read (models, tokenizers and dictionaries by their bytes, texts one by one), how (dtype, settings of
the reading), and by what: dragoman, transformers and tokenizers, which run models and split texts, and torch, whose
sums they are. An upgrade therefore reads once more, and a fault mended in one of them is mended here too. Places count
as well: what is kept names its sites, and some layouts learn of a dictionary from the folders it lies in. Not counted:
the device and threads, which move sums by rounding alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from dragoman.core import Site
from dragoman.dictionaries import DictionaryRef, commit_of
from dragoman.dictionaries.folder import LocalFolder
from dragoman.dictionaries.hub import hub_folder, registered
from dragoman.dictionaries.layouts import layout_of
from dragoman.explain.request import Request
from dragoman.models.deciding import fingerprint_of_model
from dragoman.store import digest, fingerprint_of, plain

_BY = ("dragoman", "transformers", "tokenizers", "torch")
_TOLD_IN = {".json", ".yaml", ".yml"}  # files in which layouts, shapes and labels are told


def key_of(kind: str, request: Request, source: Site, target: Site, texts: Sequence[str], *more: str) -> str:
    """The name of what two models give over texts.

    ``kind``: what is kept, with a number that goes up when its making changes. ``more``: what else decides it.
    """
    return digest(
        kind,
        *(
            f"{name} {version(name).partition('+')[0]}" for name in _BY
        ),  # behind the plus: which machine it is built for
        str(source),
        fingerprint_of_model(_ref(source)),
        str(target),
        fingerprint_of_model(_ref(target)),
        request.dtype,
        *more,
        digest(*texts),
    )


def _ref(site: Site) -> str:
    return f"{site.model}@{site.revision}" if site.revision else site.model


def fingerprint_of_dictionary(where: Path | DictionaryRef) -> str:
    """Digest of a dictionary's files and of what is asked of them.

    Files of the hub that are not here are named by the commit they lie in, found out now where none is asked for.
    """
    if isinstance(where, Path):
        return digest(where)
    asked = str(where)
    if where.kind == "file":
        path = Path(where.place).expanduser()
        folder = LocalFolder(path) if path.is_dir() else LocalFolder(path.parent, path.name)
        return digest(asked, _of_folder(folder, where.key))
    place, beside = registered(where) if where.kind == "sae" else (where, {})
    told = json.dumps(plain(beside), sort_keys=True)
    found = hub_folder(place, beside)
    if isinstance(found, LocalFolder):  # the hub's cache holds it
        return digest(asked, told, _of_folder(found, where.key))
    found.close()
    return digest(asked, told, place.place, place.inside, commit_of(where) or "")


def _of_folder(folder: LocalFolder, key: str | None) -> str:
    """Digest of the files a dictionary is read from: the folder's; of one file of vectors, it and what tells of it."""
    names = folder.names
    if folder.focus is not None and (key is not None or layout_of(folder) is None):
        names = frozenset(n for n in names if n == folder.focus or Path(n).suffix.lower() in _TOLD_IN)
    # Which names are there decides the layout.
    return digest(folder.focus or "", "\n".join(sorted(folder.names)), fingerprint_of(folder.path, names))
