"""Malformed safetensors and numpy files, for the corpus."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from malformed import case
from whole_files import ROWS, safetensors_vectors, written

# safetensors


def packed(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of a header (JSON-like, or its bytes) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def header(said: str, header: Any, data: bytes = b"", *, name: str, bomb: bool = False) -> None:
    """A case of a header that is wrong."""
    case("arrays", said, name=name, bomb=bomb)(lambda folder: written(folder / "a.safetensors", packed(header, data)))


def cut(keep: Callable[[bytes], int]) -> Callable[[Path], Path]:
    """A whole file, of which the beginning is kept."""

    def make(folder: Path) -> Path:
        whole = safetensors_vectors(folder).read_bytes()
        return written(folder / "v.safetensors", whole[: keep(whole)])

    return make


case("vectors", "not a whole safetensors file .*no header", name="safetensors cut in its length")(cut(lambda _: 5))
case("vectors", "its header would take", name="safetensors cut in its header")(cut(lambda _: 30))
case("vectors", "its arrays need", name="safetensors cut in its data")(cut(lambda whole: len(whole) - 7))
case("vectors", "no header", name="empty safetensors")(cut(lambda _: 0))

header("array 'b' starts at 8 where 16 was due", {"a": entry([4], [0, 16]), "b": entry([2], [8, 16])}, bytes(16),
       name="safetensors arrays overlap")  # fmt: skip
header("its arrays need", {"a": entry([4], [0, 16])}, bytes(8), name="safetensors offsets beyond the file")
header("'a' is badly described", {"a": entry([4], [-16, 0])}, bytes(16), name="safetensors negative offsets")
header("'a' is badly described", {"a": entry([4], [16, 0])}, bytes(16), name="safetensors offsets turned round")
header("'a' starts at 8 where 0 was due", {"a": entry([2], [8, 16])}, bytes(16), name="safetensors with a gap")
header("has 16 bytes", {"a": entry([2], [0, 16])}, bytes(16), name="safetensors shape smaller than its bytes")
header("has 16 bytes", {"a": entry([2**40, 4], [0, 16])}, bytes(16), name="safetensors of 2^40 rows")
header("'a' is badly described", {"a": entry([-2, -2], [0, 16])}, bytes(16), name="safetensors negative shape")
header("has 16 bytes", {"a": entry([2**32, 2**32, 2**32], [0, 16])}, bytes(16), name="safetensors product overflows")
header("'a' is badly described", {"a": entry([0, 2**62], [0, 0])}, name="safetensors of no numbers and 2^62 columns")
header("of shape .1000000000.* has 16 bytes", {"a": entry([10**400], [0, 16])}, bytes(16),
       name="safetensors shape of four hundred digits")  # fmt: skip
header("'a' is badly described", {"a": entry([1] * 100, [0, 4])}, bytes(4), name="safetensors of a hundred axes")
header("'a' is badly described", {"a": entry([True, 4], [0, 16])}, bytes(16), name="safetensors truth as a size")
header("'a' is badly described", {"a": entry([4], [0, 16], ["F32"])}, bytes(16), name="safetensors dtype a list")
header("dtype F99 is not read", {"a": entry([4], [0, 16], "F99")}, bytes(16), name="safetensors unknown dtype")
header("its header is not JSON", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4),
       name="safetensors key twice")  # fmt: skip
header("its header is not JSON", b"[" * 100_000, name="safetensors header nested deep")
header("its header is not JSON", b"\xff\xfe{}", name="safetensors header not text")
header("its header is not a JSON object", b"[1, 2]", name="safetensors header a list")
header(
    "its metadata is not an object of strings", {"__metadata__": {"a": {"b": 1}}}, name="safetensors metadata nested"
)
header("its description is not a JSON object", {"__metadata__": {"dragoman": "[" * 5000}},
       name="safetensors description nested deep")  # fmt: skip
header("its description is not a JSON object", {"__metadata__": {"dragoman": '[["a", 1]]'}},
       name="safetensors description of pairs")  # fmt: skip
header("array 'a.n.*' is badly described", {"a\n" + "x" * 9000: 1}, name="safetensors name of nine thousand letters")


@case("arrays", r"its header would take 1152921504606846976 bytes", bomb=True)
def safetensors_header_of_2_to_the_60(folder: Path) -> Path:
    return written(folder / "a.safetensors", packed({}, length=2**60))


@case("arrays", "its header takes 90000000 bytes, more than 10000000", bomb=True)
def safetensors_header_of_90_MB_of_spaces(folder: Path) -> Path:
    path = written(folder / "a.safetensors", packed(b"{}", length=90_000_000))
    with path.open("ab") as file:
        file.write(b" " * (90_000_000 - 2))
    return path


@case("arrays", "its header is not a JSON object", bomb=True)
def safetensors_header_of_three_million_lists(folder: Path) -> Path:
    return written(folder / "a.safetensors", packed(b"[" + b"[]," * 3_000_000 + b"[]]"))


@case("arrays", "its arrays need", bomb=True)
def safetensors_promising_a_terabyte(folder: Path) -> Path:
    return written(folder / "a.safetensors", packed({"a": entry([2**38], [0, 2**40])}, bytes(16)))


def rows(said: str, array: np.ndarray, *, name: str) -> None:
    """A case of vectors that are no directions."""

    def make(folder: Path) -> Path:
        np.save(folder / "v.npy", array)
        return folder / "v.npy"

    case("vectors", said, name=name)(make)


def with_row(value: float) -> np.ndarray:
    out = ROWS.astype(np.float64)
    out[3] = value
    return out


def signalling() -> np.ndarray:
    """NaN whose every use numpy tells of."""
    return np.full((8, 8), 0x7F800001, np.uint32).view(np.float32)


rows("feature 3 of v.npy: its row is not finite", with_row(np.nan), name="a row of NaN")
rows("feature 3 of v.npy: its row is not finite", with_row(np.inf), name="an infinite row")
rows("v.npy: all its rows are zero", np.zeros_like(ROWS), name="nothing but rows of zeros")
rows("feature 3 of v.npy: its length is beyond float32", with_row(1e300), name="a row beyond float32")
rows("its row is not finite", signalling(), name="rows of numbers that signal")
rows("its length is beyond float32", with_row(1e308), name="a row whose length overflows")
rows("not rows of vectors", np.ones((2, 2, 2)), name="vectors of three axes")
rows("not rows of vectors", np.ones((0, 4)), name="no vectors at all")
rows("not rows of vectors", np.float64(1), name="a lone number")  # type: ignore[arg-type]
rows("is not a real number's", np.ones((2, 2), complex), name="complex vectors")
rows("is not a real number's", np.array([["a", "b"]]), name="vectors of words")
rows("is not a real number's", np.array(["2020-01-01"], "M8[D]"), name="vectors of dates")

# .npy


def npy(header: str, data: bytes = b"", *, version: bytes = b"\x01\0", length: int | None = None) -> bytes:
    """A .npy file of a header's text and data."""
    raw = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw) if length is None else length) + raw + data


