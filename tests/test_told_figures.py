"""The tables of README and of the embedded pair's page are what the yardstick wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DIRECTIONS = ("smollm2-to-gemma", "gemma-to-smollm2")
# What a row is called, and where its figures lie.
ROWS = {
    "**fires**": ("routes", "fires"),
    "**writes**": ("routes", "writes"),
    "even blend": ("routes", "blend"),
    "the post's map": ("routes", "post"),
    "the same at the post's own": ("routes", "post, its relative penalty"),
    "the same, penalty tuned": ("routes", "post, tuned"),
    "Procrustes": ("routes", "procrustes"),
    "*silent*": ("routes", "silent"),
    "*before*": ("routes", "before the first firing"),
    "random directions": ("routes", "random directions"),
    "fake latents, direct": ("routes", "fake fires"),
    "fake latents, by the map": ("routes", "fake writes"),
    "*ceiling*: best linear": ("ceilings", "trained"),
    "*ceiling*: the latent's own": ("ceilings", "own row"),
}
# A word of the column's head, the measure, and how a figure is written.
COLUMNS = (
    ("quotes the firing word", "firing_word", lambda v: f"{100 * v:.1f}"),
    ("co-firing", "cofiring_auroc", lambda v: f"{v:.3f}"),
    ("foretells", "generation", lambda v: f"{v:.2f}"),
    ("lens words", "lens_overlap", lambda v: f"{v:.2f}"),
    ("steering", "steering_auroc", lambda v: f"{v:.3f}"),
    ("category", "category", lambda v: f"{100 * v:.0f}"),
)


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") if "/" in cell else cell.strip() for cell in line.strip().strip("|").split("|")]


def row_of(name: str) -> tuple[str, str] | None:
    found = [place for start, place in ROWS.items() if name.startswith(start)]
    return found[-1] if found else None


@pytest.mark.parametrize(("page", "fewest"), [("README.md", 15), ("docs/pair.md", 53)])
def test_the_table_of_routes_is_what_was_measured(page: str, fewest: int) -> None:
    measured: Any = json.loads((ROOT / "bench" / "results" / "yardstick.json").read_text())
    lines = (ROOT / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| what is carried"))
    head = cells(lines[start])
    compared = 0
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *told = cells(line)
        place = row_of(name)
        for title, text in zip(head[1:], told, strict=True):
            measure, written = next((m, how) for word, m, how in COLUMNS if word in title)
            if place is None or not re.fullmatch(r"[\d.]+ / [\d.]+", text):
                continue
            figures = [measured[one][place[0]][place[1]][measure]["value"] for one in DIRECTIONS]
            assert text == " / ".join(written(figure) for figure in figures), (name, title)
            compared += 1
    assert compared >= fewest
