"""What is collected does not depend on the second, the hash seed or the folder the tests are started in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nursery import Nursery


def test_ids_collected_twice_are_equal(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """By another worker of the suite, which has a hash seed of its own, or else by a process in another folder."""
    here = {item.nodeid for item in request.session.items}
    shared = tmp_path_factory.getbasetemp().parent
    worker = hasattr(request.config, "workerinput")
    others = [set(path.read_text().splitlines()) for path in shared.glob("ids-gw*")] if worker else []
    if len(others) < 2 or "PYTHONHASHSEED" in os.environ:
        others = [collected_elsewhere(request, tmp_path, here)]
    for there in others:
        assert here <= there, sorted(here - there)[:5]
    places = (str(request.config.rootpath), str(tmp_path_factory.getbasetemp()), tempfile.gettempdir() + os.sep)
    assert not [one for one in here for place in places if place in one]


def collected_elsewhere(request: pytest.FixtureRequest, folder: Path, here: set[str]) -> set[str]:
    """Ids of the same files as a process in another folder collects them, with a hash seed of its own."""
    nursery: Nursery = request.getfixturevalue("nursery")
    root = request.config.rootpath
    files = sorted({str(root / nodeid.split("::")[0]) for nodeid in here})
    how: dict[str, Any] = {"cache": folder / "cache", "log": folder / "said", "PYTEST": str(folder)}
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "--assert=plain", f"--rootdir={root}"]
    code = nursery.run([*words, "-c", str(root / "pyproject.toml"), *files], **how)
    said = (folder / "said.out").read_text()
    assert code == 0, said[-2000:] + (folder / "said.err").read_text()[-2000:]
    # Run from another folder, pytest prints the same ids: they are relative to the root.
    return {line for line in said.splitlines() if "::" in line}
