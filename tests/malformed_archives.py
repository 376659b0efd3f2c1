"""Malformed archives, ``.npz`` and ``.pt``, for the corpus."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import dictionary_folders as folders
from malformed import CANARY, case
from malformed_arrays import described, npy
from whole_files import ROWS, npz, pt, written

# .npz


def zipped(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name), body, how)
    return out.getvalue()


def saved(array: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **how)
    return out.getvalue()


def archive(said: str, members: list[tuple[str, bytes]], *, name: str, how: int = zipfile.ZIP_STORED) -> None:
    case("vectors", said, name=name)(lambda folder: written(folder / "v.npz", zipped(members, how)))


archive("it holds pickled objects", [("v.npy", saved(np.array([{}, None]), allow_pickle=True))], name="npz of objects")
archive("'v' is there twice", [("v.npy", saved(ROWS)), ("v.npy", saved(ROWS))], name="npz name twice")
archive("names a place outside", [("../../v.npy", saved(ROWS))], name="npz name that climbs")
archive("names a place outside", [("/tmp/v.npy", saved(ROWS))], name="npz name from the root")
archive("packed as numpy never does", [("v.npy", saved(ROWS))], name="npz packed by bzip2", how=zipfile.ZIP_BZIP2)
archive("not a whole numpy file", [("v.npy", b"no array")], name="npz member that is no array")
archive("not a whole numpy file", [("v.npy", saved(ROWS)[:200])], name="npz member cut short")
archive("1001 members", [(f"{i}.npy", b"") for i in range(1001)], name="npz of a thousand members")
archive("not a whole numpy file|it has no array", [], name="npz of nothing")
archive("it holds several arrays", [("a.npy", saved(ROWS)), ("b.npy", saved(ROWS))], name="npz of several arrays")


def spoilt(folder: Path, change: Callable[[bytearray], object]) -> Path:
    """An npz of vectors, its bytes changed in place."""
    path = npz(folder)
    content = bytearray(path.read_bytes())
    change(content)
    return written(path, bytes(content))


def put(content: bytearray, mark: bytes, at: int, new: bytes) -> None:
    """Overwrite a field behind the first mark."""
    where = content.find(mark) + at
    content[where : where + len(new)] = new


LOCAL, DIRECTORY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


@case("vectors", "encrypted")
def npz_flagged_as_encrypted(folder: Path) -> Path:
    return spoilt(folder, lambda c: (put(c, LOCAL, 6, b"\1\0"), put(c, DIRECTORY, 8, b"\1\0")))


@case("vectors", "Bad CRC-32")
def npz_of_a_wrong_checksum(folder: Path) -> Path:
    return spoilt(folder, lambda c: put(c, DIRECTORY, 16, bytes(4)))


@case("vectors", "compressed bytes are torn .*Bad CRC-32")
def packed_npz_of_a_wrong_checksum(folder: Path) -> Path:
    array = np.random.default_rng(1).standard_normal((4000, 8))  # larger than the piece that is read for the header
    content = bytearray(zipped([("v.npy", saved(array))], zipfile.ZIP_DEFLATED))
    put(content, DIRECTORY, 16, bytes(4))
    return written(folder / "v.npz", bytes(content))


@case("vectors", "not a whole numpy file")
def npz_cut_short(folder: Path) -> Path:
    return spoilt(folder, lambda c: c.__delitem__(slice(-30, None)))


@case("vectors", "not a whole numpy file")
def npz_whose_directory_lies_elsewhere(folder: Path) -> Path:
    return spoilt(folder, lambda c: put(c, DIRECTORY, 42, struct.pack("<I", 2**31)))


@case("vectors", "the archive promises|not a whole numpy file")
def npz_member_declared_huge(folder: Path) -> Path:
    content = bytearray(zipped([("v.npy", saved(ROWS))], zipfile.ZIP_DEFLATED))
    put(content, DIRECTORY, 24, struct.pack("<I", 2**32 - 2))
    return written(folder / "v.npz", bytes(content))


@cache
def zeros_of(count: int) -> bytes:
    """A packed array of zeros, written without holding them."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("v.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy(described(shape=f"({count >> 10}, 1024)").ljust(117)))
        for _ in range(count >> 20):
            file.write(bytes(4 << 20))
    return out.getvalue()


