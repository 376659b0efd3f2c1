"""What every dictionary layout gives: the decoder's rows, where they live, and an encoder.

In: a `Folder`. Out: `Weights`. One module of ``layouts`` says how one project writes its files; this one holds what
they share. Refuses settings that are not numbers, and hooks whose directions do not live in a block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman import hooks
from dragoman.core import Floats, Refusal, Site
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.outlines import Outlines
from dragoman.store.spans import Arrays, Matrix, listed, shown

Orientation = Literal["rows", "columns"]

_AGAIN = "fetch the dictionary again"
_FLOAT32 = 3e38
_LARGEST = 1 << 53  # beyond, JSON's numbers are no longer whole ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a dictionary says of its site: the model, the block whose output it is, and which file or name says so.

    ``revision``: of the model, where the dictionary was trained on one that it names.
    """

    model: str | None = None
    block: int | None = None
    revision: str | None = None
    by: str = "its configuration"

    @property
    def site(self) -> Site | None:
        """The site, if it is stated wholly."""
        return None if self.model is None or self.block is None else Site(self.model, self.block, self.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A dictionary's decoder and how its encoder is made; nothing of the matrices has been read yet.

    ``decoder``: (d_sae, d_in), or (d_in, d_sae) where ``across``. ``arrays``: the file it lies in. ``make``: the
    encoder of such a file's arrays. ``unwhitened``: rows as they are in the stream, where the decoder is of white ones.
    ``asked_k``: the k that the caller says of a TopK.
    """

    name: str
    layout: str
    decoder: Matrix
    across: bool
    stated: Stated
    arrays: Arrays
    make: Callable[[Arrays], Encoder]
    unwhitened: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    asked_k: int | None = None

    @property
    def d_sae(self) -> int:
        """How many features."""
        return self.decoder.shape[1 if self.across else 0]

    @property
    def d_in(self) -> int:
        """Width of the stream the decoder writes."""
        return self.decoder.shape[0 if self.across else 1]

    def rows(self, features: Sequence[int]) -> NDArray[Any]:
        """Decoder rows of the features ``(n, d_in)``, in the stream; only they are read.

        Raises:
            Refusal: when they are whole numbers.
        """
        found = self.decoder.columns(features).T if self.across else self.decoder.rows(features)
        rows = np.ascontiguousarray(found)
        refuse_whole(self.name, rows)
        return rows if self.unwhitened is None else self.unwhitened(rows)

    def encoder(self) -> Encoder:
        """The encoder, whole, in memory.

        Raises:
            Refusal: when it cannot be used.
        """
        return self._made(self.arrays)

    def check_encoder(self) -> None:
        """What ``encoder`` would refuse by settings, names and shapes, without reading the matrices.

        Raises:
            Refusal: when it cannot be used.
        """
        self._made(Outlines(self.arrays))

    def _made(self, arrays: Arrays) -> Encoder:
        """The encoder of these arrays; a k that nothing would read is refused."""
        found = self.make(arrays)
        if self.asked_k is not None and found.k is None:
            raise Refusal(
                f"k {self.asked_k} for {self.name}", f"it is a {found.architecture}, no TopK", "leave --k out"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one project writes dictionaries.

    ``described``: for people. ``files``: how its file of weights may be called, none where any name may be: a file that
    merely lies beside them is no dictionary. ``open``: given the folder, which way the caller says the decoder lies,
    and the caller's k.
    """

    name: str
    described: str
    files: tuple[str, ...] = ()
    recognises: Callable[[Folder], bool]
    open: Callable[[Folder, Orientation | None, int | None], Weights]


def config_of(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object of the folder."""
    config = folder.json(name)
    if not isinstance(config, dict):
        raise Refusal(f"{folder.where}/{name}", "it is not a JSON object", _AGAIN)
    return config


def number(config: Mapping[str, Any], key: str, said_by: str) -> int | None:
    """A natural number of a configuration, None where it is not there.

    Raises:
        Refusal: when it is something else.
    """
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise Refusal(f"{said_by}", f"its {key} is '{shown(value)}', not a natural number", f"mend {said_by}")
    return value


def factor(value: Any) -> float | None:
    """A factor, length or threshold of a configuration; None where it is no number that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _FLOAT32 else None


def one_k(what: str, asked: int | None, said: int | None, said_by: str) -> int | None:
    """K of a TopK: the caller's where the dictionary does not say it.

    Raises:
        Refusal: when both say it and differ.
    """
    if asked is not None and said is not None and asked != said:
        raise Refusal(what, f"{said_by} says k {said}, not {asked}", "leave --k out")
    return said if asked is None else asked


def refuse_unread(what: str, config: Mapping[str, Any], known: frozenset[str], said_by: str) -> None:
    """Refuse a setting that nothing here reads and that is not known to leave activations alone, unless it is off.

    Raises:
        Refusal: by the setting's name.
    """
    odd = next((name for name, value in config.items() if name not in known and not off(value)), None)
    if odd is not None:
        raise Refusal(
            what,
            f"what the setting {shown(odd)} ('{shown(config[odd])}') of {said_by} does to what fires is not known here",
            "take the setting out of a copy, where its authors say that it does not",
        )


def off(value: Any) -> bool:
    """Whether a setting's value means that nothing is done."""
    return value is None or (
        isinstance(value, bool | int | float | str | list | dict) and (not value or value == "none")
    )


def flag(config: Mapping[str, Any], key: str, said_by: str, *, usual: bool = False) -> bool:
    """A setting that is on or off, ``usual`` where it is not there.

    Raises:
        Refusal: when it is something else, such as the text "false", which Python would take for true.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise Refusal(f"{said_by}", f"its {key} is '{shown(value)}', not true or false", f"mend {said_by}")
    return usual if value is None else value


def word(config: Mapping[str, Any], key: str, said_by: str) -> str | None:
    """A name of a configuration, None where it is not there or empty.

    Raises:
        Refusal: when it is something else.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise Refusal(f"{said_by}", f"its {key} is '{shown(value)}', not a name", f"mend {said_by}")
    return value or None


def residual_block(what: str, hook: str, layer: int | None, *, writes: bool = False) -> int:
    """The block whose output a hook is; with ``writes`` also the block whose output a decoder adds to.

    Raises:
        Refusal: when it is neither, or hook and layer differ.
    """
    found = hooks.parsed(hook)
    stream = found is not None and found.place in ("output", "input", *(["written"] if writes else []))
    if found is not None and stream and layer is not None and layer != found.block:
        raise Refusal(what, f"its hook is {shown(hook)} but its hook_layer {layer}", "mend its configuration")
    if found is None or not stream:
        raise Refusal(
            what, f"its hook {shown(hook)} is not the output of a block", "use one at blocks.K.hook_resid_post"
        )
    return Site.block_before(found.block, what) if found.place == "input" else found.block


def need(arrays: Arrays, names: Sequence[str], what: str, file: str) -> None:
    """Refuse when an array is missing."""
    missing = [name for name in names if name not in arrays.names]
    if missing:
        raise Refusal(what, f"{file} has no {missing[0]}", _AGAIN)


def two_d(arrays: Arrays, name: str, what: str, known: str) -> Matrix:
    """The decoder, which must be a matrix."""
    matrix = arrays.array(name) if name in arrays.names else None
    if matrix is None or len(matrix.shape) != 2 or 0 in matrix.shape:
        shape = "" if matrix is None else f" but one of shape {shown(matrix.shape)}"
        held = listed(arrays.names) or "none"
        raise Refusal(what, f"unknown dictionary layout (no 2-D {name} among {held}{shape})", f"name {known}")
    return matrix


def no_encoder(what: str) -> Refusal:
    """A transcoder's encoder does not fire on the stream its decoder writes."""
    return Refusal(
        what, "it is a transcoder, which reads another place than it writes", "use the encoder of a dictionary"
    )


def length(arrays: Arrays, name: str) -> int | None:
    """How long a vector of the file is, None where it is not there."""
    if name not in arrays.names:
        return None
    shape = arrays.array(name).shape
    return shape[0] if len(shape) == 1 else None


def refuse_whole(what: str, array: NDArray[Any]) -> None:
    """Refuse whole numbers: they are the bits of bfloat16 or a quantised matrix, and not the directions they stand for.

    Raises:
        Refusal: when the numbers are no floats.
    """
    if array.dtype.kind != "f":
        raise Refusal(
            what,
            f"its numbers are whole ones ({array.dtype}): bits of bfloat16 or a quantised matrix, and no directions",
            "save them as float32, float16 or bfloat16",
        )


def floats(array: NDArray[Any], *, turned: bool = False) -> Floats:
    """Float32, read-only, turned where it is stored the other way; copied only where the numbers change."""
    refuse_whole("encoder", array)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and the encoder refuses it
        out = np.asarray(array, dtype=np.float32)
    out.flags.writeable = False
    return out.T if turned else out


def everywhere(threshold: NDArray[Any], d_sae: int) -> Floats:
    """One threshold for all features, or each its own."""
    refuse_whole("encoder", threshold)
    with np.errstate(over="ignore"):
        flat = np.asarray(threshold, dtype=np.float32).reshape(-1)
    return np.full(d_sae, flat[0], dtype=np.float32) if flat.size == 1 else flat