def described(shape: str = "(2, 2)", descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


def npy_header(said: str, content: bytes, *, name: str, bomb: bool = False) -> None:
    case("vectors", said, name=name, bomb=bomb)(lambda folder: written(folder / "v.npy", content))


_CALL = "__import__('os').system('touch canary')"
npy_header("not a whole numpy file", npy(described(shape=_CALL), bytes(16)), name="npy header that calls")
npy_header("not a whole numpy file", npy(_CALL), name="npy header that is a call")
npy_header("it holds pickled objects", npy(described(descr="'|O'"), bytes(32)), name="npy of objects")
npy_header("is not a real number's", npy(described(descr="[('a', '<f4')]"), bytes(16)), name="npy of records")
npy_header("is not a real number's", npy(described(descr="('<f4', (2, 2))"), bytes(64)), name="npy of arrays")
npy_header("not a whole numpy file", npy(described(descr="'nothing'"), bytes(16)), name="npy of an unknown dtype")
npy_header("needs 16 bytes, 5 are there", npy(described(), bytes(5)), name="npy cut in its data")
npy_header("not a whole numpy file", npy(described())[:30], name="npy cut in its header")
npy_header("not a whole numpy file", npy(described(), length=60_000), name="npy header longer than the file")
npy_header("not a whole numpy file", npy("(" * 5000), name="npy header nested deep")
npy_header("not a whole numpy file", npy(" " * 60_000), name="npy header of spaces")
npy_header(r"version \(9, 0\)", npy(described(), version=b"\x09\0"), name="npy of another version")
npy_header(r"shape \(-1, 4\)", npy(described(shape="(-1, 4)"), bytes(16)), name="npy negative shape")
npy_header("needs 4398046511104 bytes", npy(described(shape="(1099511627776,)")), name="npy of 2^40 numbers", bomb=True)
npy_header(r"shape \(0, 4611686018427387904\)", npy(described(shape="(0, 4611686018427387904)")),
           name="npy of no numbers and 2^62 columns", bomb=True)  # fmt: skip
npy_header(r"shape \(1, 1, ", npy(described(shape=f"({'1, ' * 100})"), bytes(4)), name="npy of a hundred axes")
npy_header("it holds pickled objects", b"\x80\x04\x95" + bytes(40), name="npy that is a pickle")


@case("vectors", ".pkl files are pickles, which can run code")
def vectors_in_a_pickle(folder: Path) -> Path:
    return written(folder / "v.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")
