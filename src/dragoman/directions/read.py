"""Dictionaries and vector files in, directions out; random directions to compare with.

In: a SAELens folder, or a ``.safetensors``, ``.npy`` or ``.npz`` file of vectors. Out: `Directions` at a site. Only the
rows asked for are read. Refuses layouts it does not know, pickles, ids that are not there, transposed
decoders, another block's dictionary, and rows that are zero or not finite.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, Site
from dragoman.store import ArraysFile, read_json, refusing

CONFIG, WEIGHTS, LABELS = "cfg.json", "sae_weights.safetensors", "labels.json"
KNOWN = (
    f"a SAELens folder ({CONFIG} and {WEIGHTS} with W_dec), "
    "or a .safetensors, .npy or .npz file of vectors (n, d_model)"
)
_ZIP = b"PK"
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
_HOOK = re.compile(r"(?:blocks\.(?P<a>\d+)\.hook_resid_(?P<where>post|pre)|(?:model\.)?layers\.(?P<b>\d+))$")


def read_directions(
    ref: Path | str,
    *,
    site: Site | None = None,
    features: Sequence[int | str] | None = None,
    key: str | None = None,
    d_model: int | None = None,
) -> Directions:
    """Read decoder rows of a dictionary, or vectors of a file, as directions at a site.

    Args:
        ref: a SAELens folder or its files' parent, or a vector file: 2-D (n, d_model), or 1-D (d_model,) for one.
        site: the stream they live in; a dictionary's own config says it when None. Only the block is compared
            with the config's, because models go by several names.
        features: row numbers, in the order wanted; all rows when None.
        key: which array of a file that holds several.
        d_model: width of the stream, where known.

    Returns:
        Directions with row numbers as ids and, where ``labels.json`` ({id: label}) lies beside, labels.

    Raises:
        Refusal: as the module says.
    """
    path = Path(ref)
    with refusing("reading", path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise Refusal(f"dictionary {ref}", "there is no such file or folder", f"name {KNOWN}")
    if is_folder:
        source, site = _dictionary(path, site)
    else:
        source = _vectors(path, key)
        if site is None:
            raise Refusal(
                f"vectors {path.name}",
                "the file does not say where they live",
                "name the site as MODEL:BLOCK",
            )
    if d_model is not None and source.width != d_model:
        raise Refusal(
            f"directions {path.name}",
            f"their width {source.width} is not the width {d_model} of the stream at {site}",
            "check that model and dictionary belong together",
        )
    wanted = range(source.count) if features is None else _wanted(features, source)
    ids = [str(i) for i in wanted]
    rows = source.read(wanted)
    _refuse_undirected(rows, ids, path)
    names = _labels(path if is_folder else path.parent)
    return Directions.of(site, rows, ids, labels=[names.get(i, "") for i in ids], origin=str(ref))


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


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows that can be read singly: how many, how wide, what they are called, and how."""

    name: str
    count: int
    width: int
    read: Callable[[Sequence[int]], NDArray[Any]]


def _dictionary(folder: Path, site: Site | None) -> tuple[_Source, Site]:
    """The decoder of a SAELens folder and its site."""
    config = read_config(folder)
    file = ArraysFile(folder / WEIGHTS)
    d_sae, d_in = decoder_shape(file, config)
    own = own_site(folder, config)
    if site is None and own is None:
        raise Refusal(
            f"dictionary {folder.name}",
            f"its {CONFIG} names no model and hook",
            "name the site as MODEL:BLOCK",
        )
    if site is not None and own is not None and site.block != own.block:
        raise Refusal(
            f"dictionary {folder.name} at {site}",
            f"its {CONFIG} says block {own.block}",
            f"use it at :{own.block}",
        )
    where = site or own
    if where is None:
        raise Refusal(
            f"dictionary {folder.name}",
            "its site is not known",
            "name the site as MODEL:BLOCK",
        )
    return _Source(f"dictionary {folder.name}", d_sae, d_in, lambda rows: file.rows("W_dec", rows)), where


