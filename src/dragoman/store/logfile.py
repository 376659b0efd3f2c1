"""``log.txt`` of a run: what was said while it was made, a line each with its time.

In: a run's folder, sentences. Out: lines behind those that are there. The log names no password or token and holds no
control characters; it decides nothing and is no part of any digest. Refuses nothing: where it cannot be written, rows
cannot either, and who writes them says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dragoman.core import without_secrets
from dragoman.store.runs import LOG


def stamped(text: str) -> str:
    """A line of the log: the time now, and the text on one line, without secrets; what is not printed as an escape."""
    bare = without_secrets(str(text))
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in bare)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {plain}\n"


def append_log(folder: Path, lines: Sequence[str]) -> None:
    """Write lines behind those of the folder's log; never through a link, and never waiting for a pipe."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        handle = os.open(folder / LOG, flags, 0o666)
        try:
            os.write(handle, "".join(lines).encode("utf-8", "backslashreplace"))
        finally:
            os.close(handle)
