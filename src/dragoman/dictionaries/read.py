"""Dictionaries and vector files in, directions and encoders out; random directions to compare with.

In: a reference (`DictionaryRef`): a folder or file here, a hub repository's folder, a SAELens release. Out:
`Directions` at a site, an `Encoder`, or the opened `Dictionary`. Only the rows asked for are read, from disk as over
the network. Refuses layouts it does not know, pickles, ids that are not there, decoders that lie otherwise than their
layout, another block's dictionary, and rows that are zero or not finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import NO_LENGTH, Directions, Refusal, Site
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder, LocalFolder
from dragoman.dictionaries.layout import Dictionary, Orientation
from dragoman.dictionaries.layouts import KNOWN, layout_of, open_dictionary
from dragoman.dictionaries.refs import DictionaryRef
from dragoman.dictionaries.vectors import open_vectors
from dragoman.store import refusing
from dragoman.store.spans import shown

LABELS = "labels.json"
Ref = Path | str | DictionaryRef


def read_directions(
    ref: Ref,
    *,
    site: Site | None = None,
    features: Sequence[int | str] | None = None,
    key: str | None = None,
    d_model: int | None = None,
    orientation: Orientation | None = None,
) -> Directions:
    """Read decoder rows of a dictionary, or vectors of a file, as directions at a site.

    Args:
        ref: a dictionary's folder or file, a vector file (2-D (n, d_model), or 1-D (d_model,) for one), or any other
            form of `DictionaryRef`.
        site: the stream they live in; a dictionary itself says it when None. Only the block is compared with what
            the dictionary says, because models go by several names.
        features: row numbers, in the order wanted; those of the reference, or all rows, when None.
        key: which array of a file that holds several.
        d_model: width of the stream, where known.
        orientation: "rows" or "columns", where the decoder itself does not show which are the features.

    Returns:
        Directions with row numbers as ids and, where ``labels.json`` ({id: label}) lies beside, labels. Of all rows,
        those that are zero (dead features) are left out and named in ``dead``; asked for, they are refused.

    Raises:
        Refusal: as the module says.
    """
    named = ref if isinstance(ref, DictionaryRef) else DictionaryRef.parse(ref)
    if features is not None and named.indices:
        raise Refusal(f"dictionary {named}", "its features are named twice", "name them once")
    features = named.indices or None if features is None else features
    with _folder(named) as folder, _odd_numbers():
        source = _source(folder, named, key, d_model, orientation)
        where = _site(source, site)
        if d_model is not None and source.d_in != d_model:
            raise Refusal(
                f"directions {folder.focus or folder.label}",
                f"their width {source.d_in} is not the width {d_model} of the stream at {where}",
                "check that model and dictionary belong together",
            )
        wanted = list(range(source.d_sae)) if features is None else _wanted(features, source)
        ids = [str(i) for i in wanted]
        rows, dead = source.rows(wanted), ()
        if features is None:
            rows, ids, dead = _living(rows, ids, folder.focus or folder.label)
        _refuse_undirected(rows, ids, folder.focus or folder.label)
        names = _labels(folder)
    origin = str(named) if isinstance(ref, DictionaryRef) else str(ref)
    found = Directions.of(where, rows, ids, labels=[names.get(i, "") for i in ids], origin=origin)
    return replace(found, dead=dead) if dead else found


def read_encoder(
    ref: Ref, *, key: str | None = None, orientation: Orientation | None = None, k: int | None = None
) -> Encoder:
    """Read the encoder of a dictionary, whole, into memory.

    Args:
        ref: the dictionary, in any form of `DictionaryRef`.
        key: as for `read_directions`; a named array is a file of vectors, which has no encoder.
        orientation: as for `read_directions`.
        k: of a TopK, where its files do not say it.

    Raises:
        Refusal: on an unknown layout or activation, a decoder that lies otherwise than its layout, arrays that do not
            fit together, or input scaling whose factor is not stored.
    """
    with dictionary(ref, key=key, orientation=orientation, k=k) as source, _odd_numbers():
        return source.encoder()


def check_encoder(
    ref: Ref,
    *,
    key: str | None = None,
    orientation: Orientation | None = None,
    k: int | None = None,
    required: bool = True,
) -> None:
    """Refuse what ``read_encoder`` would refuse by settings, names and shapes; matrices are not read.

    Plain vectors have no encoder, and are refused where one is ``required``.

    Raises:
        Refusal: as ``read_encoder``, but for numbers that are not finite in its matrices.
    """
    with dictionary(ref, key=key, orientation=orientation, k=k) as source, _odd_numbers():
        if required or source.layout != "vectors":
            source.check_encoder()


@contextmanager
def dictionary(
    ref: Ref, *, key: str | None = None, orientation: Orientation | None = None, k: int | None = None
) -> Iterator[Dictionary]:
    """A dictionary, opened while the block runs: its size, site, rows as they are asked for, and encoder.

    Raises:
        Refusal: as the module says.
    """
    named = ref if isinstance(ref, DictionaryRef) else DictionaryRef.parse(ref)
    with _folder(named) as folder:
        with _odd_numbers():
            source = _source(folder, named, key, None, orientation, k)
        yield source


def random_directions(site: Site, d_model: int, n: int, rng: np.random.Generator) -> Directions:
    """Directions uniform on the sphere: what a verbalizer says of nothing in particular.

    Returns:
        n Directions of kind "random", ids ``random-0`` and so on; the same ``rng`` state gives the same bytes.
    """
    rows = rng.standard_normal((n, d_model))
    return Directions.of(
        site,
        rows,
        [f"random-{i}" for i in range(n)],
        kind="random",
        origin="random directions",
    )


def _odd_numbers() -> np.errstate:
    """Numbers that are none or too large are refused by name where they are read; numpy need not tell of them too."""
    return np.errstate(over="ignore", invalid="ignore")


@contextmanager
def _folder(ref: DictionaryRef) -> Iterator[Folder]:
    """The files of a reference, connections closed at the end."""
    if ref.kind == "file":
        yield _here(ref)
        return
    from dragoman.dictionaries.hub import HubFolder, hub_folder, registered

    place, extra = registered(ref) if ref.kind == "sae" else (ref, {})
    folder = hub_folder(place, extra)
    try:
        yield folder
    finally:
        if isinstance(folder, HubFolder):
            folder.close()


def _here(ref: DictionaryRef) -> LocalFolder:
    """A folder of this machine, or a file in one."""
    path = Path(ref.place).expanduser()
    with refusing("reading", path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise Refusal(f"dictionary {ref.place}", "there is no such file or folder", f"name {KNOWN}")
    return LocalFolder(path) if is_folder else LocalFolder(path.parent, path.name)


def _source(
    folder: Folder,
    ref: DictionaryRef,
    key: str | None,
    d_model: int | None,
    orientation: Orientation | None,
    k: int | None = None,
) -> Dictionary:
    """The dictionary of a folder, or the vectors of a file: one is told from the other by what lies beside it."""
    key = key if key is not None else ref.key
    if key is not None and folder.focus is None:
        raise Refusal(
            f"array '{shown(key)}' of {folder.where}", "that is a folder, not a file of arrays", "name the file"
        )
    if folder.focus is not None and (key is not None or layout_of(folder) is None):
        return open_vectors(folder, key, d_model, orientation)
    return open_dictionary(folder, orientation, k)


def _site(source: Dictionary, site: Site | None) -> Site:
    """Where the rows live: what is asked, where it does not contradict what the dictionary says."""
    own = source.stated
    if site is not None:
        if own.block is not None and site.block != own.block:
            raise Refusal(f"{source.name} at {site}", f"{own.by} says block {own.block}", f"use it at :{own.block}")
        if own.revision and site.revision and site.revision != own.revision:
            why = f"{own.by} says revision {shown(own.revision)} of its model"
            raise Refusal(f"{source.name} at {site}", why, f"use it at MODEL@{shown(own.revision)}:BLOCK")
        return site
    if own.site is not None:
        return own.site
    if source.layout == "vectors":
        why = "the file does not say where they live"
    else:
        why = f"{own.by} names no model and hook" if own.block is None else f"{own.by} names no model"
    raise Refusal(
        source.name.replace("file ", "vectors ", 1) if source.layout == "vectors" else source.name,
        why,
        "name the site with --source MODEL:BLOCK",
    )


def _wanted(features: Sequence[int | str], source: Dictionary) -> list[int]:
    """Feature ids as row numbers that are there."""
    if not features:
        raise Refusal(
            f"no features of {source.name}",
            "there is nothing to read",
            f"name ids from 0 to {source.d_sae - 1}",
        )
    rows: dict[int, None] = {}
    for feature in features:
        row = int(feature) if str(feature).isdecimal() and len(str(feature)) < 19 else -1
        if not 0 <= row < source.d_sae:
            raise Refusal(
                f"feature {shown(feature)} of {source.name}",
                f"it has {source.d_sae} features (d_sae {source.d_sae})",
                f"name ids from 0 to {source.d_sae - 1}",
            )
        if row in rows:
            raise Refusal(
                f"feature {feature} of {source.name}",
                "it is asked for twice",
                "name every feature once",
            )
        rows[row] = None
    return list(rows)


def _living(rows: NDArray[Any], ids: list[str], name: str) -> tuple[NDArray[Any], list[str], tuple[str, ...]]:
    """Rows that have a direction and their ids; ids of those whose length is zero.

    Raises:
        Refusal: none has one.
    """
    dead = _zero(rows)
    if not dead.any():
        return rows, ids, ()
    if dead.all():
        raise Refusal(f"{name}", "all its rows are zero, so none has a direction", "fetch or save it again")
    kept = [i for i, out in zip(ids, dead, strict=True) if not out]
    return rows[~dead], kept, tuple(i for i, out in zip(ids, dead, strict=True) if out)


def _zero(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows too short to have a direction."""
    return np.linalg.norm(rows.astype(np.float64), axis=1) < NO_LENGTH


