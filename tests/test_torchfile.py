"""``.pt`` files: tensors come out as torch has them, nothing else comes out at all."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Refusal, Site
from dragoman.store.torchfile import TorchFile
from reading import read_directions

torch = pytest.importorskip("torch")

# The process's own peak in kilobytes; getrusage would count what its parent held when it was started.
PEAK = "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
ROWS = torch.randn((40, 16), generator=torch.Generator().manual_seed(0))


def saved(path: Path, what: Any, **how: Any) -> Path:
    torch.save(what, path, **how)
    return path


def test_names_and_shapes_of_nested_dicts(tmp_path: Path) -> None:
    state = {"cfg": {"k": 3, "name": "x"}, "model": OrderedDict(W_dec=ROWS, b=ROWS[0]), "list": [ROWS]}
    file = TorchFile(saved(tmp_path / "a.pt", state))
    assert file.names == ("model.W_dec", "model.b")
    assert file.shapes["model.W_dec"] == (40, 16)
    with pytest.raises(Refusal, match=r"the file holds model.W_dec, model.b"):
        file.array("W_enc")


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64"]
)
def test_rows_columns_and_all_equal_torchs(tmp_path: Path, dtype: str) -> None:
    rows = (ROWS * 3).to(getattr(torch, dtype))
    wide = rows.double() if dtype == "float64" else rows.float()
    array = TorchFile(saved(tmp_path / "a.pt", {"v": rows})).array("v")
    assert array.shape == (40, 16)
    np.testing.assert_array_equal(array.whole(), wide.numpy())
    np.testing.assert_array_equal(array.rows([39, 0]), wide.numpy()[[39, 0]])
    np.testing.assert_array_equal(array.columns([15, 2]), wide.numpy()[:, [15, 2]])
    for wrong in (lambda: array.rows([40]), lambda: array.columns([-1])):
        with pytest.raises(Refusal, match="it has (40|16)"):
            wrong()


def test_turned_views_and_parameters_are_read_as_they_are(tmp_path: Path) -> None:
    linear = torch.nn.Linear(16, 40)
    file = TorchFile(saved(tmp_path / "a.pt", {**linear.state_dict(), "t": ROWS.T, "p": torch.nn.Parameter(ROWS)}))
    np.testing.assert_array_equal(file.array("t").rows([3]), ROWS.T.numpy()[[3]])
    np.testing.assert_array_equal(file.array("p").columns([3]), ROWS.numpy()[:, [3]])
    np.testing.assert_array_equal(file.array("weight").whole(), linear.weight.detach().numpy())


def test_columns_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = TorchFile(saved(tmp_path / "a.pt", ROWS)).array("tensor")
    monkeypatch.setattr("dragoman.store.torchfile._BLOCK", 7 * 16 * 4)
    np.testing.assert_array_equal(array.columns(range(16)), ROWS.numpy())


def test_a_tensor_saved_alone_is_vectors(tmp_path: Path) -> None:
    path = saved(tmp_path / "probe.pt", ROWS[0])
    found = read_directions(path, site=Site("m", 3))
    np.testing.assert_allclose(found.unit[0] * found.norms[0], ROWS[0].numpy(), rtol=1e-6)
    several = saved(tmp_path / "several.pth", {"a": ROWS, "b": ROWS[:1]})
    assert len(read_directions(several, site=Site("m", 3), key="a", features=[4])) == 1
    with pytest.raises(Refusal, match=r"several arrays \(a, b\)"):
        read_directions(several, site=Site("m", 3))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_with_payloads_run_nothing(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = saved(tmp_path / "a.pt", {"v": ROWS, "trap": Trap(sprung)})
    with pytest.raises(Refusal, match="it holds Python objects besides tensors") as error:
        TorchFile(path)
    assert not sprung.exists() and "\n" not in str(error.value)
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap was real


@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_torchs_older_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    legacy = saved(tmp_path / f"legacy.{suffix}", {"v": ROWS}, _use_new_zipfile_serialization=False)
    bare = tmp_path / f"bare.{suffix}"
    bare.write_bytes(pickle.dumps([1]))
    tar = tmp_path / f"tar.{suffix}"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    for path in (legacy, bare, tar):
        with pytest.raises(Refusal, match="a pickle or a tar archive, torch's older formats"):
            TorchFile(path)


def rezipped(path: Path, *, compress: bool = False, drop: str = "", grow: int = 0) -> Path:
    """The archive, packed again otherwise."""
    out = path.with_name("odd.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            if drop and member.filename.endswith(drop):
                continue
            body = old.read(member)
            if grow and member.filename.endswith("data.pkl"):
                body += b"\0" * grow
            new.writestr(member.filename, body, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
    return out


def test_odd_archives_are_refused_before_torch_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.pt", {"v": ROWS})
    monkeypatch.setattr("dragoman.store.torchfile._loaded", lambda path: pytest.fail("torch saw it"))
    with pytest.raises(Refusal, match="its members are compressed"):
        TorchFile(rezipped(path, compress=True))
    with pytest.raises(Refusal, match=r"it holds 0 data.pkl"):
        TorchFile(rezipped(path, drop="data.pkl"))
    with pytest.raises(Refusal, match="far too many for names"):
        TorchFile(rezipped(path, grow=65 << 20))
    with pytest.raises(Refusal, match="No such file"):
        TorchFile(tmp_path / "gone.pt")


@pytest.mark.parametrize("keep", [3, 100, 700, -1, -200])
def test_torn_archives_are_one_sentence(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "a.pt", {"v": ROWS})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Refusal, match="not a whole torch file") as error:
        TorchFile(path)
    assert "\n" not in str(error.value)


def test_missing_numbers_are_refused(tmp_path: Path) -> None:
    path = rezipped(saved(tmp_path / "a.pt", {"v": ROWS}), drop="data/0")
    with pytest.raises(Refusal, match="torch cannot read it"):
        TorchFile(path)


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    for odd in (ROWS.to_sparse(), ROWS.to(torch.complex64), torch.empty((3, 3), device="meta")):
        with pytest.raises(Refusal, match="it is sparse, quantised, complex or empty of data"):
            TorchFile(saved(tmp_path / "a.pt", {"v": odd}))


def test_shapes_without_the_numbers_are_refused(tmp_path: Path) -> None:
    endless = torch.ones(1).expand(1 << 20, 1 << 20)  # 4 TB claimed, 4 bytes saved
    with pytest.raises(Refusal, match="needs more numbers than the file holds"):
        TorchFile(saved(tmp_path / "a.pt", {"v": endless}))


def test_columns_of_a_big_file_do_not_stay_resident(tmp_path: Path) -> None:
    path = saved(tmp_path / "ae.pt", {"decoder.weight": torch.zeros((1024, 65_536), dtype=torch.bfloat16)})  # 134 MB
    code = (
        "import re, sys, torch\n"
        f"{PEAK}\n"
        "from dragoman.store.torchfile import TorchFile\n"
        "file = TorchFile(sys.argv[1])\n"
        "start = peak()\n"
        "file.array('decoder.weight').columns(range(0, 65536, 1500))\n"
        "print(peak() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80 << 10  # kilobytes


def test_importing_the_room_loads_no_torch() -> None:
    code = "import sys, dragoman.store.torchfile, dragoman.dictionaries, dragoman.store.remote\n"
    code += "print(sorted({'torch', 'scipy', 'httpx', 'huggingface_hub', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
