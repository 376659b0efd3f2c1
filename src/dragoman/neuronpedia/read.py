"""Neuronpedia's exports: labels, and what a source was made from.

In: an export's folder (a source's own, or one that holds ``{model}/{source}`` or ``v1/{model}/{source}``) or its
http(s) address. Out: labels by feature index, a `SourceRecord`. Refuses rows that are not JSON, lack what they need or
belong to another source, with file and line; and everything `files` refuses.

Row fields as in the site's export and auto-interpretation scripts (export-data.py, batch-autointerp.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from dragoman.core import Hook, Refusal, Site, public_address
from dragoman.neuronpedia.files import EACH, LIMITS, Limits, Place
from dragoman.neuronpedia.ids import HOST, HUB_MODELS, NeuronpediaRef, hub_model, parse
from dragoman.store import refusing
from dragoman.store.hub import is_repository
from dragoman.store.spans import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """What a source was made from: enough to reach its weights without anybody's registry.

    ``config``: its SAELens configuration. ``hub``: the hub id of the model, when the model's record says it.
    """

    ref: NeuronpediaRef
    release: str | None = None
    sae_id: str | None = None
    repo: str | None = None
    folder: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    hub: str | None = None

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """References to its weights: ``hf:REPO/FOLDER``, which needs no registry, before ``sae:RELEASE/SAE_ID``."""
        hub = f"hf:{self.repo}/{self.folder.strip('/')}" if self.repo and self.folder else None
        listed = f"sae:{self.release}/{self.sae_id}" if self.release and self.sae_id else None
        whole = f"hf:{self.repo}" if self.repo and not self.folder and not listed else None
        return tuple(ref for ref in (hub, listed, whole) if ref)

    @property
    def dictionary(self) -> str:
        """The first of `dictionaries`. Refused when the record names no weights."""
        if not self.dictionaries:
            why = "its record names neither a SAELens release nor a hub repository"
            raise Refusal(f"source {self.ref}", why, "name the dictionary yourself")
        return self.dictionaries[0]

    @property
    def hook(self) -> str | None:
        """The hook the dictionary was trained at, in SAELens' words."""
        metadata = self.config.get("metadata")
        for place in (self.config, metadata if isinstance(metadata, dict) else {}):
            for key in ("hook_name", "hook_point"):
                if isinstance(place.get(key), str):
                    return place[key]
        return None

    @property
    def site(self) -> Site:
        """The stream its rows live in; ``hook_resid_pre`` of a block is the output of the one before.

        Raises:
            Refusal: the hook is not in the residual stream, or disagrees with the source's own number.
        """
        model = self.hub or self._model()
        hook = self.hook
        if hook is None:
            return Site(model, self.ref.layer)
        found = Hook.parse(hook)
        if found is None or found.place not in ("output", "input"):
            why = f"its hook '{shown(hook)}' is not in the residual stream, where verbalizers read"
            raise Refusal(f"source {self.ref}", why, "use a source of a residual stream")
        block = found.block
        if block != self.ref.layer:
            why = f"its id says layer {self.ref.layer} and its hook '{shown(hook)}'"
            raise Refusal(f"source {self.ref}", why, "name the site yourself as MODEL:BLOCK")
        if found.place == "input":
            return Site.before_block(model, block, what=f"source {self.ref}")
        return Site(model, block)

    def _model(self) -> str:
        named = self.config.get("model_name")
        return named if isinstance(named, str) and "/" in named else hub_model(self.ref.model)


