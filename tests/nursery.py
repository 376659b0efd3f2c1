"""Processes that a test kills, interrupts or waits for, forked from one that has its imports: they start at once.

`Nursery` is the test's side; run as a script, this file is the other. Every worker of a suite has a process of its own,
forked from the one script, which reads a line of JSON per run, says the id of the process that does it, and its exit
status once it has ended. A run that is to be ``here`` is done by the worker's process itself: what it imports, and what
the embedder reads in it, later children find there.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

import dragoman

CACHE = "DRAGOMAN_CACHE"
HERE = os.pathsep.join(map(str, (Path(dragoman.__file__).parents[1], Path(__file__).parent)))


class Nursery:
    """Runs ``dragoman`` in forked children, one after another.

    ``folder``: a suite's; the worker that first needs children starts the script there, the others find it.
    """

    def __init__(self, folder: Path) -> None:
        address = folder / "nursery"
        self._at_work: int | None = None
        self._script: subprocess.Popen[bytes] | None = None
        self._line = socket.socket(socket.AF_UNIX)
        with FileLock(folder / "nursery.lock"):
            try:
                self._line.connect(str(address))
            except OSError:  # nobody has started it, or who had is done
                address.unlink(missing_ok=True)
                self._script = started(address)
                wait_until(address.exists)
                self._line.connect(str(address))
        self._said = self._line.makefile("r")

    def start(
        self, words: list[str], *, cache: Any = None, log: Path | None = None, here: bool = False, **more: str
    ) -> int:
        """Begin a run; the id of its process. Its stdout and stderr go to ``log``.out and ``log``.err.

        ``more``: of its environment; ``SLOWLY`` names a module whose ``patch`` is called first, ``PYTEST`` a folder in
        which pytest is run instead, ``SCRIPT`` a module whose ``main`` gets the words instead
        and gives an exit code.
        """
        self.end()
        more[CACHE] = str(cache or os.environ.get(CACHE, ""))  # "": where the machine keeps things
        self._line.sendall((json.dumps([words, str(log or os.devnull), here, more]) + "\n").encode())
        self._at_work = int(self._said.readline())
        return self._at_work

    def ended(self) -> int:
        """Wait for the run; its exit code, or the signal that ended it, negative."""
        code, self._at_work = int(self._said.readline()), None
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
        self._said.close()
        self._line.close()
        if self._script is not None:  # what other workers have of it goes on
            self._script.terminate()
            self._script.wait(timeout=600)


def started(address: Path) -> subprocess.Popen[bytes]:
    """The script, to be reached at an address."""
    environment = {**os.environ, "PYTHONPATH": HERE, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONHASHSEED"] = "4242"  # any but the worker's: what is compared depends on none
    # A suite that runs in the background has Ctrl-C ignored, and its children would inherit that.
    ready = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, str(Path(__file__)), str(address)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=ready)


def wait_until(there: Any, seconds: float = 300) -> None:
    """Until ``there()`` is true, or what waits for it should fail."""
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.002)


def run(words: list[str], log: str, here: bool, more: dict[str, str]) -> int:
    """As ``dragoman`` would, with its outputs in files."""
    from dragoman import cli

    os.environ.update(more)
    if not os.environ[CACHE]:
        del os.environ[CACHE]
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
        if "SCRIPT" in more:
            return import_module(more["SCRIPT"]).main(*words) or 0
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        if here:
            for number, file in enumerate(kept, 1):
                os.dup2(file, number)
    return 0


def serve(line: socket.socket) -> None:
    """A worker's process: one run after another, until the worker is done."""

    def say(number: int) -> None:
        line.sendall(f"{number}\n".encode())

    for asked in line.makefile("r"):
        words, log, here, more = json.loads(asked)
        child = 0 if here else os.fork()
        if here:
            say(os.getpid())
            say(run(words, log, here, more))
        elif child == 0:
            line.close()
            sys.exit(run(words, log, here, more))
        else:
            say(child)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main(address: str) -> None:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(address + ".new")
    bound.listen()
    Path(address + ".new").rename(address)
    gc.disable()  # all that is imported stays
    import torch

    import dragoman.commands.explain
    import dragoman.commands.serve  # noqa: F401
    import killed_study  # noqa: F401
    from dragoman.models import embedder
    from embedded_once import opened

    torch.set_num_threads(1)
    vars(embedder)["SentenceEmbedder"] = opened
    # What is imported stays: a child that lets go of a model looks for garbage in what it has made, not in that.
    gc.enable()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        line, _ = bound.accept()
        if os.fork() == 0:
            bound.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(line)
            sys.exit()
        line.close()


if __name__ == "__main__":
    main(sys.argv[1])
