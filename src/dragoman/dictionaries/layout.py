"""What every dictionary layout gives: the decoder's rows, where they live, and an encoder.

In: a `Folder`. Out: `Weights`. One module of ``layouts`` says how one project writes its files (a `Layout`); this one
holds what they share. Refuses settings that are not numbers, and hooks whose directions do not live in a block's
output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Hook, Refusal, Site
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.folder import Folder, Outlines
from dragoman.dictionaries.rows import Evidence, lies_across
from dragoman.store.spans import Arrays, Matrix, listed, shown

Orientation = Literal["rows", "columns"]

VECTORS = "vectors"  # the layout of a file that is no dictionary
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


class Matrices(TypedDict):
    """What every encoder is made of: W_enc (d_in, d_sae), b_enc (d_sae,), b_dec (d_in,), W_dec (d_sae, d_in)."""

    W_enc: Floats
    b_enc: Floats
    b_dec: Floats
    W_dec: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a layout calls the four arrays of ``file``, and how its matrices lie.

    ``linear``: the encoder is (d_sae, d_in), as ``torch.nn.Linear`` has it, else (d_in, d_sae). ``features``: what the
    decoder's features are, "rows" of (d_sae, d_in) or "columns". ``biased``: that ``b_dec`` must be there; else it is
    zero where it is not.
    """

    file: str = ""
    w_enc: str = "W_enc"
    b_enc: str = "b_enc"
    w_dec: str = "W_dec"
    b_dec: str = "b_dec"
    linear: bool = False
    features: Orientation = "rows"
    biased: bool = True

    def encoder_rows(self, arrays: Arrays, features: Sequence[int]) -> NDArray[Any]:
        """Encoder rows (n, d_in) of some features."""
        encoder = arrays.array(self.w_enc)
        return encoder.rows(features) if self.linear else encoder.columns(features).T


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An encoder that is about to be read: ``what`` it is called, the ``arrays`` of its file and their ``names``.

    ``across``: its decoder's features are columns. ``site``: where the dictionary says that it lives. ``asked_k``: the
    k that the caller says of a TopK.
    """

    what: str
    arrays: Arrays
    across: bool
    names: Named = Named()
    site: Site | None = None
    asked_k: int | None = None

    def read(self, *more: str) -> Matrices:
        """All four arrays as an `Encoder` wants them; ``more`` must be there too.

        Raises:
            Refusal: one is missing, or holds whole numbers.
        """
        names, arrays = self.names, self.arrays
        needed = [names.w_enc, names.b_enc, *([names.b_dec] if names.biased else []), names.w_dec, *more]
        missing = next((name for name in needed if name not in arrays.names), None)
        if missing is not None:
            raise Refusal(self.what, f"{names.file} has no {missing}", _AGAIN)
        decoder = floats(arrays.array(names.w_dec).whole(), turned=self.across)
        has_bias = names.b_dec in arrays.names
        return {
            "W_enc": floats(arrays.array(names.w_enc).whole(), turned=names.linear),
            "b_enc": floats(arrays.array(names.b_enc).whole()),
            "b_dec": floats(arrays.array(names.b_dec).whole() if has_bias else np.zeros(decoder.shape[1], np.float32)),
            "W_dec": decoder,
        }

    def k(self, said: int | None, said_by: str) -> int | None:
        """K of a TopK: the caller's where the dictionary does not say it. Refused when both say it and differ."""
        if self.asked_k is not None and said is not None and self.asked_k != said:
            raise Refusal(self.what, f"{said_by} says k {said}, not {self.asked_k}", "leave --k out")
        return said if self.asked_k is None else self.asked_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A dictionary's decoder and how its encoder is made; nothing of the matrices has been read yet.

    ``decoder``: (d_sae, d_in), or (d_in, d_sae) where it lies across. ``stored``: the file it lies in. ``make``: the
    encoder of such a file. ``unwhitened``: rows as they are in the stream, where the decoder is of white ones.
    ``names``: of its rows, where they have some; else they are numbered from 0.
    """

    label: str
    layout: str
    decoder: Matrix
    stored: Stored
    stated: Stated
    make: Callable[[Stored], Encoder]
    unwhitened: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return f"{'file' if self.layout == VECTORS else 'dictionary'} {self.label}"

    @property
    def d_sae(self) -> int:
        """How many features."""
        return self.decoder.shape[1 if self.stored.across else 0]

    @property
    def d_in(self) -> int:
        """Width of the stream the decoder writes."""
        return self.decoder.shape[0 if self.stored.across else 1]

    def rows(self, features: Sequence[int]) -> NDArray[Any]:
        """Decoder rows of the features ``(n, d_in)``, in the stream; only they are read. Refused of whole numbers."""
        found = self.decoder.columns(features).T if self.stored.across else self.decoder.rows(features)
        rows = np.ascontiguousarray(found)
        refuse_whole(self.name, rows)
        return rows if self.unwhitened is None else self.unwhitened(rows)

    def encoder(self) -> Encoder:
        """The encoder, whole, in memory. Refused when it cannot be used."""
        return self._made(self.stored.arrays)

    def check_encoder(self) -> None:
        """Refuse what ``encoder`` would refuse by settings, names and shapes, without reading the matrices."""
        self._made(Outlines(self.stored.arrays))

    def _made(self, arrays: Arrays) -> Encoder:
        """The encoder of these arrays; a k that nothing would read is refused."""
        found = self.make(replace(self.stored, arrays=arrays, site=self.stated.site))
        if self.stored.asked_k is not None and found.k is None:
            why = f"it is a {found.architecture}, no TopK"
            raise Refusal(f"k {self.stored.asked_k} for {self.name}", why, "leave --k out")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a layout finds in a folder.

    ``names`` in ``arrays``, the file of weights. ``make``: the encoder of such a file. ``d_sae``, ``d_in``: as
    ``said_by`` declares them, None where it does not. ``unwhitened``: see `Weights`. ``label``: the folder's, when
    None.
    """

    names: Named
    arrays: Arrays
    stated: Stated
    make: Callable[[Stored], Encoder]
    d_sae: int | None = None
    d_in: int | None = None
    said_by: str = ""
    unwhitened: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one project writes dictionaries.

    ``described``: for people. ``needs``: a folder of this layout holds all files of one of these. ``files``: how its
    file of weights may be called, none where any name may be: a file that merely lies beside them is no dictionary.
    ``fits``: tells a folder of this layout where the names of its files do not.
    """

    name: str
    described: str
    open: Callable[[Folder], Found]
    needs: tuple[frozenset[str], ...] = ()
    files: tuple[str, ...] = ()
    fits: Callable[[Folder], bool] | None = None

    def recognises(self, folder: Folder) -> bool:
        """Whether a folder, or the file that is meant in it, is of this layout."""
        if folder.focus is not None and self.files and folder.focus not in self.files:
            return False
        return self.fits(folder) if self.fits else any(needed <= folder.names for needed in self.needs)

    def weights(self, folder: Folder, orientation: Orientation | None, k: int | None) -> Weights:
        """The dictionary of a folder; the caller may say which way its decoder lies, and the k of a TopK.

        Raises:
            Refusal: there is no decoder, nothing or the opposite shows which way it lies, or what the layout refuses.
        """
        found = self.open(folder)
        names, arrays, label = found.names, found.arrays, found.label or folder.label
        decoder = two_d(arrays, names.w_dec, f"dictionary {folder.where}/{names.file}", self.described)
        declared = found.d_sae is not None or found.d_in is not None
        across = lies_across(
            decoder,
            Evidence(
                what=f"dictionary {label}",
                name=names.w_dec,
                expected=names.features,
                d_sae=length(arrays, names.b_enc) if found.d_sae is None else found.d_sae,
                d_in=length(arrays, names.b_dec) if found.d_in is None else found.d_in,
                said_by=found.said_by if declared else "the length of its biases",
                asked=orientation,
                encoder=partial(names.encoder_rows, arrays) if names.w_enc in arrays.names else None,
            ),
        )
        return Weights(
            label=label,
            layout=self.name,
            decoder=decoder,
            stored=Stored(what=f"encoder of {label}", arrays=arrays, across=across, names=names, asked_k=k),
            stated=found.stated,
            make=found.make,
            unwhitened=found.unwhitened,
        )


def config_of(folder: Folder, name: str) -> dict[str, object]:
    """A JSON object of the folder."""
    config = folder.json(name)
    if not isinstance(config, dict):
        raise Refusal(f"{folder.where}/{name}", "it is not a JSON object", _AGAIN)
    return config


def number(config: Mapping[str, Any], key: str, said_by: str) -> int | None:
    """A natural number of a configuration, None where it is not there. Refused when it is something else."""
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
    """A name of a configuration, None where it is not there or empty. Refused when it is something else."""
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise Refusal(f"{said_by}", f"its {key} is '{shown(value)}', not a name", f"mend {said_by}")
    return value or None


def residual_block(what: str, hook: str, layer: int | None, *, writes: bool = False) -> int:
    """The block whose output a hook is; with ``writes`` also the block whose output a decoder adds to.

    Raises:
        Refusal: when it is neither, or hook and layer differ.
    """
    found = Hook.parse(hook)
    stream = found is not None and found.place in ("output", "input", *(["written"] if writes else []))
    if found is not None and stream and layer is not None and layer != found.block:
        raise Refusal(what, f"its hook is {shown(hook)} but its hook_layer {layer}", "mend its configuration")
    if found is None or not stream:
        why = f"its hook {shown(hook)} is not the output of a block"
        raise Refusal(what, why, "use one at blocks.K.hook_resid_post")
    return Site.block_before(found.block, what) if found.place == "input" else found.block


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
    why = "it is a transcoder, which reads another place than it writes"
    return Refusal(what, why, "use the encoder of a dictionary")


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
        why = f"its numbers are whole ones ({array.dtype}): bits of bfloat16 or a quantised matrix, and no directions"
        raise Refusal(what, why, "save them as float32, float16 or bfloat16")


def floats(array: NDArray[Any], *, turned: bool = False) -> Floats:
    """Float32, read-only, turned where it is stored the other way; copied only where the numbers change."""
    refuse_whole("encoder", array)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and the encoder refuses it
        out = np.asarray(array, dtype=np.float32)
    out.flags.writeable = False
    return out.T if turned else out


def everywhere(threshold: NDArray[Any], d_sae: int) -> Floats:
    """One threshold for all features, or each its own; float32, read-only."""
    flat = floats(threshold.reshape(-1))
    return floats(np.full(d_sae, flat[0], dtype=np.float32)) if flat.size == 1 else flat