def read_config(folder: Path) -> dict[str, Any]:
    """A SAELens ``cfg.json``, newer releases' nested ``metadata`` laid under the top level."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        with refusing("reading", folder):
            inside = sorted(p.name for p in folder.iterdir())[:6]
        raise Refusal(
            f"folder {folder}",
            f"unknown dictionary layout (it holds {', '.join(inside) or 'nothing'})",
            f"name {KNOWN}",
        )
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise Refusal(
            f"{folder / CONFIG}",
            "it is not a JSON object",
            "fetch the dictionary again",
        )
    nested = config.get("metadata")
    return {
        **(nested if isinstance(nested, dict) else {}),
        **{k: v for k, v in config.items() if v is not None},
    }


def decoder_shape(file: ArraysFile, config: Mapping[str, Any]) -> tuple[int, int]:
    """(d_sae, d_in) of ``W_dec``, which has one row per feature; a transposed one is refused where the config tells."""
    shape = file.shapes.get("W_dec")
    if shape is None or len(shape) != 2:
        raise Refusal(
            f"dictionary {file.path}",
            f"unknown dictionary layout (no 2-D W_dec among {', '.join(file.names)})",
            f"name {KNOWN}",
        )
    said = (config.get("d_sae") or shape[0], config.get("d_in") or shape[1])
    if shape == said:
        return shape[0], shape[1]
    if shape == said[::-1]:
        raise Refusal(
            f"dictionary {file.path}",
            f"W_dec of shape {shape} is transposed: {CONFIG} says d_sae {said[0]} and d_in {said[1]}",
            "save it with one row per feature",
        )
    raise Refusal(
        f"dictionary {file.path}",
        f"W_dec has shape {shape} but {CONFIG} says d_sae {said[0]} and d_in {said[1]}",
        "fetch config and weights of the same dictionary",
    )


def own_site(folder: Path, config: Mapping[str, Any]) -> Site | None:
    """The site a config names, if it names one; what is not a residual stream is refused."""
    hook, layer = (
        config.get("hook_name") or config.get("hook_point"),
        config.get("hook_layer"),
    )
    if hook is None:
        block = layer
    else:
        found = _HOOK.match(str(hook))
        named = -1 if found is None else int(found["a"] or found["b"])
        # What enters block K is what left block K - 1; what enters block 0 is the embedding, no block's output.
        block = named - 1 if found is not None and found["where"] == "pre" else named
        if block >= 0 and layer is not None and int(layer) != named:
            raise Refusal(
                f"dictionary {folder.name}",
                f"its hook is {hook} but its hook_layer {layer}",
                f"mend {CONFIG}",
            )
        if block < 0:
            raise Refusal(
                f"dictionary {folder.name}",
                f"its hook {hook} is not the output of a block",
                "use one at blocks.K.hook_resid_post",
            )
    if block is None or not config.get("model_name"):
        return None
    return Site(str(config["model_name"]), int(block))


def _vectors(path: Path, key: str | None) -> _Source:
    """A file of vectors."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise Refusal(
            f"vectors {path.name}",
            f"{suffix} files are pickles, which can run code when read, and are not read in this release",
            "convert the file to safetensors",
        )
    if suffix == ".safetensors":
        file = ArraysFile(path)
        name = _key(path, file.names, key)
        return _source(
            path,
            file.shapes[name],
            lambda rows: file.rows(name, rows),
            lambda: file.whole(name),
        )
    if suffix in {".npy", ".npz"}:
        array = _numpy_array(path, key)
        if array.dtype.kind not in "fiu":
            raise Refusal(
                f"vectors {path.name}",
                f"dtype {array.dtype} is not a real number's",
                "save floats",
            )
        return _source(
            path,
            array.shape,
            lambda rows: np.array(array[np.asarray(rows)]),
            lambda: np.array(array),
        )
    raise Refusal(
        f"vectors {path.name}",
        f"unknown dictionary layout ('{suffix}' file)",
        f"name {KNOWN}",
    )


