"""numpy's own files, read only as far as asked, here or far away.

In: the bytes of a ``.npy`` or ``.npz`` file. Out: `NumpyFile`: names, shapes, and arrays read when asked for. Members
that are stored as they are (as ``np.savez`` does) are read in place; compressed ones are unpacked whole. Refuses
pickled objects, torn files, compressed arrays beyond 256 MB, and archives whose sizes are not what their shapes need.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store.spans import (
    Bytes,
    LocalBytes,
    Matrix,
    StoredArray,
    Whole,
    bounded,
    listed,
    native,
    read_bytes,
    shown,
)

ALONE = "array"  # what the one array of a .npy file is called
_ZIP = b"PK"
_HEADER_LIMIT = 64 << 10  # bytes looked at for a header
_MEMBERS = 1000
_DIRECTORY = 4 << 20  # bytes of an archive's directory
_UNPACKED_LIMIT = 256 << 20  # bytes of one compressed array; dictionaries are published uncompressed
_RATIO = 200  # deflate can gain about 1000, which real numbers never do
_SUSPECT = 64 << 20  # bytes: below, an array of zeros may well gain that much


class NumpyFile:
    """A ``.npy`` or ``.npz`` file, opened; a zip is known by its contents, not its name."""

    def __init__(self, source: Bytes | Path | str) -> None:
        """Read the headers of all arrays."""
        self._source: Bytes = LocalBytes(source) if isinstance(source, Path | str) else source
        self.path = self._source.name
        opening = read_bytes(self._source, 0, min(2, self._source.size))
        self._arrays: dict[str, Matrix]
        try:
            self._arrays = self._members() if opening == _ZIP else {ALONE: self._alone(opening)}
        except Refusal:
            raise
        # numpy and zipfile fail in as many ways as a file can be odd; each means the same to the reader.
        except Exception as error:
            raise Refusal(
                f"vectors {Path(self.path).name}",
                f"it is not a whole numpy file ({first_line(error)})",
                "save plain arrays of floats, best as safetensors",
            ) from error
        self.names: tuple[str, ...] = tuple(sorted(self._arrays))

    def array(self, name: str) -> Matrix:
        """One array, not read yet. Refused when there is none of that name."""
        if name not in self._arrays:
            raise Refusal(f"array '{shown(name)}' of {self.path}", f"the file holds {listed(self.names)}", "name one")
        return self._arrays[name]

    def _alone(self, opening: bytes) -> StoredArray:
        """The array of a .npy file."""
        if opening[:1] == b"\x80":
            raise self._pickled()
        head = io.BytesIO(read_bytes(self._source, 0, min(_HEADER_LIMIT, self._source.size)))
        dtype, shape, fortran, start = self._described(head)
        return self._stored(ALONE, dtype, shape, fortran, start, self._source.size)

    def _members(self) -> dict[str, Matrix]:
        """The arrays of a .npz file."""
        out: dict[str, Matrix] = {}
        with zipfile.ZipFile(as_file(self._source, most=_DIRECTORY)) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS:
                raise ValueError(f"{len(members)} members")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in out:
                    raise ValueError(f"'{shown(name)}' is there twice")
                # Other packings are not unpacked piece by piece, so that little can become much at once.
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"member '{shown(name)}' is packed as numpy never does")
                if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                    raise ValueError(f"member '{shown(name)}' names a place outside of it")
                with archive.open(member) as file:
                    head = io.BytesIO(file.read(_HEADER_LIMIT))
                dtype, shape, fortran, start = self._described(head)
                if member.compress_type == zipfile.ZIP_STORED:
                    begin = self._data(member)
                    end = begin + member.file_size
                    out[name] = self._stored(name, dtype, shape, fortran, begin + start, end)
                else:
                    out[name] = self._packed(member, dtype, shape, fortran, start)
        return out

    def _data(self, member: zipfile.ZipInfo) -> int:
        """Where a stored member's bytes begin: its local header is as long as it says, not as the directory says."""
        local = read_bytes(self._source, member.header_offset, 30)
        return (
            member.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        )

    def _described(self, head: io.BytesIO) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
        """dtype, shape, order and length of an array's header; never evaluates what it says."""
        version = npy.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on headers that Python 2 wrote, which say the same
            shape, fortran, dtype = read(head)
        if dtype.hasobject:
            raise self._pickled()
        if dtype.kind not in "fiub":
            why = f"dtype {shown(dtype)} is not a real number's"
            raise Refusal(f"vectors {Path(self.path).name}", why, "save floats")
        if any(size < 0 for size in shape) or not bounded(shape):
            raise ValueError(f"shape {shown(shape)}")
        return dtype, tuple(shape), bool(fortran), head.tell()

    def _pickled(self) -> Refusal:
        why = "it holds pickled objects"
        return Refusal(f"vectors {Path(self.path).name}", why, "save plain arrays of floats, best as safetensors")

    def _stored(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, start: int, end: int
    ) -> StoredArray:
        """An array that lies in the file as it is."""
        need = math.prod(shape) * dtype.itemsize
        if start + need > end or end > self._source.size:
            raise ValueError(
                f"shape {shown(shape)} needs {need} bytes, {max(0, min(end, self._source.size) - start)} are there"
            )
        fortran = fortran and len(shape) > 1
        return StoredArray(source=self._source, offset=start, dtype=dtype, shape=shape, name=name, fortran=fortran)

    def _packed(
        self, member: zipfile.ZipInfo, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, start: int
    ) -> PackedArray:
        """An array in a compressed member, its size checked against its shape before anything is unpacked."""
        need = math.prod(shape) * dtype.itemsize
        if member.file_size != start + need:
            raise ValueError(
                f"shape {shown(shape)} needs {need} bytes, the archive promises {member.file_size - start}"
            )
        if member.compress_size > self._source.size:
            raise ValueError(f"'{shown(member.filename)}' is said to take {member.compress_size} bytes")
        fortran = fortran and len(shape) > 1
        packed = PackedArray(source=self._source, member=member, start=start, dtype=dtype, shape=shape, fortran=fortran)
        if need > _UNPACKED_LIMIT or member.file_size > max(_SUSPECT, _RATIO * member.compress_size):
            why = f"{member.compress_size} compressed bytes would unpack to {member.file_size}"
            raise Refusal(f"{packed}", why, "save it with np.savez, which does not compress")
        if self._source.far:
            why = "it is compressed, so its rows cannot be fetched singly"
            raise Refusal(f"{packed}", why, "download the file once and name the local copy")
        return packed