def refuse_elsewhere(source: NeuronpediaRef, own: Site, *, resid_pre: bool, whose: str, instead: str) -> None:
    """Refuse labels of a source at another block or of another model than directions at ``own``.

    Models are compared only where the table knows both: ours by its hub id, their id, or the last part of a path.

    Args:
        source: what the labels are of.
        own: where the directions are.
        resid_pre: the source counts the block that it enters.
        whose: what the directions are called, for the refusal.
        instead: what else to do.

    Raises:
        Refusal: another block, or another model.
    """
    block = Site.block_before(source.layer, f"source {source}") if resid_pre else source.layer
    if block != own.block:
        why = f"its rows live at block {block}, {whose} at block {own.block}"
        raise Refusal(f"labels for {source}", why, instead)
    theirs, ours = HUB_MODELS.get(source.model.lower()), known_model(own.model)
    if theirs and ours and theirs.casefold() != ours.casefold():
        why = f"that is {theirs}, {whose} directions are of {own.model}"
        raise Refusal(f"labels for {source}", why, instead)


def known_model(name: str) -> str | None:
    """The hub id of a model by its hub id, their id, or a folder that is called like one of the table; else None."""
    if name.lower() in HUB_MODELS:
        return HUB_MODELS[name.lower()]
    last = name.rstrip("/").rpartition("/")[2].casefold()
    found = next((hub for hub in HUB_MODELS.values() if hub.rpartition("/")[2].casefold() == last), None)
    return found or (name if is_repository(name) and not Path(name).exists() else None)


KINDS = ("explanations", "features", "activations")  # folders that make a folder an export


class _ExplanationRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    modelId: str
    layer: str
    index: str
    description: str


class _SourceRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    modelId: str
    saelensRelease: str | None = None
    saelensSaeId: str | None = None
    hfRepoId: str | None = None
    hfFolderId: str | None = None
    saelensConfig: dict[str, object] | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One source's export, opened by `open`; files are read when asked for."""

    place: Place
    ref: NeuronpediaRef | None

    @classmethod
    def open(cls, base: Path | str, ref: NeuronpediaRef | str | None = None, *, limits: Limits = LIMITS) -> Export:
        """Find a source's files.

        Args:
            base: the source's folder or address, or one above it, when ``ref`` says which source.
            ref: the source; rows of another one are refused.
            limits: sizes beyond which files are refused.

        Raises:
            Refusal: no such folder, another scheme, or a folder of several sources without ``ref``.
        """
        asked = parse(ref) if isinstance(ref, str) else ref
        source = asked.at(None) if asked else None
        if isinstance(base, str) and "://" in base:
            address = _address(base, source)
            return cls(place=Place(address, limits), ref=source)
        folder = _folder(Path(base).expanduser(), source)
        return cls(place=Place(folder, limits), ref=source)

    def labels(self) -> dict[str, str]:
        """One label by feature index: the first of the export that is not empty."""
        found: dict[str, str] = {}
        kept, most = 0, self.place.limits.kept
        for row in self._rows():
            label = row.description.strip()
            if label and row.index not in found:
                found[row.index] = label
                kept += EACH + len(label)
                if kept > most:
                    why = f"they take more than {most >> 20} MB in memory, more than those of any source"
                    instead = "fetch the folder yourself, look at it, and pass the batches that are needed"
                    raise Refusal(f"explanations of {self.place.name}", why, instead)
        return found

    def source(self) -> SourceRecord | None:
        """The source's record, or None when the export has none."""
        first = self._first("source.jsonl")
        if first is None:
            return None
        where, record = first
        row = _checked(_SourceRow, where, record)
        ref = NeuronpediaRef(model=row.modelId, source=row.id)
        if self.ref and ref != self.ref:
            raise Refusal(where, f"it is of {ref}, not of {self.ref}", "check which folder is meant")
        config = _loaded(where, row.saelensConfig) if isinstance(row.saelensConfig, str) else row.saelensConfig
        return SourceRecord(
            ref=ref,
            release=row.saelensRelease,
            sae_id=row.saelensSaeId,
            repo=row.hfRepoId,
            folder=row.hfFolderId,
            config=config or {},
            hub=self._hub(),
        )

    def told_by_rows(self) -> NeuronpediaRef:
        """The source that its explanations say they are of.

        Raises:
            Refusal: there is no row, or its names are not of their form.
        """
        if self.ref is not None:
            return self.ref
        first = next(self._rows(), None)
        if first is None:
            raise Refusal(f"explanations of {self.place.base}", "there is none in it", "check the folder or address")
        return NeuronpediaRef(model=first.modelId, source=first.layer)

    def _hub(self) -> str | None:
        """The model's hub id, when the model's record carries one."""
        first = self._first("model.jsonl")
        named = first[1].get("hfRepoId") if first else None
        return named if isinstance(named, str) and is_repository(named) else None

    def _first(self, file: str) -> tuple[str, dict[str, object]] | None:
        """The first record of one of the source's files, with its file and line; None where there is none."""
        found = self.place.lines(file)
        first = next(found[1], None) if found else None
        if found is None or first is None:
            return None
        where = f"{found[0]}, line {first[0]}"
        return where, _loaded(where, first[1])

    def _rows(self) -> Iterator[_ExplanationRow]:
        """Rows of explanations; refuse an export without any, and rows of another source."""
        own = (self.ref.model, self.ref.source) if self.ref else None
        files = 0
        for name, lines in self.place.batches("explanations"):
            files += 1
            for number, line in lines:
                where = f"{name}, line {number}"
                row = _checked(_ExplanationRow, where, _loaded(where, line))
                own = own or (row.modelId, row.layer)
                if (row.modelId, row.layer) != own:
                    why = f"it is of {shown(row.modelId)}/{shown(row.layer)}, not of {shown('/'.join(own), 120)}"
                    raise Refusal(where, why, "indices count within one source; pass its own folder")
                yield row
        if not files:
            what = f"explanations of {self.place.name}"
            raise Refusal(what, "there is no explanations/batch-0.jsonl.gz", "check the folder or address")


