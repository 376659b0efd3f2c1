"""Arrays on disk: as they went, or one sentence."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from dragoman import store
from dragoman.core import Refusal
from store_faults import one_sentence


def test_arrays_come_back_as_they_went_whatever_their_memory_order(tmp_path: Path) -> None:
    arrays = {
        "t": np.arange(6.0).reshape(2, 3).T,
        "s": np.arange(10, dtype=np.int32)[::2],
        "n": np.array(True),
        "e": np.zeros((0, 4), np.float32),
    }
    store.write_arrays(tmp_path / "a.safetensors", arrays, {"site": "m:1", "lam": 0.5, "n": [1, None]})
    back, meta = store.read_arrays(tmp_path / "a.safetensors")
    assert meta == {"site": "m:1", "lam": 0.5, "n": [1, None]}
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_a_file_is_byte_for_byte_what_the_library_makes(tmp_path: Path) -> None:
    from safetensors.numpy import save

    kinds = ("?", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8")
    arrays = {f'x{k} é"': (np.arange(6) * 3 % 5).reshape(3, 2).astype(kind) for k, kind in enumerate(kinds)}
    arrays |= {"empty": np.zeros((0, 4), np.float32), "one": np.array(3.5), "more": np.ones((2, 3), np.float32)}
    store.write_arrays(tmp_path / "a", arrays | {"big": np.arange(3, dtype=">f4")}, {"a": 'é\n"'})
    theirs = save(arrays | {"big": np.arange(3, dtype="<f4")}, metadata={"dragoman": '{"a": "é\\n\\""}'})
    assert (tmp_path / "a").read_bytes() == theirs


def test_every_bfloat16_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(256, 256)
    save_file({"a": bits}, tmp_path / "b.safetensors")
    theirs = bits.to(torch.float32).numpy()
    ours = store.read_arrays(tmp_path / "b.safetensors")[0]["a"]
    assert ours.dtype == np.float32
    number = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), ~number)
    np.testing.assert_array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    rows = store.ArraysFile(tmp_path / "b.safetensors").array("a").rows([200, 3])
    np.testing.assert_array_equal(rows, theirs[[200, 3]])


def test_arrays_file_refuses_unknown_names_and_dtypes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"small": torch.zeros(4).to(torch.float8_e8m0fnu)}, tmp_path / "f8.safetensors")
    file = store.ArraysFile(tmp_path / "f8.safetensors")
    with pytest.raises(Refusal, match="dtype F8_E8M0 is not read"):
        file.whole("small")
    with pytest.raises(Refusal, match="the file holds small"):
        file.array("big").rows([0])
    with pytest.raises(Refusal, match="no dtype object"):
        store.write_arrays(tmp_path / "o.safetensors", {"o": np.array([{}])}, {})


@pytest.mark.parametrize("damage", ["cut", "cut header", "empty", "text", "huge header", "pickle"])
def test_damaged_safetensors_are_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "d.safetensors"
    store.write_arrays(path, {"a": np.ones((50, 50))}, {"x": 1})
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "cut header": whole[:20],
            "empty": b"",
            "text": b"<html>404 not found</html>" * 20,
            "huge header": b"\xff" * 8 + whole[8:],
            "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00",
        }[damage]
    )
    with pytest.raises(Refusal, match="not a whole safetensors file") as error:
        store.read_arrays(path)
    assert one_sentence(error)


def test_a_description_that_is_not_json_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones(1)}, tmp_path / "a.safetensors", metadata={"dragoman": "{"})
    with pytest.raises(Refusal, match="description is not a JSON object"):
        store.read_arrays(tmp_path / "a.safetensors")
    save_file({"a": np.ones(1)}, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert store.read_arrays(tmp_path / "b.safetensors")[1] == {"format": "pt"}


def test_a_disk_that_fills_up_while_writing_leaves_the_old_arrays(tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"
    store.write_arrays(path, {"a": np.zeros(10, np.float32)}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(Refusal, match="full disk"):
            store.write_arrays(path, {"a": np.ones(1 << 20, np.float32)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not store.read_arrays(path)[0]["a"].any()
    assert list(tmp_path.iterdir()) == [path]
