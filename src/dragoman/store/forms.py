"""The forms of what a run folder holds beside its rows: manifests as they are shown, windows of text, words of rows.

In: JSON. Out: the same without passwords and signatures; whether it is of a form. Refuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dragoman.core import public_address

ALONG_ROW = {"sharpness", "cosine", "share"}  # of a feature's row where it fires, see ``maps.along_row``


def public(manifest: Mapping[str, Any]) -> dict[str, object]:
    """A manifest whose references (dictionary, settings, conditions) tell no password and no signature."""

    def shown_as(value: Any) -> Any:
        return public_address(value) if isinstance(value, str) else value

    def entry(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: shown_as(one) for key, one in value.items()}
        return [entry(one) for one in value] if isinstance(value, list | tuple) else shown_as(value)

    known = ("dictionary", "settings", "conditions")
    return {key: entry(value) if key in known else value for key, value in manifest.items()}


def is_windows(value: object) -> bool:
    """Whether this is one feature's windows, with the shares of its activation by word and form where they are kept."""
    known = {"firing", "silent", "words", "forms", "along_row"}
    if not isinstance(value, dict) or not {"firing", "silent"} <= set(value) <= known:
        return False
    along = value.get("along_row", dict.fromkeys(ALONG_ROW, 0.0))
    if not isinstance(along, dict) or set(along) != ALONG_ROW or not all(map(_is_number, along.values())):
        return False
    windows, shares = ([value[k] for k in kind if k in value] for kind in (("firing", "silent"), ("words", "forms")))
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in windows):
        return False
    return all(isinstance(one, dict) and all(map(_is_share, one.values())) for one in shares)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


def is_lens(value: object) -> bool:
    """Whether this is words by condition and feature, each of the source's row and of what was carried."""

    def words(one: Any) -> bool:
        known = isinstance(one, dict) and set(one) <= {"source", "carried"}
        return known and all(isinstance(some, list) and all(isinstance(w, str) for w in some) for some in one.values())

    by = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(one, dict) and all(map(words, one.values())) for one in by)
