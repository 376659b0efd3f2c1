"""A dictionary, opened once: its rows, its encoder, its labels, and what lies beside it.

In: what a person writes for a dictionary: a packaged name, a folder or file, a hub repository's folder, a SAELens
release, a Neuronpedia id with its export. Out: a `Dictionary`, and of it `Features`, `Directions`, an `Encoder`. Only
the rows asked for are read, from disk as over the network. Refuses layouts it does not know, pickles, ids that are not
there, decoders that lie otherwise than their layout, another block's dictionary or labels, and rows that are zero or
not finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dragoman.core import NO_LENGTH, Directions, Refusal, Site, public_address
from dragoman.dictionaries.asked import Asked, Rows
from dragoman.dictionaries.beside import (
    CONFIDENCE,
    LABELS,
    TRUTH,
    DictionaryRef,
    Truth,
    beside,
    direct_folder,
    located,
    read_labels,
    read_truth,
)
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder, LocalFolder
from dragoman.dictionaries.hub import folder_at, pinned
from dragoman.dictionaries.labelled import Labels, labels_of, names_of, refuse_beyond
from dragoman.dictionaries.layout import VECTORS, Orientation, Weights
from dragoman.dictionaries.rows import ids_of, living, refuse_undirected, wanted
from dragoman.dictionaries.vectors import weights_of
from dragoman.neuronpedia import Export, NeuronpediaRef, SourceRecord, is_reference, parse
from dragoman.store import digest, stable_json
from dragoman.store.spans import shown

READ_AS = ("key", "orientation", "d_model", "k")  # words by which `open_dictionary` is told how arrays are read
_RECORD = "its record, which names these weights"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """A dictionary, or a file of vectors, opened by `open_dictionary`.

    ``ref``: how it was named. ``where``: where its files are: a folder or file here (of a packaged name or a `Path`),
    else a reference, of the hub at one commit. ``indices``: features that the reference names.
    ``folder`` and ``weights``: its files and its decoder as they were opened; ``asked_site``, ``width``, ``export`` and
    ``resid_pre`` as `open_dictionary` was told; ``read_as``: the words it was told of its arrays;
    ``labels_ref``: whose labels were named.
    """

    ref: str
    where: Path | DictionaryRef
    folder: Folder
    weights: Weights
    indices: tuple[int | str, ...] = ()
    asked_site: Site | None = None
    width: int | None = None
    export: Export | None = None
    own_export: bool = False
    resid_pre: bool = False
    read_as: Mapping[str, object] = field(default_factory=dict)
    labels_ref: str | None = None

    def __repr__(self) -> str:
        """How it was named, its sizes, and where it lives, if that is known."""
        site = self.asked_site or self.weights.stated.site
        named = f"{public_address(self.ref)!r}{f' at {site}' if site else ''}"
        return f"Dictionary({named}, {self.d_sae} features, width {self.d_model})"

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return self.weights.name

    @property
    def layout(self) -> str:
        """The project in whose layout it is published; "vectors" for a file of vectors."""
        return self.weights.layout

    @property
    def d_model(self) -> int:
        """Width of the stream its rows live in."""
        return self.weights.d_in

    @property
    def d_sae(self) -> int:
        """How many features it has."""
        return self.weights.d_sae

    @cached_property
    def site(self) -> Site:
        """The stream its rows live in.

        Raises:
            Refusal: neither it nor the caller says so, or they contradict each other, or their widths do.
        """
        site = self._site()
        if self.width is not None and self.d_model != self.width:
            raise Refusal(
                f"directions {self.folder.focus or self.folder.label}",
                f"their width {self.d_model} is not the width {self.width} of the stream at {site}",
                "check that model and dictionary belong together",
            )
        return site

    def _site(self) -> Site:
        """What is asked, where it does not contradict what the dictionary says; else what that says."""
        own, asked, name = self.weights.stated, self.asked_site, self.name
        if asked is None and own.site is not None:
            return own.site
        if asked is None and self.layout == VECTORS:
            what = f"vectors {self.weights.label}"
            raise Refusal(what, "the file does not say where they live", "name the site with --source MODEL:BLOCK")
        if asked is None:
            why = f"{own.by} names no model" + (" and hook" if own.block is None else "")
            raise Refusal(name, why, "name the site with --source MODEL:BLOCK")
        if own.block is not None and asked.block != own.block:
            raise Refusal(f"{name} at {asked}", f"{own.by} says block {own.block}", f"use it at :{own.block}")
        if own.revision and asked.revision and asked.revision != own.revision:
            why = f"{own.by} says revision {shown(own.revision)} of its model"
            raise Refusal(f"{name} at {asked}", why, f"use it at MODEL@{shown(own.revision)}:BLOCK")
        return asked

    def features(
        self,
        ids: Sequence[int | str] | int | str | Asked | None = None,
        *,
        seed: int = 0,
        firings: Mapping[str, float] | None = None,
    ) -> Features:
        """Some of its features, in the order asked for; only their rows are read.

        Args:
            ids: row numbers, one, or a line of words such as "982,0-99" (see ``asked``); those that the reference
                names, or all, when None.
            seed: of a draw ("random:100").
            firings: in how many documents each feature fires, by id, where the words ask for the most ("top:100").

        Raises:
            Refusal: what is no list of ids; an id that is not there or named twice, or of a feature without a
                direction. Of all features and of ranges those are left out and named in ``directions.dead``.
        """
        if ids is not None and self.indices:
            instead = "drop --features, or the index" if is_reference(self.ref) else "name them once"
            raise Refusal(f"'{self.ref}'", "its features are named twice", instead)
        asked = Asked.parse(ids) if isinstance(ids, str) else ids
        if isinstance(asked, Asked):
            by_id = frozenset(part for part in asked.parts if isinstance(part, str))
            return Features(directions=self._asked(asked, seed, firings), dictionary=self, by_id=by_id)
        chosen = self.indices or None if asked is None else ids_of(asked)
        if chosen is None:
            return Features(directions=self.rows(), dictionary=self)
        directions = self._read(chosen)
        return Features(directions=directions, dictionary=self, by_id=frozenset(directions.ids))

    def _asked(self, asked: Asked, seed: int, firings: Mapping[str, float] | None) -> Directions:
        """Directions of what was asked for in words; rows set aside are named as ``dead``."""
        if asked.every:
            return self.rows()

        own = self.weights.names

        def living(numbers: Sequence[int]) -> list[int]:
            some = list(numbers)
            lengths = np.linalg.norm(self.weights.rows(some).astype(np.float64), axis=1) if some else np.zeros(0)
            return [k for k, length in zip(some, lengths, strict=True) if not length < NO_LENGTH]

        rows = Rows(
            name=self.name,
            count=self.d_sae,
            number_of=lambda word: wanted([word], self.d_sae, self.name, own)[0],
            id_of=lambda number: own[number] if own else str(number),
            living=living,
        )
        with self._reading():
            numbers, dead = asked.numbers(rows, seed=seed, firings=firings)
        found = self._read([rows.id_of(k) for k in numbers])
        return replace(found, dead=tuple(map(rows.id_of, dead))) if dead else found

    def rows(self) -> Directions:
        """All its rows that have a direction, read once."""
        return self._rows

    @cached_property
    def _rows(self) -> Directions:
        return self._read(None)

    def _read(self, ids: Sequence[int | str] | None) -> Directions:
        """Rows as directions with labels."""
        site, label = self.site, self.folder.focus or self.folder.label
        with self._reading():
            own = self.weights.names
            numbers = list(range(self.d_sae)) if ids is None else wanted(ids, self.d_sae, self.name, own)
            names, dead = [own[i] if own else str(i) for i in numbers], ()
            rows = self.weights.rows(numbers)
            if ids is None:
                rows, names, dead = living(rows, names, label)
            refuse_undirected(rows, names, label)
        labels = self.labels
        found = Directions.of(site, rows, names, labels=[labels.get(i, "") for i in names], origin=str(self.where))
        return replace(found, dead=dead) if dead else found

    def encoder(self) -> Encoder | None:
        """Its encoder, whole in memory, read once; None of plain vectors.

        Raises:
            Refusal: an unknown activation, arrays that do not fit together, or input scaling that is not stored.
        """
        return self._encoder

    def need_encoder(self) -> Encoder:
        """Its encoder, where there must be one. Refused: as ``encoder``, and of plain vectors."""
        return self._encoder or self.weights.encoder()  # the latter refuses plain vectors

    @cached_property
    def _encoder(self) -> Encoder | None:
        if self.layout == VECTORS:
            return None
        with self._reading():
            return self.weights.encoder()

    def check_encoder(self, *, required: bool = True) -> None:
        """Refuse what ``encoder`` would refuse by settings, names and shapes; matrices are not read.

        Raises:
            Refusal: as ``encoder``, but for numbers that are not finite; plain vectors, where one is ``required``.
        """
        if required or self.layout != VECTORS:
            with self._reading():
                self.weights.check_encoder()

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels by feature id: of the export that was named, else of ``labels.json`` beside it."""
        return self.labelled.by_feature

    @cached_property
    def labelled(self) -> Labels:
        """Its labels, and whose they are.

        Raises:
            Refusal: an export of another block, model or dictionary, or what the readers of either refuse.
        """
        if self.export is None:
            with self._reading():
                own = read_labels(self.folder) if LABELS in self.folder.names else {}
            if self.layout != VECTORS:
                instead = "put this dictionary's own labels there, or take the file away"
                refuse_beyond(own, self.d_sae, f"{self.folder.where}/{LABELS}", instead)
            return Labels(by_feature=own)
        if self.own_export:
            return Labels(by_feature=self.export.labels(), source=f"{parse(self.ref).at(None)}", told_by=_RECORD)
        with self._reading():
            names = names_of(self.where, self.folder, None if self.layout == VECTORS else self.d_sae)
        return labels_of(self.export, names, self.site, resid_pre=self.resid_pre)

    @cached_property
    def truth(self) -> Truth | None:
        """The planted truth that lies beside it, if one does."""
        path = beside(self.where, TRUTH)
        return None if path is None else read_truth(path)

    def direct_folder(self, target: Site) -> Path | None:
        """The folder beside it with the direct route's rows and background at a target, if there is one.

        It was counted on the model that the dictionary names, and is not used where the caller names another.
        """
        stated = self.weights.stated.site
        return direct_folder(self.where, target) if stated is None or stated == self.site else None

    def fingerprint(self) -> str:
        """Digest of its files and of what is asked of them; files of the hub are named by the commit they lie in.

        Of a folder here the place has no part in it, nor have notes: a copy under another path holds the same.
        """
        where, folder, extra = self.where, self.folder, stable_json(self.folder.extra)
        here = isinstance(folder, LocalFolder)
        told = "" if isinstance(where, Path) else (where.inside, where.key, where.indices) if here else where
        asked = f"{dict(self.read_as)} {told}"
        contents = folder.digest(without=CONFIDENCE, alone=self.layout == VECTORS) if here else []
        return digest(asked, extra, *contents)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Connections are closed at the end; reading again opens new ones."""
        with _odd_numbers():
            try:
                yield
            finally:
                self.folder.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Some features of a dictionary: their ``directions``, and the ``dictionary``; iterates over their ids.

    ``by_id``: those that were asked for by their id, and not by a range or with all.
    """

    directions: Directions
    dictionary: Dictionary
    by_id: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """How many."""
        return len(self.directions)

    def __iter__(self) -> Iterator[str]:
        """Their ids."""
        return iter(self.directions.ids)

    def __repr__(self) -> str:
        """How many, of what."""
        return f"Features({len(self)} of {self.dictionary!r})"


