"""Cells of tables that other programs open: CSV that a spreadsheet does not run, text that is whole Unicode, pyarrow.

In: values. Out: cells; modules of pyarrow. Refuses Parquet where pyarrow is not installed.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from dragoman.core import Refusal

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet runs begins so


def whole(value: Any) -> Any:
    """Text that is valid Unicode, in lists too: halves of characters, which JSON can hold, become marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [whole(one) for one in value] if isinstance(value, list | tuple) else value


def csv_cell(value: Any) -> str:
    """A value as CSV has it.

    Nothing is an empty cell, a list JSON; text that a spreadsheet would run has an apostrophe before it, for texts come
    from models.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False) if value else ""
    text = str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text


def arrow(path: str, module: str) -> Any:
    """A module of pyarrow, which is installed where Parquet is read or written; ``path``: what it is wanted for."""
    try:
        return import_module(module)
    except ImportError as error:
        why = "Parquet needs pyarrow, which is not installed"
        raise Refusal(path, why, "run: pip install 'dragoman[parquet]'") from error
