"""Labels of a Neuronpedia export on a dictionary, and whether anything tells that they are this dictionary's own.

In: an export, and what the dictionary goes by: its id there, its release in SAELens' registry, its place on the hub,
its number of features. Out: ``Labels``, with the source they are of and whether that is the dictionary. Refuses a
source at another block or of another model, one that was made from another dictionary, and features beyond its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dragoman.core import Refusal, Site
from dragoman.dictionaries.beside import DictionaryRef
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.hub import entry_of, place_in_cache, registered
from dragoman.dictionaries.vectors import SUFFIXES
from dragoman.neuronpedia import Export, SourceRecord, is_reference, parse, refuse_elsewhere
from dragoman.store.spans import shown

_CONFIG = "cfg.json"  # SAELens writes the id into it
_DIGITS = 19  # of an index: no dictionary has so many features
_OTHER = "pass the export of this dictionary's own source, or leave --labels out"
_BLOCK = "pass the export of this dictionary's own source (--resid-pre for one that counts the block it enters)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels by feature id. ``source``: of Neuronpedia, whose they are; ``told_by``: what says it is this dictionary.

    ``told_by`` is empty where nothing does: they may be of another dictionary at the same place.
    """

    by_feature: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    told_by: str = ""

    def to_json(self) -> dict[str, object]:
        """For the manifest; nothing where they are of no export."""
        return {"source": self.source, "verified": bool(self.told_by), "told_by": self.told_by} if self.source else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a dictionary goes by, as far as it is told; names are folded, so that they compare.

    ``source``: MODEL/SOURCE at Neuronpedia. ``listed``: release and id in SAELens' registry. ``hub``: repository and
    folder. ``d_sae``: how many features.
    """

    source: str = ""
    listed: str = ""
    hub: str = ""
    d_sae: int | None = None

    def compared(self, theirs: Names) -> tuple[str, str]:
        """By what two are the same dictionary, and by what they are not; empty where nothing is told of both.

        One name in common is enough: a release may lie in two places, and a place bear two names.
        """
        ways = {"its Neuronpedia id": "source", "SAELens' registry": "listed", "its place on the hub": "hub"}
        both = [(way, getattr(self, name), getattr(theirs, name)) for way, name in ways.items()]
        both = [(way, ours, other) for way, ours, other in both if ours and other]
        same = next((way for way, ours, other in both if ours == other), "")
        odd = "" if same else next((f"{other}, and this one is {ours}" for _, ours, other in both), "")
        if not odd and self.d_sae and theirs.d_sae and self.d_sae != theirs.d_sae:
            odd = f"one of {theirs.d_sae} features, and this one has {self.d_sae}"
        return same, odd


def names_of(where: Path | DictionaryRef, folder: Folder, d_sae: int | None) -> Names:
    """What a dictionary goes by: by how it was named, and by its own files."""
    listed, hub, source = "", "", _id_in(folder)
    if isinstance(where, Path) or where.kind == "file":
        path = where if isinstance(where, Path) else Path(where.place).expanduser()
        hub = _place(place_in_cache(path), "").removeprefix(".")
    elif where.kind == "sae":
        place, _ = registered(where)
        listed, hub = _place(where.place, where.inside), _place(place.place, place.inside)
        source = _source(entry_of(where).get("neuronpedia")) or source
    elif where.kind == "hf":
        hub = _place(where.place, where.inside)
    return Names(source=source, listed=listed, hub=hub, d_sae=d_sae)


def labels_of(export: Export, names: Names, site: Site, *, resid_pre: bool) -> Labels:
    """An export's labels for a dictionary at ``site``.

    Raises:
        Refusal: they are of another block, model or dictionary, or what the export's reader refuses.
    """
    record = export.source()
    if record is not None and record.hook is not None:
        resid_pre = record.site.block != record.ref.layer  # also refuses what is not in the residual stream
    ref = record.ref if record is not None else export.told_by_rows()
    refuse_elsewhere(ref, site, resid_pre=resid_pre, whose="the dictionary's", instead=_BLOCK)
    same, odd = names.compared(_theirs(record, ref.at(None).path))
    if odd:
        raise Refusal(f"labels for {ref}", f"they are of another dictionary, {shown(odd, 200)}", _OTHER)
    found = export.labels()
    if names.d_sae:
        refuse_beyond(found, names.d_sae, f"labels for {ref}", _OTHER)
    return Labels(by_feature=found, source=f"{ref}", told_by=same)


def refuse_beyond(labels: Mapping[str, str], d_sae: int, what: str, instead: str) -> None:
    """Refuse labels among which is one for a feature after the last: they are of another dictionary."""
    beyond = next((i for i in labels if _beyond(i, d_sae)), None)
    if beyond is not None:
        why = f"there is one for feature {shown(beyond)}, and the dictionary ends at {d_sae - 1}"
        raise Refusal(what, why, instead)


def _beyond(index: str, d_sae: int) -> bool:
    """Whether a feature's index is a number after the last; Python reads no number of thousands of digits."""
    return index.isdecimal() and (len(index) >= _DIGITS or int(index) >= d_sae)


def _theirs(record: SourceRecord | None, source: str) -> Names:
    """What the dictionary that a source was made from goes by."""
    if record is None:
        return Names(source=source.casefold())
    count = record.config.get("d_sae")
    return Names(
        source=source.casefold(),
        listed=_place(record.release, record.sae_id) if record.release and record.sae_id else "",
        hub=_place(record.repo, record.folder) if record.repo and (record.folder or not record.release) else "",
        d_sae=count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None,
    )


def _place(first: str, inside: str | None) -> str:
    """Repository and folder, or release and id; of a file of arrays the folder it lies in."""
    path = PurePosixPath(first, (inside or "").strip("/"))
    return str(path.parent if path.suffix.lower() in SUFFIXES else path).casefold()


def _id_in(folder: Folder) -> str:
    """The Neuronpedia id in a dictionary's own settings, if there is one."""
    if _CONFIG not in folder.names:
        return ""
    config = folder.json(_CONFIG)
    within = config.get("metadata") if isinstance(config, dict) else None
    parts = [part for part in (config, within) if isinstance(part, dict)]
    return next((found for part in parts if (found := _source(part.get("neuronpedia_id")))), "")


def _source(written: object) -> str:
    """MODEL/SOURCE of an id as it is written; empty where it is none, as some files hold placeholders."""
    reference = f"np:{written.removeprefix('np:')}" if isinstance(written, str) else ""
    if not is_reference(reference):
        return ""
    try:
        return parse(reference).at(None).path.casefold()
    except Refusal:
        return ""