def bomb_of(count: int, *, claimed: int | None = None) -> bytes:
    """Such an array; ``claimed``: packed bytes that the directory says."""
    content = bytearray(zeros_of(count))
    if claimed is not None:
        put(content, DIRECTORY, 20, struct.pack("<I", claimed))
    return bytes(content)


@case("vectors", r"compressed bytes would unpack to 134217856", bomb=True)
def npz_of_128_MB_of_zeros(folder: Path) -> Path:
    return written(folder / "v.npz", bomb_of(32 << 20))


@case("vectors", r"is said to take 2147483648 bytes|possible zip bomb", bomb=True)
def npz_of_zeros_that_claims_to_be_packed_badly(folder: Path) -> Path:
    return written(folder / "v.npz", bomb_of(32 << 20, claimed=1 << 31))


@case("vectors", "its directory takes 41000000 bytes", bomb=True)
def npz_whose_directory_is_41_MB(folder: Path) -> Path:
    directory = 41_000_000
    end = END + struct.pack("<HHHHIIH", 0, 0, 60_000, 60_000, directory, 4, 0)
    return written(folder / "v.npz", b"PK\3\4" + bytes(directory) + end)


@case("vectors", "packed as numpy never does", bomb=True)
def npz_packed_by_bzip2_to_a_ten_thousandth(folder: Path) -> Path:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive, archive.open("v.npy", "w", force_zip64=True) as file:
        for _ in range(16):
            file.write(bytes(4 << 20))
    return written(folder / "v.npz", out.getvalue())


def scope(said: str, change: Callable[[dict[str, Any]], Any], *, name: str, packed: bool = False) -> None:
    """A Gemma Scope archive with arrays that are no dictionary's."""

    def make(folder: Path) -> Path:
        arrays = dict(folders.ARRAYS)
        change(arrays)
        return folders.gemma_scope(folder, arrays, packed=packed)

    case("dictionary", said, name=name)(make)


scope("no threshold", lambda a: a.pop("threshold"), name="gemma scope without threshold")
scope("no 2-D W_dec", lambda a: a.pop("W_dec"), name="gemma scope without decoder")
scope(r"shape \(24, 8, 1\)", lambda a: a.update(W_dec=a["W_dec"][:, :, None]), name="gemma scope decoder of three axes")
scope("threshold: it has shape", lambda a: a.update(threshold=a["threshold"][:5]), name="gemma scope short threshold")
scope(
    "threshold: it holds NaN", lambda a: a.update(threshold=a["threshold"] * np.nan), name="gemma scope threshold NaN"
)
scope("W_enc: it holds NaN", lambda a: a.update(W_enc=a["W_enc"] * np.inf), name="gemma scope infinite encoder")
scope(
    "W_enc: it holds NaN",
    lambda a: a.update(W_enc=a["W_enc"].astype(float) * 1e300),
    name="gemma scope encoder beyond float32",
)
scope("is not a real number's", lambda a: a.update(W_enc=a["W_enc"] * 1j), name="gemma scope complex encoder")
scope("b_enc: it has shape", lambda a: a.update(b_enc=np.float32(1)), name="gemma scope bias a lone number")
scope("needs", lambda a: a.update(W_enc=a["W_enc"][:, :4]), name="gemma scope encoder of other features")
scope("it has 4; ask for 0 to 3", lambda a: (a.update(W_enc=a["W_enc"][:, :4]), a.pop("b_enc"), a.pop("b_dec")),
      name="packed gemma scope with fewer encoders", packed=True)  # fmt: skip