def _refuse_undirected(rows: NDArray[Any], ids: Sequence[str], name: str) -> None:
    """Say which feature has no direction; the types check again, but know rows only."""
    again = "fetch the file again, or save it without that row"
    for bad, why, instead in (
        (~np.isfinite(rows).all(axis=1), "its row is not finite (NaN or infinite numbers)", again),
        (_immense(rows), "its length is beyond float32", again),
        (_zero(rows), "its row is zero, so it has no direction (a dead feature)", "leave it out of --features"),
    ):
        if bad.any():
            raise Refusal(f"feature {ids[int(np.argmax(bad))]} of {name}", why, instead)


def _immense(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows whose length float32 cannot hold; float64 and whole numbers can be that long."""
    return np.linalg.norm(rows.astype(np.float64), axis=1) > np.finfo(np.float32).max


def _labels(folder: Folder) -> dict[str, str]:
    """Labels lying beside the vectors, or none."""
    if LABELS not in folder.names:
        return {}
    labels = folder.json(LABELS)
    if not isinstance(labels, dict):
        raise Refusal(
            f"{folder.where}/{LABELS}",
            "labels are a JSON object {id: label}",
            "write it so, or take the file away",
        )
    odd = next((i for i, label in labels.items() if not isinstance(label, str)), None)
    if odd is not None:
        raise Refusal(
            f"{folder.where}/{LABELS}", f"the label of '{shown(odd)}' is not text", "write labels as {id: label}"
        )
    # Halves of characters can stand in JSON, and nowhere else.
    return {i: label.encode("utf-8", "replace").decode() for i, label in labels.items()}
