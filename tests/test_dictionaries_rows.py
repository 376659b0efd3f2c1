"""Rows and columns of files, of every kind of number and order, and files that lie about what they hold."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

from dragoman.core import Refusal, Site
from dragoman.store import ArraysFile
from dragoman.store.numpyfile import NumpyFile
from dragoman.store.spans import LocalBytes, coalesced
from reading import read_directions

SITE = Site("m", 3)
# The process's own peak in kilobytes; getrusage would count what its parent held when it was started.
PEAK = "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
RNG = np.random.default_rng(0)


def matrices() -> st.SearchStrategy[np.ndarray]:
    kinds = st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint16, ">f4", "<i8"])
    shapes = st.tuples(st.integers(1, 12), st.integers(1, 40))
    return st.tuples(kinds, shapes).flatmap(lambda pair: arrays(pair[0], pair[1], elements=st.integers(0, 100)))


@settings(max_examples=25, deadline=None)
@given(array=matrices(), fortran=st.booleans(), data=st.data())
def test_numpy_files_give_numpys_own_rows_and_columns(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, fortran: bool, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("n")
    array = np.asarray(array, order="F" if fortran else "C")
    np.save(folder / "a.npy", array)
    np.savez(folder / "s.npz", a=array, b=array[0])
    np.savez_compressed(folder / "c.npz", a=array, b=array[0])
    rows = data.draw(st.lists(st.integers(0, array.shape[0] - 1), max_size=6))
    columns = data.draw(st.lists(st.integers(0, array.shape[1] - 1), max_size=6))
    for name, key in (("a.npy", "array"), ("s.npz", "a"), ("c.npz", "a")):
        found = NumpyFile(folder / name).array(key)
        assert found.shape == array.shape
        np.testing.assert_array_equal(found.whole(), array)
        np.testing.assert_array_equal(found.rows(rows), array[rows])
        np.testing.assert_array_equal(found.columns(columns), array[:, columns])
        assert found.whole().dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(NumpyFile(folder / "c.npz").array("b").rows([0]), array[0, :1])


@settings(max_examples=40, deadline=None)
@given(
    intervals=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1]))),
    gap=st.integers(0, 10),
)
def test_coalesced_intervals_cover_all_and_keep_their_distance(intervals: list[tuple[int, int]], gap: int) -> None:
    out = coalesced(intervals, gap)
    assert all(any(a <= start and end <= b for a, b in out) for start, end in intervals)
    assert all(second[0] - first[1] > gap for first, second in zip(out, out[1:], strict=False))


@pytest.mark.parametrize("many", [1, 3, 45, 700])
def test_columns_come_singly_or_by_passing_through(tmp_path: Path, many: int) -> None:
    matrix = RNG.standard_normal((64, 5000)).astype(np.float32)
    save_file({"W": matrix}, tmp_path / "w.safetensors")
    chosen = RNG.permutation(5000)[:many]
    got = ArraysFile(tmp_path / "w.safetensors").array("W").columns(chosen)
    np.testing.assert_array_equal(got, matrix[:, chosen])


def test_single_columns_read_little_of_the_file(tmp_path: Path) -> None:
    matrix = RNG.standard_normal((64, 50_000)).astype(np.float32)
    save_file({"W": matrix}, tmp_path / "w.safetensors")

    class Counting(LocalBytes):
        read = 0

        def fill(self, spans: Any) -> None:
            self.read += sum(len(buffer) for _, buffer in spans)
            super().fill(spans)

    source = Counting(tmp_path / "w.safetensors")
    file = ArraysFile(source)
    np.testing.assert_array_equal(file.array("W").columns([49_999, 3]), matrix[:, [49_999, 3]])
    assert source.read < 2000
    file.array("W").rows([63])
    assert source.read < 202_000


@pytest.mark.parametrize(("name", "bits"), [("float8_e4m3fn", 8), ("float8_e5m2", 8), ("bfloat16", 16)])
def test_every_small_float_is_widened_as_torch_does(tmp_path: Path, name: str, bits: int) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    integer = torch.uint8 if bits == 8 else torch.int16
    every = torch.arange(2**bits, dtype=torch.int32).to(integer).view(getattr(torch, name)).reshape(16, -1)
    save_torch({"a": every}, tmp_path / "a.safetensors")
    ours, theirs = ArraysFile(tmp_path / "a.safetensors").whole("a"), every.float().numpy()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    good = ~np.isnan(theirs)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[good].view(np.uint32), theirs[good].view(np.uint32))


def test_columns_and_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    save_file({"W": np.ones((4, 6)), "v": np.ones(3)}, tmp_path / "w.safetensors")
    file = ArraysFile(tmp_path / "w.safetensors")
    with pytest.raises(Refusal, match="columns of array 'W' .*: it has 6"):
        file.array("W").columns([6])
    with pytest.raises(Refusal, match="rows of array 'W' .*: it has 4"):
        file.array("W").rows([-1])
    with pytest.raises(Refusal, match=r"its shape is \(3,\)"):
        file.array("v").columns([0])


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"W": np.ones((400, 60))}, path)
    file = ArraysFile(path)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(Refusal, match="before the array does"):
        file.array("W").rows([399])


# Headers that lie


def crafted(path: Path, header: Any, body: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ONCE = json.dumps(entry()).encode()
TWICE = b'{"a": ' + ONCE + b', "a": ' + ONCE + b"}"
LIES: dict[str, tuple[Any, str]] = {
    "too many bytes promised": ({"a": entry((2**40, 2**20), (0, 2**62))}, "its arrays need"),
    "shape larger than bytes": ({"a": entry((2**40, 2**20))}, r"of shape \(1099511627776, 1048576\) has 16 bytes"),
    "negative shape": ({"a": entry((-2, -2))}, "array 'a' is badly described"),
    "fractional shape": ({"a": entry((2.0, 2.0))}, "badly described"),
    "truth as a size": ({"a": entry((True, 4))}, "badly described"),
    "a hundred axes": ({"a": entry([1] * 100, (0, 4))}, "badly described"),
    "offsets backwards": ({"a": entry(offsets=(16, 0))}, "badly described"),
    "three offsets": ({"a": entry(offsets=(0, 8, 16))}, "badly described"),
    "no dtype": ({"a": {"shape": [2, 2], "data_offsets": [0, 16]}}, "badly described"),
    "no object": ({"a": 3}, "badly described"),
    "overlap": ({"a": entry(), "b": entry((1, 2), (8, 16))}, "starts at 8 where 16 was due"),
    "gap": ({"a": entry((1, 2), (0, 8)), "b": entry((1, 1), (12, 16))}, "starts at 12 where 8 was due"),
    "bytes left over": ({"a": entry((1, 2), (0, 8))}, "its arrays need"),
    "list": ([1], "its header is not a JSON object"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": entry()}, "its metadata is not an object of strings"),
    "a key twice": (TWICE, "its header is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "its header is not JSON"),
    "not text": (b"\xff\xfe{}", "its header is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_one_sentence(tmp_path: Path, lie: str) -> None:
    header, why = LIES[lie]
    path = crafted(tmp_path / "v.safetensors", header, b"\0" * 16)
    with pytest.raises(Refusal, match=f"not a whole safetensors file.*{why}") as error:
        read_directions(path, site=SITE)
    assert "\n" not in str(error.value)
    if lie not in ("a hundred axes", "a key twice"):  # here we are stricter than the library
        with pytest.raises(SafetensorError), safe_open(path, framework="numpy"):
            pass


@pytest.mark.parametrize("name", ["two\nlines", "bell\x07", "x" * 5000])
def test_names_out_of_a_file_keep_the_sentence_one(tmp_path: Path, name: str) -> None:
    save_file({name: np.ones((2, 2)), "b": np.ones(3)}, tmp_path / "v.safetensors")
    crafted(tmp_path / "w.safetensors", {name: entry((3, 3))}, b"\0" * 16)
    for path in (tmp_path / "v.safetensors", tmp_path / "w.safetensors"):
        with pytest.raises(Refusal) as error:
            read_directions(path, site=SITE)
        assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_header_bomb_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "v.safetensors").open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little") + b"{")
        file.truncate(200_000_000)
    with pytest.raises(Refusal, match="its header takes 90000000 bytes, more than 10000000"):
        read_directions(tmp_path / "v.safetensors", site=SITE)


GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)})


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.none() | st.integers(0, len(GOOD)))
def test_what_we_accept_the_library_accepts(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    body = bytearray(GOOD)
    body[place] = byte
    path.write_bytes(bytes(body[:cut]))
    try:
        file = ArraysFile(path)
        ours = {name: file.whole(name) for name in file.names}
    except Refusal as refused:
        assert "\n" not in str(refused)
        return
    with safe_open(path, framework="numpy") as theirs:
        assert set(theirs.keys()) == set(ours)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs.get_tensor(name))


# numpy files that lie


def npy(shape: str, descr: str = "'<f4'", fortran: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (npy("(1099511627776, 4096)") + b"\0" * 64, "needs 18014398509481984 bytes, 64 are there"),
        (npy("(4, 4)") + b"\0" * 63, "needs 64 bytes, 63 are there"),
        (npy("(-4, -4)") + b"\0" * 64, "not a whole numpy file"),
        (npy("(2, 2)", "'|O'") + b"\0" * 64, "it holds pickled objects"),
        (npy("(2, 2)", "[('a', '<f4'), ('b', '|O')]") + b"\0" * 64, "it holds pickled objects"),
        (npy("(2, 2)", "[('a', '<f4')]") + b"\0" * 64, "is not a real number's"),
        (npy("__import__('os').getcwd()") + b"\0" * 64, "not a whole numpy file"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 80, r"not a whole numpy file \(version"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 70_000, "not a whole numpy file"),
        (b"PK\x03\x04" + b"\0" * 100, "not a whole numpy file"),
        (npy("(" * 5000) + b"\0" * 64, "not a whole numpy file"),
        (npy("(2, 2)", "'|S99999999999999999999'") + b"\0" * 64, "not a whole numpy file"),
        (npy("(2, 2)", "3") + b"\0" * 64, "not a whole numpy file"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"{'descr': '<f4'," + b" " * 65_600, "not a whole numpy file"),
        (b"", "not a whole numpy file"),
    ],
)
def test_numpy_headers_that_lie_are_one_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(Refusal, match=why) as error:
        read_directions(tmp_path / "v.npy", site=SITE)
    assert "\n" not in str(error.value)


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def test_zip_bombs_are_refused_by_their_ratio_and_by_their_shape(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "v.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("v.npy", "w") as file:
        file.write(npy("(4096, 8192)"))
        for _ in range(128):
            file.write(b"\0" * (1 << 20))
    with pytest.raises(Refusal, match="compressed bytes would unpack to 134217"):
        read_directions(tmp_path / "v.npz", site=SITE, features=[0])
    zipped(tmp_path / "w.npz", {"v.npy": npy("(2, 2)") + b"\0" * 5_000_000})
    with pytest.raises(Refusal, match="needs 16 bytes, the archive promises 5000000"):
        read_directions(tmp_path / "w.npz", site=SITE)
    zipped(tmp_path / "x.npz", {f"{i}.npy": npy("(1, 1)") + b"\0" * 4 for i in range(1001)})
    with pytest.raises(Refusal, match="1001 members"):
        read_directions(tmp_path / "x.npz", site=SITE)
    zipped(tmp_path / "y.npz", {"readme.txt": b"hello"})
    with pytest.raises(Refusal, match="not a whole numpy file"):
        read_directions(tmp_path / "y.npz", site=SITE)


def test_large_compressed_arrays_are_refused_and_small_ones_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RNG.standard_normal((100, 64)).astype(np.float32)
    np.savez_compressed(tmp_path / "v.npz", v=rows)
    assert len(read_directions(tmp_path / "v.npz", site=SITE, features=[7, 3])) == 2
    monkeypatch.setattr("dragoman.store.numpyfile._UNPACKED_LIMIT", rows.nbytes - 1)
    with pytest.raises(Refusal, match=r"compressed bytes would unpack to \d+; save it with np.savez"):
        read_directions(tmp_path / "v.npz", site=SITE, features=[7, 3])


def test_torn_compressed_members_are_refused(tmp_path: Path) -> None:
    rows = RNG.standard_normal((2000, 64)).astype(np.float32)
    np.savez_compressed(tmp_path / "v.npz", v=rows)
    body = bytearray((tmp_path / "v.npz").read_bytes())
    middle = len(body) // 2
    body[middle : middle + 4000] = b"\0" * 4000
    (tmp_path / "v.npz").write_bytes(bytes(body))
    with pytest.raises(Refusal, match="its compressed bytes are torn") as error:
        read_directions(tmp_path / "v.npz", site=SITE, features=[1999])
    assert "\n" not in str(error.value)


def test_rows_of_stored_members_are_read_in_place(tmp_path: Path) -> None:
    rows = RNG.standard_normal((20_000, 512)).astype(np.float32)  # 41 MB
    np.savez(tmp_path / "params.npz", W_dec=rows, b_enc=rows[:, 0], b_dec=rows[0])
    code = (
        "import re, sys\n"
        f"{PEAK}\n"
        "from dragoman.core import Site\n"
        "from dragoman.dictionaries import open_dictionary\n"
        "start = peak()\n"
        "found = open_dictionary(sys.argv[1], site=Site('m', 3)).features(range(0, 20000, 500)).directions\n"
        "print(peak() - start, found.norms[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    grown, norm = done.stdout.split()
    assert int(grown) < 12 << 10  # kilobytes
    np.testing.assert_allclose(float(norm), np.linalg.norm(rows[500]), rtol=1e-5)
