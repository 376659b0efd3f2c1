"""Imports go one way, and only models know torch: import-linter's word, and proof that it would object."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dragoman.core

SOURCE = Path(dragoman.core.__file__).parent
ROOT = Path(__file__).parents[1]


def linted(root: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in ``source`` with the contracts of ``root``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    env = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(SOURCE, tmp_path / "src" / "dragoman", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_import_contracts_hold() -> None:
    done = linted(ROOT, SOURCE.parent)
    assert done.returncode == 0, done.stdout
    assert "7 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core.py", "import dragoman.store", "imports go one way BROKEN"),
        ("maps/linear.py", "import dragoman.washout", "imports go one way BROKEN"),
        ("runs/plan.py", "import dragoman.cli", "imports go one way BROKEN"),
        ("models/folder.py", "import dragoman.models.load", "circle of imports within BROKEN"),
        ("embed.py", "import torch", "only in models BROKEN"),
        ("verbalizers/prompt.py", "def f(): import transformers", "only in models BROKEN"),
    ],
)
def test_a_planted_violation_is_caught(copied: Path, module: str, line: str, broken: str) -> None:
    path = copied / "src" / "dragoman" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = linted(copied, copied / "src")
    assert done.returncode == 1 and broken in done.stdout, done.stdout
