"""Texts of a data set on the hub: only as many rows as are asked for cross the network, all of one commit.

In: ``hf:ORG/NAME[@REVISION][:SPLIT[:COLUMN]]``. Out: texts, and the reference with the commit, split and column that
they are of. Read are the hub's own Parquet files of the data set (its reference ``refs/convert/parquet``), or, where
there are none or a revision is named, files of texts in the repository; kept in the cache. Refuses what is no such
reference, data sets that are gated, absent or of other files, splits and columns that are not there (naming those that
are), splits of which files are missing by their names, and all that readers of files refuse. No code of a data set is
run, and nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, cast

from dragoman.core import Refusal
from dragoman.store import hub
from dragoman.store.cache import Cache
from dragoman.store.files import digest, read_json, write_json, write_text
from dragoman.store.hub import REPOSITORY, REVISION
from dragoman.store.remote import RemoteFile, RemoteStream
from dragoman.store.spans import listed, meant, shown
from dragoman.store.textfiles import COLUMN, kind_of, listed_kinds, texts_in
from dragoman.store.texts import read_jsonl

PREFIX = "hf:"
MOST = 5_000  # texts, unless somebody says otherwise: docs/results/data.md gains little beyond half of them
CONVERTED = "refs/convert/parquet"
_FORM = "hf:ORG/NAME, hf:ORG/NAME@REVISION:SPLIT:COLUMN"
_REF = re.compile(
    rf"hf:(?P<repo>{REPOSITORY})(?:@(?P<revision>{REVISION}))?"
    r"(?::(?P<split>[^:@]+)(?::(?P<column>[^:]+))?)?"
)
_PIECE = 1 << 20  # bytes of one request for lines
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{2,})-of-(?P<of>\d{2,})(?:-[0-9a-f]+)?")
_USUAL = ("train",)
_ALONE = "default"  # how the hub calls the one configuration of a data set
_PREFERRED = (".parquet", ".jsonl", ".csv", ".txt")
_MAKING = "texts-1"  # goes up when other texts are made of the same rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRef:
    """A data set on the hub; ``split``: SPLIT, or CONFIGURATION/SPLIT."""

    repo: str
    revision: str | None = None
    split: str | None = None
    column: str | None = None

    @classmethod
    def parse(cls, text: str) -> DatasetRef:
        """The reference that is written so.

        Raises:
            Refusal: it is of another form.
        """
        found = _REF.fullmatch(text)
        if not found or not hub.is_repository(found["repo"]):
            raise Refusal(f"texts '{shown(text)}'", "it names no data set of the hub", f"write {_FORM}")
        return cls(**found.groupdict())

    def __str__(self) -> str:
        """As it is written."""
        tail = f":{self.split}{f':{self.column}' if self.column else ''}" if self.split else ""
        return f"{PREFIX}{self.repo}{f'@{self.revision}' if self.revision else ''}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFiles:
    """Where a data set's texts are: the reference, pinned, and its files in order, with their bytes."""

    ref: DatasetRef
    files: Mapping[str, int]