scope("its shape is", lambda a: (a.update(W_enc=a["W_enc"].ravel()), a.pop("b_enc"), a.pop("b_dec")),
      name="packed gemma scope encoder in one row", packed=True)  # fmt: skip

# .pt


def torch_archive(pickled: bytes, more: tuple[tuple[str, bytes], ...] = (), how: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, around any pickle."""
    members = [("v/data.pkl", pickled), ("v/byteorder", b"little"), ("v/version", b"3\n"), *more]
    return zipped(members, how)


def called(module: str, name: str, arguments: bytes, *, proto: bytes = b"\x80\x02") -> bytes:
    """A pickle that calls a function by name; ``arguments`` are pickle too."""
    return proto + b"c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def number(value: int) -> bytes:
    """A tuple of one number, pickled; of eight bytes, which torch's own reader takes."""
    return b"\x8a\x08" + struct.pack("<q", value) + b"\x85"


def pickled(said: str, content: bytes, *, name: str, bomb: bool = False) -> None:
    case("tensors", said, name=name, bomb=bomb)(lambda folder: written(folder / "v.pt", torch_archive(content)))


_TOUCH = b"X" + struct.pack("<I", len(f"touch {CANARY}")) + f"touch {CANARY}".encode() + b"\x85"
_OBJECTS = "it holds Python objects besides tensors"
pickled(_OBJECTS, called("os", "system", _TOUCH), name="pt that calls os.system")
pickled(_OBJECTS, called("posix", "system", _TOUCH), name="pt that calls posix.system")
pickled(_OBJECTS, b"\x80\x04\x8c\x02os\x8c\x06system\x93" + _TOUCH + b"R.", name="pt that calls by a name on its stack")
pickled(_OBJECTS, b"\x80\x02(S'touch canary'\nios\nsystem\n.", name="pt that makes an instance")
pickled(_OBJECTS, called("torch.hub", "load", _TOUCH), name="pt that calls torch.hub")
pickled(_OBJECTS, called("builtins", "bytearray", number(1 << 40)), name="pt of a terabyte of nothing", bomb=True)
pickled(_OBJECTS, called("__builtin__", "bytearray", number(3 << 30)), name="pt of three gigabytes", bomb=True)
pickled(_OBJECTS, called("torch", "FloatTensor", number(1 << 38)), name="pt that makes its own tensor", bomb=True)
pickled("not a whole torch file", b"\x80\x02\xff\xff", name="pt of no pickle")
pickled("not a whole torch file", b"", name="pt of an empty pickle")
pickled("not a whole torch file", b"\x80\x02" + b"(" * 10, name="pt of a pickle without an end")


@case("tensors", _OBJECTS, bomb=True)
def pt_that_doubles_a_text_forty_times(folder: Path) -> Path:
    encode = b"c_codecs\nencode\n"
    hexed = b"X\x03\0\0\0hex"
    doubled = encode + b"C\x01a" + hexed + b"\x86R"
    for _ in range(40):
        doubled = encode + doubled + hexed + b"\x86R"
    return written(folder / "v.pt", torch_archive(b"\x80\x02" + doubled + b"."))


@case("tensors", "it names more than 100000", bomb=True)
def pt_of_dicts_that_share_dicts(folder: Path) -> Path:
    inner: dict[str, Any] = {str(i): 1 for i in range(2000)}
    middle = {str(i): inner for i in range(2000)}
    return written(folder / "v.pt", torch_archive(pickle.dumps({str(i): middle for i in range(2000)}, protocol=2)))


@case("tensors", "far too many for names", bomb=True)
def pt_whose_pickle_takes_6_MB(folder: Path) -> Path:
    return written(folder / "v.pt", torch_archive(b"\x80\x02" + b"N0" * (3 << 20) + b"N."))


@case("tensors", "its members are compressed", bomb=True)
def pt_of_64_MB_packed(folder: Path) -> Path:
    return written(
        folder / "v.pt", torch_archive(b"\x80\x02N.", (("v/data/0", bytes(64 << 20)),), zipfile.ZIP_DEFLATED)
    )


def tensor(claimed: int, shape: tuple[int, ...], *, stride: tuple[int, ...] | None = None) -> bytes:
    """A pickle of one float32 tensor whose storage claims so many numbers."""

    def ints(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    stride = stride or tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += b"\x8a\x08" + struct.pack("<q", claimed) + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + ints(shape) + ints(stride) + b"\x89}tR."


def storage(said: str, content: bytes, *, name: str, data: int = 16, bomb: bool = False) -> None:
    def make(folder: Path) -> Path:
        return written(folder / "v.pt", torch_archive(content, (("v/data/0", bytes(data)),)))

    case("tensors", said, name=name, bomb=bomb)(make)


storage("torch cannot read it", tensor(4, (1 << 20,)), name="pt tensor larger than its storage")
storage("torch cannot read it", tensor(1 << 40, (1 << 40,)), name="pt storage of 2^40 numbers", bomb=True)
storage("torch cannot read it", tensor(1 << 61, (1 << 61,)), name="pt storage beyond all addresses", bomb=True)
storage("needs more numbers than the file holds", tensor(4, (1 << 20, 1 << 20), stride=(0, 0)),
        name="pt tensor of four numbers over and over", bomb=True)  # fmt: skip
storage("torch cannot read it", tensor(4, (-4,)), name="pt tensor of minus four numbers")


def kept(said: str, keep: Callable[[bytes], bytes], *, name: str) -> None:
    case("tensors", said, name=name)(lambda folder: written(folder / "v.pt", keep(pt(folder).read_bytes())))


kept("not a whole torch file", lambda c: c[:-40], name="pt cut at its end")
kept("not a whole torch file", lambda c: c[:100], name="pt cut at its beginning")
kept("torch's older formats", lambda c: c[2:], name="pt without its first bytes")
case("tensors", "torch's older formats", name="pt that is a bare pickle")(
    lambda folder: written(folder / "v.pt", b"cos\nsystem\n(S'touch canary'\ntR.")
)
case("tensors", "holds 0 data.pkl", name="pt without a pickle")(
    lambda folder: written(folder / "v.pt", zipped([("v/version", b"3\n")]))
)
case("tensors", "holds 2 data.pkl", name="pt of two pickles")(
    lambda folder: written(folder / "v.pt", torch_archive(b"\x80\x02N.", (("v/DATA.PKL", b"\x80\x02N."),)))
)
case("tensors", "Is a directory", name="pt that is a folder")(
    lambda folder: ((folder / "v.pt").mkdir(), folder / "v.pt")[1]
)


@case("tensors", "torch's older formats")
def pt_in_torchs_older_format(folder: Path) -> Path:
    import torch

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {CANARY}",)

    torch.save({"v": torch.ones(2), "trap": Trap()}, folder / "v.pt", _use_new_zipfile_serialization=False)
    return folder / "v.pt"


def learning(said: str, *, name: str, dict_class: str = "AutoEncoderTopK", **more: Any) -> None:
    """A dictionary_learning folder with tensors that are none of a dictionary."""

    def make(folder: Path) -> Path:
        import torch

        return folders.dictionary_learning(folder, dict_class, more={k: torch.tensor(v) for k, v in more.items()})

    case("dictionary", said, name=name, torch=True)(make)


learning("its k is 'nan', not a natural number", name="dictionary_learning k NaN", k=float("nan"))
learning("its k is '-3', not a natural number", name="dictionary_learning k negative", k=-3)
learning("its k is 'True', not a natural number", name="dictionary_learning k a truth", k=True)
learning("config.json says k 3 and ae.pt 5", name="dictionary_learning two ks", k=5)
learning("threshold is -1, so it was never learnt", name="dictionary_learning threshold in a list",
         dict_class="BatchTopKSAE", threshold=[-1.0])  # fmt: skip
