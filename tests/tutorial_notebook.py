"""``docs/tutorial.ipynb`` from ``docs/tutorial.py``: this script runs it, and stores what its cells give.

``--check`` runs it too, and compares: every cell ends well and gives outputs of the kinds that are stored. Their words
are not compared, for a verbalizer's greedy words turn on the last bits of a processor's sums.

Outputs are stored, so that the notebook and its page can be read without running anything.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT, NOTEBOOK = DOCS / "tutorial.py", DOCS / "tutorial.ipynb"


def from_script() -> Any:
    """The notebook that the script is, without outputs; its cells are called by their places."""
    made = jupytext.read(SCRIPT)
    made.metadata = nbformat.from_dict({"kernelspec": made.metadata["kernelspec"], "language_info": {"name": "python"}})
    for number, cell in enumerate(made.cells):
        cell["id"], cell["metadata"] = f"cell-{number:02}", {}
    made.nbformat, made.nbformat_minor = 4, 5
    return made


def run(notebook: Any) -> Any:
    """Run every cell, in a folder of its own; a cell that fails ends it with its traceback."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute(cwd=folder)
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell.cell_type == "code":
            cell["outputs"] = [one for one in cell["outputs"] if one.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.validate(notebook)
    return notebook


def kinds(notebook: Any) -> list[tuple[str, list[list[str]]]]:
    """Of each cell what stands in it, and of which kinds its outputs are."""
    return [
        (cell.source, [sorted(one["data"]) if "data" in one else [one.output_type] for one in cell.get("outputs", [])])
        for cell in notebook.cells
    ]


def main() -> int:
    """Run and store, or run and compare."""
    began, made = time.monotonic(), run(from_script())
    sys.stderr.write(f"the notebook ran in {time.monotonic() - began:.0f} s\n")
    if "--check" not in sys.argv:
        nbformat.write(made, NOTEBOOK)
        return 0
    stored = nbformat.read(NOTEBOOK, 4)
    for mine, theirs in zip(kinds(made), kinds(stored), strict=True):
        if mine != theirs:
            sys.stderr.write(f"stored is {theirs}, and now it gives {mine}; make notebook stores it again\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
