"""Neuronpedia's exports: labels, top activations, feature statistics, and what a source was made from.

In: an export's folder (a source's own, or one that holds ``{model}/{source}`` or ``v1/{model}/{source}``) or its
http(s) address. Out: `Labels`, `Context` lists, `FeatureRow`, `SourceRecord`. Refuses rows that are not JSON, lack what
they need or belong to another source, with file and line; and everything `files` refuses.

Row fields as in the site's export and auto-interpretation scripts (export-data.py, batch-autointerp.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from dragoman.addresses import public_address
from dragoman.core import Floats, Refusal, frozen
from dragoman.neuronpedia.files import EACH, LIMITS, Kept, Limits, Place
from dragoman.neuronpedia.ids import HOST, NeuronpediaRef, parse
from dragoman.neuronpedia.source import SourceRecord
from dragoman.store import refusing
from dragoman.store.spans import shown

_HUB_ID = re.compile(r"[\w.-]{1,100}/[\w.-]{1,100}")
KINDS = ("explanations", "features", "activations")


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    modelId: str
    layer: str
    index: str


class _ExplanationRow(_Row):
    description: str
    id: str | None = None
    typeName: str | None = None
    explanationModelName: str | None = None
    notes: str | None = None


class _ActivationRow(_Row):
    tokens: list[str]
    values: list[FiniteFloat]
    maxValueTokenIndex: int | None = None


class _FeatureRow(_Row):
    frac_nonzero: FiniteFloat | None = None
    maxActApprox: FiniteFloat | None = None
    pos_str: list[str] | None = None
    neg_str: list[str] | None = None
    hookName: str | None = None
    vector: list[FiniteFloat] | None = None


class _SourceRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    modelId: str
    saelensRelease: str | None = None
    saelensSaeId: str | None = None
    hfRepoId: str | None = None
    hfFolderId: str | None = None
    saelensConfig: dict[str, Any] | str | None = None


AnyRow = TypeVar("AnyRow", bound=_Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One explanation of a feature: its text, the method and model that made it, and their notes."""

    index: str
    description: str
    type_name: str | None = None
    model_name: str | None = None
    notes: str | None = None
    id: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """Notes as dragoman writes them (long text, confidence, provenance); empty when they are anything else."""
        try:
            found = json.loads(self.notes or "")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Labels:
    """All explanations by feature index, in the order of the export."""

    all: Mapping[str, tuple[Label, ...]]

    def __len__(self) -> int:
        """How many features have one."""
        return len(self.all)

    @property
    def kinds(self) -> dict[tuple[str | None, str | None], int]:
        """How many explanations there are of each (method, model)."""
        counts: dict[tuple[str | None, str | None], int] = {}
        for label in (label for labels in self.all.values() for label in labels):
            key = (label.type_name, label.model_name)
            counts[key] = counts.get(key, 0) + 1
        return counts

    def chosen(self, *, type_name: str | None = None, model_name: str | None = None) -> dict[str, str]:
        """One description by index: the first that fits the method and model asked for, or simply the first.

        Raises:
            Refusal: nothing fits; the sentence lists what there is.
        """
        fits = {
            index: next(
                (
                    label.description
                    for label in labels
                    if type_name in (None, label.type_name) and model_name in (None, label.model_name)
                ),
                None,
            )
            for index, labels in self.all.items()
        }
        found = {index: said for index, said in fits.items() if said is not None}
        if not found and (type_name or model_name):
            there = "; ".join(f"{kind} by {model}" for kind, model in self.kinds) or "none at all"
            asked = " by ".join(x for x in (type_name or "any method", model_name) if x)
            raise Refusal(f"explanations of {asked}", f"the export holds: {there}", "name one of these")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A text a feature fires in: n tokens, n activations (float32), and where it fires most."""

    index: str
    tokens: tuple[str, ...]
    values: Floats
    peak: int

    @property
    def text(self) -> str:
        """The tokens joined as they stand."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """Statistics of a feature: share of tokens it fires on, highest activation, tokens it raises and lowers.

    ``vector`` (d_model,) where the export carries one.
    """

    index: str
    density: float | None
    most: float | None
    raises: tuple[str, ...]
    lowers: tuple[str, ...]
    hook: str | None
    vector: Floats | None


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

    def labels(self) -> Labels:
        """Every explanation, by feature index; those without a word are passed over."""
        found: dict[str, list[Label]] = {}
        kept = Kept(f"explanations of {self.place.name}", self.place.limits.kept)
        for _, row in self._rows("explanations", _ExplanationRow):
            kept.add(len(row.description) + len(row.notes or ""))
            if row.description.strip():
                label = Label(
                    index=row.index,
                    description=row.description.strip(),
                    type_name=row.typeName,
                    model_name=row.explanationModelName,
                    notes=row.notes,
                    id=row.id,
                )
                found.setdefault(row.index, []).append(label)
        return Labels({index: tuple(labels) for index, labels in found.items()})

    def contexts(self, indices: frozenset[str] | set[str] | None = None) -> dict[str, tuple[Context, ...]]:
        """Texts by feature index (all, or only those asked for), the strongest first."""
        found: dict[str, list[Context]] = {}
        kept = Kept(f"activations of {self.place.name}", self.place.limits.kept)
        for where, row in self._rows("activations", _ActivationRow, indices):
            if not row.tokens or len(row.tokens) != len(row.values):
                raise Refusal(where, f"{len(row.tokens)} tokens and {len(row.values)} values", "get the export again")
            kept.add(EACH * len(row.tokens) // 8)
            peak = int(np.argmax(row.values)) if row.maxValueTokenIndex is None else row.maxValueTokenIndex
            if not 0 <= peak < len(row.tokens):
                raise Refusal(where, f"its strongest token is number {peak} of {len(row.tokens)}", "get it again")
            values = _float32(where, row.values)
            context = Context(index=row.index, tokens=tuple(row.tokens), values=values, peak=peak)
            found.setdefault(row.index, []).append(context)
        return {i: tuple(sorted(said, key=lambda c: -float(c.values.max()))) for i, said in found.items()}

    def features(self) -> dict[str, FeatureRow]:
        """Statistics by feature index."""
        found: dict[str, FeatureRow] = {}
        kept = Kept(f"features of {self.place.name}", self.place.limits.kept)
        for where, row in self._rows("features", _FeatureRow):
            kept.add(4 * len(row.vector or ()))
            found[row.index] = FeatureRow(
                index=row.index,
                density=row.frac_nonzero,
                most=row.maxActApprox,
                raises=tuple(row.pos_str or ()),
                lowers=tuple(row.neg_str or ()),
                hook=row.hookName or None,
                vector=_float32(where, row.vector) if row.vector else None,
            )
        return found

    def source(self) -> SourceRecord | None:
        """The source's record, or None when the export has none."""
        found = self.place.lines("source.jsonl")
        first = next(found[1], None) if found else None
        if found is None or first is None:
            return None
        where = f"{found[0]}, line {first[0]}"
        row = _checked(_SourceRow, where, _loaded(where, first[1]))
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
        first = next(self._rows("explanations", _ExplanationRow), None)
        if first is None:
            raise Refusal(f"explanations of {self.place.base}", "there is none in it", "check the folder or address")
        return NeuronpediaRef(model=first[1].modelId, source=first[1].layer)

    def _hub(self) -> str | None:
        """The model's hub id, when the model's record carries one."""
        found = self.place.lines("model.jsonl")
        first = next(found[1], None) if found else None
        if found is None or first is None:
            return None
        named = _loaded(f"{found[0]}, line {first[0]}", first[1]).get("hfRepoId")
        return named if isinstance(named, str) and _HUB_ID.fullmatch(named) else None

    def _rows(
        self, kind: str, form: type[AnyRow], indices: frozenset[str] | set[str] | None = None
    ) -> Iterator[tuple[str, AnyRow]]:
        """(file and line, row) of a kind; refuse an export without any, and rows of another source."""
        own = (self.ref.model, self.ref.source) if self.ref else None
        files = 0
        for name, lines in self.place.batches(kind):
            files += 1
            for number, line in lines:
                where = f"{name}, line {number}"
                row = _checked(form, where, _loaded(where, line))
                own = own or (row.modelId, row.layer)
                if (row.modelId, row.layer) != own:
                    raise Refusal(
                        where,
                        f"it is of {shown(row.modelId)}/{shown(row.layer)}, not of {shown('/'.join(own), 120)}",
                        "indices count within one source; pass its own folder",
                    )
                if indices is None or row.index in indices:
                    yield where, row
        if not files:
            raise Refusal(
                f"{kind} of {self.place.name}", f"there is no {kind}/batch-0.jsonl.gz", "check the folder or address"
            )


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
        raise Refusal(
            shown_as,
            "that is the site; its exports lie in its public bucket neuronpedia-datasets under v1/",
            "pass the bucket's address, or a folder fetched from it",
        )
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


def _float32(where: str, values: list[float]) -> Floats:
    """Numbers as they are kept; JSON's may be larger than float32's."""
    with np.errstate(over="ignore"):
        out = frozen(values)
    if not np.isfinite(out).all():
        raise Refusal(where, "it holds numbers beyond float32", "get the export again")
    return out


def _loaded(where: str, line: bytes | str) -> dict[str, Any]:
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


def _checked(form: type[AnyRecord], where: str, row: dict[str, Any]) -> AnyRecord:
    try:
        return form.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(p) for p in first["loc"])
        raise Refusal(
            where, f"its field {shown(field_name)} is wrong ({first['msg']})", "get the export again"
        ) from error