def dataset_texts(ref: DatasetRef, column: str | None = None, most: int = MOST) -> tuple[list[str], DatasetRef]:
    """The first ``most`` texts of a data set, and its reference with the commit, split and column they are of.

    Args:
        ref: the data set.
        column: that holds the texts, where the reference does not say; "text" when None.
        most: how many texts are read.

    Raises:
        Refusal: as the module says.
    """
    if column is not None and ref.column not in (None, "", column):
        raise Refusal(f"column '{shown(column)}' of {ref}", "the reference names another", "say one of the two")
    column = ref.column or (COLUMN if column is None else column)
    found = None if ref.revision and hub.is_commit(ref.revision) else pinned(ref)
    at = ref if found is None else found.ref

    def make(path: Path) -> None:
        there = found or pinned(ref)
        texts = _read(there, column, most)
        path.mkdir()
        write_text(path / "texts.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        write_json(path / "ref.json", {"split": there.ref.split, "column": column})

    key = digest(_MAKING, at.repo, str(at.revision), at.split or "", column, str(most))
    path, _ = Cache().get_or_make("texts", key, make)
    told = read_json(path / "ref.json")
    texts = [str(row["text"]) for row in read_jsonl(path / "texts.jsonl")]
    return texts, replace(at, split=told["split"], column=column)


def pinned(ref: DatasetRef) -> DatasetFiles:
    """The commit that a data set is read at, and its split's files there; their contents are not looked at.

    Raises:
        Refusal: the hub does not have it or gives it to nobody, or it has no such split.
    """
    what = str(ref)
    sha = _commit(ref, what)
    sizes = hub.sizes(ref.repo, sha, what, "datasets")
    name, files = _chosen(ref, _splits(sizes), what)
    _refuse_missing(files, what)
    return DatasetFiles(ref=replace(ref, revision=sha, split=name), files={file: sizes[file] for file in files})


def _commit(ref: DatasetRef, what: str) -> str:
    if ref.revision is None:
        try:
            return hub.commit(ref.repo, CONVERTED, what, "datasets")
        except hub.NoRevision:  # the hub has converted nothing of it: its own files, then
            pass
    return hub.commit(ref.repo, ref.revision, what, "datasets")


def _splits(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """(configuration, split) -> its files in order, of one kind."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in sorted(paths):
        if kind := kind_of(path):
            found.setdefault(_split_of(path), {}).setdefault(kind, []).append(path)
    tables = {kind for kinds in found.values() for kind in kinds} - {".txt"}
    if tables:  # text files beside tables tell of them
        found = {name: kinds for name, kinds in found.items() if kinds.keys() & tables}
    return {name: next(kinds[one] for one in _PREFERRED if one in kinds) for name, kinds in found.items()}


def _split_of(path: str) -> tuple[str, str]:
    """Configuration and split of a file, by its path.

    The hub's own are ``CONFIGURATION/SPLIT/0000.parquet`` (``partial-SPLIT`` where they are the first ones alone);
    people write ``data/SPLIT-00000-of-00002.parquet`` or ``SPLIT.jsonl``, the configuration's folder around it.
    """
    pure = PurePosixPath(path)
    stem = pure.name.partition(".")[0]
    folders = [part for part in pure.parts[:-1] if part != "data"]
    if stem.isdigit() and folders:
        split = folders.pop().removeprefix("partial-")
    else:
        shard = _SHARD.fullmatch(stem)
        split = shard["split"] if shard else stem
    return "/".join(folders) or _ALONE, split


def _refuse_missing(files: Sequence[str], what: str) -> None:
    """Refuse a split that its files' names tell to be of so many, where these are not exactly all of them."""
    shards = [found for path in files if (found := _SHARD.fullmatch(PurePosixPath(path).name.partition(".")[0]))]
    many = {int(found["of"]) for found in shards}
    there = (*sorted(int(found["number"]) for found in shards),)
    whole = {(*range(first, n + first),) for n in many for first in (0, 1)}
    if shards and (len(many) > 1 or there not in whole):
        told = " and of ".join(map(str, sorted(many)))
        why = f"its {len(there)} files are named as parts of {told}, and are not one of each"
        raise Refusal(what, why, "name another revision or split")


def _chosen(ref: DatasetRef, splits: Mapping[tuple[str, str], Sequence[str]], what: str) -> tuple[str, Sequence[str]]:
    """The split that is asked for, as CONFIGURATION/SPLIT, and its files."""
    if not splits:
        why = f"no file of it ends in {listed_kinds()}"
        raise Refusal(what, why, "name another data set, or write its texts to a file and name that")
    named = {f"{config}/{split}": files for (config, split), files in splits.items()}
    if ref.split in named:
        return ref.split, named[ref.split]
    fits = [one for one in splits if ref.split is None or one[1] == ref.split]
    if not fits:
        why = f"it has no split '{shown(ref.split)}', but {listed(named)}"
        short = [split for _, split in splits]
        raise Refusal(what, why, meant(str(ref.split), [*named, *short], "name one of them after the colon"))
    for usual in (_ALONE, None):
        some = [one for one in fits if usual in (None, one[0])]
        train = [one for one in some if one[1] in _USUAL]
        for few in (some, train):
            if len(few) == 1:
                return "/".join(few[0]), splits[few[0]]
    raise Refusal(what, f"it has {listed(named)}", f"name one: {PREFIX}{ref.repo}:{'/'.join(fits[0])}")


def _read(there: DatasetFiles, column: str, most: int) -> list[str]:
    """The first texts, file by file; what lies behind them is not fetched."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    ref, texts = there.ref, list[str]()
    for path, size in there.files.items():
        url = hf_hub_url(ref.repo, path, repo_type="dataset", revision=ref.revision, endpoint=hub.endpoint())
        name = f"{PREFIX}{ref.repo}/{path}"
        with closing(RemoteStream(RemoteFile(url, headers=build_hf_headers(), name=name))) as raw:
            # Parquet asks for what it needs; lines come in pieces.
            file = cast(IO[bytes], raw if kind_of(path) == ".parquet" else BufferedReader(raw, _PIECE))
            packed = size if path.lower().endswith(".gz") else None
            with closing(texts_in(file, name, column, packed)) as found:
                texts += islice(found, most - len(texts))
        if len(texts) >= most:
            break
    if not texts:
        raise Refusal(str(ref), "there is no text in it", "name another split, column or data set")
    return texts
