"""A nursery for processes that are killed: imports dragoman once, then forks a child per line of standard input.

Each line is a JSON list of command-line arguments; the child runs them as ``dragoman`` would. The parent prints the
child's process id, and its exit status once it has ended.
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers.models.gemma3.modeling_gemma3
import transformers.models.llama.modeling_llama  # noqa: F401  (imported before forking, so that children start at once)

from dragoman import cli
from dragoman.runs.explain import explain  # noqa: F401

torch.set_num_threads(1)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["dragoman", *json.loads(line)]
        with Path(os.devnull).open("w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            try:
                cli.main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
        os._exit(0)
    os.write(1, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())
