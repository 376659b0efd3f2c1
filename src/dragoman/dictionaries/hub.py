"""A dictionary's folder, wherever it lies; of the hub, row by row: names, JSON and arrays.

In: a path; a repository, a revision and a path in it; or a SAELens release and SAE id. Out: a `HubFolder` (or the
`LocalFolder` of the hub's cache, when it is there already), and the commit all of it is read at. Rows come by range
requests, so a dictionary of gigabytes costs what its rows cost. Refuses repositories that cannot be reached or read,
``.pt`` files (which cannot be read in ranges), and SAELens releases when SAELens is not installed. Loads the hub's
library when a name is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.beside import DictionaryRef
from dragoman.dictionaries.folder import TORCH, Folder, LocalFolder
from dragoman.dictionaries.layouts import layout_of
from dragoman.dictionaries.vectors import SUFFIXES
from dragoman.store import hub, refusing
from dragoman.store.remote import RemoteFile
from dragoman.store.spans import Arrays, shown

_INSIDE = "checkpoints"
_SNAPS = ("snapshots",)


class HubFolder(Folder):
    """A folder of a hub repository at one ``commit``; close it when done."""

    def __init__(self, ref: DictionaryRef, commit: str, names: frozenset[str], extra: Mapping[str, Any]) -> None:
        """Remember what was listed. A path that ends like a file of arrays is that file."""
        repo, path, revision = ref.place, ref.inside, ref.revision
        pure = PurePosixPath(path)
        is_file = pure.suffix.lower() in SUFFIXES
        self._repo, self.commit = repo, commit
        self._base = str(pure.parent) if is_file else path
        self.focus = pure.name if is_file else None
        self.names, self.extra = names, extra
        self.where = f"hf:{repo}{f'@{revision}' if revision else ''}" + (f"/{path}" if path else "")
        self.label = path or repo
        self.parts = (*repo.split("/"), *(p for p in path.split("/") if p))
        self._open: list[RemoteFile] = []

    def close(self) -> None:
        """Close all connections."""
        for file in self._open:
            file.close()

    def bytes_of(self, name: str) -> RemoteFile:
        """A file of the folder; nothing of it is fetched yet."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        inside = str(PurePosixPath(self._base) / name) if self._base not in ("", ".") else name
        url = hf_hub_url(self._repo, inside, revision=self.commit, endpoint=hub.endpoint())
        file = RemoteFile(url, headers=build_hf_headers(), name=f"hf:{self._repo}/{inside}")
        self._open.append(file)
        return file

    def arrays(self, name: str) -> Arrays:
        """A file of arrays, opened: its header has been fetched. Refused of ``.pt`` files."""
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in TORCH:
            instead = f"run: hf download {self._repo} --include '{self._base}/*' --local-dir FOLDER, and name FOLDER"
            raise Refusal(f"hf:{self._repo}/{name}", f"{suffix} files are not read in ranges over the network", instead)
        return super().arrays(name)


def folder_at(where: Path | DictionaryRef) -> Folder:
    """The files of a dictionary."""
    if isinstance(where, Path):
        return _here(where)
    if where.kind == "file":
        return _here(Path(where.place).expanduser())
    place, extra = registered(where) if where.kind == "sae" else (where, {})
    return hub_folder(place, extra)


def _here(path: Path) -> LocalFolder:
    """A folder of this machine, or a file in one."""
    with refusing("reading", path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise Refusal(f"dictionary {path}", "there is no such file or folder here", "check the path")
    return LocalFolder(path) if is_folder else LocalFolder(path.parent, path.name)


def hub_folder(ref: DictionaryRef, extra: Mapping[str, Any] | None = None) -> HubFolder | LocalFolder:
    """The folder of a hub reference: the cache's when it holds a dictionary there, else the hub's own.

    Raises:
        Refusal: when the hub has no such repository, revision or folder, or cannot be reached.
    """
    cached = _cached(ref)
    if cached is not None:
        cached.extra = dict(extra or {})
        return cached
    commit = hub.commit(ref.place, ref.revision, str(ref))
    return HubFolder(ref, commit, _listed(ref, commit), dict(extra or {}))


def commit_of(ref: DictionaryRef) -> str | None:
    """The sha of the commit that a reference's files are read at, asked of the hub once a process; None for files here.

    Raises:
        Refusal: as of `hub_folder` and `registered`.
    """
    if ref.kind == "file":
        return None
    place = registered(ref)[0] if ref.kind == "sae" else ref
    cached = _cached(place)
    at = hub.commit_at(cached.path) if cached is not None else None
    return at or hub.commit(place.place, place.revision, str(ref))


def pinned(ref: DictionaryRef) -> DictionaryRef:
    """The reference with the commit that it is read at, so that nothing changes under a run; files here as they are."""
    return replace(ref, revision=commit_of(ref)) if ref.kind != "file" else ref


def place_in_cache(path: Path) -> str:
    """ORG/NAME/FOLDER of a path in the hub's cache (``models--ORG--NAME/snapshots/COMMIT/FOLDER``); else empty."""
    parts = path.absolute().parts
    at = next((k for k, part in enumerate(parts) if part.startswith("models--") and parts[k + 1 : k + 2] == _SNAPS), -1)
    return "/".join((*parts[at].split("--")[1:], *parts[at + 3 :])) if at >= 0 else ""


def _cached(ref: DictionaryRef) -> LocalFolder | None:
    """The folder in the hub's cache, where it holds a whole dictionary."""
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(ref.place, revision=ref.revision, local_files_only=True))
    # Whatever keeps the cache from answering, the hub is asked next.
    except Exception:
        return None
    path = root / ref.inside
    if path.is_file():
        return LocalFolder(path.parent, path.name)
    if not path.is_dir():
        return None
    folder = LocalFolder(path)
    return folder if layout_of(folder) is not None else None


