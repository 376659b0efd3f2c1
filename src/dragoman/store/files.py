"""Files that are whole or not there, and the digests that name their contents.

In: bytes, text, JSON-like values, paths. Out: files written to a temporary name beside their place, synced and
renamed; files opened to be read; sha256 digests. Refuses full disks, missing or forbidden paths, pipes, devices and
sockets wherever a file is meant, links where one is written, and words that can name no file.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import gc
import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
_DEPTH = 4  # levels of objects and lists that are written member by member
_ITEMS = 64  # of a list, encoded together
_TOGETHER = 1 << 18  # characters written in one go
_JSON_LIMIT = 128 << 20  # bytes; parsed JSON takes up to twenty times its text
_TEXT_LIMIT = 16 << 20  # bytes of a template or a settings file
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
TEMPORARY = 24  # bytes that the name of a file grows by while it is written
_LARGE = 256 << 20  # bytes of several files, above which they are read side by side
_SETTLED = 2_000_000_000  # nanoseconds after which a second change of a file gets another time than the first
_WHOLE = 1_000_000_000  # nanoseconds
_HALF = re.compile("[\ud800-\udfff]")


@contextmanager
def refusing(doing: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors inside the block into a `Refusal`; ``doing`` is "reading" or "writing"."""
    try:
        yield
    except OSError as error:
        what = f"{doing} {path}"
        said = error.strerror or str(error)
        if error.errno in FULL:
            why, instead = (
                f"full disk ({said})",
                "free some space and run the same command again, nothing was half-written",
            )
        elif error.errno in _FORBIDDEN:
            kind = {"reading": "unreadable", "writing": "unwritable"}.get(doing, "closed")
            why, instead = (f"{kind} folder or file ({said})", "change its permissions or name another place")
        elif error.errno in _MISSING:
            why, instead = said, "check the path"
        else:
            why, instead = said, "check the disk it is on"
        raise Refusal(what, why, instead) from error


@contextmanager
def opened(path: Path | str) -> Iterator[BufferedReader]:
    """A regular file, to be read; every file that somebody names is opened here. Links to regular files are followed.

    Raises:
        Refusal: no file, no permission, or a pipe (which would be waited on for ever), device or socket.
    """
    path = Path(path)
    with refusing("reading", path):
        _refuse_unreadable_kind(path, path.stat().st_mode)
        # Between the two calls a pipe can take the file's place: without waiting, and looked at again.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _refuse_unreadable_kind(path, os.fstat(handle).st_mode)
            file = os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
        with file:
            yield file