def open_dictionary(
    ref: str | Path | DictionaryRef,
    *,
    site: Site | str | None = None,
    labels: str | Path | None = None,
    resid_pre: bool = False,
    key: str | None = None,
    orientation: Orientation | None = None,
    d_model: int | None = None,
    k: int | None = None,
) -> Dictionary:
    """Open a dictionary; of its numbers next to nothing is read yet.

    Args:
        ref: a packaged name, a folder, a file (of vectors: 2-D (n, d_model), or 1-D (d_model,) for one, several by
            name; see ``dragoman.dictionaries.vectors``), any other form of `DictionaryRef`, or a Neuronpedia id.
        site: the stream its rows live in, or its text, MODEL:BLOCK; it says so itself, or its Neuronpedia record does,
            when None. Only block and revision are compared with what it says, because models go by several names.
        labels: folder or address of a Neuronpedia export with its labels.
        resid_pre: that export's source counts the block it enters.
        key: which array of a file that holds several; of single vectors all when None.
        orientation: "rows" or "columns", where the decoder itself does not show which are the features.
        d_model: width of the stream, where known.
        k: of a TopK, where its files do not say it.

    Raises:
        Refusal: as the module says.
    """
    read_as = dict(zip(READ_AS, (key, orientation, d_model, k), strict=True))
    site = site if site is None or isinstance(site, Site) else Site.parse(site)
    asked, named = str(ref), _neuronpedia(ref)
    export = None if labels is None else Export.open(labels, named.at(None) if named else None)
    indices: tuple[int | str, ...] = () if named is None or named.index is None else (named.index,)
    if named is not None:
        record = _record(asked, export, labels)
        ref, site = DictionaryRef.parse(record.dictionary), record.site if site is None else site
    where = located(ref)
    folder = folder_at(where)
    with _odd_numbers():
        try:
            weights = weights_of(
                folder, where, key, d_model, orientation, k, block=None if site is None else site.block
            )
        finally:
            folder.close()
    opened = Dictionary(
        ref=asked,
        where=where if isinstance(where, Path) else pinned(where),
        folder=folder,
        weights=weights,
        indices=indices or (where.indices if isinstance(where, DictionaryRef) else ()),
        asked_site=site,
        width=d_model,
        export=export,
        own_export=named is not None,
        resid_pre=resid_pre,
        read_as={name: word for name, word in read_as.items() if word is not None},
        labels_ref=None if labels is None else str(labels),
    )
    if site is not None:
        _ = opened.site  # refused now where it contradicts the dictionary
    return opened


def _neuronpedia(ref: str | Path | DictionaryRef) -> NeuronpediaRef | None:
    """A Neuronpedia id; None for anything else, and for a path that only looks like one."""
    return parse(ref) if isinstance(ref, str) and is_reference(ref) and not Path(ref).exists() else None


def _record(ref: str, export: Export | None, labels: str | Path | None) -> SourceRecord:
    """What the export says of a Neuronpedia source."""
    record = export.source() if export is not None else None
    if record is not None:
        return record
    raise Refusal(
        f"'{ref}'",
        "a Neuronpedia id does not say where the weights are"
        + (f", and the export in {labels} has no source.jsonl" if labels else ""),
        "pass --labels with the folder or address of its export, or name the dictionary as sae:RELEASE/SAE_ID",
    )


def _odd_numbers() -> np.errstate:
    """Numbers that are none or too large are refused by name where they are read; numpy need not tell of them too."""
    return np.errstate(over="ignore", invalid="ignore")
