"""What is collected does not depend on the second, the hash seed or the folder the tests are started in."""

from __future__ import annotations

from pathlib import Path

import pytest

from nursery import Nursery


def test_ids_collected_twice_are_equal(request: pytest.FixtureRequest, tmp_path: Path, nursery: Nursery) -> None:
    here = {item.nodeid for item in request.session.items}
    root = request.config.rootpath
    files = sorted({str(root / nodeid.split("::")[0]) for nodeid in here})
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "--assert=plain", f"--rootdir={root}"]
    code = nursery.run(
        [*words, "-c", str(root / "pyproject.toml"), *files],
        cache=tmp_path / "cache",
        log=tmp_path / "said",
        PYTEST=str(tmp_path),
    )
    said = (tmp_path / "said.out").read_text()
    assert code == 0, said[-2000:] + (tmp_path / "said.err").read_text()[-2000:]
    # Run from another folder, pytest prints the same ids: they are relative to the root.
    there = {line for line in said.splitlines() if "::" in line}
    assert here <= there, sorted(here - there)[:5]