def _source(
    path: Path,
    shape: tuple[int, ...],
    rows: Callable[[Sequence[int]], NDArray[Any]],
    whole: Callable[[], NDArray[Any]],
) -> _Source:
    """One vector or several, as rows."""
    name = f"file {path.name}"
    if len(shape) == 1 and shape[0]:
        return _Source(name, 1, shape[0], lambda wanted: whole()[None, :][np.asarray(wanted)])
    if len(shape) == 2 and shape[0] and shape[1]:
        return _Source(name, shape[0], shape[1], rows)
    raise Refusal(
        f"vectors {path.name}",
        f"an array of shape {shape} is not rows of vectors",
        "save it as (n, d_model)",
    )


def _numpy_array(path: Path, key: str | None) -> NDArray[Any]:
    """An array of a numpy file; .npy is mapped, so that only asked rows are read. Pickled objects are never loaded."""
    try:
        with refusing("reading", path), path.open("rb") as file:
            # A zip is recognised by its contents, not its name; only plain .npy can be mapped.
            if file.read(len(_ZIP)) != _ZIP:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            file.seek(0)
            # The open file, not its path: given a path, numpy leaves a torn zip open.
            with np.load(file, allow_pickle=False) as loaded:
                return loaded[_key(path, tuple(loaded.files), key)]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "allow_pickle" in str(error) or "Python objects" in str(error)
        why = "it holds pickled objects" if pickled else f"it is not a whole numpy file ({error})"
        raise Refusal(
            f"vectors {path.name}",
            why,
            "save plain arrays of floats, best as safetensors",
        ) from error


def _key(path: Path, names: tuple[str, ...], key: str | None) -> str:
    """Which array of a file is meant."""
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        why = "it holds several arrays" if key is None else f"it has no array '{key}'"
        raise Refusal(
            f"vectors {path.name}",
            f"{why} ({', '.join(names) or 'none'})",
            "name one of them as key",
        )
    return key


def _wanted(features: Sequence[int | str], source: _Source) -> list[int]:
    """Feature ids as row numbers that are there."""
    if not features:
        raise Refusal(
            f"no features of {source.name}",
            "there is nothing to read",
            f"name ids from 0 to {source.count - 1}",
        )
    rows = []
    for feature in features:
        row = int(feature) if str(feature).isdecimal() else -1
        if not 0 <= row < source.count:
            raise Refusal(
                f"feature {feature} of {source.name}",
                f"it has {source.count} features (d_sae {source.count})",
                f"name ids from 0 to {source.count - 1}",
            )
        if row in rows:
            raise Refusal(
                f"feature {feature} of {source.name}",
                "it is asked for twice",
                "name every feature once",
            )
        rows.append(row)
    return rows


def _refuse_undirected(rows: NDArray[Any], ids: Sequence[str], path: Path) -> None:
    """Say which feature has no direction; the types check again, but know rows only."""
    wide = rows.astype(np.float64)
    for bad, why in (
        (
            ~np.isfinite(wide).all(axis=1),
            "its row is not finite (NaN or infinite numbers)",
        ),
        (~wide.any(axis=1), "its row is zero, so it has no direction (a dead feature)"),
    ):
        if bad.any():
            raise Refusal(
                f"feature {ids[int(np.argmax(bad))]} of {path.name}",
                why,
                "leave that feature out",
            )


def _labels(folder: Path) -> dict[str, str]:
    """Labels lying beside the vectors, or none."""
    path = folder / LABELS
    if not path.is_file():
        return {}
    labels = read_json(path)
    if not isinstance(labels, dict):
        raise Refusal(
            f"{path}",
            "labels are a JSON object {id: label}",
            "write it so, or take the file away",
        )
    return {str(i): str(label) for i, label in labels.items()}
