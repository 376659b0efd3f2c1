"""Disks that are full, folders that may not be entered, and what every refusal of the store looks like."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dragoman import store
from dragoman.core import Refusal

ENV = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}  # of another process that imports dragoman


def one_sentence(error: pytest.ExceptionInfo[Refusal]) -> bool:
    return "\n" not in str(error.value) and str(error.value).endswith(".") and len(str(error.value)) < 600


def full(*_args: object, **_named: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def forbidden(*_args: object, **_named: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")