def _listed(ref: DictionaryRef, commit: str) -> frozenset[str]:
    """Names of the files in the folder, those of ``checkpoints`` with their folder."""
    pure = PurePosixPath(ref.inside)
    folder = str(pure.parent) if pure.suffix.lower() in SUFFIXES else ref.inside
    folder = "" if folder == "." else folder
    entries = hub.listing(ref.place, commit, folder, str(ref))
    if entries.get(_INSIDE) is False:
        inner = hub.listing(ref.place, commit, f"{folder}/{_INSIDE}".lstrip("/"), str(ref))
        entries |= {f"{_INSIDE}/{name}": is_file for name, is_file in inner.items()}
    return frozenset(name for name, is_file in entries.items() if is_file)


# SAELens' registry


def registered(ref: DictionaryRef) -> tuple[DictionaryRef, dict[str, object]]:
    """The hub reference of a SAELens release and SAE id, and what the registry says beside.

    The registry is read as text out of the installed package, which is not imported: it would load a model library for
    one line.

    Raises:
        Refusal: when SAELens is not installed, or knows no such release or id.
    """
    release = _release(_registry(ref), ref)
    entry = _entry(release, ref)
    factor = entry.get("norm_scaling_factor")
    extra = {} if factor is None else {"norm_scaling_factor": factor}
    parts = [part for part in str(entry["path"]).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refusal(f"{ref}", "SAELens' registry names a path outside the repository", "name repository and path")
    overrides = release.get("config_overrides") or {}
    if not isinstance(overrides, dict):
        why = f"its config_overrides are '{shown(overrides)}', not settings"
        raise Refusal(f"{ref}", why, "name the repository and path")
    if overrides:
        extra["config_overrides"] = overrides
    place = DictionaryRef(
        kind="hf", place=str(release["repo_id"]), inside="/".join(parts), revision=ref.revision, indices=ref.indices
    )
    return place, extra


def entry_of(ref: DictionaryRef) -> dict[str, object]:
    """What SAELens' registry says of an SAE. Refused as `registered` does."""
    return _entry(_release(_registry(ref), ref), ref)


def ids_of_release(ref: DictionaryRef) -> list[str]:
    """All SAE ids of a release in SAELens' registry. Refused as `registered` does."""
    return list(_ids(_release(_registry(ref), ref)))


def _ids(release: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    return {str(e.get("id")): e for e in release.get("saes") or [] if isinstance(e, dict)}


def _entry(release: Mapping[str, Any], ref: DictionaryRef) -> dict[str, object]:
    entries = _ids(release)
    if ref.inside not in entries:
        some = ", ".join(list(entries)[:4])
        raise Refusal(f"{ref}", f"release {ref.place} has no such id (it has {some}, ...)", "name one of its ids")
    return entries[ref.inside]


def _registry(ref: DictionaryRef) -> Path:
    """The registry's file."""
    from importlib.util import find_spec

    spec = find_spec("sae_lens")
    path = Path(spec.origin).parent / "pretrained_saes.yaml" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise Refusal(
            f"{ref}",
            "releases are looked up in SAELens' registry, and sae_lens is not installed",
            "run: pip install sae-lens, or name the repository and path itself, such as"
            " hf:chanind/qwen2.5-7B-it-layer-20-saes/pile/matryoshka/k-100",
        )
    return path


def _release(path: Path, ref: DictionaryRef) -> dict[str, object]:
    """One release of the registry: its block is cut out as text, because parsing all of it takes many seconds."""
    import yaml

    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(ref.place)}:[ \t]*\n(?P<block>(?:[ \t-].*\n|\n)*)", text + "\n", re.MULTILINE)
    if found is None:
        raise Refusal(f"{ref}", f"SAELens' registry has no release '{ref.place}'", "name one of its releases")
    release = yaml.safe_load(found["block"])
    if not isinstance(release, dict) or not release.get("repo_id"):
        raise Refusal(f"{ref}", "SAELens' registry does not say where the release lies", "name the repository and path")
    return release
