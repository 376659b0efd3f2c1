"""Words for how a model is run, before anything that runs one is imported.

In: words. Out: nothing. Refuses those that name no engine, and no kind of device.
"""

from __future__ import annotations

import re

from dragoman.core import Refusal
from dragoman.store.spans import shown

ENGINES = ("auto", "loop", "captured")
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def check_engine(word: str) -> None:
    """Refuse words that are no engine."""
    if word not in ENGINES:
        raise Refusal(f"engine '{shown(word, 40)}'", f"known are {', '.join(ENGINES)}", "use one of these")


def check_device_word(word: str) -> None:
    """Refuse words that are no device that models run on; whether this machine has it is not looked at."""
    if not _DEVICE.fullmatch(word):
        raise Refusal(f"device '{shown(word, 40)}'", "it is no device", "use cpu, cuda, cuda:N or mps")
