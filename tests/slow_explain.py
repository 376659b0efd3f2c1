"""``dragoman`` with a verbalizer that takes its time: ``SECONDS=5 LOG=FILE python slow_explain.py WORDS...``.

The doctor looks at the verbalizer first, at its usual speed. Then each batch is said, told of in the file, and slept upon: while the second one is, the first is on disk for certain, and
a signal finds the process at work.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dragoman import cli
from dragoman.explain import run
from dragoman.models.decode import Verbalizer

plain = Verbalizer.verbalize


def slowly(self: Verbalizer, *args: Any, **how: Any) -> Any:
    said = plain(self, *args, **how)
    with Path(os.environ["LOG"]).open("a") as log:
        log.write("said\n")
    time.sleep(float(os.environ["SECONDS"]))
    return said


def looked_at(verbalizers: Any) -> None:
    looks(verbalizers)
    Verbalizer.verbalize = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    looks, run.quick = run.quick, looked_at  # type: ignore[assignment]
    cli.main()
