"""What a run folder says of how it was made.

In: a ``Request`` and what was prepared for it. Out: the manifest's entries.
"""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dragoman.core import Background
from dragoman.explain.request import Request

SETTINGS = (
    "route",
    "map",
    "washout",
    "lam",
    "contract",
    "settings",
    "base",
    "labels",
    "samples",
    "temperature",
    "dtype",
    "device",
    "batch_size",
    "max_new_tokens",
    "texts",
)
SELDOM = ("key", "orientation", "d_model", "k", "resid_pre")  # kept only where they are said


def settings_of(request: Request) -> dict[str, Any]:
    """The request's settings, as they are kept."""
    said = {k: getattr(request, k) for k in SELDOM if getattr(request, k)}
    return {k: getattr(request, k) for k in SETTINGS} | {"temperature": request.drawn_at} | said


def background_report(background: Background) -> dict[str, Any]:
    """Spread, constant predictor and on-shell angle of a background."""
    degrees = math.degrees(math.asin(math.sqrt(max(background.spread, 0.0))))
    return {
        "spread": background.spread,
        "constant_cosine": background.constant_cosine,
        "on_shell_degrees": degrees,
        "n": background.n,
        "texts": background.texts,
    }


def own_version() -> str:
    """The installed version."""
    return version("dragoman")


def versions() -> dict[str, str]:
    """What the rows depend on besides the plan."""
    found = {"python": platform.python_version()}
    for name in ("dragoman", "dragoman-tiny", "numpy", "torch", "transformers", "tokenizers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
