"""A nursery for processes that are killed: one run in the process itself, then a forked child per line of its input.

Each line is a JSON list, of a folder for the cache and the command-line arguments, which are run as ``dragoman`` would.
The process prints the id of who runs them, and its exit status once it has ended. What the first run has imported, and
what the embedder has read in it, its children find there: they start at once.
"""

import json
import os
import sys
from pathlib import Path

import torch

from dragoman import cli
from dragoman.models import embedder
from embedded_once import opened

torch.set_num_threads(1)
vars(embedder)["SentenceEmbedder"] = opened


def run(words: list[str]) -> int:
    os.environ["DRAGOMAN_CACHE"], *sys.argv[1:] = words
    sys.argv[0] = "dragoman"
    told = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.stdout, sys.stderr = told
    return 0


def say(number: int) -> None:
    os.write(1, f"{number}\n".encode())


first = True
for line in sys.stdin:
    if first:
        first = False
        say(os.getpid())
        say(run(json.loads(line)))
        continue
    child = os.fork()
    if child == 0:
        os._exit(run(json.loads(line)))
    say(child)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
