"""Run what comes out of a checkpoint, a template or a tokenizer, where it cannot take the machine with it.

In: a script of dragoman's own, what it is asked, and limits. Out: what it answers. Refuses, in the name of the file,
whatever takes more time or memory than the limits or ends its process, and what the script could not do.

It runs in a process of its own, because nothing less holds: templates and tokenizers loop and allocate inside C and
Rust (``10**10**10``, a normalizer that doubles a text forty times), where no counter, thread or signal handler of
Python gets a turn. The process is started afresh and not forked: torch's and the tokenizers' threads make a fork
unsafe. It imports nothing of dragoman, so that it takes less than a tenth of a second. Processor time is what is
limited, so that a busy machine refuses nothing; time by the clock is, far above, for what waits.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store.spans import shown

_CHILD = Path(__file__).with_name("bounded_child.py")
_WAIT = 60  # seconds by the clock that are allowed beside the processor's


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds of processor time, megabytes of address space, characters of the answer."""

    seconds: int
    megabytes: int
    answer: int = 4_000_000


def ask(script: Path, question: Any, limits: Limits, what: str, instead: str) -> Any:
    """The answer of ``script``'s function ``answer`` to a JSON-like question.

    Args:
        script: a Python file that imports nothing of dragoman.
        question: passed as JSON.
        limits: what it may take.
        what: the file or setting that is run, as a refusal names it.
        instead: what to do about it.

    Raises:
        Refusal: it took more than the limits, ended its process, or raised an exception.
    """
    told = {
        "script": str(script),
        "seconds": limits.seconds,
        "bytes": limits.megabytes << 20,
        "answer": limits.answer,
        "question": question,
    }
    try:
        # -P: a file in the working directory must not stand in for a library.
        done = subprocess.run(
            [sys.executable, "-P", str(_CHILD)],
            input=json.dumps(told).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.seconds + _WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(what, f"it was not done after {limits.seconds + _WAIT} seconds", instead) from error
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        raise Refusal(what, _ended(done.returncode, limits), instead) from error
    if "failed" in said:
        raise Refusal(what, shown(said["failed"], 200), instead)
    return said["answer"]


def _ended(code: int, limits: Limits) -> str:
    """Why a process is gone that gave no answer."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {limits.seconds} seconds"
    # Rust ends a process that gets no more memory by SIGABRT, a stack that is used up ends it by SIGSEGV.
    return f"it ended the process it was tried in ({code}), as when more than {limits.megabytes} MB are asked for"
