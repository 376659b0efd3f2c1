"""What a bare import and the help cost: little time, and none of the large libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "sklearn", "peft", "sentence_transformers", "accelerate", "pyarrow")
HEAVY += ("starlette", "uvicorn", "sqlite3", "fastapi", "prometheus_client", "ray", "pydantic")
# Half a second of processor time where this was settled, told in units that a slow or busy machine changes alike: what
# the libraries take that the command line cannot do without, the least of two interpreters that take turns, or more
# where a busy machine has made all of them slow.
BUDGET, FEWEST, MOST = 3.0, 2, 12
LIBRARIES = "import numpy, typer, rich.console, rich.markdown"

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
# Two commands that do nothing: what Typer loads of itself to answer the same words (its later versions read the words
# of a subcommand's program by pydantic), which is not dragoman's to spare.
BARE = """
import contextlib, io, typer
app = typer.Typer()
app.command("explain")(lambda: None)
app.command("other")(lambda: None)
with contextlib.redirect_stdout(io.StringIO()):
    app({arguments}, standalone_mode=False)
"""
MEASURE = """
import json, sys, time
start = time.process_time()
{work}
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set({heavy}) & set(sys.modules))]))
"""


def measured(work: str) -> tuple[float, list[str]]:
    """Processor time of ``work`` in a fresh interpreter over the libraries', and the heavy modules it loaded."""
    own, usual, loaded = [], [], set()
    while len(own) < MOST and (len(own) < FEWEST or min(own) >= BUDGET * min(usual)):
        seconds, heavy = once(work)
        own.append(seconds)
        usual.append(once(LIBRARIES)[0])
        loaded.update(heavy)
    return min(own) / min(usual), sorted(loaded)


def once(work: str) -> tuple[float, list[str]]:
    """Seconds of processor time in a fresh interpreter, and the heavy modules that were loaded."""
    code = MEASURE.format(work=work, heavy=HEAVY)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seconds, heavy = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), list(heavy)


@pytest.mark.parametrize("module", ["dragoman", "dragoman.core", "dragoman.cli"])
def test_an_import_is_quick_and_loads_no_large_library(module: str) -> None:
    times, loaded = measured(IMPORT.format(module=module))
    assert not loaded
    assert times < BUDGET


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]], ids=" ".join)
def test_help_is_quick_and_loads_no_large_library(arguments: list[str]) -> None:
    times, loaded = measured(HELP.format(arguments=arguments))
    assert set(loaded) <= set(once(BARE.format(arguments=arguments))[1])
    assert times < BUDGET


def test_the_measure_sees_a_large_library() -> None:
    assert once("import scipy")[1] == ["scipy"]
