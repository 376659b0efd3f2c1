"""Where other people's libraries open other people's files, and where what comes out of those is run.

In: the file or folder that is opened, and a block that hands it to a library (`opening`); or a script of dragoman's
own, what it is asked, and limits (`ask`). Out: nothing, when the block ends well; what the script answers. Refuses, in
the name of the file, what the library could not open, whatever kind of exception it threw (transformers alone raises
some twenty kinds over a torn or odd checkpoint, tokenizers panics), and what takes more time or memory than the limits
or ends its process.

Templates and tokenizers loop and allocate inside C and Rust (``10**10**10``, a normalizer that doubles a text forty
times), where no counter, thread or signal handler of Python gets a turn: they are run in a process of their own. It is
started afresh and not forked, because torch's and the tokenizers' threads make a fork unsafe, and imports nothing of
dragoman, so that it takes less than a tenth of a second. Processor time is what is limited, so that a busy machine
refuses nothing; time by the clock is, far above, for what waits.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store.files import refusing
from dragoman.store.spans import shown, words_of

AGAIN = "get the published files again"
_CHILD = Path(__file__).with_name("bounded_child.py")
_WAIT = 60  # seconds by the clock that are allowed beside the processor's


@contextmanager
def opening(path: Path | str, why: str = "it cannot be opened", instead: str = AGAIN) -> Iterator[None]:
    """Turn what a library raises inside the block into a `Refusal`, whose cause the exception stays.

    Keep the block to the library's call: a fault of dragoman's own inside it would be taken for a fault of the file.
    The refusal names ``path`` and says ``why``, what could not be done; the library's own words follow in brackets.
    """
    try:
        yield
    except Refusal:
        raise
    except BaseException as error:
        # Rust's panics are no Exception to Python. Ctrl-C and the ends of processes pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, OSError) and error.errno is not None:
            with refusing("reading", Path(error.filename or path)):
                raise
        raise Refusal(f"{path}", f"{why} ({words_of(error)})", instead) from error


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
    asked = {
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
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.seconds + _WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(what, f"it was not done after {limits.seconds + _WAIT} seconds", instead) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise Refusal(what, _ended(done.returncode, limits), instead) from error
    if "failed" in answer:
        raise Refusal(what, shown(answer["failed"], 200), instead)
    return answer["answer"]


def _ended(code: int, limits: Limits) -> str:
    """Why a process is gone that gave no answer."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {limits.seconds} seconds"
    # Rust ends a process that gets no more memory by SIGABRT, a stack that is used up ends it by SIGSEGV.
    return f"it ended the process it was tried in ({code}), as when more than {limits.megabytes} MB are asked for"