def _address(base: str, ref: NeuronpediaRef | None) -> str:
    """A source's address: as given when it ends in one, else with the source put behind it."""
    try:
        parts = urlsplit(base)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").removeprefix("www.")
    except ValueError:
        scheme, host = "", ""
    shown_as = f"address '{public_address(base)}'"
    if scheme not in ("http", "https") or not host:
        raise Refusal(shown_as, "exports are read over http and https, or from a folder", "pass one of these")
    if host == HOST:
        why = "that is the site; its exports lie in its public bucket neuronpedia-datasets under v1/"
        raise Refusal(shown_as, why, "pass the bucket's address, or a folder fetched from it")
    address = base.split("?")[0].split("#")[0].rstrip("/")
    return address if ref is None or address.endswith("/" + ref.path) else f"{address}/{ref.path}"


def _folder(base: Path, ref: NeuronpediaRef | None) -> Path:
    """A source's folder: the one given when it is one, else ``{model}/{source}`` in it, with or without ``v1``."""

    def is_source(path: Path) -> bool:
        return any((path / kind).is_dir() for kind in KINDS) or (path / "source.jsonl").is_file()

    places = [base] if ref is None else [base, base / ref.path, base / "v1" / ref.path]
    with refusing("reading", base):
        found = next((place for place in places if is_source(place)), None)
        there = base.is_dir()
    if found is not None:
        return found
    if not there:
        raise Refusal(f"export {base}", "there is no such folder", "check the path")
    raise Refusal(
        f"export {base}",
        f"it holds no {'/, '.join(KINDS)}/" + (f", neither itself nor under {ref.path}" if ref else ""),
        "pass a source's own folder"
        if ref
        else "pass a source's own folder, or name the dictionary as np:MODEL/SOURCE",
    )


def _loaded(where: str, line: bytes | str) -> dict[str, object]:
    """One JSON object; NaN and infinity are not JSON."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(where, f"it is not JSON ({str(error)[:80]})", "get the export again") from error
    if not isinstance(row, dict):
        raise Refusal(where, "it is not a JSON object", "an export has one object a line; get it again")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def _checked(form: type[AnyRecord], where: str, row: dict[str, object]) -> AnyRecord:
    try:
        return form.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(p) for p in first["loc"])
        why = f"its field {shown(field_name)} is wrong ({first['msg']})"
        raise Refusal(where, why, "get the export again") from error
