"""Processes that a test kills, interrupts or waits for, forked from one that has its imports: they start at once.

`Nursery` is the test's side; run as a script, this file is the other. It reads a line of JSON per run, prints the id of
the process that does it, and its exit status once it has ended. A run that is to be ``here`` is done by the script's
own process: what it imports, and what the embedder reads in it, later children find there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import dragoman

HERE = os.pathsep.join(map(str, (Path(dragoman.__file__).parents[1], Path(__file__).parent)))


class Nursery:
    """Runs ``dragoman`` in forked children, one after another."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": HERE, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment["PYTHONHASHSEED"] = "4242"  # any but the worker's: what is compared depends on none
        # A suite that runs in the background has Ctrl-C ignored, and its children would inherit that.
        ready = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, str(Path(__file__))]
        self._at_work: int | None = None
        self._process = subprocess.Popen(command, env=environment, text=True, preexec_fn=ready, **pipes)

    def start(
        self, words: list[str], *, cache: Any = None, log: Path | None = None, here: bool = False, **more: str
    ) -> int:
        """Begin a run; the id of its process. Its stdout and stderr go to ``log``.out and ``log``.err.

        ``more``: of its environment; ``SLOWLY`` names a module whose ``patch`` is called first, ``PYTEST`` a folder in
        which pytest is run instead.
        """
        self.end()
        more["DRAGOMAN_CACHE"] = str(cache or os.environ["DRAGOMAN_CACHE"])
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([words, str(log or os.devnull), here, more]) + "\n")
        self._process.stdin.flush()
        self._at_work = int(self._line())
        return self._at_work

    def ended(self) -> int:
        """Wait for the run; its exit code, or the signal that ended it, negative."""
        code, self._at_work = int(self._line()), None
        return code

    def end(self) -> None:
        """Kill the run that a test has left behind, if one has."""
        if self._at_work is not None:
            with suppress(ProcessLookupError):  # it has ended by itself, and its exit code waits to be read
                os.kill(self._at_work, signal.SIGKILL)
            self.ended()

    def run(self, words: list[str], **how: Any) -> int:
        self.start(words, **how)
        return self.ended()

    def close(self) -> None:
        self.end()
        self._process.communicate(timeout=600)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def wait_until(there: Any, seconds: float = 300) -> None:
    """Until ``there()`` is true, or what waits for it should fail."""
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.002)


def run(words: list[str], log: str, here: bool, more: dict[str, str]) -> int:
    """As ``dragoman`` would, with its outputs in files."""
    from dragoman import cli

    os.environ.update(more)
    sys.argv = ["dragoman", *words]
    if "SLOWLY" in more:
        import_module(more["SLOWLY"]).patch()
    kept = [os.dup(1), os.dup(2)]
    for number, end in ((1, "out"), (2, "err")):
        file = os.open(log if log == os.devnull else f"{log}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        if "PYTEST" in more:
            os.chdir(more["PYTEST"])
            return import_module("pytest").main(words)
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        if here:
            for number, file in enumerate(kept, 1):
                os.dup2(file, number)
    return 0


def say(number: int) -> None:
    os.write(1, f"{number}\n".encode())


def main() -> None:
    import torch

    import dragoman.commands.explain
    import dragoman.commands.serve  # noqa: F401
    from dragoman.models import embedder
    from embedded_once import opened

    torch.set_num_threads(1)
    vars(embedder)["SentenceEmbedder"] = opened
    for line in sys.stdin:
        words, log, here, more = json.loads(line)
        child = 0 if here else os.fork()
        if here:
            say(os.getpid())
            say(run(words, log, here, more))
        elif child == 0:
            sys.exit(run(words, log, here, more))
        else:
            say(child)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
