"""A verbalizer that takes its time, for a run of the nursery with ``SLOWLY=slow_explain SECONDS=5 LOG=FILE``.

Each batch is said and told of in the file, and all but the first are slept upon: while the second one is, the first is
on disk for certain, and a signal finds the process at work.
"""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

from dragoman.runs import plan


def patch() -> None:
    plain, batches = plan._verbalized, count()

    def slowly(*args: Any) -> Any:
        said = plain(*args)
        with Path(os.environ["LOG"]).open("a") as log:
            log.write("said\n")
        if next(batches):
            time.sleep(float(os.environ["SECONDS"]))
        return said

    plan._verbalized = slowly
