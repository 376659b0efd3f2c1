"""Tensors of a ``.pt`` file, in numpy, a few megabytes at a time.

In: a path. Out: `TorchFile`: names, shapes, and arrays that are read when asked for. torch itself reads the file,
mapped and with weights only, so that no code in it runs. Refuses bare pickles and tar archives (torch's older formats,
which cannot be read without running what they say), compressed archives, pickles that hold anything but tensors and
plain values (judged by the pickle's own words, before torch makes anything of them), and files cut short. Imports torch
when a file is opened.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store.libraries import refuse_absent
from dragoman.store.numpyfile import as_file, first_line
from dragoman.store.spans import LocalBytes, columns_within, listed, shown, within

if TYPE_CHECKING:
    import torch

_PICKLE_LIMIT = 4 << 20  # bytes of the archive's pickle: it holds names and shapes, not numbers
_DIRECTORY = 16 << 20  # bytes of the archive's directory
_ENTRIES = 100_000  # names of all dicts together; dicts that share dicts can make billions of a few
# Of what torch's own weights-only reader lets a pickle call, what tensors are made of. The rest makes none, and can be
# told to make gigabytes of nothing (bytearray(2**40)) or to double a text forty times (_codecs.encode).
_CALLED = {
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
}
_BLOCK = 32 << 20  # bytes mapped at once while passing through a tensor
_DEPTH = 3  # how deep dicts in dicts are looked through
ALONE = "tensor"  # what a tensor saved by itself is called
SAFER = "convert the file to safetensors"


class TorchFile:
    """A ``torch.save`` archive, opened.

    ``names``: its tensors, sorted, those in nested dicts as ``outer.inner``. ``shapes``: name to shape.
    """

    def __init__(self, path: Path | str) -> None:
        """Check the archive and read its names; no numbers yet."""
        self.path = Path(path)
        _check_archive(self.path)
        tensors = _loaded(self.path)
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.names: tuple[str, ...] = tuple(sorted(self.shapes))
        for name, tensor in tensors.items():
            _check_tensor(self.path, name, tensor)

    def array(self, name: str) -> TorchArray:
        """One tensor, not read yet. Refused when there is none of that name."""
        if name not in self.shapes:
            held = listed(self.names) or "no tensors"
            raise Refusal(f"tensor '{shown(name)}' of {self.path}", f"the file holds {held}", "name one of these")
        return TorchArray(self.path, name, self.shapes[name])


@dataclass(frozen=True, slots=True)
class TorchArray:
    """One tensor of a file. Each read maps the file anew, so that the pages it touched go with the map."""

    path: Path
    name: str
    shape: tuple[int, ...]

    def whole(self) -> NDArray[Any]:
        """All of it, in memory."""
        return self._read(slice(None) if self.shape else ...)

    def rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen rows ``(len(rows), ...)``."""
        return self._read(within(rows, self.shape, 0, str(self)).tolist())

    def columns(self, columns: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Chosen columns of a 2-D tensor ``(shape[0], len(columns))``, block after block of its rows."""
        chosen = columns_within(columns, self.shape, str(self)).tolist()
        count, width = self.shape
        step = max(1, _BLOCK // (4 * max(width, 1)))
        blocks = [self._read(slice(first, first + step), chosen) for first in range(0, count, step)]
        return np.concatenate(blocks) if blocks else np.empty((0, len(chosen)), np.float32)

    def __str__(self) -> str:
        """What and where."""
        return f"tensor '{shown(self.name)}' of {self.path}"

    def _read(self, rows: Any, columns: list[int] | None = None) -> NDArray[Any]:
        """A copy in numpy; half precision and float8 widened to float32."""
        import torch

        tensor = _loaded(self.path)[self.name].detach()[rows]
        try:
            tensor = tensor if columns is None else tensor[:, columns]
            if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
                tensor = tensor.to(torch.float32)
            return np.array(tensor.contiguous().numpy())
        # Packed four-bit floats and bare bits have no numbers to torch, or none to numpy.
        except (RuntimeError, TypeError, NotImplementedError) as error:
            why = f"its numbers, {shown(tensor.dtype)}, are not read here"
            raise Refusal(f"{self}", why, "save it as float32, float16 or bfloat16") from error


def _check_archive(path: Path) -> None:
    """Refuse what is not an uncompressed zip archive with a small pickle, before torch sees it."""
    file = as_file(LocalBytes(path), most=_DIRECTORY)
    try:
        if file.read(2) != b"PK":
            why = "it is a pickle or a tar archive, torch's older formats, which can run code when read"
            raise Refusal(f"{path}", why, SAFER)
        with zipfile.ZipFile(file) as archive:
            _check_members(path, archive)
    except Refusal:
        raise
    # zipfile fails in as many ways as an archive can be odd.
    except Exception as error:
        raise Refusal(
            f"{path}", f"it is not a whole torch file ({first_line(error)})", "fetch or save it again"
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse packed members, more or less than one pickle, and a pickle that calls for more than tensors."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refusal(f"{path}", "its members are compressed, which torch.save never does", SAFER)
    # torch's own reader of archives does not tell cases apart.
    pickles = [member for member in members if member.filename.lower().endswith("data.pkl")]
    if len(pickles) != 1:
        raise Refusal(f"{path}", f"it holds {len(pickles)} data.pkl, a torch file holds one", SAFER)
    if pickles[0].file_size > _PICKLE_LIMIT:
        raise Refusal(f"{path}", f"its pickle takes {pickles[0].file_size} bytes, far too many for names", SAFER)
    with archive.open(pickles[0]) as file:
        odd = _called_for(file.read(_PICKLE_LIMIT + 1))
    if odd is not None:
        why = f"it holds Python objects besides tensors ({shown(odd)})"
        raise Refusal(f"{path}", why, f"save a dict of tensors again, or {SAFER}")


def _called_for(pickle: bytes) -> str | None:
    """The first thing a pickle names that no tensor is made of, None when there is none; nothing is run."""
    for code, said, _ in pickletools.genops(pickle):
        if code.name in ("INST", "STACK_GLOBAL", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            return str(said or code.name)
        if code.name == "GLOBAL":
            module, _, name = str(said).partition(" ")
            stored = module == "torch" and (name.endswith("Storage") or name.islower() or "_" in name)
            made = module == "torch._utils" and name.startswith("_rebuild_")
            if not stored and not made and name not in _CALLED.get(module, ()):
                return f"{module}.{name}"
    return None


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by dotted names, as torch makes them: mapped, and only tensors and plain values are allowed."""
    refuse_absent(f"{path}", "torch", extra="local")
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # The pickle machine fails in as many ways as a hostile file can be odd; each means the same to the reader.
    except Exception as error:
        first = first_line(error)
        why = (
            "it holds Python objects besides tensors"
            if "weights" in first.lower() and "only" in first.lower()
            else f"torch cannot read it ({first})"
        )
        raise Refusal(f"{path}", why, f"save a dict of tensors again, or {SAFER}") from error
    if isinstance(loaded, torch.Tensor):
        return {ALONE: loaded}
    leaves = list(islice(_leaves(loaded, "", _DEPTH), _ENTRIES + 1))
    if len(leaves) > _ENTRIES:
        raise Refusal(f"{path}", f"it names more than {_ENTRIES} tensors and values", SAFER)
    return {name: value for name, value in leaves if isinstance(value, torch.Tensor)}


def _leaves(loaded: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Entries of dicts in dicts; what lies deeper or in lists is passed over."""
    if not isinstance(loaded, Mapping):
        return
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth > 1:
            yield from _leaves(value, f"{name}.", depth - 1)
        else:
            yield name, value


def _check_tensor(path: Path, name: str, tensor: Any) -> None:
    """Refuse tensors that are not plain numbers lying in the file."""
    import torch

    what = f"tensor '{shown(name)}' of {path}"
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_complex():
        raise Refusal(what, "it is sparse, quantised, complex or empty of data", SAFER)
    # A small storage with zero strides can claim any shape, and one that the pickle made itself any size; reading it
    # whole would fill the memory.
    stored = tensor.untyped_storage().nbytes()
    if math.prod(tensor.shape) * tensor.element_size() > stored or stored > path.stat().st_size:
        why = f"its shape {shown(tuple(tensor.shape))} needs more numbers than the file holds"
        raise Refusal(what, why, "fetch or save the file again")