@dataclass(frozen=True, kw_only=True)
class PackedArray(Whole):
    """An array in a compressed member of a zip: unpacked whole at every read."""

    source: Bytes
    member: zipfile.ZipInfo
    start: int
    dtype: np.dtype[Any]
    fortran: bool = False

    def whole(self) -> NDArray[Any]:
        """All of it, in memory. Refused when its bytes are torn."""
        try:
            with zipfile.ZipFile(as_file(self.source)) as archive:
                flat = np.frombuffer(archive.read(self.member), self.dtype, offset=self.start)
            return native(flat.reshape(self.shape, order="F" if self.fortran else "C"))
        # Each compression has its own errors; all mean that the stream is torn.
        except Exception as error:
            why = f"its compressed bytes are torn ({first_line(error)})"
            raise Refusal(f"{self}", why, "fetch or save the file again") from error

    def __str__(self) -> str:
        """What and where."""
        return f"array '{shown(self.member.filename)}' of {self.source.name}"


def first_line(error: Exception) -> str:
    """What an error says first; numpy gives advice in further lines."""
    said = str(error).strip().splitlines()
    return shown(said[0], 160) if said else type(error).__name__


def as_file(source: Bytes, most: int | None = None) -> IO[bytes]:
    """Bytes at any place as the file that zipfile wants; more than ``most`` of them at once is a ValueError."""
    return cast(IO[bytes], _Reader(source, most))


class _Reader(io.RawIOBase):
    """See `as_file`."""

    def __init__(self, source: Bytes, most: int | None) -> None:
        super().__init__()
        self._source, self._at, self._most = source, 0, most

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the file")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._source.size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if self._most is not None and length > self._most:
            raise ValueError(f"its directory takes {length} bytes")
        got = read_bytes(self._source, self._at, length)
        self._at += length
        return got
