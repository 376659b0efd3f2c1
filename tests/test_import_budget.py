"""What a bare import and the help cost: little time, and none of the large libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "sklearn", "peft", "sentence_transformers", "accelerate", "pyarrow")
BUDGET = 0.5  # seconds of processor time, the least of three interpreters: what others take from the caches only adds

IMPORT = "import {module}"
HELP = """
import contextlib, io
from dragoman.cli import main
sys.argv = ["dragoman", *{arguments}]
said = io.StringIO()
with contextlib.redirect_stdout(said):
    try:
        main()
    except SystemExit as done:
        assert not done.code, done.code
assert "Usage" in said.getvalue(), said.getvalue()
"""
MEASURE = """
import json, sys, time
start = time.process_time()
{work}
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set({heavy}) & set(sys.modules))]))
"""


def measured(work: str) -> tuple[float, list[str]]:
    """Least seconds of ``work`` in three fresh interpreters, and the heavy modules it loaded."""
    code = MEASURE.format(work=work, heavy=HEAVY)
    seconds, loaded = [], set()
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        took, heavy = json.loads(done.stdout.splitlines()[-1])
        seconds.append(took)
        loaded.update(heavy)
    return min(seconds), sorted(loaded)


@pytest.mark.parametrize("module", ["dragoman", "dragoman.core", "dragoman.cli"])
def test_an_import_is_quick_and_loads_no_large_library(module: str) -> None:
    seconds, loaded = measured(IMPORT.format(module=module))
    assert not loaded
    assert seconds < BUDGET


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]], ids=" ".join)
def test_help_is_quick_and_loads_no_large_library(arguments: list[str]) -> None:
    seconds, loaded = measured(HELP.format(arguments=arguments))
    assert not loaded
    assert seconds < BUDGET


def test_the_measure_sees_a_large_library() -> None:
    assert measured("import scipy")[1] == ["scipy"]
