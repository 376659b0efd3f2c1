"""What is collected does not depend on the second, the hash seed or the folder the tests are started in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_ids_collected_twice_are_equal(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    here = {item.nodeid for item in request.session.items}
    root = request.config.rootpath
    files = sorted({root / nodeid.split("::")[0] for nodeid in here})
    other = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={root}"]
    done = subprocess.run(
        [*command, "--assert=plain", "-c", str(root / "pyproject.toml"), *map(str, files)],
        cwd=tmp_path,
        env=other,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    # Run from another folder, pytest prints the same ids: they are relative to the root.
    there = {line for line in done.stdout.splitlines() if "::" in line}
    assert here <= there, sorted(here - there)[:5]