def _refuse_unreadable_kind(path: Path, mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG:
        why = f"it is {_KINDS.get(kind, 'no file')}, and only regular files are read"
        raise Refusal(f"reading {path}", why, "write its contents to a file and name that")


def refuse_target(path: Path) -> None:
    """Refuse to write a file where something else stands: a link, pipe, device or socket would be replaced by it.

    Raises:
        Refusal: as said; a folder is left to the system's own refusal.
    """
    with refusing("writing", path):
        try:
            kind = stat.S_IFMT(path.lstat().st_mode)
        except FileNotFoundError:
            return
    if kind == stat.S_IFLNK:
        raise Refusal(f"writing {path}", "it is a link, and links are not replaced", "name the file itself, or another")
    if kind in _KINDS:
        why = f"it is {_KINDS[kind]}, and only regular files are replaced"
        raise Refusal(f"writing {path}", why, "name a regular file")


def read_bounded(path: Path | str, most: int, what: str) -> bytes:
    """A regular file's bytes; refuse more than ``most``. ``what``: the kind of file, for the refusal, "a JSON file"."""
    path = Path(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > most else file.read(most + 1)
    if max(size, len(content)) > most:
        size = max(size, len(content))
        raise Refusal(f"{path}", f"it takes {size} bytes, too many for {what}", "name the right file")
    return content


def read_text(path: Path | str) -> str:
    """UTF-8 text of a small regular file, whole."""
    try:
        return read_bounded(path, _TEXT_LIMIT, "a text of settings").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}", f"it is not UTF-8 text ({error.reason})", "save it as UTF-8") from error


@contextmanager
def replacing(path: Path | str) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all.

    Bytes go to a temporary file in the same folder, which is synced and renamed over ``path`` when the block ends
    well and removed when it does not. Missing parent folders are made.

    Raises:
        Refusal: on a full disk, a folder without permission, or a link, pipe or device at ``path``; what stood at
            ``path`` before is still there.
    """
    path = Path(path)
    refuse_target(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with refusing("writing", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temp.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, path)  # noqa: PTH105 (named in os, where a full disk is simulated and a rename is atomic)
        except BaseException:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(lock: Path, *, wait: bool = False, busy: str = "another process holds it") -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the process ends, however it ends.

    Raises:
        Refusal: when somebody else holds it and ``wait`` is false; ``busy`` is the reason given.
    """
    with refusing("writing", lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        refuse_target(lock)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        with refusing("writing", lock):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Refusal(f"{lock.parent}", busy, "wait for that process to end, or name another folder") from error
        yield
    finally:
        os.close(handle)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file whole or not at all (see `replacing`)."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text whole or not at all (see `replacing`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, obj: Any) -> None:
    """Write JSON whole or not at all, keys in the order given, values as by `plain`; never as one text in memory."""
    with replacing(path) as file:
        for escaped in (False, True):
            encoder = json.JSONEncoder(indent=2, ensure_ascii=escaped, allow_nan=False)
            pieces = chain(_pieces(obj, encoder, "", _DEPTH), "\n")
            if all(_put(file, text) for text in _gathered(pieces)):
                return
            file.seek(0)  # half of a character, which only JSON's own escapes can hold
            file.truncate()


def _put(file: IO[bytes], text: str) -> bool:
    """Write text, if UTF-8 can hold it."""
    if _HALF.search(text):
        return False
    file.write(text.encode("utf-8"))
    return True


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of text put together, some hundred thousand characters at a time."""
    held, size = list[str](), 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > _TOGETHER:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _pieces(value: Any, encoder: json.JSONEncoder, pad: str, depth: int) -> Iterator[str]:
    """The JSON text of a value, piece by piece; what lies deeper than ``depth`` in one piece."""
    if depth and _is_record(value):
        value = value.set_fields()
    if depth and isinstance(value, Mapping) and value:
        for number, (key, one) in enumerate(value.items()):
            yield f"{',' if number else '{'}\n{pad}  {encoder.encode(str(key))}: "
            yield from _pieces(one, encoder, f"{pad}  ", depth - 1)
        yield f"\n{pad}}}"
    elif depth and isinstance(value, list | tuple) and value:
        for start in range(0, len(value), _ITEMS):  # to begin encoding takes as long as an item
            inner = _piece(list(value[start : start + _ITEMS]), encoder)[1:-2]  # without the brackets on their lines
            yield f"{',' if start else '['}{inner}".replace("\n", f"\n{pad}")
        yield f"\n{pad}]"
    else:
        yield _piece(value, encoder).replace("\n", f"\n{pad}")


def _is_record(value: Any) -> bool:
    """Whether it is one of `records`, which this module does without: they take pydantic, and reading help does not."""
    return hasattr(type(value), "set_fields")


def _piece(value: Any, encoder: json.JSONEncoder) -> str:
    """The JSON text of a value."""
    try:
        return encoder.encode([_dumped(one) for one in value] if isinstance(value, list) else _dumped(value))
    except ValueError:  # a record holds NaN or an infinite number
        return encoder.encode(plain(value))


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if _is_record(value) else plain(value)


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many values without Python's search for cycles: JSON and records hold none, and it takes long."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_json(path: Path | str) -> Any:
    """Read a JSON file; refuse one that is missing, is not JSON, or is larger than any that dragoman reads."""
    content = read_bounded(path, _JSON_LIMIT, "a JSON file")
    try:
        with uncollected():
            return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path}", f"it is not JSON ({error})", "mend the file or make it again") from error


def stable_json(value: Any) -> str:
    """The same text for equal values, whatever order their keys are in: what digests are made of."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=True, allow_nan=False)


def plain(obj: Any) -> Any:
    """A value as JSON has it.

    numpy scalars and arrays, tuples, paths, dataclasses and records (their fields that were set) become numbers, lists,
    strings and objects; NaN and infinite numbers become null, because JSON has no other word for a number that is not
    there.
    """
    if isinstance(obj, np.generic | np.ndarray):
        return plain(obj.tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if _is_record(obj):
        return plain(obj.set_fields())
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: plain(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    return obj


def file_sha256(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, as ``sha256sum`` prints it."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_each(work: Callable[[Path], str], paths: Sequence[Path]) -> list[str]:
    """What ``work``, which reads a file through, says of each path; large files side by side.

    One processor hashes more slowly than disks read, and models have tens of gigabytes.
    """
    if len(paths) < 2 or sum(path.stat().st_size for path in paths if path.is_file()) < _LARGE:
        return [work(path) for path in paths]
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as threads:
        return list(threads.map(work, paths))


def stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What the system says of a file that changes whenever its bytes do: size, inode, times of both changes.

    The second time (ctime) is the kernel's: copying, unpacking and ``touch`` set the first to whatever they like, and
    none can set it. None where it tells nothing: it is younger than two seconds, so that a second change may get the
    same time; or it is a whole second, as on filesystems that keep no finer times and in read-only images, whose times
    their maker wrote. The device's number is left out: it is given anew at every mount.
    """
    found = path.stat()
    if found.st_ctime_ns % _WHOLE == 0 or time.time_ns() - found.st_ctime_ns < _SETTLED:
        return None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def digest(*parts: bytes | str | NDArray[Any] | Path) -> str:
    """Hex sha256 over the parts, in order.

    Bytes and text count as they are, an array with its dtype and shape, a file by its contents (its name does not
    count), a folder by the relative names and contents of its files, sorted. Parts are framed, so that ("ab", "c") and
    ("a", "bc") differ.
    """
    whole = hashlib.sha256()
    for part in parts:
        for tag, content in _framed(part):
            whole.update(f"{tag}:{len(content)}:".encode())
            whole.update(content)
    return whole.hexdigest()


def _framed(part: bytes | str | NDArray[Any] | Path) -> Iterator[tuple[str, bytes | memoryview]]:
    """One part as tagged byte strings; files are hashed as they are read, never held whole."""
    if isinstance(part, Path):
        if part.is_dir():
            with refusing("reading", part):
                inside = sorted((p.relative_to(part).as_posix(), p) for p in part.rglob("*") if p.is_file())
            yield "folder", str(len(inside)).encode()
            for name, path in inside:
                yield "name", name.encode()
                yield "file", file_sha256(path).encode()
        else:
            yield "file", file_sha256(part).encode()
    elif isinstance(part, str):
        yield "text", part.encode("utf-8", "surrogatepass")
    elif isinstance(part, bytes):
        yield "bytes", part
    else:
        array = np.asarray(part, order="C")
        if array.dtype.hasobject:
            raise Refusal("digest of an object array", "its bytes are addresses, not contents", "pass numbers or text")
        yield "array", f"{array.dtype.str}{array.shape}".encode()
        yield "values", array.reshape(-1).view(np.uint8).data  # not copied: a dictionary's rows are a gigabyte


_LONGEST_NAME, _LONGEST_PATH, _SHOWN = 255, 4096, 60  # bytes, on every file system in use; characters shown


def check_name(word: str, what: str) -> str:
    """The word, if a file or a repository can be called so; it need not be there.

    Args:
        word: what somebody wrote.
        what: what it names, for the sentence ("--texts", "dictionary").

    Raises:
        Refusal: it is empty, no file system has room for it, it holds a NUL, or it is the home of no user here.
    """
    named = f"{what} '{word if len(word) <= _SHOWN else word[:_SHOWN] + '...'}'"
    place = word.partition("#")[0].encode("utf-8", "surrogatepass")  # what follows are an array's name and its rows
    size, longest = len(place), 0 if b"://" in place else max(map(len, place.split(b"/")))
    if not word.strip():
        raise Refusal(named, "it is empty", "name something, or leave the option out")
    if "\0" in word:
        raise Refusal(named, "it holds a NUL, which no name has", "write it without")
    if size > _LONGEST_PATH or longest > _LONGEST_NAME:
        why = f"no file or repository has a name of {longest if longest > _LONGEST_NAME else size} bytes"
        raise Refusal(named, why, "write a shorter name")
    if word.startswith("~"):
        try:
            Path(word).expanduser()
        except RuntimeError:
            why = f"there is no user '{word[1:].partition('/')[0]}' here"
            raise Refusal(named, why, "write the whole path") from None
    return word
