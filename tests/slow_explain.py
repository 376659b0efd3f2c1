"""``dragoman`` with a verbalizer that takes its time: ``SECONDS=0.2 python slow_explain.py WORDS...``.

Each batch is said, and then the process sleeps, so that a signal finds it at work.
"""

from __future__ import annotations

import os
import time
from typing import Any

from dragoman import cli
from dragoman.models.decode import LocalVerbalizer

plain = LocalVerbalizer.verbalize


def slowly(self: LocalVerbalizer, *args: Any, **how: Any) -> Any:
    said = plain(self, *args, **how)
    time.sleep(float(os.environ["SECONDS"]))
    return said


if __name__ == "__main__":
    LocalVerbalizer.verbalize = slowly  # type: ignore[method-assign]
    cli.main()
