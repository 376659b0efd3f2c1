"""``dragoman`` with a verbalizer that takes its time: ``SECONDS=5 LOG=FILE python slow_explain.py WORDS...``.

Each batch is said and told of in the file, and all but the first are slept upon: while the second one is, the first is
on disk for certain, and a signal finds the process at work.
"""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

from dragoman import cli
from dragoman.runs import plan

plain = plan._verbalized
batches = count()


def slowly(*args: Any) -> Any:
    said = plain(*args)
    with Path(os.environ["LOG"]).open("a") as log:
        log.write("said\n")
    if next(batches):
        time.sleep(float(os.environ["SECONDS"]))
    return said


if __name__ == "__main__":
    plan._verbalized = slowly
    cli.main()
