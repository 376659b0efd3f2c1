"""A stream's background in a file.

In: a `Background`, a path. Out: one safetensors file, and the same background from it. Refuses other files.
"""

from __future__ import annotations

from pathlib import Path

from dragoman.core import Background, Site
from dragoman.store.arrays import write_arrays
from dragoman.store.contents import Contents

_BACKGROUND = Contents(
    called="a background", holds="background", arrays={"mean": "d"}, words={"site": str, "n": int, "texts": str}
)


def save_background(background: Background, path: Path) -> None:
    """Write a background to one file."""
    words = {"holds": "background", "site": str(background.site), "n": background.n, "texts": background.texts}
    write_arrays(path, {"mean": background.mean}, words)


def load_background(path: Path) -> Background:
    """Read what ``save_background`` wrote."""
    arrays, meta = _BACKGROUND.read(path)
    return Background(Site.parse(meta["site"]), arrays["mean"], meta["n"], meta["texts"])
